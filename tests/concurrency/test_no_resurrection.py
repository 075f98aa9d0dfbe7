"""After delete() returned, no read that begins later sees a value from before it."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import LRU, MISS, Cache
from tiercache.testing import DictStore


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class GatedStore(DictStore):
    """A store whose operations wait at a gate, where one is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}

    def gate(self, operation: str) -> None:
        """Hold the next operation of this name."""
        self.gates[operation] = asyncio.Event()
        self.reached[operation] = asyncio.Event()

    async def _pass(self, operation: str) -> None:
        gate = self.gates.pop(operation, None)
        if gate is not None:
            self.gates[operation + " held"] = gate
            self.reached[operation].set()
            await gate.wait()

    def open(self, operation: str) -> None:
        """Let the held operation go on."""
        self.gates.pop(operation + " held").set()

    async def aread(self, key: str) -> Any:
        found = await super().aread(key)
        await self._pass("read")
        return found

    async def awrite(self, key: str, payload: bytes, ttl: float | None) -> None:
        await self._pass("write")
        await super().awrite(key, payload, ttl)


async def test_delete_detaches_a_load(make_cache: Callable[..., Cache]) -> None:
    """A load that began before a delete fills nothing, and later callers load anew."""
    cache = make_cache(l2=DictStore())
    row = ["old"]
    read, go = asyncio.Event(), asyncio.Event()

    @cache.cached("row")
    async def f() -> str:
        value = row[0]
        read.set()
        await go.wait()
        return value

    early = asyncio.create_task(f())
    await read.wait()
    row[0] = "new"
    await f.invalidate()
    go.set()
    late = asyncio.create_task(f())
    assert await early == "old"
    assert await late == "new"
    assert await f() == "new"
    assert await cache.aget("row") == "new"


