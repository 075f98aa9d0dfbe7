"""Many keys at once whose values are stale or due: served, and refreshed together behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.flow.scripted import Failure, Scripted
from tests.gates import GatedStore
from tests.kinds import Kind
from tests.waiting import until
from tiercache import LRU, MISS, Cache, Event, LoadErrors, LoadTimeout, Plugin
from tiercache.runtime import CONCURRENT_LOADS, THREADS
from tiercache.testing import DictStore, FakeClock, FaultyStore
from tiercache.tiers.store import LeaseMode

MakeCache = Callable[..., Cache]
SOFT = 0.05  # seconds


class Bulk(Scripted):
    """A scripted loader of one key, and a bulk loader that does as it is told likewise."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.batches: list[list[Any]] = []
        self.running = 0  # loads of one key
        self.most = 0  # of them at once, so far

    @property
    def batch(self) -> Callable[..., Any]:
        def values(items: list[Any]) -> dict[Any, Any]:
            return {item: self._end(item) for item in items}

        def note(items: list[Any]) -> threading.Event | None:
            self.batches.append(items)
            self.loads.extend(items)
            return self._gate

        if self.kind.name == "blocking":

            def load(items: list[Any]) -> dict[Any, Any]:
                gate = note(items)
                assert gate is None or gate.wait(10)
                return values(items)

            return load

        async def aload(items: list[Any]) -> dict[Any, Any]:
            gate = note(items)
            await _passed(gate)
            return values(items)

        return aload

    def _begin(self, x: Any) -> threading.Event | None:
        self.running += 1
        self.most = max(self.most, self.running)
        return super()._begin(x)

    def _end(self, x: Any) -> Any:
        self.running -= 1
        return super()._end(x)


