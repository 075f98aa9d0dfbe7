"""What a loader may say about its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.flow.scripted import Failure
from tests.kinds import Kind
from tests.waiting import until
from tiercache import MISS, Cache, CacheError, ConfigurationError, current_load
from tiercache.testing import DictStore, FakeClock


def test_a_loader_chooses_the_ttl(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """current_load().ttl takes the place of the function's, with any duration."""

    def body(x: Any) -> Any:
        load = current_load()
        assert load.ttl == 100
        load.ttl = x
        return x

    f = cache.cached("k:{x}", ttl=100)(kind.function(body))
    for x in (5, "1m", None):
        kind.call(f, x)
    kind.call(f, 0)
    deadlines = {key: cache.memory.get(key).fresh_until for key in cache.memory}
    assert deadlines == {"k:5": 5, "k:1m": 60, "k:None": float("inf")}


def test_a_ttl_that_is_none_raises(kind: Kind, cache: Cache) -> None:
    """A TTL that is no duration is the loader's error, at once."""

    def body(x: Any) -> None:
        current_load().ttl = x

    f = cache.cached(kind.function(body))
    with pytest.raises(ConfigurationError, match="soon"):
        kind.call(f, "soon")


def test_a_loader_chooses_tags(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Tags may be set or added to; the value goes with any of them, here and elsewhere."""
    store = DictStore()
    one, two = make_cache(l2=store), make_cache(l2=store)

    def body(x: int) -> int:
        current_load().tags.append(f"user:{x}")
        current_load().tags += ("all",)
        return x

    f, g = (c.cached("k:{x}", tags=["fixed"])(kind.function(body)) for c in (one, two))
    for tag in ("user:1", "all", "fixed"):
        kind.call(f, 1)
        kind.call(g, 1)
        kind.do(two, "invalidate_tags", tag)
        assert kind.do(two, "get", "k:1", MISS) is MISS
        until(lambda: one.flow.fresh("k:1") is None)
        assert kind.do(one, "get", "k:1", MISS) is MISS


def test_skip(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A skipped value is returned, and stored nowhere."""
    cache = make_cache(l2=DictStore())
    loads: list[int] = []

    def body(x: int) -> int:
        loads.append(x)
        current_load().skip()
        return x

    f = cache.cached("k:{x}")(kind.function(body))
    assert kind.call(f, 1) == kind.call(f, 1) == 1
    assert loads == [1, 1]
    assert kind.do(cache, "get", "k:1", MISS) is MISS


@pytest.mark.parametrize("has_l2", [False, True])
def test_not_modified(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock, has_l2: bool
) -> None:
    """A loader that finds its source unchanged keeps the value for another TTL."""
    store = DictStore(clock=clock) if has_l2 else None
    cache = make_cache(l2=store, ttl=10, stale_if_error=100)
    seen: list[Any] = []

    def body(x: int) -> Any:
        load = current_load()
        seen.append(load.stale_value)
        return [x] if load.stale_value is MISS else load.not_modified()

    f = cache.cached("k:{x}")(kind.function(body))
    first = kind.call(f, 1)
    clock.advance(11)
    assert kind.call(f, 1) == first
    assert (kind.call(f, 1) is first) == (not has_l2)
    assert seen == [MISS, [1]]
    clock.advance(9)
    assert kind.call(f, 1) == first
    assert len(seen) == 2
    if has_l2:
        cache.memory.clear()
        assert kind.call(f, 1) == [1]
    assert len(seen) == 2


def test_not_modified_without_a_value(kind: Kind, cache: Cache) -> None:
    """There must be something that is not modified."""
    f = cache.cached(kind.function(lambda x: current_load().not_modified()))
    with pytest.raises(CacheError, match="stale_value"):
        kind.call(f, 1)


def test_the_load_describes_itself(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """It knows its key, its function, the call, and whether it is a refresh."""
    seen: list[Any] = []

    def body(x: int, *, y: int = 2) -> int:
        load = current_load()
        seen.append((load.key, load.cache, load.args, load.kwargs, load.is_refresh))
        assert load.function.endswith("body()")
        assert load.is_async == (kind.name == "asyncio")
        assert load is current_load()
        return x

    f = cache.cached("k:{x}", ttl=10, stale_while_revalidate=9)(kind.function(body))
    kind.call(f, 1, y=3)
    clock.advance(11)
    kind.call(f, 1, y=3)
    kind.settle(cache)
    assert [each[0] for each in seen] == ["k:1", "k:1"]
    assert [each[4] for each in seen] == [False, True]


def test_outside_of_a_load(kind: Kind, cache: Cache) -> None:
    """Elsewhere, and in a load of many keys, there is no current load."""
    with pytest.raises(CacheError, match="inside a cached function"):
        current_load()

    def bulk(items: list[int]) -> list[Any]:
        return [current_load() for _ in items]

    f = cache.cached(batch=kind.function(bulk))(kind.function(lambda x: x))
    with pytest.raises(ExceptionGroup) as raised:
        kind.call(f.many, [1, 2])
    assert "bulk load" in str(raised.value.exceptions[0])


def test_an_inner_load_is_its_own(kind: Kind, cache: Cache) -> None:
    """A loader that calls another cached function is not confused with it."""
    inner = cache.cached("in:{x}", ttl=50)(kind.function(lambda x: current_load().key))
    if kind.name == "blocking":

        def outer(x: int) -> Any:
            return current_load().key, inner(x), current_load().key
    else:

        async def outer(x: int) -> Any:
            return current_load().key, await inner(x), current_load().key

    f = cache.cached("out:{x}")(outer)
    assert kind.call(f, 1) == ("out:1", "in:1", "out:1")


def test_values_die_with_a_failed_load(kind: Kind, cache: Cache) -> None:
    """A load that was described holds nothing once it has ended."""
    import weakref

    class Value:
        pass

    alive: list[Any] = []

    def body(x: int) -> Any:
        value = Value()
        alive.append(weakref.ref(value))
        current_load().skip()
        if x:
            return value
        raise Failure

    f = cache.cached("k:{x}")(kind.function(body))
    kind.call(f, 1)
    until(lambda: alive[0]() is None, 5)
