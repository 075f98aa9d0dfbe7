"""A value past its TTL: served while it is loaded again behind, or where its load fails."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.flow.scripted import Failure, Scripted
from tests.kinds import Kind
from tests.waiting import until
from tiercache import (
    MISS,
    Cache,
    ConfigurationError,
    Event,
    LoadTimeout,
    Plugin,
    current_load,
)
from tiercache.testing import DictStore, FakeClock


class Recorder(Plugin):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]


def test_stale_is_served_and_refreshed_behind(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """Past its TTL a value is served at once, once refreshed, and then the new one is."""
    f = cache.cached(ttl=10, stale_while_revalidate=5)(source.function)
    assert kind.call(f, 1) == 1
    clock.advance(12)
    source.hold()
    assert [kind.call(f, 1) for _ in range(3)] == [1, 1, 1]
    source.until_loads(2, f, 1)
    source.let_go()
    kind.settle(cache)
    assert kind.call(f, 1) == 2
    assert source.loads == [1, 1]
    info = f.cache_info()
    assert (info.loads, info.misses, info.stale_served) == (2, 1, info.stale_served)
    assert info.stale_served >= 3


def test_beyond_the_window_it_is_a_miss(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """At the end of stale_while_revalidate the caller waits for the load again."""
    f = cache.cached(ttl=10, stale_while_revalidate=5)(source.function)
    kind.call(f, 1)
    clock.advance(15.1)
    assert kind.call(f, 1) == 2
    assert f.cache_info().stale_served == 0
    assert f.cache_info().misses == 2


def test_an_error_is_answered_with_the_last_value(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """stale_if_error serves the last value where the load fails, until its hard limit."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder], ttl=10, stale_if_error=60)
    f = cache.cached(source.function)
    kind.call(f, 1)
    source.error = Failure()
    clock.advance(11)
    assert kind.call(f, 1) == 1
    assert source.loads == [1, 1]
    (event,) = recorder.named("stale_served")
    assert event.seconds == pytest.approx(11)
    clock.advance(59.1)
    with pytest.raises(Failure):
        kind.call(f, 1)
    source.error = None
    assert kind.call(f, 1) == len(source.loads)