class Recorder(Plugin):
    """Notes what it hears, by name."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def keys(self, name: str) -> list[str]:
        return sorted(event.key for event in self.events if event.name == name)


async def _passed(gate: threading.Event | None) -> None:
    deadline = time.monotonic() + 10
    while gate is not None and not gate.is_set():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def turn(kind: Kind, times: int = 20) -> bool:
    """Have tasks that are under way go on for some turns of their loop; False."""
    if kind.name == "asyncio":

        async def main() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        kind.call(main)
    return False


@pytest.fixture
def source(kind: Kind) -> Bulk:
    return Bulk(kind)


@pytest.fixture(params=[True, False], ids=["batch", "single"])
def bulk(request: pytest.FixtureRequest, source: Bulk) -> dict[str, Any]:
    """Options of a function with a bulk loader, and of one without."""
    return {"batch": source.batch} if request.param else {}


# soft_timeout


def test_a_soft_timeout_serves_stale_values(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk, bulk: dict[str, Any]
) -> None:
    """A batch that takes its time goes on behind, while its callers get the stale values."""
    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=SOFT, **bulk)(source.function)
    old = kind.call(f.many, range(20))
    clock.advance(11)
    source.hold()
    assert kind.call(f.many, range(20)) == old
    assert [flight.passengers for flight in cache.flow.flights.under_way()] == [1] * 20
    assert kind.call(f.many, range(20)) == old  # joins, and waits no longer
    source.let_go()
    kind.settle(cache)
    assert kind.call(f.many, range(20)) == dict.fromkeys(range(20), 2)
    assert sorted(source.loads) == sorted([*range(20)] * 2)
    info = f.cache_info()
    assert (info.stale_served, info.misses) == (40, 20)


def test_a_soft_timeout_is_one_for_all_keys(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk, bulk: dict[str, Any]
) -> None:
    """A hundred stale keys are waited for as long as one."""
    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=0.1, **bulk)(source.function)
    old = kind.call(f.many, range(100))
    clock.advance(11)
    source.hold()
    began = time.monotonic()
    assert kind.call(f.many, range(100)) == old
    assert 0.1 <= time.monotonic() - began < 5
    source.let_go()
    kind.settle(cache)


def test_keys_without_a_stale_value_wait(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk, bulk: dict[str, Any]
) -> None:
    """Past soft_timeout a batch waits for what nothing stands in for; all of it has landed then."""
    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=0.01, **bulk)(source.function)
    kind.call(f.many, [1])
    clock.advance(11)
    source.hold()
    letting_go = threading.Timer(0.05, source.let_go)
    letting_go.start()
    found = kind.call(f.many, [1, 2])
    letting_go.join()
    kind.settle(cache)
    assert found[2] == 1
    assert found[1] == 2 or not bulk  # which may land after it, where each is loaded alone
    assert kind.call(f.many, [1, 2]) == {1: 2, 2: 1}


def test_a_soft_timeout_holds_for_flights_of_others(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk, bulk: dict[str, Any]
) -> None:
    """A key that another caller loads is not waited for either; a missing one is loaded."""
    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=SOFT, **bulk)(source.function)
    kind.call(f, 1)
    clock.advance(11)
    source.hold()
    assert kind.call(f, 1) == 1
    gate, source._gate = source._gate, None
    assert kind.call(f.many, [1, 2]) == {1: 1, 2: 1}
    assert gate is not None
    gate.set()
    kind.settle(cache)
    assert kind.call(f.many, [1, 2]) == {1: 2, 2: 1}
    assert sorted(source.loads) == [1, 1, 2]


def test_a_soft_timeout_waits_for_a_quick_batch(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk, bulk: dict[str, Any]
) -> None:
    """A batch that is quick enough is what its caller gets, or the error that may be hidden."""
    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=5, **bulk)(source.function)
    kind.call(f.many, [1, 2])
    clock.advance(11)
    assert kind.call(f.many, [1, 2]) == {1: 2, 2: 2}
    clock.advance(11)
    source.error = Failure()
    assert kind.call(f.many, [1, 2]) == {1: 2, 2: 2}
    with pytest.raises(LoadErrors) as caught:
        kind.call(f.many, [1, 2, 3])
    assert caught.value.results == {1: 2, 2: 2}


def test_where_all_threads_are_busy_the_caller_loads(
    make_cache: MakeCache, clock: FakeClock
) -> None:
    """With no thread to carry a batch beside its caller, who loads waits for it."""
    cache = make_cache()
    loads: list[list[int]] = []

    def batch(ids: list[int]) -> list[int]:
        loads.append(ids)
        if len(loads) > 1:
            time.sleep(2 * SOFT)
        return [len(loads)] * len(ids)

    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=SOFT, batch=batch)(lambda x: x)
    f.many([1, 2])
    clock.advance(11)
    for _ in range(THREADS):
        assert cache.blocking._carriers.acquire(blocking=False)
    assert f.many([1, 2]) == {1: 2, 2: 2}
    for _ in range(THREADS):
        cache.blocking._carriers.release()
    assert not cache.flow.flights.under_way()


def test_a_cancelled_caller_leaves_the_batch_to_go_on(cache: Cache, clock: FakeClock) -> None:
    """Values that were to be replaced anyway are, whoever leaves; others end with their caller."""
    gate = threading.Event()
    ended: list[Any] = []

    async def batch(ids: list[int]) -> list[int]:
        try:
            await _passed(gate)
        except asyncio.CancelledError:
            ended.append(ids)
            raise
        return ids

    @cache.cached(ttl=10, stale_if_error=60, soft_timeout=5, batch=batch)
    async def f(x: int) -> int:
        return 0

    async def give_up(items: list[int]) -> None:
        asking = asyncio.create_task(f.many(items))
        while not cache.flow.flights.under_way():
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])

    async def main() -> None:
        await f(1)
        clock.advance(11)
        await give_up([1, 2])
        assert [flight.key for flight in cache.flow.flights.under_way()] == [f.key(1)]
        await give_up([3])
        gate.set()
        await cache.asyncio.quiesce()
        assert await f(1) == 1

    asyncio.run(main())
    assert ended == [[3]]


# Refreshes of what is due


@pytest.mark.parametrize("tiers", ["l1", "both", "l2"])
def test_what_is_stale_is_refreshed_by_one_batch(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk, tiers: str
) -> None:
    """200 stale values: one bulk load, one claim, one look and one fill of L2 for all."""
    store = FaultyStore(DictStore(clock=clock))
    options: dict[str, Any] = {} if tiers == "l1" else {"l2": store}
    cache = make_cache(ttl=10, **options, **({"l1": None} if tiers == "l2" else {}))
    f = cache.cached("f:{x}", stale_while_revalidate=60, batch=source.batch)(source.function)
    old = kind.call(f.many, range(200))
    clock.advance(11)
    store.calls.clear()
    source.hold()
    assert kind.call(f.many, range(200)) == old
    source.let_go()
    kind.settle(cache)
    assert source.batches == [[*range(200)]] * 2
    for operation, count in {"claim": 1, "fill": 1, "release": 0, "renew": 0}.items():
        assert store.calls[operation] == (count if tiers != "l1" else 0)
    reads = {"l1": 0, "both": 1, "l2": 2}  # with no L1 the values come from there, too
    assert store.calls["read_many"] == reads[tiers]
    assert kind.call(f.many, range(200)) == dict.fromkeys(range(200), 2)
    assert len(source.batches) == 2
    assert not cache.flow.flights.under_way()
    assert cache.stats().stale_served == 200


def test_what_is_due_ahead_is_refreshed_by_one_batch(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk
) -> None:
    """Fresh values in the last fifth of their TTL are served, and refreshed together."""
    f = cache.cached(ttl=10, refresh_ahead=0.8, batch=source.batch)(source.function)
    kind.call(f.many, range(50))
    clock.advance(9)
    assert kind.call(f.many, range(50)) == dict.fromkeys(range(50), 1)
    kind.settle(cache)
    assert kind.call(f.many, range(50)) == dict.fromkeys(range(50), 2)
    assert source.batches == [[*range(50)]] * 2
    assert f.cache_info().hits_l1 == 100


def test_due_and_missing_keys_are_apart(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk
) -> None:
    """A caller waits for what is missing only; what is due is refreshed by another bulk load."""
    f = cache.cached(ttl=10, stale_while_revalidate=60, batch=source.batch)(source.function)
    kind.call(f.many, [1, 2])
    clock.advance(11)
    assert kind.call(f.many, [1, 3, 2]) == {1: 1, 2: 1, 3: 1}
    kind.settle(cache)
    assert sorted(source.batches[1:]) == [[1, 2], [3]]


def test_keys_given_with_their_loader(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """get_or_load_many, too, serves what is stale and refreshes it by one call of its loader."""
    cache = make_cache(ttl=10, stale_while_revalidate=60)
    for expected in (1, 1):
        found = kind.do(cache, "get_or_load_many", ["a", "b"], source.batch)
        assert found == {"a": expected, "b": expected}
        kind.settle(cache)
        clock.advance(11)
    assert source.batches == [["a", "b"]] * 2
    assert kind.do(cache, "get_many", ["a", "b"]) == {}  # it came at 11 s, and is stale at 22
    assert kind.do(cache, "get_or_load_many", ["a", "b"], source.batch) == {"a": 2, "b": 2}
    kind.settle(cache)


def test_without_a_bulk_loader_a_few_are_refreshed_at_once(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk
) -> None:
    """One call's refreshes take CONCURRENT_LOADS places at most."""
    f = cache.cached(ttl=10, stale_while_revalidate=60)(source.function)
    kind.call(f.many, range(60))
    clock.advance(11)
    source.most = 0
    source.hold()
    assert kind.call(f.many, range(60)) == dict.fromkeys(range(60), 1)
    until(lambda: source.running == CONCURRENT_LOADS or turn(kind))
    turn(kind)
    source.let_go()
    kind.settle(cache)
    assert source.most == CONCURRENT_LOADS
    assert kind.call(f.many, range(60)) == dict.fromkeys(range(60), 2)


