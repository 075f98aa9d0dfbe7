"""L1: order, bounds, weights, causes."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from cachetools import LRUCache

from tests.waiting import until
from tiercache import LRU, S3FIFO, Cache, ConfigurationError, RemovalCause
from tiercache.entry import DEAD, make_entry
from tiercache.tiers.memory import Memory

Policy = Callable[..., Memory]


@pytest.fixture(params=[LRU, S3FIFO])
def policy(request: pytest.FixtureRequest) -> Policy:
    """A kind of L1."""
    return request.param


def filled(maxsize: int, keys: str = "", policy: Policy = LRU, **options: Any) -> Memory:
    """Return an L1 with entries whose values are their keys."""
    memory = policy(maxsize, **options)
    for key in keys:
        memory.put(make_entry(key, key, 1.0))
    return memory


def test_evicts_the_least_recently_used() -> None:
    """A use saves an entry; the one not used for longest goes."""
    memory = filled(3, "abc")
    memory.touch(memory.get("a"))
    memory.put(make_entry("d", "d", 1.0))
    assert sorted(memory) == ["a", "c", "d"]


def test_order_of_uses_counts() -> None:
    """Uses between two insertions are told apart, not only that there were some."""
    memory = filled(3, "abc")
    for key in "cba":
        memory.touch(memory.get(key))
    for new, gone in [("d", "c"), ("e", "b"), ("f", "a")]:
        assert gone in memory
        memory.put(make_entry(new, new, 1.0))
        assert gone not in memory


def test_a_hit_through_the_decorator_is_a_use(cache: Cache) -> None:
    """Fast hits keep their entry, as slow ones do."""
    small = Cache("small", l1=LRU(3))
    loads: list[int] = []
    f = small.cached(lambda x: loads.append(x) or x)
    for x in (1, 2, 3, 1, 1, 1, 4, 1):
        f(x)
    assert loads == [1, 2, 3, 4]
    f(3)
    assert loads == [1, 2, 3, 4]
    f(2)
    assert loads == [1, 2, 3, 4, 2]


@pytest.mark.parametrize("maxsize", [1, 2, 3, 10, 64, 200, 1000])
def test_is_exactly_lru(maxsize: int) -> None:
    """Touched at every use, it holds at every moment what cachetools' LRUCache holds."""
    rng = random.Random(maxsize)
    memory, model = LRU(maxsize), LRUCache(maxsize)
    for _ in range(20_000):
        key = str(int(rng.paretovariate(0.6)) % (maxsize * 4))
        if rng.random() < 0.02:
            memory.remove(key)
            model.pop(key, None)
            continue
        entry = memory.get(key)
        assert (entry is not None) == (key in model)
        if entry is not None:
            memory.touch(entry)
            model[key]
        else:
            memory.put(make_entry(key, key, 1.0))
            model[key] = key
    assert set(memory) == set(model)


@pytest.mark.parametrize("seed", range(12))
def test_admit_is_place(policy: Policy, seed: int) -> None:
    """What admits an entry quickly leaves the same order, counts and causes, whoever looks on."""
    draw = random.Random(seed)
    maxsize = draw.randint(1, 80)
    slow, quick = policy(maxsize), policy(maxsize)
    watched = [Watched() for _ in "sq"]
    if seed % 4:
        for memory, observer in zip((slow, quick), watched, strict=True):
            memory.observe(observer, seed % 4)
    keys = [f"k{number}" for number in range(2 * maxsize + 1)]
    for _ in range(2000):
        key, action = draw.choice(keys), draw.random()
        if action < 0.6:
            gone = [
                [(entry.key, cause) for entry, cause in admitted]
                for admitted in (
                    slow.place(make_entry(key, key, 1.0), 1),
                    quick.admit(make_entry(key, key, 1.0)),
                )
            ]
            assert gone[0] == gone[1]
        for memory in (slow, quick):
            if action >= 0.9:
                memory.remove(key)
            elif action >= 0.6 and key in memory:
                memory.touch(memory.get(key))
            elif action < 0.001:
                memory.clear()
        assert list(slow.table) == list(quick.table)
    assert slow.removals == quick.removals
    assert (slow.weight, slow.hits, slow.loads) == (quick.weight, quick.hits, quick.loads)
    assert watched[0].seen == watched[1].seen