async def test_fill_on_the_wire_is_waited_for(make_cache: Callable[..., Cache]) -> None:
    """A delete does not return while an older value is on its way to L2."""
    store = GatedStore()
    cache = make_cache(l2=store)
    row = ["old"]

    @cache.cached("row")
    async def f() -> str:
        return row[0]

    store.gate("write")
    early = asyncio.create_task(f())
    await store.reached["write"].wait()
    row[0] = "new"
    deleting = asyncio.create_task(cache.adelete("row"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not deleting.done()
    store.open("write")
    assert await early == "old"
    await deleting
    assert await store.aread("test:row") is None
    assert await f() == "new"


async def test_promotion_of_what_was_deleted(make_cache: Callable[..., Cache]) -> None:
    """What was read from L2 just before its delete does not reach L1 after it."""
    store = GatedStore()
    cache, writer = make_cache(l2=store), make_cache("test", l2=store)
    await writer.aset("row", "old")
    store.gate("read")
    reading = asyncio.create_task(cache.aget("row"))
    await store.reached["read"].wait()
    await cache.adelete("row")
    store.open("read")
    assert await reading == "old"
    assert await cache.aget("row", MISS) is MISS


async def test_set_beats_an_older_load(make_cache: Callable[..., Cache]) -> None:
    """A value that was set stays, whatever a load that began before brings."""
    cache = make_cache(l2=DictStore())
    read, go = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        read.set()
        await go.wait()
        return "loaded"

    loading = asyncio.create_task(cache.aget_or_load("row", load))
    await read.wait()
    await cache.aset("row", "set")
    go.set()
    assert await loading == "loaded"
    assert await cache.aget("row") == "set"
    cache.memory.clear()
    assert await cache.aget("row") == "set"


async def test_clear_detaches_every_load(make_cache: Callable[..., Cache]) -> None:
    """What was being loaded during a clear is not stored."""
    cache = make_cache(l2=DictStore())
    go = asyncio.Event()

    @cache.cached
    async def f(x: int) -> int:
        await go.wait()
        return x

    tasks = [asyncio.create_task(f(i)) for i in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cache.aclear()
    go.set()
    assert await asyncio.gather(*tasks) == list(range(10))
    assert len(cache.memory) == 0
    assert cache.store.read("test:" + f.key(1)) is None


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("with_store", [False, True], ids=["l1", "l1+l2"])
def test_threads_never_read_backwards(make_cache: Callable[..., Cache], with_store: bool) -> None:
    """Readers and updaters in threads: a read never sees less than the last update done before."""
    cache = make_cache(l1=LRU(50), l2=DictStore() if with_store else None)
    rows = dict.fromkeys(range(5), 0)
    done = dict.fromkeys(range(5), 0)  # the version whose invalidation has returned
    row_locks = {key: threading.Lock() for key in rows}
    violations: list[tuple[int, int, int]] = []
    checked = [0]

    @cache.cached("row:{key}")
    def f(key: int) -> int:
        return rows[key]

    def update(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(150):
            key = rng.randrange(5)
            with row_locks[key]:
                rows[key] += 1
                version = rows[key]
                f.invalidate(key)
                done[key] = version

    def read(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(600):
            key = rng.randrange(5)
            floor = done[key]
            seen = f(key) if rng.random() < 0.8 else f.many([key])[key]
            checked[0] += 1
            if seen < floor:
                violations.append((key, floor, seen))

    threads = [threading.Thread(target=update, args=(i,)) for i in range(2)]
    threads += [threading.Thread(target=read, args=(100 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not violations
    assert checked[0] == 2400


class SteppedStore(DictStore):
    """A store that gives way to other tasks a random number of times around each operation."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng

    async def _step(self) -> None:
        for _ in range(self.rng.randrange(4)):
            await asyncio.sleep(0)

    async def aread(self, key: str) -> Any:
        await self._step()
        found = await super().aread(key)
        await self._step()
        return found

    async def aread_many(self, keys: Any) -> Any:
        await self._step()
        found = await super().aread_many(keys)
        await self._step()
        return found

    async def awrite(self, key: str, payload: bytes, ttl: float | None) -> None:
        await self._step()
        await super().awrite(key, payload, ttl)
        await self._step()

    async def adelete(self, keys: Any) -> int:
        await self._step()
        count = await super().adelete(keys)
        await self._step()
        return count


@pytest.mark.parametrize("seed", range(60))
async def test_seeded_interleavings(make_cache: Callable[..., Cache], seed: int) -> None:
    """Loads, sets, deletes and reads interleaved at every await never bring an old value back."""
    rng = random.Random(seed)
    cache = make_cache(l1=LRU(8), l2=SteppedStore(rng), ttl=None)
    rows = dict.fromkeys("abc", 0)
    done = dict.fromkeys("abc", 0)
    violations: list[Any] = []

    async def pause() -> None:
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)

    @cache.cached("{key}")
    async def f(key: str) -> int:
        await pause()
        value = rows[key]
        await pause()
        return value

    async def check(key: str, read: Callable[[], Any]) -> None:
        floor = done[key]
        seen = await read()
        if seen is not MISS and seen < floor:
            violations.append((key, floor, seen))

    async def update(key: str, publish: Callable[[str, int], Any]) -> None:
        async with locks[key]:
            rows[key] += 1
            version = rows[key]
            await publish(key, version)
            done[key] = version

    async def act() -> None:
        key = rng.choice("abc")
        await pause()
        match rng.randrange(8):
            case 0:
                await update(key, lambda k, _: f.invalidate(k))
            case 1:
                await update(key, lambda k, v: cache.aset(k, v))
            case 2:
                await update(key, lambda k, _: f.refresh(k))
            case 3:
                await check(key, lambda: cache.aget(key, MISS))
            case 4:
                floors = dict(done)
                seen = await f.many(["a", "b", "c"])
                violations.extend((k, floors[k], v) for k, v in seen.items() if v < floors[k])
            case _:
                await check(key, lambda: f(key))

    locks = {key: asyncio.Lock() for key in rows}
    for _ in range(4):
        await asyncio.gather(*[act() for _ in range(30)])
    assert not violations
    assert not cache.flow.flights.under_way()
    for key in rows:
        await check(key, lambda key=key: f(key))
    assert not violations


def test_undelivered_delete_is_made_up(make_cache: Callable[..., Cache], kind: Kind) -> None:
    """Where L2 could not be told of a delete, it is not believed until it was."""
    from tiercache import StoreError

    class Flaky(DictStore):
        is_down = False

        def delete(self, keys: Any) -> int:
            if self.is_down:
                raise StoreError("down")
            return super().delete(keys)

        async def adelete(self, keys: Any) -> int:
            return self.delete(keys)

    store = Flaky()
    cache = make_cache(l2=store)
    kind.do(cache, "set", "k", "old")
    store.is_down = True
    kind.do(cache, "delete", "k")
    assert kind.do(cache, "get", "k", MISS) is MISS
    assert kind.do(cache, "get_many", ["k"]) == {}
    store.is_down = False
    assert kind.do(cache, "get", "k", MISS) is MISS
    assert store.read("test:k") is None
