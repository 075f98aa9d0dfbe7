"""A value that L2 holds is fetched by a shorter way, on which nobody can tell the difference."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from linecache import getline
from typing import Any

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tiercache import LRU, Cache, store_way
from tiercache.testing import DictStore, FaultyStore


@pytest.fixture
def store() -> FaultyStore:
    """A store in memory that can be made to fail, and counts what it is asked."""
    return FaultyStore(DictStore(), timeout=0.5)


@pytest.fixture(params=[None, 100], ids=["no-l1", "l1"])
def cache(
    request: pytest.FixtureRequest, store: FaultyStore, make_cache: Callable[..., Cache]
) -> Cache:
    """A cache over the store, with and without an L1, whose bus is open."""
    cache = make_cache(l1=request.param and LRU(request.param), l2=store)
    cache.get("opens the bus")
    store.calls.clear()
    return cache


def counted(kind: Kind, cache: Cache, **options: Any) -> tuple[Callable[..., Any], list[Any]]:
    loads: list[Any] = []

    def load(x: Any) -> Any:
        loads.append(x)
        return {"x": x, "n": len(loads)}

    return cache.cached("k:{x}", **options)(kind.function(load)), loads


def forget_nearby(cache: Cache) -> None:
    if cache.memory is not None:
        cache.memory.clear()


def counts(cache: Cache) -> tuple[int, ...]:
    stats = cache.stats()
    assert len(cache.flow.flights) == 0
    return stats.hits_l2, stats.misses, stats.loads, stats.store_errors, stats.decode_errors


def test_a_miss_asks_once_and_a_hit_does_not_load(
    kind: Kind, cache: Cache, store: FaultyStore
) -> None:
    """What L2 lacks is loaded without asking again; what it has is served, and counted."""
    f, loads = counted(kind, cache)
    before = counts(cache)[1]
    assert kind.call(f, 1) == {"x": 1, "n": 1}
    assert store.calls["read"] == 1
    for hits in (1, 2):
        forget_nearby(cache)
        assert kind.call(f, x=1) == {"x": 1, "n": 1}
        assert counts(cache) == (hits, before + 1, 1, 0, 0)
    assert loads == [1]
    assert store.calls["read"] == 3


def test_what_l2_had_stands_in_l1(kind: Kind, cache: Cache, store: FaultyStore) -> None:
    """A hit in L2 is promoted, for what is left of its life."""
    f, loads = counted(kind, cache, ttl=10)
    kind.call(f, 1)
    forget_nearby(cache)
    kind.call(f, 1)
    asked = store.calls["read"]
    kind.call(f, 1)
    assert store.calls["read"] == asked + (cache.memory is None)
    assert loads == [1]


def test_a_store_that_fails(kind: Kind, cache: Cache, store: FaultyStore) -> None:
    """Its trouble is counted once, and the value loaded; nothing is raised."""
    f, loads = counted(kind, cache)
    store.fail("read")
    assert kind.call(f, 1) == {"x": 1, "n": 1}
    assert store.calls["read"] == 1
    assert counts(cache)[3] == 1
    store.heal()
    assert loads == [1]


def test_what_is_not_readable(kind: Kind, cache: Cache, store: FaultyStore) -> None:
    """Garbage counts as such, and is loaded anew."""
    f, loads = counted(kind, cache)
    kind.call(f, 1)
    forget_nearby(cache)
    store.garbage(b"\xc1")
    assert kind.call(f, 1) == {"x": 1, "n": 2}
    assert counts(cache)[4] >= 1
    store.heal()
    assert loads == [1, 1]


def test_every_caller_gets_a_value_of_its_own(
    kind: Kind, store: FaultyStore, make_cache: Callable[..., Cache]
) -> None:
    """With copy=True nobody sees what another has done to it."""
    f, _ = counted(kind, make_cache(l2=store, copy=True))
    kind.call(f, 1)
    for _ in range(3):
        value = kind.call(f, 1)
        assert value == {"x": 1, "n": 1}
        value["x"] = "mine"


def test_arguments_that_make_no_key(kind: Kind, cache: Cache) -> None:
    """The mistake is named as on the long way."""
    f, _ = counted(kind, cache)
    with pytest.raises(TypeError, match="argument"):
        kind.call(f)


def test_an_interrupted_reader_frees_the_key(
    kind: Kind, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key press during the read ends that call only: the next one leads a flight of its own."""
    f, loads = counted(kind, cache)
    kind.call(f, 1)
    forget_nearby(cache)
    assert cache.flow.l2 is not None

    class Pressed:
        def read(self, *_: Any) -> None:
            raise KeyboardInterrupt

        async def aread(self, *_: Any) -> None:
            raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(cache.flow.l2, "namespace", Pressed())
        with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
            kind.call(f, 1)
    assert kind.call(f, 1) == {"x": 1, "n": 1}
    assert counts(cache)[0] == 1
    assert loads == [1]


