"""A namespace's operations, each one transaction on an open connection.

Looking takes no lock: a reader sees the last commit. A change takes SQLite's write lock first, so
that what it compares still holds when it writes, and logs what it did before it commits: its
message becomes visible together with its effect.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from tiercache.tiers import _sqlite_held as held
from tiercache.tiers import _sqlite_log as log
from tiercache.tiers import _sqlite_rows as rows
from tiercache.tiers import _sqlite_tags as tags
from tiercache.tiers._sqlite_base import encode, is_full, life_ms, new_token, now_ms, transaction
from tiercache.tiers._sqlite_held import Held
from tiercache.tiers._sqlite_log import Position
from tiercache.tiers._sqlite_tidying import Tidying
from tiercache.tiers.journal import Accepted
from tiercache.tiers.journal import Change as Entering
from tiercache.tiers.store import (
    Claim,
    Fill,
    Grant,
    Item,
    Kind,
    Lease,
    LeaseMode,
    Message,
    Stored,
)

T = TypeVar("T")

_CLEAR_ROWS: Final = 5000  # per transaction, so that other processes get in between

_FIND: Final = "SELECT id, generation, last FROM space WHERE name = ?"
_MAKE: Final = "INSERT INTO space (id, name, generation) VALUES (?, ?, ?)"
_RENEW: Final = "UPDATE space SET generation = ? WHERE id = ?"
_DISCARD: Final = "INSERT INTO garbage (generation) VALUES (?)"


class Change:
    """A transaction on a namespace, under way."""

    def __init__(self, db: sqlite3.Connection, name: str, origin: str, log_length: int) -> None:
        self.db = db
        self.now = now_ms()
        self._origin = origin
        self._log_length = log_length
        row = db.execute(_FIND, (encode(name),)).fetchone()
        if row is None:
            row = new_token(), new_token(), 0
            db.execute(_MAKE, (row[0], encode(name), row[1]))
        self.space, self.generation, self.last = row

    def deadline(self, seconds: float) -> int:
        """Return the time at which what begins now ends, in ms."""
        return self.now + life_ms(seconds)

    def tell(self, kind: Kind, names: Sequence[str]) -> None:
        """Append to the log; the names may be too many for one message."""
        messages = log.messages_of(kind, self._origin, names)
        self.last = log.append(self.db, self.space, messages, self._log_length)

    def tell_any(self, kind: Kind, names: Sequence[str]) -> None:
        """Append to the log if there is anything to tell."""
        if names:
            self.tell(kind, names)

    def tell_all(self, kind: Kind, names: Sequence[str]) -> None:
        """Do so, and have the caller's own process heed it as well."""
        origin, self._origin = self._origin, ""
        self.tell_any(kind, names)
        self._origin = origin


