"""S3FIFO: what it keeps that LRU would not, and its bounds. See also tests/properties."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from tests.kinds import Kind
from tiercache import LRU, S3FIFO, Cache
from tiercache.entry import Entry, make_entry
from tiercache.testing import FakeClock
from tiercache.tiers import s3fifo
from tiercache.tiers.memory import Memory


def read(memory: Memory, keys: Iterable[object]) -> int:
    """Read keys as the wrappers do, loading what is missing; return the hits."""
    hits = 0
    for key in map(str, keys):
        entry = memory.get(key)
        if entry is None:
            memory.put(make_entry(key, key, 1.0))
        else:
            hits += 1
            entry.hits += 1
            entry.used = memory.tick
    return hits


def test_a_scan_passes_through() -> None:
    """What is asked for again stays while ten times as much is asked for once; in LRU it goes."""
    kept = {}
    for memory in (S3FIFO(100), LRU(100)):
        for _ in range(3):
            read(memory, range(80))
        read(memory, range(1000, 2000))
        kept[type(memory)] = read(memory, range(80))
    assert kept == {S3FIFO: 80, LRU: 0}


def test_a_loop_longer_than_the_cache_still_hits() -> None:
    """A loop over more than it holds hits on a share of it; LRU never hits."""
    loop = [*range(130)] * 20
    assert read(S3FIFO(100), loop) > len(loop) * 0.4
    assert read(LRU(100), loop) == 0


def test_hot_keys_of_yesterday_go() -> None:
    """The main queue makes room for another set of keys, though nothing was evicted from it."""
    memory = S3FIFO(100)
    for _ in range(20):
        read(memory, range(90))
    rng = random.Random(1)
    today = [1000 + int(rng.paretovariate(0.8)) % 200 for _ in range(20_000)]
    read(memory, today)
    assert read(memory, range(90)) < 20


def test_an_evicted_key_that_comes_back_goes_to_the_main_queue() -> None:
    """It was evicted too soon, so it is not made to wait again, and the small queue grows."""
    memory = S3FIFO(100)
    read(memory, range(110))
    (gone, *_) = (key for key in map(str, range(110)) if key not in memory)
    target = memory._target
    read(memory, [gone])
    assert gone not in memory._small
    assert memory._target == target + 1
    read(memory, range(1000, 1080))
    assert gone in memory


def test_hits_of_a_burst_do_not_promote() -> None:
    """An entry hit only while it was young leaves with those that were not hit at all."""
    memory = S3FIFO(100)
    read(memory, range(200))
    read(memory, ["burst"] * 5)
    read(memory, range(1000, 1030))
    assert "burst" not in memory


def test_expired_entries_come_back_to_the_main_queue(
    make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """A TTL does not make a key that is asked for all the time begin anew."""
    memory = S3FIFO(100)
    cache = make_cache(l1=memory, ttl=10)
    f = cache.cached("{x}")(lambda x: x)
    for key in ["hot", *range(60)]:  # while it fills up the overflow goes to the main queue
        f(key)
    assert f.key("hot") in memory
    assert f.key("hot") not in memory._small
    clock.advance(11)
    f("hot")
    assert f.cache_info().loads == 62
    assert f.key("hot") in memory
    assert f.key("hot") not in memory._small


@pytest.mark.parametrize("cause", ["replaced", "invalidated"])
def test_written_entries_stay_in_the_main_queue(cause: str) -> None:
    """So it is for what was replaced, or invalidated and loaded again."""
    memory = S3FIFO(100)
    read(memory, range(60))  # while it fills up the overflow goes to the main queue
    assert "0" not in memory._small
    if cause == "invalidated":
        memory.remove("0")
    memory.put(make_entry("0", "new", 1.0))
    assert memory.get("0").value == "new"
    assert "0" not in memory._small
    assert memory.removals[cause] == 1


def test_an_eviction_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything is hot, an eviction does not go round the whole main queue for a victim."""
    memory = S3FIFO(10_000)
    read(memory, range(10_000))
    for entry in memory.table.values():
        entry.hits += 5
    memory._small_weight, memory._small = 0, set()  # as if all stood in the main queue
    looked = 0
    pop = s3fifo._Queue.pop

    def counting(queue: s3fifo._Queue) -> tuple[Entry, int]:
        nonlocal looked
        looked += 1
        return pop(queue)

    monkeypatch.setattr(s3fifo._Queue, "pop", counting)
    assert memory.put(make_entry("new", "new", 1.0))
    assert looked == s3fifo.PATIENCE + 1
    assert len(memory) == 10_000


