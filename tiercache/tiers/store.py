"""The L2 port: bytes by text key, kept somewhere that several processes share.

A store knows nothing of values, freshness or flights; it moves payloads and says how long each
still lives. Whatever goes wrong inside it comes out as StoreError or StoreTimeout, within about
``timeout`` seconds, so that the cache can count it as a miss and go on.

Methods come in pairs: ``read`` blocks, ``aread`` is awaited. One store object serves any number
of threads and event loops at once, ``asyncio.run`` after ``asyncio.run``, and forked children.
After ``close`` the next call opens what it needs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from tiercache.errors import StoreError

__all__ = ["Item", "Payload", "Store", "StoreBusy", "Stored"]

# A read-only buffer: a store may hand out a view into what it received instead of a copy.
Payload: TypeAlias = bytes | memoryview

# What write_many takes: key, payload, life in seconds (None: no expiry).
Item: TypeAlias = tuple[str, bytes, float | None]


class Stored(NamedTuple):
    """What a store holds under a key, and the seconds it will still hold it (None: no expiry)."""

    payload: Payload
    remaining: float | None


class StoreBusy(StoreError):
    """Every connection of this process is in use: we are overloaded, the store may be well.

    A breaker must not count it against the store.
    """


@runtime_checkable
class Store(Protocol):
    """Where L2 keeps its bytes. ``tiercache.testing.StoreContract`` checks an implementation."""

    timeout: float  # seconds; a single round trip ends within about this

    @property
    def label(self) -> str:
        """Name this store in logs and errors; never holds a password."""

    def read(self, key: str) -> Stored | None:
        """Return what is stored under key; None if nothing is, or if it has expired."""

    async def aread(self, key: str) -> Stored | None:
        """Await what read does."""

    def read_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what read would for each key, in order, in one round trip."""

    async def aread_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Await what read_many does."""

    def write(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds (> 0; None: until evicted or deleted)."""

    async def awrite(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Await what write does."""

    def write_many(self, items: Sequence[Item]) -> None:
        """Do what write would for each item, in one round trip; not all-or-nothing."""

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Await what write_many does."""

    def delete(self, keys: Sequence[str]) -> int:
        """Remove the keys in one round trip; return how many of them existed."""

    async def adelete(self, keys: Sequence[str]) -> int:
        """Await what delete does."""

    def clear(self, prefix: str) -> None:
        """Remove every key that begins with a prefix, which is not empty."""

    async def aclear(self, prefix: str) -> None:
        """Await what clear does."""

    def close(self) -> None:
        """Release connections, files and threads; may be called again. A later call reopens."""

    async def aclose(self) -> None:
        """Await what close does."""
