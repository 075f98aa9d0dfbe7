"""A fresh entry in L1 answers, and nothing else is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds import Blocking, Kind
from tiercache import LRU, MISS, Cache
from tiercache.clock import TICK, coarse_clock
from tiercache.testing import FakeClock


def counted(kind: Kind, cache: Cache, **options: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Return a cached function of one argument, and the list of the arguments it loaded."""
    loads: list[Any] = []

    def load(x: Any) -> Any:
        loads.append(x)
        return [x, len(loads)]

    return cache.cached(**options)(kind.function(load)), loads


def test_second_call_hits(kind: Kind, cache: Cache) -> None:
    """The second call of a function returns the first one's value without a load."""
    f, loads = counted(kind, cache)
    first = kind.call(f, 1)
    assert [kind.call(f, 1) for _ in range(5)] == [first] * 5
    assert loads == [1]


def test_hit_is_the_stored_object(kind: Kind, cache: Cache) -> None:
    """L1 hands out the object itself, through the shortcut as well as through the slow path."""
    f, _ = counted(kind, cache)
    value = kind.call(f, 1)
    assert kind.call(f, 1) is value
    assert kind.call(f, 1) is value


def test_copies_on_request(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """With copy=True a caller may change what it got; the next one does not see it."""
    f, loads = counted(kind, make_cache(copy=True))
    for _ in range(4):
        value = kind.call(f, 1)
        assert value == [1, 1]
        value.append("mine")
    assert loads == [1]


def test_expires_exactly_under_a_fake_clock(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """An entry is served up to its TTL and not at it."""
    f, loads = counted(kind, cache, ttl=10)
    kind.call(f, 1)
    kind.call(f, 1)
    clock.advance(9.999)
    kind.call(f, 1)
    assert loads == [1]
    clock.advance(0.001)
    kind.call(f, 1)
    assert loads == [1, 1]


def test_expires_on_the_real_clock(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """On the coarse clock an entry is gone within its TTL and some ticks, while being hit."""
    f, loads = counted(kind, make_cache(clock=None), ttl=0.2)
    kind.call(f, 1)
    started = time.monotonic()
    while len(loads) == 1:
        kind.call(f, 1)
        assert time.monotonic() - started < 5
    assert time.monotonic() - started >= 0.2 - TICK


def test_precise_clock(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """With clock=time.monotonic an entry is never served past its TTL."""
    f, loads = counted(kind, make_cache(clock=time.monotonic), ttl=0.05)
    kind.call(f, 1)
    started = time.monotonic()
    while True:
        before = time.monotonic()
        kind.call(f, 1)
        if len(loads) > 1:
            break
        assert before - started < 0.05


def test_clock_parks_when_idle_and_wakes(make_cache: Callable[..., Cache]) -> None:
    """Nothing is served from a clock that stands: it parks at infinity, and a read wakes it."""
    f, loads = counted(Blocking(), make_cache(clock=None), ttl=60)
    f(1)
    f(1)
    coarse_clock.stop()
    assert coarse_clock.now == float("inf")
    f(1)
    deadline = time.monotonic() + 5
    while coarse_clock.now == float("inf"):
        assert time.monotonic() < deadline
    assert loads == [1]


def test_types_stay_apart(kind: Kind, cache: Cache) -> None:
    """1, True, 1.0 and "1" have values of their own, on every path."""
    f, loads = counted(kind, cache)
    arguments = [1, True, 1.0, "1", b"1", None]
    for _ in range(4):
        for argument in arguments:
            value = kind.call(f, argument)[0]
            assert value == argument
            assert type(value) is type(argument)
    assert len(loads) == len(arguments)


def test_spellings_of_one_call_share(kind: Kind, cache: Cache) -> None:
    """Positions, keywords and a spelled-out default are one key."""
    loads = []

    def load(a: int, b: int = 2, *, c: int = 3) -> int:
        loads.append((a, b, c))
        return a + b + c

    f = cache.cached(kind.function(load)) if kind.name == "blocking" else None
    if f is None:

        async def aload(a: int, b: int = 2, *, c: int = 3) -> int:
            return load(a, b, c=c)

        f = cache.cached(aload)
    for _ in range(3):
        assert kind.call(f, 1) == kind.call(f, a=1) == kind.call(f, 1, 2, c=3) == 6
        assert kind.call(f, c=3, b=2, a=1) == 6
    assert loads == [(1, 2, 3)]


def test_cached_none_is_a_value(kind: Kind, cache: Cache) -> None:
    """None is remembered as any other value, and MISS tells it from none."""
    loads: list[int] = []
    g = cache.cached("none:{x}")(kind.function(lambda x: loads.append(x)))
    assert [kind.call(g, 1) for _ in range(3)] == [None] * 3
    assert loads == [1]
    assert kind.do(cache, "get", "none:1", MISS) is None
    assert kind.do(cache, "get", "none:2", MISS) is MISS


def test_unhashable_arguments(kind: Kind, cache: Cache) -> None:
    """Lists and dicts can be arguments; a dict's order does not count."""
    f, loads = counted(kind, cache)
    for _ in range(3):
        kind.call(f, [1, 2])
        kind.call(f, {"a": 1, "b": 2})
        kind.call(f, {"b": 2, "a": 1})
    assert len(loads) == 2


def test_zero_and_nan(kind: Kind, cache: Cache) -> None:
    """0.0 and -0.0 stay apart though equal; NaN is one key though unequal to itself."""
    f, loads = counted(kind, cache)
    for _ in range(3):
        assert str(kind.call(f, 0.0)[0]) == "0.0"
        assert str(kind.call(f, -0.0)[0]) == "-0.0"
        kind.call(f, float("nan"))
    assert len(loads) == 3


def test_hits_are_counted(kind: Kind, cache: Cache) -> None:
    """Every call counts once, as a hit or as a miss, for the function and for the cache."""
    f, _ = counted(kind, cache)
    for i in range(10):
        for _ in range(7):
            kind.call(f, i)
    info, stats = f.cache_info(), cache.stats()
    assert (info.hits, info.misses, info.loads) == (60, 10, 10)
    assert (stats.hits_l1, stats.misses, stats.loads, stats.entries) == (60, 10, 10, 10)
    assert info.hit_ratio == stats.hit_ratio == pytest.approx(60 / 70)


def test_hit_counts_survive_eviction(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Hits of entries that have left are not forgotten, nor counted twice."""
    cache = make_cache(l1=LRU(5))
    f, loads = counted(kind, cache)
    calls = 0
    for i in range(300):
        for _ in range(3):
            kind.call(f, i)
            calls += 1
    assert f.cache_info().hits == cache.stats().hits_l1 == calls - len(loads) == 600


def test_shortcuts_do_not_outlive_a_clear(kind: Kind, cache: Cache) -> None:
    """clear() empties every function's shortcuts, too."""
    f, loads = counted(kind, cache)
    for _ in range(3):
        kind.call(f, 1)
    kind.do(cache, "clear")
    kind.call(f, 1)
    assert loads == [1, 1]
    assert f.cache_info().hits == 2


def test_dead_shortcuts_are_swept(make_cache: Callable[..., Cache]) -> None:
    """A function that has seen many keys holds shortcuts to live entries, and few dead ones."""
    cache = make_cache(l1=LRU(10))
    f, _ = counted(Blocking(), cache)
    for i in range(5_000):
        f(i)
        f(i)
    table = f.__globals__["_tc_table"]
    assert len(table) <= 200


def test_zero_arguments(kind: Kind, cache: Cache) -> None:
    """A function without arguments has one key."""
    loads = []
    f = cache.cached(kind.function(lambda: loads.append(1) or "value"))
    assert [kind.call(f) for _ in range(4)] == ["value"] * 4
    assert loads == [1]


def test_l1_off(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """With no tier at all, every call loads."""
    f, loads = counted(kind, make_cache(l1=None))
    kind.call(f, 1)
    kind.call(f, 1)
    assert loads == [1, 1]