def test_removals_leave_no_places_behind() -> None:
    """Sets and deletes without end grow neither the queues nor what is remembered."""
    memory = S3FIFO(100)
    for i in range(50_000):
        memory.put(make_entry(str(i % 7), i, 1.0))
        if i % 3 == 0:
            memory.remove(str(i % 7))
    queues = len(memory._young) + len(memory._old.entries) + len(memory._main.entries)
    assert queues < 300
    assert len(memory._main.entries) == len(memory._main.marks)
    assert len(memory._ghost._slots) == 128


@pytest.mark.parametrize("maxsize", [1, 2, 3, 9])
def test_small_sizes(maxsize: int) -> None:
    """It works down to one entry: what was put last is there."""
    memory = S3FIFO(maxsize)
    rng = random.Random(maxsize)
    for _ in range(3000):
        key = str(rng.randrange(2 * maxsize + 1))
        read(memory, [key])
        assert key in memory
        assert len(memory) <= maxsize


def test_weights_that_do_not_add_up() -> None:
    """Rounding of fractions never leaves an eviction without a victim."""
    memory = S3FIFO(1, weigh=lambda value: value)
    rng = random.Random(5)
    for number in range(20_000):
        memory.put(make_entry(str(number % 50), rng.choice([0.1, 0.2, 0.3, 0.7, 1.0, 0]), 1.0))
        if number % 7 == 0:
            memory.remove(str(rng.randrange(50)))
        assert memory.weight <= 1 + 1e-9


@pytest.mark.parametrize("policy", [LRU, S3FIFO])
def test_a_smaller_size_holds_from_the_next_insertion(policy: Callable[..., Memory]) -> None:
    """An L1 may be resized, far below what its queues were made for, and back."""
    memory = policy(1000)
    rng = random.Random(1)
    trace = [int(rng.paretovariate(0.5)) % 3000 for _ in range(5000)]
    for size in (1000, 10, 3, 500, 1):
        memory.resize(size)
        read(memory, [*trace, f"last-{size}"])
        assert len(memory) <= size
        assert f"last-{size}" in memory


def test_weights_bound_the_queues() -> None:
    """With weights, shares are of weight: a scan of heavy values does not flush light hot ones."""
    memory = S3FIFO(10_000, weigh=lambda value: value)
    hot = [str(number) for number in range(500)]
    for _ in range(3):
        for key in hot:
            if (entry := memory.get(key)) is None:
                memory.put(make_entry(key, 10, 1.0))
            else:
                entry.hits += 1
    for number in range(1000):
        memory.put(make_entry(f"heavy{number}", 200, 1.0))
    assert memory.weight <= 10_000
    assert sum(key in memory for key in hot) == 500


def test_calls_through_the_decorator(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Blocking and asyncio functions over it hit, and their fast hits save entries."""
    cache = make_cache(l1=S3FIFO(100))
    loads: list[int] = []
    f = cache.cached("{x}")(kind.function(lambda x: loads.append(x) or x))
    for _ in range(4):
        for x in range(50):
            assert kind.call(f, x) == x
    for x in range(1000, 1500):
        kind.call(f, x)
    loads.clear()
    for x in range(50):
        assert kind.call(f, x) == x
    assert loads == []
    assert cache.stats().hits_l1 == 200
    assert cache.stats().evictions["size"] == 450
