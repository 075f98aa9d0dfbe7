"""Attempts to break the serving of stale values."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Any

import pytest

from tests.flow.scripted import Scripted
from tests.kinds import Kind
from tests.waiting import until
from tiercache import MISS, Cache, Event, Plugin, StoreError, current_load
from tiercache.runtime import THREADS, BlockingPort
from tiercache.testing import DictStore, FakeClock, FaultyStore


class Recorder(Plugin):
    """Notes the names of the events that it hears."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_event(self, event: Event) -> None:
        self.names.append(event.name)


def test_a_hung_refresh_does_not_hold_its_key(make_cache: Any, clock: FakeClock) -> None:
    """A refresh that hangs in its thread is left behind after load_timeout, by another refresh."""
    cache = make_cache(load_timeout=0.2)
    hung = threading.Event()
    loads: list[int] = []

    @cache.cached(ttl=10, stale_while_revalidate="1d")
    def f(x: int) -> int:
        loads.append(x)
        if len(loads) == 2:
            hung.wait(10)
        return len(loads)

    f(1)
    clock.advance(11)
    assert f(1) == 1
    try:
        until(lambda: f(1) >= 3)
    finally:
        hung.set()
    assert cache.blocking.quiesce(10) == 0
    assert f.peek(1) >= 3


def test_an_overdue_async_load_backs_off(make_cache: Any, clock: FakeClock) -> None:
    """A load that is cancelled by its timeout has failed: counted once, and not tried at once."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder], stale_if_error="1d")
    loads: list[int] = []

    @cache.cached(ttl=10, timeout=0.2)
    async def f(x: int) -> int:
        loads.append(x)
        if len(loads) > 1:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                raise ConnectionError from None
        return x

    async def main() -> None:
        await f(1)
        clock.advance(11)
        assert [await f(1) for _ in range(3)] == [1, 1, 1]
        await cache.aclose()

    asyncio.run(main())
    assert len(loads) == 2
    stats = cache.stats()
    assert (stats.loads, stats.load_errors, stats.stale_served) == (2, 1, 3)
    assert recorder.names.count("load_error") == 1


def test_an_overdue_async_refresh_backs_off(make_cache: Any, clock: FakeClock) -> None:
    """So has a refresh behind."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder])
    loads: list[int] = []

    @cache.cached(ttl=10, timeout=0.2, stale_while_revalidate="1d")
    async def f(x: int) -> int:
        loads.append(x)
        if len(loads) > 1:
            await asyncio.sleep(10)
        return x

    async def main() -> None:
        await f(1)
        clock.advance(11)
        for _ in range(3):
            assert await f(1) == 1
            await cache.asyncio.quiesce()
        await cache.aclose()

    asyncio.run(main())
    assert len(loads) == 2
    assert cache.stats().refresh_errors == 1
    assert recorder.names.count("refresh_failed") == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to threads")
def test_an_interrupted_leader_leaves_its_load_to_the_others(
    make_cache: Any, clock: FakeClock
) -> None:
    """A key press while the leader waits for soft_timeout is no error of who follows its load."""
    cache = make_cache(stale_if_error="1d")
    gate = threading.Event()
    loads: list[int] = []
    got: list[Any] = []

    @cache.cached(ttl=10, soft_timeout=5, timeout=20)
    def f(x: int) -> int:
        loads.append(x)
        assert len(loads) == 1 or gate.wait(10)
        return len(loads)

    def follow() -> None:
        try:
            got.append(f(1))
        except BaseException as error:
            got.append(error)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    f(1)
    clock.advance(11)
    follower = threading.Thread(target=follow)

    def has_joined() -> bool:
        return any(flight.passengers > 2 for flight in cache.flow.flights.under_way())

    def begin() -> None:
        until(lambda: len(loads) == 2)
        follower.start()
        until(has_joined)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    starter = threading.Thread(target=begin)
    starter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            f(1)
    finally:
        signal.signal(signal.SIGALRM, before)
        gate.set()
        starter.join()
        follower.join()
    assert got == [2]
    assert len(loads) == 2


def test_a_tag_of_the_stale_value_detaches_its_load(
    kind: Kind, cache: Cache, clock: FakeClock
) -> None:
    """Who asks after a tag was invalidated is not served what carried it, by joining a load."""
    source = Scripted(kind)
    tags = ["x"]
    source.around = lambda: current_load().tags.extend(tags) if tags else None
    f = cache.cached(ttl=10, stale_if_error="1d")(source.function)
    kind.call(f, 1)
    clock.advance(11)
    tags.clear()
    source.error = ConnectionError("database")
    invalidated: list[Any] = []

    def invalidate() -> None:  # with the load under way
        if not invalidated:
            cache.invalidate_tags("x")
            invalidated.append([len(cache.flow.flights)])

    source.around = invalidate
    assert kind.call(f, 1) == 1  # it had begun before
    assert invalidated == [[0]]  # nobody joins it any more
    with pytest.raises(ConnectionError):
        kind.call(f, 1)


