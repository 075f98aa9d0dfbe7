"""A namespace of a SQLite store: the operations of a Space, on whichever connection is at hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from tiercache.tiers._sqlite_journal import SQLiteJournal
from tiercache.tiers._sqlite_sessions import Sessions
from tiercache.tiers._sqlite_space import Space, new_origin
from tiercache.tiers._sqlite_tail import SQLiteTail
from tiercache.tiers.store import Claim, Fill, Grant, Item, Kind, LeaseMode, Stored

P = ParamSpec("P")
T = TypeVar("T")


class SQLiteNamespace:
    """One cache's part of a SQLite store."""

    def __init__(self, sessions: Sessions, name: str, origin: str) -> None:
        self._sessions = sessions
        self._name = name
        self._origin = origin or new_origin()

    def _run(self, do: Callable[Concatenate[Space, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._sessions.run(do.__name__, lambda db: do(self._space(db), *args, **kwargs))

    async def _arun(
        self, do: Callable[Concatenate[Space, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        # To clear a prefix takes several transactions, and as long as there are keys.
        return await self._sessions.arun(
            do.__name__,
            lambda db: do(self._space(db), *args, **kwargs),
            is_bounded=do is not Space.clear,
        )

    def _space(self, db: sqlite3.Connection) -> Space:
        return Space(db, self._name, self._origin, self._sessions.tidying)

    # Entries

    def read(self, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Return the valid entry of a key; one SELECT, whatever its tags."""
        return self._run(Space.read, key)

    async def aread(self, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Await what read does."""
        return await self._arun(Space.read, key)

    def read_many(self, keys: Sequence[str], tags: Sequence[str] = ()) -> list[Stored | None]:
        """Return the valid entry of each key; one SELECT."""
        return self._run(Space.read_many, keys) if keys else []

    async def aread_many(
        self, keys: Sequence[str], tags: Sequence[str] = ()
    ) -> list[Stored | None]:
        """Await what read_many does."""
        return await self._arun(Space.read_many, keys) if keys else []

    def write(
        self, key: str, payload: bytes, ttl: float | None, tags: tuple[str, ...] = ()
    ) -> None:
        """Store a payload."""
        self.write_many((Item(key, payload, ttl, tags),))

    async def awrite(
        self, key: str, payload: bytes, ttl: float | None, tags: tuple[str, ...] = ()
    ) -> None:
        """Await what write does."""
        await self.awrite_many((Item(key, payload, ttl, tags),))

    def write_many(self, items: Sequence[Item]) -> None:
        """Store all items, in one transaction."""
        self._run(Space.write_many, items)

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Await what write_many does."""
        await self._arun(Space.write_many, items)

    def delete(self, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Remove keys and end their leases; return how many were valid."""
        return self._run(Space.delete, keys, kind)

    async def adelete(self, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Await what delete does."""
        return await self._arun(Space.delete, keys, kind)

    def expire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Have entries live for at most so many seconds more; return how many were valid."""
        return self._run(Space.expire, keys, seconds)

    async def aexpire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Await what expire does."""
        return await self._arun(Space.expire, keys, seconds)

    def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Give tags other tokens."""
        self._run(Space.invalidate_tags, tags)

    async def ainvalidate_tags(self, tags: Sequence[str]) -> None:
        """Await what invalidate_tags does."""
        await self._arun(Space.invalidate_tags, tags)

    def clear(self, prefix: str = "") -> None:
        """Give the namespace another generation; or remove a prefix, 5,000 per transaction."""
        self._run(Space.clear, prefix)

    async def aclear(self, prefix: str = "") -> None:
        """Await what clear does."""
        await self._arun(Space.clear, prefix)

    # Leases

    def claim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        *,
        seconds: float,
        tags: Sequence[str] = (),
        mode: LeaseMode = LeaseMode.EXCLUSIVE,
        anew: bool = False,
    ) -> list[Claim]:
        """Ask for the leases of keys."""
        return self._run(Space.claim, keys, nonces, seconds, mode, anew)

    async def aclaim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        *,
        seconds: float,
        tags: Sequence[str] = (),
        mode: LeaseMode = LeaseMode.EXCLUSIVE,
        anew: bool = False,
    ) -> list[Claim]:
        """Await what claim does."""
        return await self._arun(Space.claim, keys, nonces, seconds, mode, anew)

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Store loaded values where their leases still stand."""
        return self._run(Space.fill, fills)

    async def afill(self, fills: Sequence[Fill]) -> list[bool]:
        """Await what fill does."""
        return await self._arun(Space.fill, fills)

    def renew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        """Prolong leases."""
        return self._run(Space.renew, leases, seconds)

    async def arenew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        """Await what renew does."""
        return await self._arun(Space.renew, leases, seconds)

    def release(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """End leases without a fill."""
        self._run(Space.release, leases, kind)

    async def arelease(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """Await what release does."""
        await self._arun(Space.release, leases, kind)

    # Locks

    def lock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Ask for a lock."""
        return self._run(Space.lock, name, nonce, seconds)

    async def alock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Await what lock does."""
        return await self._arun(Space.lock, name, nonce, seconds)

    def renew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Prolong a lock."""
        return self._run(Space.renew_lock, name, nonce, seconds)

    async def arenew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Await what renew_lock does."""
        return await self._arun(Space.renew_lock, name, nonce, seconds)

    def unlock(self, name: str, nonce: bytes) -> bool:
        """End a lock."""
        return self._run(Space.unlock, name, nonce)

    async def aunlock(self, name: str, nonce: bytes) -> bool:
        """Await what unlock does."""
        return await self._arun(Space.unlock, name, nonce)

    # Writes to be made later

    def journal(self, name: str, *, keeps_all: bool) -> SQLiteJournal:
        """Return the journal of a writer."""
        return SQLiteJournal(self._sessions, self._space, self._name, name, keeps_all=keeps_all)

    # The log

    def announce(self, kind: Kind, names: Sequence[str]) -> None:
        """Append a message to the log."""
        self._run(Space.announce, kind, names)

    async def aannounce(self, kind: Kind, names: Sequence[str]) -> None:
        """Await what announce does."""
        await self._arun(Space.announce, kind, names)

    def log_end(self) -> str:
        """Return the position of the log's end."""
        return str(self._run(Space.log_end))

    async def alog_end(self) -> str:
        """Await what log_end does."""
        return str(await self._arun(Space.log_end))

    def tail(self, position: str | None) -> SQLiteTail:
        """Return a reader of the log."""
        return SQLiteTail(self._sessions, self._name, position)
