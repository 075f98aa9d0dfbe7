"""A store in dicts, for tests without a server: what every store must do, said plainly.

One lock guards everything, so each method is one step. Tokens, fences and positions are counted:
only where processes would have to agree on them need they be random.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from tiercache.tiers.store import (
    Claim,
    Fill,
    Grant,
    Item,
    Kind,
    Lease,
    LeaseMode,
    LogGap,
    Message,
    Namespace,
    Stored,
)

__all__ = ["DictStore"]

T = TypeVar("T")

LOG_LENGTH = 10_000  # messages kept per namespace


@dataclass
class _Row:
    payload: bytes
    deadline: float | None
    tags: dict[str, int]  # each with its token at the time


@dataclass
class _Held:
    nonce: bytes
    deadline: float
    is_shared: bool = False
    has_waiters: bool = False


@dataclass
class _Space:
    """What all namespace objects of one name share."""

    rows: dict[str, _Row] = field(default_factory=dict)
    leases: dict[str, _Held] = field(default_factory=dict)
    locks: dict[str, _Held] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)  # token of each
    invalidated: dict[str, int] = field(default_factory=dict)  # token of its last invalidation
    log: list[tuple[int, Message]] = field(default_factory=list)  # with positions
    trimmed: int = 0  # position up to which the log has been trimmed


class DictStore:
    """A store in a dict. Caches that share one object share their values, as processes would.

    Args:
        clock: Returns seconds; a FakeClock's method lets tests pass time.
        timeout: Kept for callers that look at it; nothing here can be late.
        log_length: Messages kept per namespace.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = 0.5,
        log_length: int = LOG_LENGTH,
    ) -> None:
        self.timeout = timeout
        self.clock = clock
        self.log_length = log_length
        self.lock = threading.RLock()  # guards all spaces
        self.said = threading.Condition(self.lock)  # a log has grown, or a tail is to look up
        self._spaces: dict[str, _Space] = {}
        self._tokens = itertools.count(1)
        self._fences = itertools.count(1)
        self._positions = itertools.count(1)

    @property
    def label(self) -> str:
        """Name of this store in logs and errors."""
        return "dict"

    def namespace(self, name: str, origin: str = "") -> Namespace:
        """Return one cache's part of the store."""
        with self.lock:
            space = self._spaces.setdefault(name, _Space())
        return cast(Namespace, DictNamespace(self, space, origin or secrets.token_hex(4)))

    def token(self) -> int:
        """Return a token that was never given before."""
        return next(self._tokens)

    def fence(self) -> int:
        """Return a number greater than every earlier one."""
        return next(self._fences)

    def position(self) -> int:
        """Return the position of a new message."""
        return next(self._positions)

    def __len__(self) -> int:
        """Count the valid entries."""
        with self.lock:
            return sum(
                self.living(space, key) is not None
                for space in self._spaces.values()
                for key in space.rows
            )

    def living(self, space: _Space, key: str) -> Stored | None:
        """Return the valid entry of a key; the lock is held."""
        row = space.rows.get(key)
        if row is None:
            return None
        if any(space.tags.get(tag) != token for tag, token in row.tags.items()):
            return None
        if row.deadline is None:
            return Stored(row.payload, None, tuple(row.tags))
        remaining = row.deadline - self.clock()
        return Stored(row.payload, remaining, tuple(row.tags)) if remaining > 0 else None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""