def test_what_is_not_modified_keeps_its_tags(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """Tags that an earlier load appended still invalidate a value kept by not_modified()."""
    loads: list[int] = []

    def body(x: int) -> Any:
        loads.append(x)
        load = current_load()
        if load.stale_value is not MISS:
            return load.not_modified()
        load.tags.append("section")
        return "old"

    f = cache.cached(ttl=10, stale_if_error="1d", tags=["all"])(kind.function(body))
    kind.call(f, 1)
    clock.advance(11)
    assert kind.call(f, 1) == "old"
    kind.do(cache, "invalidate_tags", "section")
    assert kind.call(f, 1) == "old"
    assert len(loads) == 3


def test_cut_off_a_load_does_not_bring_what_l1_has_let_go(
    kind: Kind, make_cache: Any, clock: FakeClock
) -> None:
    """After blind_ttl nobody joins a load that would serve, if it fails, what L1 held before."""
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store, stale_if_error="1d")
    bus = cache.flow.bus
    source = Scripted(kind)
    f = cache.cached("f:{x}", ttl=10)(source.function)
    kind.call(f, 1)
    store.fail()
    bus.begin_to_fade(time.monotonic() + 100)
    clock.advance(11)
    source.error = ConnectionError("database")
    left: list[int] = []

    def go_blind() -> None:  # with the load under way
        bus.lose_sight(StoreError("cut off"))
        left.append(len(cache.flow.flights))

    source.around = go_blind
    assert kind.call(f, 1) == 1  # it had begun before
    assert left == [0]
    with pytest.raises(ConnectionError):
        kind.call(f, 1)


def test_cut_off_a_slow_failing_load_serves_nothing_too_old(
    kind: Kind, make_cache: Any, clock: FakeClock
) -> None:
    """What was put in L1 with the bus cut off is not served after its time, by a load either."""
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store, stale_if_error="1d", blind_ttl=20)
    source = Scripted(kind)
    f = cache.cached("f:{x}", ttl=10)(source.function)
    store.fail()
    kind.call(f, 1)
    clock.advance(11)
    source.error = ConnectionError("database")
    source.around = lambda: clock.advance(20)
    with pytest.raises(ConnectionError):
        kind.call(f, 1)


def test_refreshes_leave_threads_to_their_loads(make_cache: Any, clock: FakeClock) -> None:
    """As many refreshes as there may be, each of a function with a timeout, do not starve."""
    cache = make_cache(l2=DictStore(clock=clock))
    namespace = cache.flow.l2.namespace
    claim, all_are_carried = namespace.claim, threading.Barrier(THREADS)

    def claim_together(*args: Any, **options: Any) -> Any:
        all_are_carried.wait(10)
        return claim(*args, **options)

    @cache.cached("f:{x}", ttl=10, stale_while_revalidate=100, timeout=1)
    def f(x: int) -> int:
        return x

    for x in range(THREADS):
        f(x)
    clock.advance(11)
    namespace.claim = claim_together
    for x in range(THREADS):
        assert f(x) == x
    assert cache.blocking.quiesce(10) == 0
    namespace.claim = claim
    stats = cache.stats()
    assert (stats.loads, stats.refresh_errors) == (2 * THREADS, 0)


def test_quiescing_waits_for_a_thread_that_is_just_started() -> None:
    """A close beside the start of a refresh does not raise."""
    port = BlockingPort()
    thread = threading.Thread(target=lambda: port._threads.discard(thread))
    port._threads.add(thread)
    starter = threading.Timer(0.02, thread.start)
    starter.start()
    assert port.quiesce(10) == 0
    starter.join()


def test_a_ttl_of_ages_fits_the_record(make_cache: Any, clock: FakeClock) -> None:
    """A value that lives for centuries and may be stale is kept in L2, too."""
    store = DictStore(clock=clock)
    cache = make_cache(l2=store, stale_if_error="1d", l1=None)
    f = cache.cached("f:{x}", ttl=1e10)(lambda x: [x])
    assert f(1) == f(1) == [1]
    assert (cache.stats().loads, cache.stats().encode_errors) == (1, 0)


def test_who_expires_need_not_know_how_long_it_is_kept(
    kind: Kind, make_cache: Any, clock: FakeClock
) -> None:
    """A process without the function, such as a script, does not delete what it expires."""
    store = DictStore(clock=clock)
    source = Scripted(kind)
    cache = make_cache(l2=store, l1=None, ttl=60)
    f = cache.cached("f:{x}", stale_if_error="1h")(source.function)
    assert kind.call(f, 1) == 1
    kind.do(make_cache(l2=store, l1=None, ttl=60), "expire", "f:1")
    source.error = ConnectionError("database")
    assert kind.call(f, 1) == 1
    assert len(source.loads) == 2
