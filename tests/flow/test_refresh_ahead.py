"""A value that is about to go stale is loaded again behind its reader's back."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from tests.flow.scripted import Failure, Scripted
from tests.kinds import Kind
from tiercache import Cache
from tiercache.entry import Record
from tiercache.lives import is_drawn
from tiercache.spec import Spec
from tiercache.stats import Counters
from tiercache.testing import DictStore, FakeClock


def test_in_the_last_fifth_a_read_refreshes(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """With 0.8 nothing happens before 8 of 10 s; then the first read loads once, and hits."""
    f = cache.cached(ttl=10, refresh_ahead=0.8)(source.function)
    assert kind.call(f, 1) == 1
    clock.advance(7.9)
    assert [kind.call(f, 1) for _ in range(3)] == [1, 1, 1]
    kind.settle(cache)
    assert source.loads == [1]
    clock.advance(0.2)
    source.hold()
    assert [kind.call(f, 1) for _ in range(3)] == [1, 1, 1]
    source.until_loads(2, f, 1)
    source.let_go()
    kind.settle(cache)
    assert kind.call(f, 1) == 2
    assert source.loads == [1, 1]
    info = f.cache_info()
    assert info.stale_served == 0
    assert info.misses == 1
    clock.advance(7.9)  # the new value has a whole TTL of its own
    assert kind.call(f, 1) == 2
    kind.settle(cache)
    assert source.loads == [1, 1]


def test_a_failed_refresh_ahead_keeps_the_value(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """The value stays until its TTL, hit as before; it is tried again a second later."""
    f = cache.cached(ttl=10, refresh_ahead=0.5)(source.function)
    kind.call(f, 1)
    source.error = Failure()
    clock.advance(6)
    for _ in range(5):
        assert kind.call(f, 1) == 1
        kind.settle(cache)
    assert source.loads == [1, 1]
    clock.advance(1)
    source.error = None
    assert kind.call(f, 1) == 1
    kind.settle(cache)
    assert kind.call(f, 1) == 3


def test_hits_while_a_refresh_rests_are_fast_hits(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """After a failed refresh the fast path serves the value again, until the next attempt."""
    f = cache.cached(ttl=100, refresh_ahead=0.5)(source.function)
    kind.call(f, 1)
    kind.call(f, 1)
    source.error = Failure()
    clock.advance(60)
    kind.call(f, 1)
    kind.settle(cache)
    entry = next(cache.memory.get(key) for key in cache.memory)
    assert 60 < entry.fresh_until <= 61


def test_without_reads_nothing_is_refreshed(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """What nobody reads goes stale, and is loaded when it is asked for."""
    f = cache.cached(ttl=10, refresh_ahead=0.8)(source.function)
    kind.call(f, 1)
    clock.advance(10)
    assert kind.call(f, 1) == 2


def test_it_is_spread_by_key(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Values loaded together are refreshed apart, by the jitter of their TTLs."""
    source = Scripted(kind)
    cache = make_cache(jitter=0.2, ttl=100, refresh_ahead=0.8)
    f = cache.cached("k:{x}")(source.function)
    for x in range(50):
        kind.call(f, x)
    points = {cache.memory.get(key).fresh_until for key in cache.memory}
    assert len(points) == 50
    assert min(points) >= 64
    assert max(points) <= 80
    assert max(points) - min(points) > 8


def test_it_survives_promotion(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """A value from L2 is due at the same moment as where it was loaded."""
    store = DictStore(clock=clock)
    options = {"l2": store, "ttl": 10, "refresh_ahead": 0.8}
    one, two = make_cache(**options), make_cache(**options)
    f, g = one.cached("k:{x}")(source.function), two.cached("k:{x}")(source.function)
    kind.call(f, 1)
    clock.advance(5)
    assert kind.call(g, 1) == 1
    assert two.memory.get("k:1").fresh_until == pytest.approx(8)
    clock.advance(4)
    assert kind.call(g, 1) == 1
    kind.settle(two)
    assert kind.call(g, 1) == 2
    assert source.loads == [1, 1]


def test_get_or_load_refreshes_ahead(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, source: Scripted
) -> None:
    """The cache-aside read-through does so, too, with the loader it is given."""
    cache = make_cache(ttl=10, refresh_ahead=0.8)
    load = source.function
    assert kind.do(cache, "get_or_load", "k", load) == 1
    clock.advance(9)
    assert kind.do(cache, "get_or_load", "k", load) == 1
    kind.settle(cache)
    assert kind.do(cache, "get_or_load", "k", load) == 2
    assert source.loads == ["k", "k"]


def test_many_refreshes_ahead(kind: Kind, cache: Cache, clock: FakeClock, source: Scripted) -> None:
    """A batch refreshes those of its values that are due."""
    f = cache.cached(ttl=10, refresh_ahead=0.8)(source.function)
    kind.call(f.many, [1, 2])
    clock.advance(9)
    assert kind.call(f.many, [1, 2]) == {1: 1, 2: 1}
    kind.settle(cache)
    assert kind.call(f.many, [1, 2]) == {1: 2, 2: 2}


def spec(**options: object) -> Spec:
    return Spec("f", Counters(), 30.0, **options)


def test_xfetch_draws_as_the_paper_says() -> None:
    """A read so long before the end refreshes with probability exp(-left / load time)."""
    rng = random.Random(1)
    xfetch, record = spec(is_xfetch=True), Record(60.0, load_seconds=0.5)
    for left in (0.1, 0.5, 1.0, 2.0):
        share = sum(is_drawn(xfetch, left, record, rng.random) for _ in range(20_000)) / 20_000
        assert share == pytest.approx(math.exp(-left / 0.5), abs=0.015)
    assert is_drawn(xfetch, 0.0, record, rng.random)


def test_xfetch_refreshes_before_the_end(
    kind: Kind, cache: Cache, clock: FakeClock, source: Scripted
) -> None:
    """A slow value that is read often has been refreshed by the time it would go stale."""
    f = cache.cached(ttl=60, refresh_ahead="xfetch")(source.function)
    kind.call(f, 1)
    entry = next(cache.memory.get(key) for key in cache.memory)
    entry.record = Record(60.0, load_seconds=1.0)  # as if its load had taken a second
    entry.fresh_until = entry.stale_at - 10
    clock.advance(49)
    kind.call(f, 1)
    kind.settle(cache)
    assert source.loads == [1]
    while clock() < 59.99:
        clock.advance(0.01)
        kind.call(f, 1)
    kind.settle(cache)
    assert len(source.loads) >= 2
    assert f.cache_info().misses == 1