class Watched:
    """Notes what an L1 tells its observer."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def entered(self, entry: Any, weight: float) -> None:
        self.seen.append(("entered", entry.key, weight))

    def left(self, entry: Any, cause: RemovalCause) -> None:
        self.seen.append(("left", entry.key, cause))

    def passed(self) -> None:
        self.seen.append("passed")

    def cleared(self) -> None:
        self.seen.append("cleared")


def test_weights(policy: Policy) -> None:
    """The sum of weights is bounded; weigh takes the value, or key and value."""
    memory = filled(10, policy=policy, weigh=len)
    for key, value in [("a", "xxxx"), ("b", "xxxx"), ("c", "xxx")]:
        memory.put(make_entry(key, value, 1.0))
    assert len(memory) == 2
    assert "c" in memory
    assert memory.weight == 7
    by_key = filled(5, policy=policy, weigh=lambda key, value: len(key) + value)
    by_key.put(make_entry("ab", 2, 1.0))
    assert by_key.weight == 4


def test_oversize_value_never_leaves_the_old_one(policy: Policy) -> None:
    """A value too heavy is not stored, and what stood under its key is gone."""
    memory = filled(10, policy=policy, weigh=len)
    memory.put(make_entry("k", "small", 1.0))
    assert not memory.put(make_entry("k", "x" * 11, 1.0))
    assert memory.get("k") is None
    assert memory.weight == 0
    assert memory.removals["oversize"] == 1


def test_causes(policy: Policy) -> None:
    """Every entry that leaves is counted under its cause, told once, and dead."""
    told: list[tuple[str, RemovalCause]] = []
    memory = filled(2, "ab", policy)
    memory.on_removal = lambda entry, cause: told.append((entry.value, cause))
    a = memory.get("a")
    memory.put(make_entry("c", "c", 1.0))
    memory.put(make_entry("c", "c2", 1.0))
    memory.remove("c")
    b = memory.get("b")
    memory.discard(b, RemovalCause.EXPIRED)
    memory.discard(b, RemovalCause.EXPIRED)
    assert told == [
        ("a", RemovalCause.SIZE),
        ("c", RemovalCause.REPLACED),
        ("c2", RemovalCause.INVALIDATED),
        ("b", RemovalCause.EXPIRED),
    ]
    assert a.fresh_until == b.fresh_until == DEAD
    assert a.value is b.value is None
    assert {cause: n for cause, n in memory.removals.items() if n} == {
        "size": 1,
        "replaced": 1,
        "invalidated": 1,
        "expired": 1,
    }


def test_values_die_with_their_entries(policy: Policy) -> None:
    """A value that left L1 is freed at once, though shortcuts may point to its entry."""

    class Value:
        alive = 0

        def __init__(self) -> None:
            Value.alive += 1

        def __del__(self) -> None:
            Value.alive -= 1

    cache = Cache("small", l1=policy(10))
    f = cache.cached(lambda x: Value())
    for i in range(100):
        f(i)
        f(i)
        f(i)
    assert Value.alive == 10


def seconds_of(do: Callable[[], object]) -> float:
    """Return how long this thread works at it; its turns of waiting for others do not count."""
    began = time.thread_time()
    do()
    return time.thread_time() - began


@pytest.mark.slow
def test_clear_takes_no_longer_for_more(policy: Policy) -> None:
    """It is O(1) for who calls it, and what it counts is right at once."""

    def seconds(count: int) -> float:
        memory = policy(count)
        for number in range(count):
            memory.put(make_entry(str(number), number, 1.0))
        memory.touch(memory.get("7"))
        took = seconds_of(memory.clear)
        assert memory.hits == 1
        assert memory.removals["invalidated"] == count
        assert (len(memory), memory.weight, list(memory)) == (0, 0, [])
        memory.put(make_entry("7", "new", 1.0))
        assert memory.get("7").value == "new"
        return took

    many = min(seconds(60_000) for _ in range(3))
    one_by_one = {number: make_entry(str(number), number, 1.0) for number in range(60_000)}
    assert many < seconds_of(one_by_one.clear) / 2


@pytest.mark.parametrize("count", [10, 5000])
def test_cleared_values_die(count: int, policy: Policy) -> None:
    """What was cleared is let go of soon, though nobody asks for it any more."""

    class Value:
        alive = 0

        def __init__(self) -> None:
            Value.alive += 1

        def __del__(self) -> None:
            Value.alive -= 1

    cache = Cache("small", l1=policy(count))
    f = cache.cached(lambda x: Value())
    for number in range(count):
        f(number)
        f(number)
    cache.clear()
    until(lambda: Value.alive == 0)
    assert cache.stats().hits_l1 == count
    assert cache.stats().evictions["invalidated"] == count


def test_clear_after_clear(policy: Policy) -> None:
    """Tables that wait to be taken apart do not get mixed up."""
    memory = policy(3000)
    for turn in range(10):
        for number in range(3000):
            memory.put(make_entry(str(number), turn, 1.0))
        memory.clear()
    assert memory.removals["invalidated"] == 30_000
    until(lambda: not memory._cleared)
    assert memory.removals["invalidated"] == 30_000
    assert len(memory) == 0


def test_removals_leave_no_places_behind() -> None:
    """Sets and deletes without end do not grow the order."""
    memory = LRU(100)
    for i in range(50_000):
        memory.put(make_entry(str(i % 7), i, 1.0))
        if i % 3 == 0:
            memory.remove(str(i % 7))
    places = sum(len(generation.places) for generation in memory._generations)
    assert places < 300


def test_threads(policy: Policy) -> None:
    """Puts, removals, touches and clears from many threads keep the bound and the books."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    memory = policy(50)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(2_000):
                key = str(rng.randrange(120))
                match rng.randrange(10):
                    case 0:
                        memory.remove(key)
                    case 1 | 2 | 3:
                        entry = memory.get(key)
                        if entry is not None:
                            memory.touch(entry)
                    case 4 if rng.random() < 0.02:
                        memory.clear()
                    case _:
                        memory.put(make_entry(key, key, 1.0))
                assert len(memory) <= 51
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not errors
    assert len(memory) == memory.weight <= 50
    assert len(list(memory)) == len(memory)


@pytest.mark.parametrize("maxsize", [0, -1, 1.5, True, "10", None])
def test_bad_maxsize(maxsize: Any, policy: Policy) -> None:
    """maxsize is a positive whole number."""
    with pytest.raises(ConfigurationError, match="maxsize must be a positive whole number"):
        policy(maxsize)


def test_bad_weigh(policy: Policy) -> None:
    """weigh is a function."""
    with pytest.raises(ConfigurationError, match="weigh"):
        policy(10, weigh=5)


def test_an_l1_belongs_to_one_cache(make_cache: Callable[..., Cache], policy: Policy) -> None:
    """Two caches cannot share an L1: their keys would meet."""
    memory = policy(10)
    make_cache("one", l1=memory)
    with pytest.raises(ConfigurationError, match="the L1 of cache 'two' belongs to cache 'one'"):
        make_cache("two", l1=memory)