class Space:
    """One namespace, seen through one connection. Not for two threads at once."""

    def __init__(self, db: sqlite3.Connection, name: str, origin: str, tidying: Tidying) -> None:
        self._db = db
        self._name = name
        self._origin = origin
        self._tidying = tidying

    def _change(self, count: int, do: Callable[[Change], T]) -> T:
        """Run a change; where the file is full, make room and run it again."""
        try:
            return self._attempt(count, do)
        except sqlite3.Error as error:
            if not is_full(error):
                raise
        self._tidying.make_room(self._db)
        return self._attempt(count, do)

    def _attempt(self, count: int, do: Callable[[Change], T]) -> T:
        with transaction(self._db):
            self._tidying.note(self._db, count)
            return do(Change(self._db, self._name, self._origin, self._tidying.log_length))

    def _store(self, count: int, do: Callable[[Change, bool], T]) -> T:
        """Run a change that stores payloads; what does not fit leaves no older value behind."""
        try:
            return self._change(count, lambda change: do(change, True))
        except sqlite3.Error as error:
            if not is_full(error):
                raise
        return self._change(count, lambda change: do(change, False))

    # Entries

    def read(self, key: str) -> Stored | None:
        return rows.read(self._db, self._name, key, now_ms())

    def read_many(self, keys: Sequence[str]) -> list[Stored | None]:
        return rows.read_many(self._db, self._name, keys, now_ms())

    def write_many(self, items: Sequence[Item]) -> None:
        if items:
            self._store(len(items), partial(self._write, items))

    def _write(self, items: Sequence[Item], change: Change, has_room: bool) -> None:
        self._put(items, change, has_room)
        names = [item.key for item in items]
        held.end_many(change.db, change.generation, [encode(name) for name in names])
        change.tell(Kind.SET, names)

    def _put(self, items: Sequence[Item | Fill], change: Change, has_room: bool) -> None:
        """Store payloads; those that are too big remove what stood there."""
        fitting, refused = [], []
        for item in {item.key: item for item in items}.values():
            if has_room and self._tidying.fits(item.payload):
                fitting.append(self._row(item, change))
            else:
                refused.append(encode(item.key))
        rows.remove(change.db, change.generation, refused, change.now)
        rows.write(change.db, fitting)

    def _row(self, item: Item | Fill, change: Change) -> rows.Row:
        return rows.Row(
            change.generation,
            encode(item.key),
            None if item.ttl is None else change.deadline(item.ttl),
            tags.seal(change.db, change.space, item.tags),
            item.payload,
        )

    def delete(self, keys: Sequence[str], kind: Kind) -> int:
        return self._change(len(keys), partial(self._delete, keys, kind)) if keys else 0

    def _delete(self, keys: Sequence[str], kind: Kind, change: Change) -> int:
        names = [encode(key) for key in keys]
        count = rows.remove(change.db, change.generation, names, change.now)
        held.end_many(change.db, change.generation, names)
        change.tell(kind, keys)
        return count

    def expire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        return self._change(len(keys), partial(self._expire, keys, seconds)) if keys else 0

    def _expire(self, keys: Sequence[str], seconds: Sequence[float], change: Change) -> int:
        names = [encode(key) for key in keys]
        lives = list(zip(names, seconds, strict=True))
        count = rows.shorten(
            change.db,
            change.generation,
            [(name, change.deadline(life)) for name, life in lives if life > 0],
            change.now,
        )
        gone = [name for name, life in lives if life <= 0]
        count += rows.remove(change.db, change.generation, gone, change.now)
        held.end_many(change.db, change.generation, names)
        change.tell(Kind.EXPIRE, keys)
        return count

    def invalidate_tags(self, names: Sequence[str]) -> None:
        if names:
            self._change(len(names), partial(self._invalidate, names))

    def _invalidate(self, names: Sequence[str], change: Change) -> None:
        change.tell(Kind.TAGS, names)
        tags.invalidate(change.db, change.space, names, change.last, change.now)

    def clear(self, prefix: str) -> None:
        if not prefix:
            self._change(1, self._clear_all)
            return
        while not self._change(1, partial(self._clear_some, prefix)):
            pass

    def _clear_all(self, change: Change) -> None:
        change.db.execute(_RENEW, (new_token(), change.space))
        change.db.execute(_DISCARD, (change.generation,))
        change.tell(Kind.CLEAR, [""])

    def _clear_some(self, prefix: str, change: Change) -> bool:
        """Remove some of a prefix's entries; True if those were the last."""
        first = encode(prefix)
        beyond = first[:-1] + bytes([first[-1] + 1])  # UTF-8 never has the byte 255
        held.end_range(change.db, change.generation, first, beyond)
        limit = _CLEAR_ROWS
        gone = rows.remove_range(change.db, change.generation, first, beyond, limit)
        if gone < limit:
            change.tell(Kind.CLEAR, [prefix])
        return gone < limit

    def accept(
        self, key: str, to: Entering | None, accept: Callable[[sqlite3.Connection, bool], Accepted]
    ) -> Accepted:
        """Have a journal accept an operation, and bring its entry in line, in one transaction."""

        def do(change: Change, has_room: bool) -> Accepted:
            found = rows.find(change.db, change.generation, encode(key), change.now)
            accepted = accept(change.db, found is not None)
            if accepted.version is not None and to is not None:
                if to.item is not None:
                    self._write([to.item], change, has_room)
                else:
                    self._delete([key], to.kind, change)
            return accepted

        return self._store(1, do)

    def mend(self, count: int, settle: Callable[[sqlite3.Connection], Mapping[str, bytes]]) -> None:
        """Have a journal settle what was written, and nothing but its own entries stand there.

        ``settle`` returns the payload that each key may have. A process that does not know of
        pending writes may have brought an older row here, or be about to: leases end in any case.
        """

        def do(change: Change) -> None:
            own = settle(change.db)
            at = change.db, change.generation
            waited, foreign = [], []
            for key, payload in own.items():
                lease = held.find(*at, encode(key), change.now)
                stored = rows.find(*at, encode(key), change.now)
                if stored is None or not payload or bytes(stored.payload) != payload:
                    foreign.append(key)
                elif lease is not None and lease.has_waiters:
                    waited.append(key)
            held.end_many(*at, [encode(key) for key in own])
            rows.remove(*at, [encode(key) for key in foreign], change.now)
            change.tell_all(Kind.DELETE, foreign)
            change.tell_all(Kind.LANDED, waited)

        self._change(count, do)

    # Leases

    def claim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        seconds: float,
        mode: LeaseMode,
        anew: bool,
    ) -> list[Claim]:
        def do(change: Change) -> list[Claim]:
            return [
                self._claim(change, encode(key), nonce, seconds, mode, anew)
                for key, nonce in zip(keys, nonces, strict=True)
            ]

        return self._change(len(keys), do) if keys else []

    def _claim(
        self,
        change: Change,
        key: bytes,
        nonce: bytes,
        seconds: float,
        mode: LeaseMode,
        anew: bool,
    ) -> Claim:
        db, scope, deadline = change.db, change.generation, change.deadline(seconds)
        stored = None if anew else rows.find(db, scope, key, change.now)
        if stored is not None:
            return Claim(stored=stored)
        other = held.find(db, scope, key, change.now)
        if other is None or mode is LeaseMode.STEAL:
            has_waiters = other is not None and other.has_waiters
            own = Held(nonce, deadline, mode is LeaseMode.SHARED, has_waiters)
            held.hold(db, scope, key, own)
            return Claim(lease=Lease(own.nonce, own.is_shared, change.last))
        if mode is LeaseMode.SHARED or other.is_shared:
            held.share(db, scope, key, other, deadline)
            return Claim(lease=Lease(other.nonce, other.is_shared, change.last))
        held.expect(db, scope, key, other)
        return Claim(held_for=(other.deadline - change.now) / 1000)

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        return self._store(len(fills), partial(self._fill, fills)) if fills else []

    def _fill(self, fills: Sequence[Fill], change: Change, has_room: bool) -> list[bool]:
        told: dict[Kind, list[str]] = {Kind.SET: [], Kind.LANDED: []}
        taken = []
        for fill in fills:
            own = self._end_lease(change, encode(fill.key), fill.lease.nonce)
            is_taken = own is not None and not self._is_outdated(change, fill)
            taken.append(is_taken)
            if is_taken:
                self._put([fill], change, has_room)
            if is_taken and fill.replaces:
                told[Kind.SET].append(fill.key)
            elif own is not None and own.has_waiters:
                told[Kind.LANDED].append(fill.key)
        for kind, names in told.items():
            change.tell_any(kind, names)
        return taken

    def _end_lease(self, change: Change, key: bytes, nonce: bytes) -> Held | None:
        """Return what is held by a nonce, and end it unless it is shared."""
        own = held.find_own(change.db, change.generation, key, nonce, change.now)
        if own is not None and not own.is_shared:
            held.end(change.db, change.generation, key)
        return own

    def _is_outdated(self, change: Change, fill: Fill) -> bool:
        return tags.was_invalidated(change.db, change.space, fill.tags, fill.lease.stamp)

    def renew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        def do(change: Change) -> list[bool]:
            return [
                held.prolong(change.db, change.generation, encode(key), nonce, seconds, change.now)
                for key, nonce in leases
            ]

        return self._change(len(leases), do) if leases else []

    def release(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        def do(change: Change) -> None:
            ended = ((key, self._end_lease(change, encode(key), nonce)) for key, nonce in leases)
            told = [key for key, own in ended if own and own.has_waiters and not own.is_shared]
            change.tell_any(kind, told)

        if leases:
            self._change(len(leases), do)

    # Locks

    def lock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        return self._change(1, partial(self._lock, encode(name), nonce, seconds))

    def _lock(self, name: bytes, nonce: bytes, seconds: float, change: Change) -> Grant:
        other = held.find(change.db, change.space, name, change.now)
        if other is not None and other.nonce != nonce:
            held.expect(change.db, change.space, name, other)
            return Grant(held_for=(other.deadline - change.now) / 1000)
        has_waiters = other is not None and other.has_waiters
        own = Held(nonce, change.deadline(seconds), False, has_waiters)
        held.hold(change.db, change.space, name, own)
        return Grant(fence=held.next_fence(change.db))

    def renew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        def do(change: Change) -> bool:
            return held.prolong(change.db, change.space, encode(name), nonce, seconds, change.now)

        return self._change(1, do)

    def unlock(self, name: str, nonce: bytes) -> bool:
        return self._change(1, partial(self._unlock, name, nonce))

    def _unlock(self, name: str, nonce: bytes, change: Change) -> bool:
        own = held.find_own(change.db, change.space, encode(name), nonce, change.now)
        if own is None:
            return False
        held.end(change.db, change.space, encode(name))
        if own.has_waiters:
            change.tell(Kind.UNLOCKED, [name])
        return True

    # The log

    def announce(self, kind: Kind, names: Sequence[str]) -> None:
        self._change(1, lambda change: change.tell(kind, names))

    def log_end(self) -> Position:
        row = self._db.execute(_FIND, (encode(self._name),)).fetchone()
        if row is not None:
            return Position(row[0], row[2])
        return self._change(1, lambda change: Position(change.space, change.last))

    def news(self, position: Position) -> tuple[list[Message], Position]:
        return log.read(self._db, self._name, position)


def new_origin() -> str:
    """Return what marks the messages of a namespace object that was given no origin."""
    return secrets.token_hex(4)
