"""Many keys at once: one round trip, one bulk load, flights joined, partial results."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tiercache import Cache, ConfigurationError, LoadErrors
from tiercache.testing import DictStore, FaultyStore


def test_one_round_trip_and_one_load(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Hits cost one read; misses also one claim of all leases, one bulk load and one fill."""
    store = FaultyStore(DictStore())
    one, two = make_cache(l2=store), make_cache(l2=store)
    batches: list[list[int]] = []
    functions = [
        cache.cached(
            "item:{x}", batch=kind.function(lambda ids: batches.append(ids) or {i: -i for i in ids})
        )(kind.function(lambda x: -x))
        for cache in (one, two)
    ]
    assert kind.call(functions[0].many, range(50)) == {i: -i for i in range(50)}
    assert batches == [list(range(50))]
    begun = {"log_end": 1, "tail": 1}  # once for each cache: its bus
    missed = {"read_many": 1, "claim": 1, "fill": 1}
    assert store.calls == begun | missed
    store.calls.clear()
    assert kind.call(functions[1].many, range(60)) == {i: -i for i in range(60)}
    assert batches == [list(range(50)), list(range(50, 60))]
    assert two.stats().hits_l2 == 50
    assert store.calls == begun | missed
    assert kind.call(functions[1].many, range(60)) == {i: -i for i in range(60)}
    assert store.calls == begun | missed
    assert kind.call(functions[1], 7) == -7


def test_batch_may_take_arguments_or_return_a_list(kind: Kind, cache: Cache) -> None:
    """A bulk loader takes a list or *items, and returns a dict or values in order."""
    starred = cache.cached("s:{x}", batch=kind.function(lambda *ids: [i * 2 for i in ids]))
    listed = cache.cached("l:{x}", batch=kind.function(lambda ids: [i * 2 for i in ids]))
    for decorate in (starred, listed):
        f = decorate(kind.function(lambda x: x))
        if kind.name == "blocking":
            assert kind.call(f.many, [1, 2]) == {1: 2, 2: 4}


def test_item_a_batch_does_not_name_is_none(kind: Kind, cache: Cache) -> None:
    """A key that the bulk loader's dict leaves out has no value: None, and remembered."""
    batches: list[list[int]] = []
    f = cache.cached("n:{x}", batch=kind.function(lambda ids: batches.append(ids) or {1: "one"}))(
        kind.function(lambda x: None)
    )
    assert kind.call(f.many, [1, 2]) == {1: "one", 2: None}
    assert kind.call(f.many, [1, 2]) == {1: "one", 2: None}
    assert batches == [[1, 2]]


def test_batch_of_another_length(kind: Kind, cache: Cache) -> None:
    """A list that is too short fails every item, naming both lengths."""
    f = cache.cached("w:{x}", batch=kind.function(lambda ids: [1]))(kind.function(lambda x: x))
    with pytest.raises(LoadErrors) as caught:
        kind.call(f.many, [1, 2])
    assert "a batch of 2 items returned 1 values" in str(caught.value.exceptions[0])


def test_errors_do_not_lose_the_others(kind: Kind, cache: Cache) -> None:
    """Failed items raise LoadErrors, which carries the others' results; those are cached."""
    loads: list[int] = []

    def load(x: int) -> int:
        loads.append(x)
        if x % 3 == 0:
            raise KeyError(x)
        return x

    f = cache.cached(kind.function(load))
    with pytest.raises(LoadErrors) as caught:
        kind.call(f.many, range(7))
    error = caught.value
    assert isinstance(error, ExceptionGroup)
    assert error.results == {1: 1, 2: 2, 4: 4, 5: 5}
    assert {item: type(e) for item, e in error.errors.items()} == dict.fromkeys([0, 3, 6], KeyError)
    loads.clear()
    assert kind.call(f.many, [1, 2, 4, 5]) == error.results
    assert loads == []


def test_failing_batch_fails_its_items_only(kind: Kind, cache: Cache) -> None:
    """What was there before a failing bulk load is in the results."""

    def batch(ids: list[int]) -> None:
        raise OSError("down")

    f = cache.cached(batch=kind.function(batch))(kind.function(lambda x: x))
    kind.call(f.set, "set", 1)
    with pytest.raises(LoadErrors) as caught:
        kind.call(f.many, [1, 2, 3])
    assert caught.value.results == {1: "set"}
    assert set(caught.value.errors) == {2, 3}
    assert not cache.flow.flights.under_way()


def test_several_arguments(kind: Kind, cache: Cache) -> None:
    """With several arguments an item is a tuple; with one, a tuple is the argument."""
    f = cache.cached(kind.function(lambda x: x))

    def load(a: int, b: int) -> int:
        return a * b

    if kind.name == "blocking":
        g = cache.cached(load)
    else:

        @cache.cached
        async def g(a: int, b: int) -> int:
            return a * b

        @cache.cached
        async def f(x: Any) -> Any:
            return x

    assert kind.call(g.many, [(2, 3), (4, 5)]) == {(2, 3): 6, (4, 5): 20}
    if kind.name == "asyncio":
        assert kind.call(f.many, [(1, 2)]) == {(1, 2): (1, 2)}


