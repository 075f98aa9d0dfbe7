"""After delete() returned, no read that begins later sees a value from before it."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.gates import GatedStore, SteppedStore
from tests.kinds import Kind
from tests.waiting import until
from tiercache import LRU, MISS, Cache
from tiercache.testing import DictStore, FaultyStore


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


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


@pytest.mark.parametrize("is_after", [False, True], ids=["before it is done", "after"])
async def test_fill_on_the_wire(make_cache: Callable[..., Cache], is_after: bool) -> None:
    """A delete need not wait for an older value on its way to L2: that is refused, or removed."""
    store = GatedStore()
    cache = make_cache(l2=store)
    row = ["old"]

    @cache.cached("row")
    async def f() -> str:
        return row[0]

    gate = store.gate("fill", is_after=is_after)
    early = asyncio.create_task(f())
    await gate.auntil_reached()
    row[0] = "new"
    await cache.adelete("row")
    assert not early.done()
    gate.open()
    assert await early == "old"
    assert store.namespace("test").read("row") is None
    assert await f() == "new"
    cache.memory.clear()
    assert await f() == "new"


def test_fill_on_the_wire_of_a_thread(make_cache: Callable[..., Cache]) -> None:
    """The same where a thread fills and another deletes."""
    store = GatedStore()
    cache = make_cache(l2=store)
    row = ["old"]
    f = cache.cached("row")(lambda: row[0])
    gate = store.gate("fill")
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(f)
        gate.until_reached()
        row[0] = "new"
        f.invalidate()
        gate.open()
        assert early.result(5) == "old"
    assert cache.get("row", MISS) is MISS
    assert f() == "new"


async def test_promotion_of_what_was_deleted(make_cache: Callable[..., Cache]) -> None:
    """What was read from L2 just before its delete does not reach L1 after it."""
    store = GatedStore()
    cache, writer = make_cache(l2=store), make_cache("test", l2=store)
    await writer.aset("row", "old")
    gate = store.gate("read", is_after=True)
    reading = asyncio.create_task(cache.aget("row"))
    await gate.auntil_reached()
    await cache.adelete("row")
    gate.open()
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
    assert len(cache.store) == 0


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
                forget = (partial(f.invalidate, key), f.cache_clear, cache.clear)
                rng.choices(forget, (6, 1, 3))[0]()
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


@pytest.mark.parametrize("write", ["delete", "set", "set_many", "delete_many", "clear"])
def test_a_write_while_another_clears(make_cache: Callable[..., Cache], write: str) -> None:
    """What a clear is just dropping is not served once somebody else's write of it is done."""
    cache = make_cache(l1=LRU(50))
    row = ["old"]
    f = cache.cached("k")(lambda: row[0])
    assert [f(), f(), f()] == ["old"] * 3  # from here on by a shortcut
    drop_shortcuts = cache.memory.on_clear
    writes = {
        "delete": lambda: cache.delete("k"),
        "set": lambda: cache.set("k", "new"),
        "set_many": lambda: cache.set_many({"k": "new"}),
        "delete_many": lambda: cache.delete_many(["k"]),
        "clear": cache.clear,
    }
    seen = []

    def meanwhile() -> None:
        cache.memory.on_clear = drop_shortcuts
        row[0] = "new"
        writes[write]()
        seen.append(f())
        drop_shortcuts()

    cache.memory.on_clear = meanwhile
    cache.clear()
    assert seen == ["new"]
    assert f() == "new"


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
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store, blind_ttl=0.2)
    kind.do(cache, "set", "k", "old")
    store.fail("delete")
    kind.do(cache, "delete", "k")
    assert kind.do(cache, "get", "k", MISS) is MISS
    assert kind.do(cache, "get_many", ["k"]) == {}
    store.heal()
    assert kind.do(cache, "get", "k", MISS) is MISS
    until(lambda: store.namespace("test").read("k") is None)  # a breaker may have to close
    assert kind.do(cache, "get", "k", MISS) is MISS


def test_overlapping_sets_leave_nothing_in_l1(make_cache: Callable[..., Cache]) -> None:
    """Of two sets that overlap nobody here knows which one L2 took last: L1 keeps neither."""
    store = GatedStore()
    cache = make_cache(l2=store)
    gate = store.gate("write", is_after=True)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.set, "k", "first")
        gate.until_reached()
        cache.set("k", "second")
        gate.open()
        first.result(5)
    assert "k" not in cache.memory
    assert cache.get("k") == "second"