def test_a_refresh_under_way_is_not_begun_twice(
    kind: Kind, cache: Cache, clock: FakeClock, source: Bulk
) -> None:
    """While a batch refreshes some keys another call's refreshes the others only."""
    f = cache.cached(ttl=10, stale_while_revalidate=60, batch=source.batch)(source.function)
    kind.call(f.many, range(6))
    clock.advance(11)
    source.hold()
    kind.call(f.many, range(4))
    until(lambda: len(source.batches) == 2 or turn(kind))
    kind.call(f.many, range(6))
    assert kind.call(f, 0) == 1
    until(lambda: len(source.batches) == 3 or turn(kind))
    source.let_go()
    kind.settle(cache)
    assert source.batches[1:] == [[0, 1, 2, 3], [4, 5]]


def test_where_all_threads_are_busy_due_keys_are_left_alone(
    make_cache: MakeCache, clock: FakeClock
) -> None:
    """With no thread for a refresh the values are served, and it is tried again a moment later."""
    cache = make_cache()
    source = Bulk(kind_of_threads())
    f = cache.cached(ttl=10, stale_while_revalidate=60, batch=source.batch)(source.function)
    f.many([1, 2])
    clock.advance(11)
    for _ in range(THREADS):
        assert cache.blocking._carriers.acquire(blocking=False)
    assert f.many([1, 2]) == {1: 1, 2: 1}
    for _ in range(THREADS):
        cache.blocking._carriers.release()
    assert not cache.flow.flights.under_way()
    f.many([1, 2])
    assert len(source.batches) == 1
    clock.advance(1)
    f.many([1, 2])
    assert cache.blocking.quiesce(10) == 0
    assert source.batches == [[1, 2]] * 2