def test_loads_run_concurrently(kind: Kind, cache: Cache) -> None:
    """Without a bulk loader items load side by side."""
    loads: list[int] = []
    if kind.name == "blocking":

        @cache.cached
        def f(x: int) -> int:
            loads.append(x)
            until(lambda: len(loads) == 10)
            return x
    else:

        @cache.cached
        async def f(x: int) -> int:
            loads.append(x)
            async with asyncio.timeout(10):
                while len(loads) < 10:
                    await asyncio.sleep(0)
            return x

    assert kind.call(f.many, range(10)) == {i: i for i in range(10)}


def test_duplicates_and_spellings(kind: Kind, cache: Cache) -> None:
    """Items given twice, or two spellings of one key, load once and are all answered."""
    loads: list[Any] = []
    f = cache.cached("x:{x}")(kind.function(lambda x: loads.append(x) or x))
    if kind.name == "blocking":
        assert kind.call(f.many, [1, 1, "1"]) == {1: 1, "1": 1}
        assert len(loads) == 1


def test_joins_flights(cache: Cache) -> None:
    """A batch joins single loads under way, and single callers join the batch."""
    loads: list[Any] = []

    async def main() -> None:
        go = asyncio.Event()

        async def batch(ids: list[int]) -> list[int]:
            loads.append(ids)
            await go.wait()
            return ids

        @cache.cached(batch=batch)
        async def f(x: int) -> int:
            loads.append(x)
            await go.wait()
            return x

        single = asyncio.create_task(f(1))
        await asyncio.sleep(0.01)
        many = asyncio.create_task(f.many([1, 2, 3]))
        await asyncio.sleep(0.01)
        joiner = asyncio.create_task(f(2))
        await asyncio.sleep(0.01)
        go.set()
        assert await many == {1: 1, 2: 2, 3: 3}
        assert (await single, await joiner) == (1, 2)

    asyncio.run(main())
    assert loads == [1, [2, 3]]


def test_batches_in_threads_share(cache: Cache) -> None:
    """Overlapping batches in threads load every key once."""
    loads: list[int] = []

    @cache.cached
    def f(x: int) -> int:
        loads.append(x)
        time.sleep(0.001)
        return x

    barrier = threading.Barrier(8)
    results: list[dict[int, int]] = []

    def work(number: int) -> None:
        barrier.wait()
        results.append(f.many(range(number, number + 20)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(loads) == list(range(27))
    assert all(key == value for result in results for key, value in result.items())


def test_cache_aside(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """get_many, set_many, delete_many and get_or_load_many do what their names say."""
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store)
    kind.do(cache, "set_many", {"a": 1, "b": None}, ttl=60)
    assert kind.do(cache, "get_many", ["a", "b", "c"]) == {"a": 1, "b": None}
    cache.memory.clear()
    assert kind.do(cache, "get_many", ["a", "b", "c"]) == {"a": 1, "b": None}
    asked: list[list[str]] = []
    loader = kind.function(lambda keys: asked.append(keys) or {key: key * 2 for key in keys})
    found = kind.do(cache, "get_or_load_many", ["a", "c", "d"], loader)
    assert found == {"a": 1, "c": "cc", "d": "dd"}
    assert asked == [["c", "d"]]
    assert kind.do(cache, "delete_many", ["a", "b", "nothing"]) == 2
    assert kind.do(cache, "get_many", ["a", "b", "c"]) == {"c": "cc"}


def test_no_items(kind: Kind, cache: Cache) -> None:
    """Nothing asked is nothing answered."""
    f = cache.cached(kind.function(lambda x: x))
    assert kind.call(f.many, []) == {}
    assert kind.do(cache, "get_many", []) == {}
    kind.do(cache, "set_many", {})
    assert kind.do(cache, "delete_many", []) == 0


def test_batch_of_the_other_kind(kind: Kind, cache: Cache) -> None:
    """An async bulk loader of a blocking function, or the reverse, is refused at decoration."""
    other = "async" if kind.name == "blocking" else "blocking"

    async def abatch(ids: list[int]) -> list[int]:
        return ids

    def batch(ids: list[int]) -> list[int]:
        return ids

    with pytest.raises(ConfigurationError, match="batch of"):
        cache.cached(batch=abatch if other == "async" else batch)(kind.function(lambda x: x))


def test_of_methods(cache: Cache) -> None:
    """many() of a method loads with its instance, and so does its batch."""

    class Repo:
        factor = 3

        def _batch(self, ids: list[int]) -> dict[int, int]:
            return {i: i * self.factor for i in ids}

        @cache.cached(ignore=("self",), batch=_batch)
        def get(self, x: int) -> int:
            return x * self.factor

        @cache.cached(ignore=("self",))
        def one(self, x: int) -> int:
            return x * self.factor

    repo = Repo()
    assert repo.get.many([1, 2]) == {1: 3, 2: 6}
    assert repo.one.many([1, 2]) == {1: 3, 2: 6}
    assert Repo.one.many([(repo, 4)]) == {(repo, 4): 12}