def test_a_failing_key_is_left_alone_ever_longer(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """After a failure the stale value is served without a load, for 1, 2, 4... seconds from now."""
    f = cache.cached(ttl=10, stale_if_error=1000)(source.function)
    kind.call(f, 1)
    source.error = Failure()
    clock.advance(10)
    kind.call(f, 1)
    tried = [0.0]
    for tenth in range(1, 400):
        clock.advance(0.1)
        before = len(source.loads)
        assert kind.call(f, 1) == 1
        if len(source.loads) > before:
            tried.append(tenth / 10)
    gaps = [b - a for a, b in pairwise(tried)]
    for number, gap in enumerate(gaps):
        assert 0.8 * 2**number - 0.01 <= gap <= 2**number + 0.11
    assert len(gaps) == 5
    source.error = None
    clock.advance(60)
    assert kind.call(f, 1) == len(source.loads)
    assert len(cache.flow.pauses) == 0


def test_a_failed_refresh_keeps_the_value_and_backs_off(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """A refresh behind that fails is told, counted, and not tried again at once."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder])
    f = cache.cached(ttl=10, stale_while_revalidate=100)(source.function)
    kind.call(f, 1)
    source.error = Failure()
    clock.advance(11)
    for _ in range(5):
        assert kind.call(f, 1) == 1
        kind.settle(cache)
    assert source.loads == [1, 1]
    assert [event.cause for event in recorder.named("refresh_failed")] == ["Failure"]
    assert cache.stats().refresh_errors == 1
    source.error = None
    clock.advance(1)
    assert kind.call(f, 1) == 1
    kind.settle(cache)
    assert kind.call(f, 1) == 3


def test_an_answer_that_is_an_error_is_not_hidden(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """A negative error is what there is to say, and no reason to serve what was there before."""
    f = cache.cached(ttl=10, stale_if_error=60, negative_errors=KeyError, negative_ttl=5)(
        source.function
    )
    kind.call(f, 1)
    source.error = KeyError("gone")
    clock.advance(11)
    with pytest.raises(KeyError):
        kind.call(f, 1)


def _passengers(cache: Cache) -> int:
    return sum(flight.passengers for flight in cache.flow.flights.under_way())


def test_the_database_may_die(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """Guarantee 6: every caller at once gets the last value, from one failing load."""
    cache = make_cache(ttl=10, stale_if_error="1h")
    f = cache.cached(source.function)
    kind.call(f, 1)
    clock.advance(11)
    source.error = Failure()
    if kind.name == "blocking":  # tasks are all there before the first of them goes on
        source.around = lambda: until(lambda: _passengers(cache) == 20)
    assert kind.side_by_side(f, [(1,)] * 20) == [1] * 20
    assert source.loads == [1, 1]


def test_a_stale_value_comes_from_l2(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """Another process that has nothing in L1 serves what is stale in L2, and refreshes it."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 10, "stale_while_revalidate": 20, "stale_if_error": 40}
    one, two = make_cache(**options), make_cache(**options)
    f, g = one.cached("k:{x}")(source.function), two.cached("k:{x}")(source.function)
    kind.call(f, 1)
    clock.advance(15)
    assert kind.call(g, 1) == 1
    kind.settle(two)
    assert kind.call(g, 1) == 2
    assert g.cache_info().stale_served == 1
    clock.advance(35)
    source.error = Failure()
    two.memory.clear()
    assert kind.call(g, 1) == 2
    assert source.loads == [1, 1, 1]


def test_a_peer_is_told_of_a_refresh(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """What one process has refreshed, the others read from L2 instead of loading it, too."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 10, "stale_while_revalidate": 20}
    one, two = make_cache(**options), make_cache(**options)
    f, g = one.cached("k:{x}")(source.function), two.cached("k:{x}")(source.function)
    assert kind.call(f, 1) == kind.call(g, 1) == 1
    clock.advance(12)
    assert kind.call(f, 1) == 1
    kind.settle(one)
    until(lambda: two.memory.get("k:1") is None)
    assert kind.call(g, 1) == 2
    assert source.loads == [1, 1]


def test_one_refresh_in_the_cluster(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """While one process refreshes a value the others serve the old one and do not load it."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 10, "stale_while_revalidate": 20}
    caches = [make_cache(**options) for _ in range(3)]
    functions = [cache.cached("k:{x}")(source.function) for cache in caches]
    for f in functions:
        assert kind.call(f, 1) == 1
    clock.advance(12)
    source.hold()
    assert kind.call(functions[0], 1) == 1
    if kind.name == "blocking":
        until(lambda: len(source.loads) == 2)
        for f in functions[1:]:
            assert kind.call(f, 1) == 1
        for cache in caches[1:]:
            kind.settle(cache)
        source.let_go()
    else:
        source.let_go()
    kind.settle(caches[0])
    until(lambda: all(cache.memory.get("k:1") is None for cache in caches[1:]))
    assert [kind.call(f, 1) for f in functions] == [2, 2, 2]
    assert source.loads == [1, 1]


def test_a_late_refresh_takes_what_another_has_brought(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """A process that has not yet heard of the refresh finds its value under the lease."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 10, "stale_while_revalidate": 20}
    one, two = make_cache(**options), make_cache(**options)
    f, g = one.cached("k:{x}")(source.function), two.cached("k:{x}")(source.function)
    assert kind.call(f, 1) == kind.call(g, 1) == 1
    clock.advance(12)
    two.flow.bus.stop()  # deaf, with its L1 as it was
    two.flow.bus.is_open = True
    kind.call(f, 1)
    kind.settle(one)
    assert kind.call(g, 1) == 1
    kind.settle(two)
    assert kind.call(g, 1) == 2
    assert source.loads == [1, 1]


@pytest.mark.parametrize("how", ["delete", "invalidate_tags", "clear"])
def test_what_was_invalidated_is_not_served_stale(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted, how: str
) -> None:
    """No resurrection: an invalidated value does not stand in for a failing load."""
    cache = make_cache(l2=DictStore(clock=clock), ttl=10, stale_if_error=60)
    f = cache.cached("k:{x}", tags=["t"])(source.function)
    kind.call(f, 1)
    arguments = {"delete": ["k:1"], "invalidate_tags": ["t"], "clear": []}[how]
    kind.do(cache, how, *arguments)
    source.error = Failure()
    with pytest.raises(Failure):
        kind.call(f, 1)


def test_a_refresh_does_not_bring_back_what_was_deleted(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """A delete during a refresh wins: in L1, and in L2."""
    store = DictStore(clock=clock)
    cache = make_cache(l2=store, ttl=10, stale_while_revalidate=60)
    f = cache.cached("k:{x}")(source.function)
    kind.call(f, 1)
    clock.advance(11)
    source.hold()
    kind.call(f, 1)
    source.until_loads(2, f, 1)
    kind.do(cache, "delete", "k:1")
    source.let_go()
    kind.settle(cache)
    assert kind.do(cache, "get", "k:1", MISS) is MISS
    assert kind.call(f, 1) == 3


def test_whoever_misses_joins_the_refresh(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """A caller for whom the value has gone waits for the refresh that is under way."""
    cache = make_cache(ttl=10, stale_while_revalidate=60)
    f = cache.cached(source.function)
    kind.call(f, 1)
    clock.advance(11)
    source.hold()
    kind.call(f, 1)
    source.until_loads(2, f, 1)
    cache.memory.clear()  # evicted, say
    source.let_go()
    assert kind.side_by_side(f, [(1,)] * 5) == [2] * 5
    assert source.loads == [1, 1]


def test_a_refresh_has_an_empty_context(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """A refresh is no part of the request that set it off."""
    request = contextvars.ContextVar[str]("request", default="none")
    seen: list[str] = []
    source.around = lambda: seen.append(request.get())
    f = cache.cached(ttl=10, stale_while_revalidate=5)(source.function)
    token = request.set("mine")
    kind.call(f, 1)
    clock.advance(11)
    kind.call(f, 1)
    kind.settle(cache)
    request.reset(token)
    assert seen == ["mine", "none"]


def test_expire_makes_stale(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """An expired value is loaded again by the next read, everywhere, and kept for errors."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 100, "stale_if_error": 50}
    one, two, three = (make_cache(**options) for _ in range(3))
    f, g, h = (cache.cached("k:{x}")(source.function) for cache in (one, two, three))
    assert kind.call(f, 1) == kind.call(g, 1) == 1
    kind.do(one, "expire", "k:1")
    source.error = Failure()
    for function in (f, h):
        assert kind.call(function, 1) == 1
    until(lambda: two.flow.fresh("k:1") is None)
    assert kind.call(g, 1) == 1
    source.error = None
    clock.advance(30)
    assert kind.call(g, 1) == len(source.loads)
    kind.do(one, "expire", "k:1")
    until(lambda: two.flow.fresh("k:1") is None)
    source.error = Failure()
    clock.advance(51)
    with pytest.raises(Failure):
        kind.call(g, 1)


def test_a_soft_timeout_serves_the_stale_value(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """A load that takes its time goes on behind, while its callers get the stale value."""
    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=0.05)(source.function)
    source.hold()
    source.let_go()
    assert kind.call(f, 1) == 1
    clock.advance(11)
    source.hold()
    assert kind.side_by_side(f, [(1,)] * 3) == [1, 1, 1]
    source.let_go()
    kind.settle(cache)
    assert kind.call(f, 1) == 2
    assert source.loads == [1, 1]
    assert f.cache_info().stale_served == 3


def test_a_soft_timeout_waits_for_a_quick_load(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """A load that is quick enough is what its caller gets."""
    f = cache.cached(ttl=10, stale_if_error=60, soft_timeout=5)(source.function)
    kind.call(f, 1)
    clock.advance(11)
    assert kind.call(f, 1) == 2


def test_a_timeout_raises_where_nothing_is_stale(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """The hard timeout raises LoadTimeout, or serves the stale value where there is one."""
    f = cache.cached(ttl=10, stale_if_error=60, timeout=0.1)(source.function)
    source.hold()
    with pytest.raises(LoadTimeout):
        kind.call(f, 1)
    source.let_go()
    kind.settle(cache)
    value = kind.call(f, 1)
    clock.advance(11)
    source.hold()
    assert kind.call(f, 1) == value
    source.let_go()
    kind.settle(cache)


def test_many_serves_stale_values(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """A batch gets stale values at once, refreshed behind; and on error those that are kept."""
    f = cache.cached(ttl=10, stale_while_revalidate=5, stale_if_error=60)(source.function)
    assert kind.call(f.many, [1, 2]) == {1: 1, 2: 1}
    clock.advance(11)
    assert kind.call(f.many, [1, 2, 3]) == {1: 1, 2: 1, 3: 1}
    kind.settle(cache)
    assert kind.call(f.many, [1, 2, 3]) == {1: 2, 2: 2, 3: 1}
    clock.advance(20)
    source.error = Failure()
    assert kind.call(f.many, [1, 2, 3]) == {1: 2, 2: 2, 3: 1}


def test_get_does_not_give_what_is_stale(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """A plain get has nothing to refresh with: a stale value is a miss to it, and to peek."""
    cache = make_cache(ttl=10, stale_if_error=60, l2=DictStore(clock=clock))
    kind.do(cache, "set", "k", 1)
    assert kind.do(cache, "get", "k") == 1
    clock.advance(11)
    assert kind.do(cache, "get", "k", MISS) is MISS

    def fail() -> None:
        raise Failure

    assert kind.do(cache, "get_or_load", "k", kind.function(fail)) == 1


def test_closing_ends_refreshes(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """close() waits for a refresh, and what it brings is not kept."""
    clock = FakeClock()
    source = Scripted(kind)
    store = DictStore(clock=clock)
    cache = make_cache(clock=clock, l2=store, ttl=10, stale_while_revalidate=60)
    f = cache.cached("k:{x}")(source.function)
    kind.call(f, 1)
    clock.advance(11)
    source.hold()
    kind.call(f, 1)
    source.until_loads(2, f, 1)
    if kind.name == "blocking":
        timer = threading.Timer(0.1, source.let_go)
        timer.start()
        cache.close()
        timer.join()
        assert not cache.blocking.is_busy
    else:
        kind.do(cache, "close")
        source.let_go()
    other = make_cache(clock=clock, l2=store, ttl=10, stale_while_revalidate=60)
    assert kind.do(other, "get", "k:1", MISS) is MISS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stale_while_revalidate": -1}, "stale_while_revalidate of .*load"),
        ({"stale_if_error": "soon"}, "stale_if_error of .*load"),
        ({"refresh_ahead": 0}, "between 0 and 1"),
        ({"refresh_ahead": 1.0}, "between 0 and 1"),
        ({"refresh_ahead": "always"}, '"xfetch"'),
        ({"soft_timeout": 1}, "give stale_if_error"),
        ({"soft_timeout": 5, "timeout": 2, "stale_if_error": 9}, "less than its timeout"),
        ({"soft_timeout": 0, "stale_if_error": 9}, "soft_timeout"),
    ],
)
def test_bad_options(cache: Cache, options: dict[str, Any], message: str) -> None:
    """What cannot work is refused at decoration, with the remedy."""

    def load(x: int) -> int:
        return x

    with pytest.raises(ConfigurationError, match=message):
        cache.cached(**options)(load)


@pytest.mark.parametrize("how", ["when", "ttl", "skip"])
def test_a_refresh_whose_value_is_not_kept(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, how: str
) -> None:
    """By when= or a TTL of nothing the old value goes; a loader that skips says nothing of it."""
    cache = make_cache(l2=DictStore(clock=clock), ttl=10, stale_while_revalidate=60)
    loads: list[int] = []

    def load(x: int) -> int:
        loads.append(x)
        if len(loads) == 2 and how == "skip":
            current_load().skip()
        if len(loads) == 2 and how == "ttl":
            current_load().ttl = 0
        return len(loads)

    options = {"when": lambda value: value != 2} if how == "when" else {}
    f = cache.cached("k:{x}", **options)(kind.function(load))
    assert kind.call(f, 1) == 1
    clock.advance(11)
    assert kind.call(f, 1) == 1
    kind.settle(cache)
    assert kind.call(f, 1) == (1 if how == "skip" else 3)
    kind.settle(cache)
    assert len(loads) == (2 if how == "skip" else 3)


def test_an_error_that_is_an_answer_is_no_failed_refresh(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """A negative error during a refresh is remembered, and counts as no failure."""
    f = cache.cached(ttl=10, stale_while_revalidate=60, negative_errors=KeyError, negative_ttl=5)(
        source.function
    )
    kind.call(f, 1)
    source.error = KeyError("gone")
    clock.advance(11)
    assert kind.call(f, 1) == 1
    kind.settle(cache)
    with pytest.raises(KeyError):
        kind.call(f, 1)
    assert cache.stats().refresh_errors == 0
    assert source.loads == [1, 1]