def kind_of_threads() -> Any:
    from tests.kinds import Blocking

    return Blocking()


def test_peers_are_told_of_a_bulk_refresh(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """What one process has refreshed, another reads from L2 instead of loading it, too."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 10, "stale_while_revalidate": 20}
    one, two = make_cache(**options), make_cache(**options)
    f, g = (c.cached("k:{x}", batch=source.batch)(source.function) for c in (one, two))
    assert kind.call(f.many, [1, 2]) == kind.call(g.many, [1, 2]) == {1: 1, 2: 1}
    clock.advance(12)
    assert kind.call(f.many, [1, 2]) == {1: 1, 2: 1}
    kind.settle(one)
    until(lambda: two.memory.get("k:1") is None and two.memory.get("k:2") is None)
    assert kind.call(g.many, [1, 2]) == {1: 2, 2: 2}
    assert source.batches == [[1, 2]] * 2


def test_what_another_process_refreshes_is_put_off(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """Keys whose leases are held elsewhere are left alone for as long; the others are loaded."""
    store = FaultyStore(DictStore(clock=clock))
    cache = make_cache(l2=store, ttl=10, stale_while_revalidate=60)
    f = cache.cached("k:{x}", batch=source.batch)(source.function)
    kind.call(f.many, range(4))
    clock.advance(11)
    peer = store.namespace("test", "peer")
    nonces = [b"12345678", b"87654321"]
    peer.claim(["k:1", "k:2"], nonces, seconds=3, mode=LeaseMode.EXCLUSIVE, anew=True)
    store.calls.clear()
    for _ in range(3):
        found = kind.call(f.many, range(4))
        assert (found[1], found[2]) == (1, 1)
        kind.settle(cache)
    assert source.batches[1:] == [[0, 3]]
    assert store.calls["claim"] == 1  # they are not even asked for
    assert cache.stats().refresh_errors == 0
    clock.advance(3.1)
    kind.call(f.many, range(4))
    kind.settle(cache)
    assert source.batches[2:] == [[1, 2]]


def test_a_late_bulk_refresh_takes_what_another_has_brought(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """A process that has not heard of a refresh finds its values under the leases."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 10, "stale_while_revalidate": 20}
    one, two = make_cache(**options), make_cache(**options)
    f, g = (c.cached("k:{x}", batch=source.batch)(source.function) for c in (one, two))
    assert kind.call(f.many, [1, 2, 3]) == kind.call(g.many, [1, 2, 3]) == {1: 1, 2: 1, 3: 1}
    clock.advance(12)
    two.flow.bus.stop()  # deaf, with its L1 as it was
    two.flow.bus.is_open = True
    kind.call(f.many, [1, 2])
    kind.settle(one)
    assert kind.call(g.many, [1, 2, 3]) == {1: 1, 2: 1, 3: 1}
    kind.settle(two)
    assert source.batches[1:] == [[1, 2], [3]]
    assert kind.call(g.many, [1, 2, 3]) == {1: 2, 2: 2, 3: 2}


def test_a_bulk_refresh_does_not_bring_back_what_was_deleted(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """A delete of one key during a refresh wins, in both tiers; the others are replaced."""
    cache = make_cache(l2=DictStore(clock=clock), ttl=10, stale_while_revalidate=60)
    f = cache.cached("k:{x}", batch=source.batch)(source.function)
    kind.call(f.many, [1, 2])
    clock.advance(11)
    source.hold()
    kind.call(f.many, [1, 2])
    until(lambda: len(source.batches) == 2 or turn(kind))
    kind.do(cache, "delete", "k:1")
    source.let_go()
    kind.settle(cache)
    assert kind.do(cache, "get", "k:1", MISS) is MISS
    assert kind.do(cache, "get", "k:2") == 2


def test_a_failed_bulk_refresh_backs_off(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """It is told of each key, keeps the values, and is tried again later than at once."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder], l2=DictStore(clock=clock), ttl=10)
    f = cache.cached("k:{x}", stale_while_revalidate=100, batch=source.batch)(source.function)
    kind.call(f.many, [1, 2])
    source.error = Failure()
    clock.advance(11)
    for _ in range(3):
        assert kind.call(f.many, [1, 2]) == {1: 1, 2: 1}
        kind.settle(cache)
    assert len(source.batches) == 2
    assert recorder.keys("refresh_failed") == ["k:1", "k:2"]
    assert (cache.stats().refresh_errors, cache.stats().load_errors) == (2, 1)
    source.error = None
    clock.advance(1)
    kind.call(f.many, [1, 2])
    kind.settle(cache)
    assert kind.call(f.many, [1, 2]) == {1: 3, 2: 3}
    assert len(cache.flow.pauses) == 0


def test_an_overdue_bulk_refresh_backs_off(make_cache: MakeCache, clock: FakeClock) -> None:
    """A bulk refresh that is cancelled by its timeout has failed, once, whatever it raises."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder])
    batches: list[list[int]] = []

    async def batch(ids: list[int]) -> list[int]:
        batches.append(ids)
        if len(batches) > 1:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                raise ConnectionError from None
        return ids

    @cache.cached("k:{x}", ttl=10, timeout=0.2, stale_while_revalidate="1d", batch=batch)
    async def f(x: int) -> int:
        return x

    async def main() -> None:
        await f.many([1, 2])
        clock.advance(11)
        for _ in range(3):
            assert await f.many([1, 2]) == {1: 1, 2: 2}
            await cache.asyncio.quiesce()
        await cache.aclose()

    asyncio.run(main())
    assert batches == [[1, 2]] * 2
    assert (cache.stats().loads, cache.stats().load_errors) == (2, 1)
    assert recorder.keys("load_error") == recorder.keys("refresh_failed") == ["k:1", "k:2"]


def test_a_refresh_that_hangs_is_left_behind(make_cache: MakeCache, clock: FakeClock) -> None:
    """A bulk refresh that hangs in its thread holds its keys no longer than load_timeout."""
    cache = make_cache(load_timeout=0.2)
    hung = threading.Event()
    batches: list[list[int]] = []

    def batch(ids: list[int]) -> list[int]:
        batches.append(ids)
        number = len(batches)
        if number == 2:
            hung.wait(10)
        return [number] * len(ids)

    f = cache.cached(ttl=10, stale_while_revalidate="1d", batch=batch)(lambda x: x)
    f.many([1, 2])
    clock.advance(11)
    assert f.many([1, 2]) == {1: 1, 2: 1}
    try:
        until(lambda: f.many([1, 2])[1] >= 3)
    finally:
        hung.set()
    assert cache.blocking.quiesce(10) == 0
    assert min(f.many([1, 2]).values()) >= 3


def test_refreshed_values_that_are_not_kept(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """Where when= refuses a refresh's value the old one goes, from both tiers."""
    cache = make_cache(l2=DictStore(clock=clock), ttl=10, stale_while_revalidate=60)
    f = cache.cached("k:{x}", when=lambda value: value != 2, batch=source.batch)(source.function)
    kind.call(f.many, [1, 2])
    kind.call(f.refresh, 1)  # 2 is not kept
    kind.call(f, 1)  # 3
    clock.advance(11)
    assert kind.call(f.many, [1, 2]) == {1: 3, 2: 1}
    kind.settle(cache)
    assert kind.do(cache, "get_many", ["k:1", "k:2"]) == {"k:1": 4}
    assert kind.call(f.many, [1, 2]) == {1: 4, 2: 3}  # and not 1, stale


# Without an L1, or a small one


@pytest.mark.parametrize("l1", [None, LRU(2)], ids=["none", "small"])
def test_stale_values_of_l2_are_served_on_error(
    kind: Kind,
    make_cache: MakeCache,
    clock: FakeClock,
    source: Bulk,
    bulk: dict[str, Any],
    l1: LRU | None,
) -> None:
    """Over a dead database a batch gets the last values, and leaves it alone for a while."""
    store = FaultyStore(DictStore(clock=clock))
    cache = make_cache(l1=l1, l2=store, ttl=10, stale_if_error=1000)
    f = cache.cached("k:{x}", **bulk)(source.function)
    old = kind.call(f.many, range(10))
    clock.advance(11)
    source.error = Failure()
    store.calls.clear()
    assert kind.call(f.many, range(10)) == old
    assert store.calls["claim"] == (1 if bulk else 10)  # past the values that are known there
    for _ in range(5):
        assert kind.call(f.many, range(10)) == old
    assert len(source.loads) == 20
    assert f.cache_info().stale_served == 60
    clock.advance(1)
    assert kind.call(f.many, range(10)) == old
    assert len(source.loads) == 30
    source.error = None
    clock.advance(60)
    assert kind.call(f.many, range(10)) == dict.fromkeys(range(10), 4)
    assert len(cache.flow.pauses) == 0


def test_a_soft_timeout_serves_stale_values_of_l2(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk, bulk: dict[str, Any]
) -> None:
    """So it does after soft_timeout."""
    cache = make_cache(l1=None, l2=DictStore(clock=clock), ttl=10, stale_if_error=60)
    f = cache.cached("k:{x}", soft_timeout=SOFT, **bulk)(source.function)
    old = kind.call(f.many, range(5))
    clock.advance(11)
    source.hold()
    assert kind.call(f.many, range(5)) == old
    source.let_go()
    kind.settle(cache)
    assert kind.call(f.many, range(5)) == dict.fromkeys(range(5), 2)


@contextmanager
def deleted_once_read(cache: Cache, store: GatedStore) -> Iterator[None]:
    """Have ``k:1`` deleted between the answer of L2 and what is made of it."""
    gate = store.gate("read", is_after=True)

    def delete() -> None:
        gate.until_reached()
        cache.delete("k:1")
        gate.open()

    deleting = threading.Thread(target=delete)
    deleting.start()
    yield
    deleting.join()


def test_what_was_invalidated_since_l2_was_read_stands_in_for_nothing(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """No resurrection: who joins a batch's flights after a delete is not served what was there."""
    store = GatedStore(clock=clock)
    cache = make_cache(l1=None, l2=store, ttl=10, stale_if_error=60)
    f = cache.cached("k:{x}", batch=source.batch)(source.function)
    kind.call(f.many, [1, 2])
    clock.advance(11)
    source.error = Failure()
    with deleted_once_read(cache, store), pytest.raises(LoadErrors) as caught:
        kind.call(f.many, [1, 2])
    assert caught.value.results == {2: 1}
    assert set(caught.value.errors) == {1}


def test_a_refresh_is_not_begun_for_what_was_invalidated_meanwhile(
    kind: Kind, make_cache: MakeCache, clock: FakeClock, source: Bulk
) -> None:
    """A stale value that was read before a delete is served once, and sets off no refresh."""
    store = GatedStore(clock=clock)
    cache = make_cache(l1=None, l2=store, ttl=10, stale_while_revalidate=60)
    f = cache.cached("k:{x}", batch=source.batch)(source.function)
    kind.call(f.many, [1, 2])
    clock.advance(11)
    with deleted_once_read(cache, store):
        assert kind.call(f.many, [1, 2]) == {1: 1, 2: 1}
    kind.settle(cache)
    assert source.batches[1:] == [[2]]
    assert kind.do(cache, "get", "k:1", MISS) is MISS


# What plugins hear


def test_a_bulk_load_is_told_of_each_key(
    kind: Kind, make_cache: MakeCache, source: Bulk, bulk: dict[str, Any]
) -> None:
    """One "loaded" for each key, and where the load fails one "load_error"."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder])
    f = cache.cached("k:{x}", **bulk)(source.function)
    kind.call(f.many, [1, 2])
    assert recorder.keys("loaded") == ["k:1", "k:2"]
    source.error = Failure()
    with pytest.raises(LoadErrors):
        kind.call(f.many, [1, 3, 4])
    assert recorder.keys("load_error") == ["k:3", "k:4"]
    assert {event.cause for event in recorder.events if event.name == "load_error"} == {"Failure"}
    assert all(event.seconds > 0 for event in recorder.events)
    assert cache.stats().loads == (2 if bulk else 4)


def test_an_overdue_bulk_load_is_told_of_each_key(kind: Kind, make_cache: MakeCache) -> None:
    """A bulk load that takes longer than its timeout is one "load_error" for each key."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder])
    source = Bulk(kind)
    source.hold()
    f = cache.cached("k:{x}", timeout=0.02, batch=source.batch)(source.function)
    with pytest.raises(LoadErrors) as caught:
        kind.call(f.many, [1, 2])
    assert {type(error) for error in caught.value.errors.values()} == {LoadTimeout}
    source.let_go()
    kind.settle(cache)
    assert recorder.keys("load_error") == ["k:1", "k:2"]
    assert (cache.stats().loads, cache.stats().load_errors) == (1, 1)
