"""The cache-aside API: what a user asks of a key by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import (
    LRU,
    MISS,
    Cache,
    ConfigurationError,
    UncacheableArguments,
)
from tiercache.testing import DictStore, FakeClock


@pytest.fixture(params=["l1", "l2", "l1+l2"])
def tiered(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Cache:
    """A cache of one tier, the other, or both."""
    return make_cache(
        l1=LRU(100) if "l1" in request.param else None,
        l2=DictStore() if "l2" in request.param else None,
    )


def test_set_get_delete(kind: Kind, tiered: Cache) -> None:
    """What is set is there, in whichever tier, until it is deleted."""
    assert kind.do(tiered, "get", "k") is None
    kind.do(tiered, "set", "k", (1, "two"))
    assert kind.do(tiered, "get", "k") == (1, "two")
    assert kind.do(tiered, "delete", "k", "other") == 1
    assert kind.do(tiered, "get", "k", MISS) is MISS
    assert kind.do(tiered, "delete", "k") == 0
    assert kind.do(tiered, "delete") == 0


def test_same_type_from_either_tier(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A value has the same type whichever tier it comes from."""
    cache = make_cache(l2=DictStore())
    value = {"tuple": (1, 2), "set": {3}, 4: b"bytes"}
    kind.do(cache, "set", "k", value)
    from_l1 = kind.do(cache, "get", "k")
    cache.memory.clear()
    from_l2 = kind.do(cache, "get", "k")
    assert repr(from_l1) == repr(from_l2)


def test_expire(kind: Kind, tiered: Cache) -> None:
    """An expired key is loaded again."""
    kind.do(tiered, "set", "k", 1)
    kind.do(tiered, "expire", "k")
    assert kind.do(tiered, "get_or_load", "k", kind.function(lambda: 2)) == 2


def test_get_or_load(kind: Kind, tiered: Cache) -> None:
    """The loader runs once, without arguments or with the key, as it takes them."""
    loads: list[Any] = []
    for _ in range(3):
        value = kind.do(tiered, "get_or_load", "k", kind.function(lambda: loads.append(0) or 5))
        assert value == 5
    assert len(loads) == 1
    if kind.name == "blocking":
        assert kind.do(tiered, "get_or_load", "key", lambda key: key * 2) == "keykey"


