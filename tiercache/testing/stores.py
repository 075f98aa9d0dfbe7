"""Stores for tests: one in memory, and one that fails on demand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers.store import Item, Payload, Store, Stored

__all__ = ["DictStore", "FaultyStore"]


class DictStore:
    """A store in a dict, for tests without a server.

    Args:
        clock: Returns seconds; a FakeClock's method lets tests pass time.
        timeout: Kept for callers that look at it; nothing here can be late.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, timeout: float = 0.5
    ) -> None:
        self.timeout = timeout
        self._clock = clock
        self._entries: dict[str, tuple[bytes, float | None]] = {}  # payload, deadline
        self._lock = threading.Lock()  # guards both dicts

    @property
    def label(self) -> str:
        """Name of this store in logs and errors."""
        return "dict"

    def __len__(self) -> int:
        """Count the entries that have not expired."""
        with self._lock:
            return sum(self._living(key) is not None for key in self._entries)

    def _living(self, key: str) -> Stored | None:
        payload, deadline = self._entries.get(key, (b"", None))
        if key not in self._entries:
            return None
        if deadline is None:
            return Stored(payload, None)
        remaining = deadline - self._clock()
        return Stored(payload, remaining) if remaining > 0 else None

    def read(self, key: str) -> Stored | None:
        """Return what is stored under key."""
        return self.read_many((key,))[0]

    async def aread(self, key: str) -> Stored | None:
        """Return what is stored under key."""
        return self.read(key)

    def read_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key."""
        with self._lock:
            return [self._living(key) for key in keys]

    async def aread_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key."""
        return self.read_many(keys)

    def write(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds."""
        self.write_many(((key, payload, ttl),))

    async def awrite(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds."""
        self.write(key, payload, ttl)

    def write_many(self, items: Sequence[Item]) -> None:
        """Store all items."""
        with self._lock:
            for key, payload, ttl in items:
                deadline = None if ttl is None else self._clock() + ttl
                self._entries[key] = (bytes(payload), deadline)

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Store all items."""
        self.write_many(items)

    def delete(self, keys: Sequence[str]) -> int:
        """Remove the keys; return how many existed."""
        with self._lock:
            living = {key for key in keys if self._living(key) is not None}
            for key in keys:
                self._entries.pop(key, None)
            return len(living)

    async def adelete(self, keys: Sequence[str]) -> int:
        """Remove the keys; return how many existed."""
        return self.delete(keys)

    def clear(self, prefix: str) -> None:
        """Remove the keys of a prefix."""
        with self._lock:
            for key in [key for key in self._entries if key.startswith(prefix)]:
                del self._entries[key]

    async def aclear(self, prefix: str) -> None:
        """Remove the keys of a prefix."""
        self.clear(prefix)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""


Fault = Literal["none", "fail", "hang", "garbage"]


class FaultyStore:
    """A store around another that can be told to misbehave.

    ``fail()`` makes each call raise StoreError; ``hang()`` makes it wait ``timeout`` seconds, as a
    store whose server is frozen does, and raise StoreTimeout; ``garbage()`` makes reads of
    existing keys return other bytes, while the rest works; ``heal()`` ends all that. Each of them
    takes the names of the methods it is for (``"read"`` stands for ``aread`` too); all by default.

    Attributes:
        calls: How often each method was called; ``read`` counts ``aread`` too.
    """

    def __init__(self, store: Store, *, timeout: float | None = None) -> None:
        self.timeout = store.timeout if timeout is None else timeout
        self.calls: Counter[str] = Counter()
        self._store = store
        self._fault: Fault = "none"
        self._methods: frozenset[str] = frozenset()  # empty: all
        self._error: StoreError | None = None
        self._bytes = b""
        self._healed = threading.Event()
        self._lock = threading.Lock()  # guards calls: += is no single step

    @property
    def label(self) -> str:
        """Name of the store inside, marked as faulty."""
        return f"faulty {self._store.label}"

    def fail(self, *methods: str, error: StoreError | None = None) -> None:
        """Make calls raise StoreError, or the given error."""
        self._error = error
        self._misbehave("fail", methods)

    def hang(self, *methods: str) -> None:
        """Make calls wait for the timeout and raise StoreTimeout; heal() wakes blocking ones."""
        self._misbehave("hang", methods)

    def garbage(self, payload: bytes = b"\xc1garbage", *methods: str) -> None:
        """Make reads return these bytes in place of what is stored."""
        self._bytes = payload
        self._misbehave("garbage", methods)

    def heal(self) -> None:
        """Behave again."""
        self._fault = "none"
        self._healed.set()

    def _misbehave(self, fault: Fault, methods: Sequence[str]) -> None:
        self._methods = frozenset(methods)
        self._healed = threading.Event()
        self._fault = fault

    def _is_hit_by(self, fault: Fault, method: str) -> bool:
        return self._fault == fault and (not self._methods or method in self._methods)

    def _enter(self, method: str) -> bool:
        """Count the call and fail it if told so; True if it is to hang."""
        with self._lock:
            self.calls[method] += 1
        if self._is_hit_by("fail", method):
            raise self._error or StoreError(f"{self.label} failed {method}")
        return self._is_hit_by("hang", method)

    def _before(self, method: str) -> None:
        if self._enter(method):
            self._healed.wait(self.timeout)
            raise self._late(method)

    async def _abefore(self, method: str) -> None:
        if self._enter(method):
            await asyncio.sleep(self.timeout)
            raise self._late(method)

    def _late(self, method: str) -> StoreTimeout:
        return StoreTimeout(f"{self.label} did not answer {method} within {self.timeout:g} s")

    def _seen(self, method: str, stored: Stored | None) -> Stored | None:
        if stored is None or not self._is_hit_by("garbage", method):
            return stored
        garbage: Payload = self._bytes
        return Stored(garbage, stored.remaining)

    def read(self, key: str) -> Stored | None:
        """Return what is stored under key, or garbage."""
        self._before("read")
        return self._seen("read", self._store.read(key))

    async def aread(self, key: str) -> Stored | None:
        """Return what is stored under key, or garbage."""
        await self._abefore("read")
        return self._seen("read", await self._store.aread(key))

    def read_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key, or garbage."""
        self._before("read_many")
        return [self._seen("read_many", each) for each in self._store.read_many(keys)]

    async def aread_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key, or garbage."""
        await self._abefore("read_many")
        return [self._seen("read_many", each) for each in await self._store.aread_many(keys)]

    def write(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds."""
        self._before("write")
        self._store.write(key, payload, ttl)

    async def awrite(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds."""
        await self._abefore("write")
        await self._store.awrite(key, payload, ttl)

    def write_many(self, items: Sequence[Item]) -> None:
        """Store all items."""
        self._before("write_many")
        self._store.write_many(items)

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Store all items."""
        await self._abefore("write_many")
        await self._store.awrite_many(items)

    def delete(self, keys: Sequence[str]) -> int:
        """Remove the keys; return how many existed."""
        self._before("delete")
        return self._store.delete(keys)

    async def adelete(self, keys: Sequence[str]) -> int:
        """Remove the keys; return how many existed."""
        await self._abefore("delete")
        return await self._store.adelete(keys)

    def clear(self, prefix: str) -> None:
        """Remove the keys of a prefix."""
        self._before("clear")
        self._store.clear(prefix)

    async def aclear(self, prefix: str) -> None:
        """Remove the keys of a prefix."""
        await self._abefore("clear")
        await self._store.aclear(prefix)

    def close(self) -> None:
        """Close the store inside; never faulty."""
        self._store.close()

    async def aclose(self) -> None:
        """Close the store inside; never faulty."""
        await self._store.aclose()
