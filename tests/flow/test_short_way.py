"""A plain load goes a shorter way, on which nobody can tell the difference."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tiercache import LRU, Cache, ConfigurationError, Plugin, current_load
from tiercache.singleflight import loading_now


@pytest.fixture(params=["short", "long"])
def cache(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Cache:
    """A cache whose loads go the short way; or the long one, for the sake of an idle plugin."""
    return make_cache(l1=LRU(3), plugins=() if request.param == "short" else [Plugin()])


def counts(cache: Cache) -> tuple[int, ...]:
    stats = cache.stats()
    assert len(cache.flow.flights) == 0
    return stats.hits_l1, stats.misses, stats.loads, stats.load_errors, stats.joined


def test_values_and_counts(cache: Cache) -> None:
    """Hits, misses, evictions and the durations of loads are counted alike."""
    f = cache.cached("k:{x}")(lambda x: [x])
    assert [f(x) for x in (1, 2, 1, 3, 4, 1)] == [[1], [2], [1], [3], [4], [1]]
    assert counts(cache) == (2, 4, 4, 0, 0)
    assert cache.stats().evictions["size"] == 1
    assert cache.stats().load_seconds.mean > 0
    assert f.cache_info().loads == 4


@pytest.mark.parametrize("kind", [KeyError, StopIteration, KeyboardInterrupt, SystemExit])
def test_what_a_loader_raises(cache: Cache, kind: type[BaseException]) -> None:
    """It passes, whatever it is; the key is free; nothing is kept."""

    def fail(x: int) -> None:
        raise kind(x)

    f = cache.cached("k:{x}")(fail)
    for _ in range(2):
        with pytest.raises(kind):
            f(1)
    assert loading_now.get() == ()
    is_error = issubclass(kind, Exception)
    assert counts(cache)[3] == 2 * is_error


def test_a_coroutine_is_refused(cache: Cache) -> None:
    """A function that turns out to be async is a mistake, said at once."""

    async def awaited() -> None:
        """Is never awaited."""

    f = cache.cached("k:{x}")(lambda x: awaited())
    with pytest.raises(ConfigurationError, match="coroutine"):
        f(1)
    assert counts(cache)[1] == 1


def test_current_load(cache: Cache, clock: Any) -> None:
    """A loader may say how its value is kept."""

    def load(x: int) -> int:
        current_load().ttl = 5
        if x > 1:
            current_load().skip()
        return x

    f = cache.cached("k:{x}", ttl=100)(load)
    assert f(1) == 1
    assert f(2) == 2
    assert cache.memory.get("k:1").fresh_until == 5
    assert cache.memory.get("k:2") is None


def test_recursion(cache: Cache) -> None:
    """A loader that calls itself, and even its own key, does not wait for itself."""

    def load(x: int) -> int:
        return 1 if x == 0 else f(x - 1) + 1

    f = cache.cached("k:{x}")(load)
    assert f(50) == 51
    own: list[int] = []

    def again(x: int) -> int:
        own.append(x)
        return g(x) if len(own) < 3 else 7

    g = cache.cached("own:{x}")(again)
    assert g(1) == 7


def test_a_delete_during_the_load(cache: Cache) -> None:
    """What was loaded before a delete is returned, and not kept."""

    def load(x: int) -> int:
        cache.delete("k:1")
        return x

    f = cache.cached("k:{x}")(load)
    assert f(1) == 1
    assert cache.memory.get("k:1") is None


def test_others_join(cache: Cache) -> None:
    """Callers of the key meanwhile wait for the one load."""
    entered, may_end = threading.Event(), threading.Event()

    def load(x: int) -> object:
        entered.set()
        assert may_end.wait(10)
        return object()

    f = cache.cached("k:{x}")(load)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(f(1))) for _ in range(8)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while True:
        (flight,) = cache.flow.flights.under_way()
        if flight.passengers == 8:
            break
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert counts(cache) == (0, 8, 1, 0, 7)