def test_ttls(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """A set value lives for its own ttl, the cache's, or without end."""
    kind.do(cache, "set", "short", 1, ttl="5s")
    kind.do(cache, "set", "default", 1)
    kind.do(cache, "set", "endless", 1, ttl=math.inf)
    clock.advance(6)
    assert kind.do(cache, "get", "short", MISS) is MISS
    clock.advance(300)
    assert kind.do(cache, "get", "default", MISS) is MISS
    clock.advance(10**9)
    assert kind.do(cache, "get", "endless") == 1


def test_promotion_keeps_the_remaining_life(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """What comes from L2 lives in L1 no longer than it would have in L2."""
    store_clock, clock = FakeClock(), FakeClock(1000)
    store = DictStore(clock=store_clock)
    one, two = make_cache(l2=store, clock=clock), make_cache(l2=store, clock=clock)
    kind.do(one, "set", "k", 1, ttl=100)
    store_clock.advance(70)
    clock.advance(70)
    assert kind.do(two, "get", "k") == 1
    assert two.memory.get("k").fresh_until == pytest.approx(1000 + 100)


def test_clear(kind: Kind, tiered: Cache) -> None:
    """clear() empties both tiers, of this cache only."""
    for i in range(20):
        kind.do(tiered, "set", f"k{i}", i)
    kind.do(tiered, "clear")
    assert kind.do(tiered, "get_many", [f"k{i}" for i in range(20)]) == {}
    assert tiered.stats().entries == 0


def test_clear_leaves_other_names(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Caches of other names on the same store are not touched by a clear."""
    store = DictStore()
    a, b = make_cache("a", l2=store), make_cache("ab", l2=store, l1=None)
    kind.do(a, "set", "k", 1)
    kind.do(b, "set", "k", 2)
    kind.do(a, "clear")
    assert kind.do(b, "get", "k") == 2


def test_cache_clear_of_a_function(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """cache_clear() forgets the function's values in both tiers, and leaves others'."""
    cache = make_cache(l2=DictStore())
    f = cache.cached("f:{x}")(kind.function(lambda x: x))
    g = cache.cached(kind.function(lambda x: x))
    for i in range(3):
        kind.call(f, i)
        kind.call(g, i)
    kind.call(f.cache_clear)
    assert not kind.call(f.peek, 1)
    assert kind.call(g.peek, 1) == 1
    kind.call(g.cache_clear)
    assert not kind.call(g.peek, 1)


def test_functions_and_keys_meet(kind: Kind, cache: Cache) -> None:
    """A function's value can be read, set and deleted by its text key."""
    loads: list[int] = []
    f = cache.cached("user:{x}")(kind.function(lambda x: loads.append(x) or x))
    kind.call(f, 1)
    kind.call(f, 1)
    assert f.key(1) == "user:1"
    assert kind.do(cache, "get", "user:1") == 1
    kind.do(cache, "delete", "user:1")
    kind.call(f, 1)
    assert loads == [1, 1]
    kind.do(cache, "set", "user:1", "set")
    assert kind.call(f, 1) == "set"


def test_with_closes(kind: Kind) -> None:
    """with and async with give the cache and close it."""
    if kind.name == "blocking":
        with Cache("with") as cache:
            cache.set("k", 1)
            assert cache.get("k") == 1
        return

    async def main() -> None:
        async with Cache("with") as cache:
            await cache.aset("k", 1)
            assert await cache.aget("k") == 1

    kind.call(main)


def test_stats_by_tier(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """stats() counts each read by the tier that answered it, and everything that left L1."""
    store = DictStore()
    one, two = make_cache(l2=store), make_cache(l2=store, l1=LRU(2))
    for i in range(5):
        kind.do(one, "set", f"k{i}", i)
    for i in range(5):
        kind.do(two, "get", f"k{i}")
    kind.do(two, "get", "k4")
    kind.do(two, "get", "nothing")
    kind.do(two, "delete", "k4")
    stats = two.stats()
    assert (stats.hits_l1, stats.hits_l2, stats.misses) == (1, 5, 1)
    assert stats.evictions["size"] == 3
    assert stats.evictions["invalidated"] == 1
    assert stats.entries == stats.weight == 1
    assert stats.hit_ratio == pytest.approx(6 / 7)


def test_load_seconds(kind: Kind, cache: Cache) -> None:
    """stats() tells how long loads took."""
    assert math.isnan(cache.stats().load_seconds.mean)
    f = cache.cached(kind.function(lambda x: x))
    for i in range(50):
        kind.call(f, i)
    seconds = cache.stats().load_seconds
    assert 0 < seconds.p50 <= seconds.p95 <= seconds.p99
    assert seconds.mean > 0
    assert seconds.ewma > 0


@pytest.mark.parametrize("key", [1, None, b"k", ["k"]])
def test_keys_are_text(kind: Kind, cache: Cache, key: Any) -> None:
    """A key that is no text is refused, with the remedy."""
    for method, args in [("get", ()), ("set", (1,)), ("delete", ())]:
        with pytest.raises(UncacheableArguments, match="must be text"):
            kind.do(cache, method, key, *args)
    with pytest.raises(UncacheableArguments, match="several texts"):
        kind.do(cache, "get_many", "abc")


def test_loader_of_the_other_kind(kind: Kind, cache: Cache) -> None:
    """An async loader in a blocking call, or the reverse, is refused before it runs."""

    async def aload() -> int:
        return 1

    def load() -> int:
        return 1

    with pytest.raises(ConfigurationError, match="get_or_load"):
        kind.do(cache, "get_or_load", "k", aload if kind.name == "blocking" else load)
    if kind.name == "asyncio":
        with pytest.raises(ConfigurationError, match="awaits its loader"):
            kind.do(cache, "get_or_load", "k", lambda: 1)
