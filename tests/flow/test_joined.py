"""Callers of a key that is being loaded share the one load."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kinds import Kind
from tests.waiting import until, until_then
from tiercache import Cache, LoadTimeout


class Failure(Exception):
    """A loader's error."""


def slow(kind: Kind, body: Callable[[int], Any], seconds: float = 0.05) -> Callable[..., Any]:
    """Return a function of this kind that takes its time."""
    if kind.name == "blocking":

        def load(x: int) -> Any:
            time.sleep(seconds)
            return body(x)

        return load

    async def aload(x: int) -> Any:
        await asyncio.sleep(seconds)
        return body(x)

    return aload


def test_one_load_for_all(kind: Kind, cache: Cache) -> None:
    """A hundred callers of a cold key cause one load and get one object."""
    loads: list[int] = []
    f = cache.cached(slow(kind, lambda x: loads.append(x) or object()))
    results = kind.side_by_side(f, [(1,)] * 100)
    assert len(set(map(id, results))) == 1
    assert loads == [1]
    info = f.cache_info()
    assert info.loads == 1
    assert info.hits + info.misses == 100
    assert info.joined == info.misses - 1


def test_one_failure_for_all(kind: Kind, cache: Cache) -> None:
    """A failing load fails every caller at once with the same exception, in one load's time."""
    loads: list[int] = []

    def may_end() -> bool:
        if _passengers(cache) == 40:
            raise Failure
        return False

    f = cache.cached(until_then(kind, loads.append, may_end))
    errors = kind.side_by_side(f, [(1,)] * 40)
    assert [type(error) for error in errors] == [Failure] * 40
    assert len(set(map(id, errors))) == 1
    assert loads == [1]


def test_shared_exception_does_not_grow(cache: Cache) -> None:
    """Raising one exception in many callers does not pile their frames onto its traceback."""
    gate = threading.Event()

    @cache.cached
    def f(x: int) -> None:
        gate.wait()
        raise Failure

    depths: list[int] = []

    def work() -> None:
        try:
            f(1)
        except Failure as error:
            depth, frame = 0, error.__traceback__
            while frame is not None:
                depth, frame = depth + 1, frame.tb_next
            depths.append(depth)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    until(lambda: _passengers(cache) == 20)
    gate.set()
    for thread in threads:
        thread.join()
    assert max(depths) < 25


def _passengers(cache: Cache) -> int:
    return sum(flight.passengers for flight in cache.flow.flights.under_way())


def test_no_second_load_in_the_gap(kind: Kind, cache: Cache) -> None:
    """Between a flight's landing and the next caller's boarding no load slips in, ever."""
    loads: list[int] = []
    f = cache.cached(kind.function(lambda x: loads.append(x)))
    for key in range(300):
        kind.side_by_side(f, [(key,)] * 8)
    assert sorted(loads) == list(range(300))


def test_keys_do_not_wait_for_each_other(kind: Kind, cache: Cache) -> None:
    """Loads of different keys run at once."""
    loads: list[int] = []
    f = cache.cached(until_then(kind, loads.append, lambda: len(loads) == 20))
    assert kind.side_by_side(f, [(i,) for i in range(20)]) == list(range(20))
    assert sorted(loads) == list(range(20))


def test_own_key_runs_directly(kind: Kind, cache: Cache) -> None:
    """A load that asks for its own key runs the function instead of waiting for itself."""
    depths: list[int] = []
    if kind.name == "blocking":

        @cache.cached
        def f(x: int) -> int:
            depths.append(x)
            return f(x) + 1 if len(depths) < 3 else 0
    else:

        @cache.cached
        async def f(x: int) -> int:
            depths.append(x)
            return await f(x) + 1 if len(depths) < 3 else 0

    assert kind.call(f, 1) == 2
    assert kind.call(f, 1) == 2
    assert depths == [1, 1, 1]


