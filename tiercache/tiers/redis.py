"""L2 in Redis or Valkey.

One command per read, whatever its kind: the value carries its own deadline (``_redis_wire``).
Concurrent single reads become one MGET (``merging``). Blocking callers share one bounded set of
connections, each event loop has its own (``_redis_blocking``, ``_redis_async``). redis-py is
imported at the first use of a kind, not before.

Every command here may be repeated without harm, so a connection that turns out to be dead costs
a second attempt and not an error. ``delete`` then may report fewer keys than it removed.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, ref

from tiercache.errors import ConfigurationError, StoreError
from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_errors import is_wrong_type
from tiercache.tiers._redis_settings import Endpoint
from tiercache.tiers.merging import MergedTasks, MergedThreads
from tiercache.tiers.store import Item, Stored

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from tiercache.tiers._redis_async import AsyncLink
    from tiercache.tiers._redis_blocking import BlockingLink

_inherited: list[object] = []  # connections of the parent process, in a forked child
_SCAN_COUNT: Final = b"1000"  # keys per step of clear()


class Redis:
    """Keep L2 in Redis or Valkey.

    Args:
        url_or_client: ``redis://[user:password@]host:port/db``, ``rediss://``, ``unix://``, or a
            ``redis.Redis`` / ``redis.asyncio.Redis``, of which only the connection settings are
            used: the client itself is neither used nor closed.
        timeout: Seconds for an awaited call, connecting included; for a blocking call, for
            connecting and for each reply.
        prefix: Begins every key in Redis, before a colon.
        max_connections: Per process for blocking calls, and per event loop. When all are in use
            for half of the timeout, a call raises StoreBusy.

    Raises:
        ConfigurationError: If an argument is illegal. That Redis is out of reach is no error yet.

    Attributes:
        foreign: How many values were found that no tiercache wrote; each was a miss.
    """

    def __init__(
        self,
        url_or_client: str | redis.Redis | redis.asyncio.Redis,
        *,
        timeout: float = 0.5,
        prefix: str = "tc",
        max_connections: int = 64,
    ) -> None:
        _check_options(timeout, prefix, max_connections)
        self.timeout = timeout
        self.foreign = 0
        self._endpoint = Endpoint(url_or_client)
        self._limit = max_connections
        self._keys = wire.KeySpace(prefix)
        self._clock = wire.ServerClock()
        self._start_afresh()
        _stores.add(self)

    def _start_afresh(self) -> None:
        """Set up the state that a forked child must not share with its parent."""
        self._lock = threading.Lock()
        self._blocking: BlockingLink | None = None  # guarded by _lock
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopLink] = WeakKeyDictionary()
        # The link used last, which is nearly always the next one, too; a look-up costs 1 us.
        self._latest: tuple[Callable[[], object], _LoopLink | None] = _NO_LATEST
        self._threads = MergedThreads(self._fetch, self.timeout)

    def _leave_to_parent(self) -> None:
        # Kept, unused: collecting them would close sockets, or warn about them, that are not ours.
        _inherited.append((self._blocking, dict(self._links), self._threads))
        self._start_afresh()

    @property
    def label(self) -> str:
        """The address without credentials, for logs and errors."""
        return self._endpoint.label

    def __repr__(self) -> str:
        return f"Redis({self.label!r})"

    # Reading

    def read(self, key: str) -> Stored | None:
        """Return what is stored under key; concurrent calls share one MGET."""
        if self._blocking is None:  # or importing redis would count against the followers' patience
            self._open_blocking()
        return self._threads.read(key)

    async def aread(self, key: str) -> Stored | None:
        """Return what is stored under key; concurrent calls in one loop share one MGET."""
        return await self._loop_link().tasks.read(key)

    def read_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key; one MGET."""
        return self._fetch(keys, None) if keys else []

    async def aread_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key; one MGET."""
        return await self._afetch(keys, None) if keys else []

    def _fetch(self, keys: Sequence[str], budget: float | None) -> list[Stored | None]:
        answer = self._call("read", self._keys.pack_read(keys), 1, budget)
        return self._stored(answer if len(keys) == 1 else answer[0], len(keys))

    async def _afetch(self, keys: Sequence[str], budget: float | None) -> list[Stored | None]:
        answer = await self._acall("read", self._keys.pack_read(keys), 1, budget)
        return self._stored(answer if len(keys) == 1 else answer[0], len(keys))

    def _stored(self, raws: Any, count: int) -> list[Stored | None]:
        if not isinstance(raws, list) or len(raws) != count:
            raise self._refused("read", raws)
        if count == 1 and not isinstance(raws[0], (bytes, NoneType)) and not is_wrong_type(raws[0]):
            raise self._refused("read", raws[0])
        found, foreign = wire.unpack(raws, self._clock)
        if foreign:
            self.foreign += foreign
        return found

    # Writing

    def write(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds; one SET."""
        self.write_many(((key, payload, ttl),))

    async def awrite(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds; one SET."""
        await self.awrite_many(((key, payload, ttl),))

    def write_many(self, items: Sequence[Item]) -> None:
        """Store all items; one pipeline of SETs, after TIME the first time."""
        if items:
            self._meet()
            self._all_ok("write", self._call("write", self._pack_write(items), len(items)))

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Store all items; one pipeline of SETs, after TIME the first time."""
        if items:
            await self._ameet()
            replies = await self._acall("write", self._pack_write(items), len(items))
            self._all_ok("write", replies)

    def _pack_write(self, items: Sequence[Item]) -> bytes:
        physical, clock = self._keys.physical, self._clock
        return b"".join(
            [wire.pack_set(physical(key), payload, ttl, clock) for key, payload, ttl in items]
        )

    def _meet(self) -> None:
        """Learn the server's clock, if no call has yet: a deadline cannot be written before."""
        if not self._clock.is_known:
            self._call("TIME", b"", 0)

    async def _ameet(self) -> None:
        if not self._clock.is_known:
            await self._acall("TIME", b"", 0)

    # Removing

    def delete(self, keys: Sequence[str]) -> int:
        """Remove the keys with one UNLINK; return how many existed."""
        return self._count(self._call("delete", self._pack_unlink(keys), 1)) if keys else 0

    async def adelete(self, keys: Sequence[str]) -> int:
        """Remove the keys with one UNLINK; return how many existed."""
        return self._count(await self._acall("delete", self._pack_unlink(keys), 1)) if keys else 0

    def _pack_unlink(self, keys: Sequence[str]) -> bytes:
        return wire.pack(b"UNLINK", *map(self._keys.physical, keys))

    def _count(self, replies: Sequence[Any]) -> int:
        if not isinstance(replies[0], int):
            raise self._refused("delete", replies[0])
        return replies[0]

    def clear(self, prefix: str) -> None:
        """Remove the keys of a prefix by SCAN and UNLINK, one round trip per thousand keys.

        Each round trip has the timeout to itself. Keys written meanwhile may survive.
        """
        steps = self._clearing(prefix)
        request, replies = next(steps)
        with suppress(StopIteration):
            while True:
                request, replies = steps.send(self._call("clear", request, replies))

    async def aclear(self, prefix: str) -> None:
        """Remove the keys of a prefix as clear does."""
        steps = self._clearing(prefix)
        request, replies = next(steps)
        with suppress(StopIteration):
            while True:
                request, replies = steps.send(await self._acall("clear", request, replies))

    def _clearing(self, prefix: str) -> Generator[tuple[bytes, int], list[Any], None]:
        """Yield requests and their number of replies; be sent the replies."""
        answer = yield self._pack_scan(prefix, b"0"), 1
        while True:
            cursor, found = self._scanned(answer[-1])
            unlink = wire.pack(b"UNLINK", *found) if found else b""
            if cursor == b"0":
                if found:
                    yield unlink, 1
                return
            answer = yield unlink + self._pack_scan(prefix, cursor), 2 if found else 1

    def _scanned(self, reply: Any) -> tuple[bytes, list[bytes]]:
        if isinstance(reply, list) and len(reply) == 2:
            return reply[0], reply[1]
        raise self._refused("clear", reply)

    def _pack_scan(self, prefix: str, cursor: bytes) -> bytes:
        pattern = self._keys.pattern(prefix)
        return wire.pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_COUNT)

    # Plumbing

    def _call(
        self, operation: str, request: bytes, replies: int, budget: float | None = None
    ) -> list[Any]:
        """Exchange commands for replies; TIME goes along when the clock is due."""
        link = self._blocking or self._open_blocking()
        if not self._clock.is_due():
            return link.exchange(operation, request, replies, budget)
        sent = time.monotonic()
        answer = link.exchange(operation, request + wire.TIME, replies + 1, budget)
        self._set_clock(answer.pop(), sent)
        return answer

    async def _acall(
        self, operation: str, request: bytes, replies: int, budget: float | None = None
    ) -> list[Any]:
        link = self._loop_link().link
        if not self._clock.is_due():
            return await link.exchange(operation, request, replies, budget)
        sent = time.monotonic()
        answer = await link.exchange(operation, request + wire.TIME, replies + 1, budget)
        self._set_clock(answer.pop(), sent)
        return answer

    def _set_clock(self, reply: Any, sent: float) -> None:
        try:
            self._clock.learn(reply, sent, time.monotonic())
        except (TypeError, ValueError):
            if not self._clock.is_known:
                raise self._refused("TIME", reply) from None

    def _all_ok(self, operation: str, replies: Sequence[Any]) -> None:
        for reply in replies:
            if reply != b"OK":
                raise self._refused(operation, reply)

    def _refused(self, operation: str, reply: Any) -> StoreError:
        if isinstance(reply, Exception):
            return StoreError(f"{self.label} refused {operation}: {str(reply)[:200]}")
        kind = type(reply).__name__
        return StoreError(f"{self.label} answered {operation} with an unexpected {kind}")

    # Connections

    def _open_blocking(self) -> BlockingLink:
        with self._lock:
            if self._blocking is None:
                from tiercache.tiers._redis_blocking import BlockingLink

                make = self._endpoint.blocking(self.timeout)
                self._blocking = BlockingLink(make, self._limit, self.timeout, self.label)
            return self._blocking

    def _loop_link(self) -> _LoopLink:
        loop = asyncio.get_running_loop()
        latest, link = self._latest
        if latest() is loop and link is not None:
            return link
        link = self._links.get(loop) or self._open_loop(loop)
        self._latest = ref(loop), link
        return link

    def _open_loop(self, loop: asyncio.AbstractEventLoop) -> _LoopLink:
        from tiercache.tiers._redis_async import AsyncLink

        make = self._endpoint.asyncio(self.timeout)
        link = AsyncLink(make, self._limit, self.timeout, self.label)
        opened = _LoopLink(link, MergedTasks(self._afetch, self.timeout))
        with self._lock:
            for gone in [each for each in self._links if each.is_closed()]:
                self._links.pop(gone).link.abandon()
            return self._links.setdefault(loop, opened)

    def close(self) -> None:
        """Close the blocking connections and, as far as they can be reached, all loops'."""
        with self._lock:
            blocking, self._blocking = self._blocking, None
            links = dict(self._links)
            self._links.clear()
            self._latest = _NO_LATEST
        if blocking is not None:
            blocking.close()
        for loop, opened in links.items():
            opened.link.close_from_outside(loop)

    async def aclose(self) -> None:
        """Close this loop's connections, then all others as close does."""
        with self._lock:
            opened = self._links.pop(asyncio.get_running_loop(), None)
            self._latest = _NO_LATEST
        if opened is not None:
            await opened.link.aclose()
        self.close()


class _LoopLink(NamedTuple):
    """What a store keeps per event loop."""

    link: AsyncLink
    tasks: MergedTasks[Stored]


_NO_LATEST: tuple[Callable[[], object], _LoopLink | None] = (lambda: None, None)


def _check_options(timeout: float, prefix: str, max_connections: int) -> None:
    if not timeout > 0:
        raise ConfigurationError(f"timeout must be positive, got {timeout!r}; it is in seconds")
    if not prefix or set(prefix) & set("{}"):
        raise ConfigurationError(
            f"prefix must be text without braces, got {prefix!r}; use for example 'tc'"
        )
    if max_connections < 1:
        raise ConfigurationError(f"max_connections must be at least 1, got {max_connections!r}")


# Forked children: a socket shared with the parent would mix up their replies, and a lock may have
# been held by a thread that the child does not have.
_stores: WeakSet[Redis] = WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._leave_to_parent()  # noqa: SLF001 - part of the class, by os.register_at_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