class _Twins:
    """Awaited twins of a namespace's methods: what never waits needs no more than this."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("a") or name.startswith("_"):
            raise AttributeError(name)
        method = getattr(type(self), name[1:], None)
        if method is None:
            raise AttributeError(name)

        async def twin(*args: Any, **kwargs: Any) -> Any:
            return getattr(self, name[1:])(*args, **kwargs)

        return twin


class DictNamespace(_Twins):
    """One cache's part of a DictStore."""

    def __init__(self, store: DictStore, space: _Space, origin: str) -> None:
        self._store = store
        self._space = space
        self._origin = origin

    # Entries

    def read(self, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Return the valid entry of a key."""
        return self.read_many((key,))[0]

    def read_many(self, keys: Sequence[str], tags: Sequence[str] = ()) -> list[Stored | None]:
        """Return the valid entry of each key."""
        with self._store.lock:
            return [self._store.living(self._space, key) for key in keys]

    def write(
        self, key: str, payload: bytes, ttl: float | None, tags: tuple[str, ...] = ()
    ) -> None:
        """Store a payload."""
        self.write_many((Item(key, payload, ttl, tags),))

    def write_many(self, items: Sequence[Item]) -> None:
        """Store all items."""
        with self._store.lock:
            for key, payload, ttl, tags in items:
                self._put(key, payload, ttl, {tag: self._token(tag) for tag in tags})
                self._space.leases.pop(key, None)
            if items:
                self._log(Kind.SET, [item.key for item in items])

    def delete(self, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Remove keys; return how many were valid."""
        if not keys:
            return 0
        with self._store.lock:
            living = {key for key in keys if self._store.living(self._space, key) is not None}
            for key in keys:
                self._space.rows.pop(key, None)
                self._space.leases.pop(key, None)
            self._log(kind, keys)
            return len(living)

    def expire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Have entries live for at most so many seconds more; return how many were valid."""
        if not keys:
            return 0
        with self._store.lock:
            existed = sum(map(self._shorten, keys, seconds))
            self._log(Kind.EXPIRE, keys)
            return existed

    def _shorten(self, key: str, seconds: float) -> bool:
        existed = self._store.living(self._space, key) is not None
        self._space.leases.pop(key, None)
        row = self._space.rows.get(key)
        if row is not None:
            deadline = self._store.clock() + seconds
            row.deadline = deadline if row.deadline is None else min(row.deadline, deadline)
        return existed

    def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Give tags other tokens."""
        if not tags:
            return
        with self._store.lock:
            for tag in tags:
                token = self._store.token()
                self._space.tags[tag] = self._space.invalidated[tag] = token
            self._log(Kind.TAGS, tags)

    def clear(self, prefix: str = "") -> None:
        """Drop all entries and leases, or those of a prefix."""
        space = self._space
        with self._store.lock:
            space.rows = _without(prefix, space.rows)
            space.leases = _without(prefix, space.leases)
            self._log(Kind.CLEAR, [prefix])

    def _put(self, key: str, payload: bytes, ttl: float | None, tags: dict[str, int]) -> None:
        deadline = None if ttl is None else self._store.clock() + ttl
        self._space.rows[key] = _Row(bytes(payload), deadline, tags)

    def _token(self, tag: str) -> int:
        if tag not in self._space.tags:
            self._space.tags[tag] = self._store.token()
        return self._space.tags[tag]

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
        with self._store.lock:
            return [
                self._claim(key, nonce, seconds, mode, anew)
                for key, nonce in zip(keys, nonces, strict=True)
            ]

    def _claim(self, key: str, nonce: bytes, seconds: float, mode: LeaseMode, anew: bool) -> Claim:
        space, now = self._space, self._store.clock()
        stored = None if anew else self._store.living(space, key)
        if stored is not None:
            return Claim(stored=stored)
        held = self._living_held(space.leases, key)
        if held is None or mode is LeaseMode.STEAL:
            has_waiters = held is not None and held.has_waiters
            held = _Held(nonce, now + seconds, mode is LeaseMode.SHARED, has_waiters)
            space.leases[key] = held
        elif mode is LeaseMode.SHARED or held.is_shared:
            held.deadline = max(held.deadline, now + seconds)
        else:
            held.has_waiters = True
            return Claim(held_for=held.deadline - now)
        return Claim(lease=Lease(held.nonce, held.is_shared, self._store.token()))

    def _living_held(
        self, table: dict[str, _Held], name: str, nonce: bytes | None = None
    ) -> _Held | None:
        """Return who holds a name now; with a nonce, only if it is that one."""
        held = table.get(name)
        if held is None or held.deadline <= self._store.clock():
            return None
        return held if nonce in (None, held.nonce) else None

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Store loaded values where their leases still stand."""
        with self._store.lock:
            return [self._fill(fill) for fill in fills]

    def _fill(self, fill: Fill) -> bool:
        held = self._end_lease(fill.key, fill.lease.nonce)
        if held is None:
            return False
        # Tokens are handed out in order: a greater one was given after the claim.
        is_outdated = any(
            self._space.invalidated.get(tag, 0) > fill.lease.stamp for tag in fill.tags
        )
        if not is_outdated:
            tokens = {tag: self._token(tag) for tag in fill.tags}
            self._put(fill.key, fill.payload, fill.ttl, tokens)
        if fill.replaces and not is_outdated:
            self._log(Kind.SET, [fill.key])
        elif held.has_waiters:
            self._log(Kind.LANDED, [fill.key])
        return not is_outdated

    def _end_lease(self, key: str, nonce: bytes) -> _Held | None:
        """Return what a nonce holds, and end it unless it is shared."""
        held = self._living_held(self._space.leases, key, nonce)
        if held is not None and not held.is_shared:
            del self._space.leases[key]
        return held

    def renew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        """Prolong leases."""
        with self._store.lock:
            return [self._prolong(self._space.leases, key, nonce, seconds) for key, nonce in leases]

    def _prolong(self, table: dict[str, _Held], name: str, nonce: bytes, seconds: float) -> bool:
        held = self._living_held(table, name, nonce)
        if held is not None:
            held.deadline = self._store.clock() + seconds
        return held is not None

    def release(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """End leases."""
        with self._store.lock:
            for key, nonce in leases:
                held = self._end_lease(key, nonce)
                if held is not None and held.has_waiters and not held.is_shared:
                    self._log(kind, [key])

    # Locks

    def lock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Ask for a lock."""
        with self._store.lock:
            now = self._store.clock()
            held = self._living_held(self._space.locks, name)
            if held is not None and held.nonce != nonce:
                held.has_waiters = True
                return Grant(held_for=held.deadline - now)
            has_waiters = held is not None and held.has_waiters
            self._space.locks[name] = _Held(nonce, now + seconds, has_waiters=has_waiters)
            return Grant(fence=self._store.fence())

    def renew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Prolong a lock."""
        with self._store.lock:
            return self._prolong(self._space.locks, name, nonce, seconds)

    def unlock(self, name: str, nonce: bytes) -> bool:
        """End a lock."""
        with self._store.lock:
            held = self._living_held(self._space.locks, name, nonce)
            if held is None:
                return False
            del self._space.locks[name]
            if held.has_waiters:
                self._log(Kind.UNLOCKED, [name])
            return True

    # The log

    def announce(self, kind: Kind, names: Sequence[str]) -> None:
        """Append a message to the log."""
        with self._store.lock:
            self._log(kind, names)

    def _log(self, kind: Kind, names: Sequence[str]) -> None:
        log = self._space.log
        log.append((self._store.position(), Message(kind, self._origin, tuple(names))))
        for position, _ in log[: -self._store.log_length]:
            self._space.trimmed = position
        del log[: -self._store.log_length]
        self._store.said.notify_all()

    def log_end(self) -> str:
        """Return the position of the log's end."""
        with self._store.lock:
            return str(self._store.position())

    def tail(self, position: str | None) -> DictTail:
        """Return a reader of the log."""
        return DictTail(self._store, self._space, position)


class DictTail:
    """A reader of a DictStore's log. An interrupt counts for one read, at most."""

    def __init__(self, store: DictStore, space: _Space, position: str | None) -> None:
        self._store = store
        self._space = space
        self._position = None if position is None else int(position)
        self._is_interrupted = False

    def read(self, wait: float) -> list[Message]:
        """Return the next messages."""
        with self._store.said:
            if self._position is None:
                self._position = self._store.position()
                raise LogGap
            self._store.said.wait_for(self._has_news, wait)
            self._is_interrupted = False
            log, seen = self._space.log, self._position
            if self._space.trimmed > seen:
                self._position = self._store.position()
                raise LogGap
            news = [(position, message) for position, message in log if position > seen]
            if news:
                self._position = news[-1][0]
            return [message for _, message in news]

    def _has_news(self) -> bool:
        assert self._position is not None
        log = self._space.log
        return self._is_interrupted or bool(log and log[-1][0] > self._position)

    def interrupt(self) -> None:
        """Have a waiting read return."""
        with self._store.said:
            self._is_interrupted = True
            self._store.said.notify_all()

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _without(prefix: str, table: dict[str, T]) -> dict[str, T]:
    return {key: value for key, value in table.items() if not key.startswith(prefix)}