def test_own_key_from_a_child_task(cache: Cache) -> None:
    """It is the load that counts, not the task: a loader's child tasks run directly, too."""
    depth = 0

    @cache.cached
    async def f(x: int) -> int:
        nonlocal depth
        depth += 1
        if depth > 1:
            return 1
        return sum(await asyncio.gather(f(x), f(x)))

    assert asyncio.run(asyncio.wait_for(f(1), 5)) == 2


def test_loads_that_need_each_other(kind: Kind, cache: Cache) -> None:
    """Two loads that wait for each other's key do not deadlock."""
    barrier = threading.Barrier(2, timeout=5)
    arrived: list[int] = []
    if kind.name == "blocking":

        @cache.cached
        def f(x: int) -> str:
            arrived.append(x)
            if len(arrived) <= 2:
                barrier.wait()
                return f(1 - x) + str(x)
            return str(x)
    else:

        @cache.cached
        async def f(x: int) -> str:
            arrived.append(x)
            if len(arrived) <= 2:
                while len(arrived) < 2:
                    await asyncio.sleep(0)
                return await f(1 - x) + str(x)
            return str(x)

    started = time.monotonic()
    results = kind.side_by_side(f, [(0,), (1,)])
    assert time.monotonic() - started < 5
    assert all(isinstance(result, str) for result in results)


def test_hung_load_is_taken_over(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A hung load holds its key for load_timeout; then a follower, or the next caller, loads."""
    cache = make_cache(load_timeout=0.2)
    release = threading.Event()
    loads: list[int] = []
    if kind.name == "blocking":

        @cache.cached
        def f(x: int) -> int:
            loads.append(x)
            if len(loads) == 1:
                release.wait(10)
            return len(loads)

        leader = threading.Thread(target=f, args=(1,))
        leader.start()
        until(lambda: loads)
        began = time.monotonic()
        results = kind.side_by_side(f, [(1,)] * 10)
        assert time.monotonic() - began < 5  # no grace for an L2 that is not there
        assert set(results) == {2}
        assert loads == [1, 1]
        release.set()
        leader.join()
        assert f(1) == 2  # what the one left behind brought was not stored
    else:

        @cache.cached
        async def f(x: int) -> int:
            loads.append(x)
            while len(loads) == 1:
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    if release.is_set():
                        raise
            return len(loads)

        async def main() -> None:
            results = await asyncio.gather(*[f(1) for _ in range(10)], return_exceptions=True)
            assert all(type(result) is LoadTimeout for result in results)
            assert await f(1) == 2
            release.set()

        asyncio.run(main())


class Hung:
    """A loader that hangs until its test is over, or for ten seconds."""

    def __init__(self, kind: Kind) -> None:
        self.is_over = threading.Event()
        self.load = self._load if kind.name == "blocking" else self._aload

    def _load(self, x: int) -> None:
        self.is_over.wait(10)

    async def _aload(self, x: int) -> None:
        await asyncio.sleep(10)


@pytest.fixture
def hung(kind: Kind) -> Iterator[Hung]:
    """A loader that hangs."""
    hung = Hung(kind)
    yield hung
    hung.is_over.set()


def test_timeout(kind: Kind, cache: Cache, hung: Hung) -> None:
    """`timeout` raises LoadTimeout after that long, for every caller, and frees the key."""
    f = cache.cached(timeout="100ms")(hung.load)
    errors = kind.side_by_side(f, [(1,)] * 5)
    assert not hung.is_over.is_set()
    assert all(isinstance(error, LoadTimeout) for error in errors)
    assert not cache.flow.flights.under_way()


def test_timeout_keeps_the_value(kind: Kind, cache: Cache) -> None:
    """A function with a timeout that is quick enough works as without."""
    f = cache.cached(timeout=5)(slow(kind, lambda x: x + 1, 0.0))
    assert kind.call(f, 1) == 2
    assert kind.call(f, 1) == 2
    with pytest.raises(TypeError):
        kind.call(f, "x")