def test_a_key_press_at_any_point_leaves_no_flight(cache: Cache) -> None:
    """Wherever the way is interrupted, the key is free afterwards; a hit in L2 and a load alike."""
    f = cache.cached("k:{x}")(lambda x: x)
    points = 0
    for point in range(200):
        for key in (1, point + 1000):  # the one is in L2, the other is not
            forget_nearby(cache)
            left = point

            def press(frame: Any, event: str, _: Any) -> Any:
                nonlocal left
                if frame.f_code.co_filename != store_way.__file__:
                    return None
                line = getline(store_way.__file__, frame.f_lineno).strip()
                left -= event == "line" and line != "try:"  # where no signal is looked for
                if left < 0:
                    raise KeyboardInterrupt
                return press

            before = sys.gettrace()
            sys.settrace(press)
            try:
                f(key)
            except KeyboardInterrupt:
                points += 1
            finally:
                sys.settrace(before)
            assert len(cache.flow.flights) == 0, (point, key)
            assert f(key) == key
        if left > 0:
            break
    assert points > 30


def test_a_reader_that_is_cancelled_harms_nobody(cache: Cache) -> None:
    """Whoever leads while L2 is read may go: the others read it themselves, and do not load."""

    async def main() -> None:
        loads = []

        @cache.cached("k:{x}")
        async def f(x: int) -> int:
            loads.append(x)
            return x

        await f(1)
        forget_nearby(cache)
        assert cache.flow.l2 is not None
        namespace, gate = cache.flow.l2.namespace, asyncio.Event()

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(namespace, name)

            async def aread(self, *args: Any) -> Any:
                await gate.wait()
                return await namespace.aread(*args)

        cache.flow.l2.namespace = Slow()
        leader, *followers = [asyncio.create_task(f(1)) for _ in range(4)]
        await asyncio.sleep(0)
        assert len(cache.flow.flights) == 1
        leader.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*followers) == [1, 1, 1]
        assert leader.cancelled()
        assert loads == [1]

    asyncio.run(main())
    assert len(cache.flow.flights) == 0


def test_an_invalidation_during_the_read(cache: Cache, store: FaultyStore) -> None:
    """What was read from L2 before a delete does not stand in L1 after it."""
    reached, gate = threading.Event(), threading.Event()
    f = cache.cached("k:{x}")(lambda x: x)
    assert f(1) == 1
    forget_nearby(cache)
    assert cache.flow.l2 is not None
    namespace = cache.flow.l2.namespace

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(namespace, name)

        def read(self, *args: Any) -> Any:
            found = namespace.read(*args)
            reached.set()
            assert gate.wait(10)
            return found

    cache.flow.l2.namespace = Slow()  # type: ignore[assignment]
    reader = threading.Thread(target=f, args=(1,))
    reader.start()
    assert reached.wait(10)
    cache.delete("k:1")
    gate.set()
    reader.join(10)
    until(lambda: len(cache.flow.flights) == 0)
    assert cache.memory is None or "k:1" not in cache.memory
    cache.flow.l2.namespace = namespace


def test_a_stale_value_of_l2(
    kind: Kind, store: FaultyStore, make_cache: Callable[..., Cache]
) -> None:
    """One that may be served while it is refreshed is, and counts as stale."""
    cache = make_cache(l1=None, l2=store)
    f, loads = counted(kind, cache, ttl=0.05, stale_while_revalidate=60)
    assert kind.call(f, 1)["n"] == 1
    until(lambda: cache.flow.l2.namespace.read("k:1")[1] <= 60)
    assert kind.call(f, 1)["n"] == 1
    kind.settle(cache)
    assert loads == [1, 1]
    assert cache.stats().stale_served == 1
    assert kind.call(f, 1)["n"] == 2


def test_guards_are_asked_before_l2(store: FaultyStore, make_cache: Callable[..., Cache]) -> None:
    """A cache with a guard goes the long way: what it rules out is not read."""
    from tiercache import Plugin

    class Nothing(Plugin):
        def admits(self, key: str) -> bool:
            return False

    cache = make_cache(l2=store, plugins=[Nothing()])
    f = cache.cached("k:{x}")(lambda x: x)
    assert f(1) is None
    assert store.calls["read"] == 0
