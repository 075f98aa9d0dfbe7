"""Which size gives which hit ratio: over traces (SHARDS), and live beside L1 (miniatures)."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from cachetools import LRUCache

from tests.kinds import Kind
from tiercache import LRU, S3FIFO, Cache, ConfigurationError, Sizing
from tiercache.entry import DEAD, make_entry
from tiercache.miniature import SAMPLES, LiveSizing
from tiercache.sizing import hash_of, miss_ratio_curve
from tiercache.testing import FakeClock
from tiercache.tiers.memory import Memory

Policy = Callable[..., Memory]


@pytest.fixture(params=[LRU, S3FIFO])
def policy(request: pytest.FixtureRequest) -> Policy:
    """A kind of L1."""
    return request.param


def zipf_like(requests: int, keys: int, seed: int = 1) -> list[int]:
    """Return requests for keys of which few are popular."""
    rng = random.Random(seed)
    weights = [1 / (rank + 1) ** 0.8 for rank in range(keys)]
    return rng.choices(range(keys), weights, k=requests)


def lru_hit_ratio(trace: Sequence[Any], size: int) -> float:
    cache: LRUCache[Any, bool] = LRUCache(size)
    hits = 0
    for key in trace:
        if cache.get(key):
            hits += 1
        else:
            cache[key] = True
    return hits / len(trace)


def replay(memory: Memory, trace: Iterable[Any], ttl_end: float = 1e9) -> int:
    """Read keys as the wrappers do, loading what is missing; return the hits."""
    hits = 0
    for key in map(str, trace):
        entry = memory.get(key)
        if entry is None:
            memory.put(make_entry(key, key, ttl_end))
        else:
            hits += 1
            entry.hits += 1
            entry.used = memory.tick
    return hits


# A trace


@pytest.mark.parametrize("kind", [int, str, lambda n: str(n).encode(), lambda n: (n, "x")])
def test_a_curve_without_sampling_is_exact(kind: Callable[[int], Any]) -> None:
    """With fewer keys than samples, or at rate 1, it is the hit ratio of an LRU of each size."""
    trace = [kind(number) for number in zipf_like(5000, 600)]
    for curve in (miss_ratio_curve(iter(trace)), miss_ratio_curve(trace, rate=1.0)):
        assert curve.rate == 1.0
        assert curve.requests == 5000
        for size in (1, 2, 7, 50, 333, 600, 10_000):
            exact = lru_hit_ratio(trace, size)
            assert curve.hit_ratio(size) == pytest.approx(exact, abs=1e-12)
            assert curve.miss_ratio(size) == pytest.approx(1 - exact, abs=1e-12)


@pytest.mark.slow
def test_many_keys_in_few_samples() -> None:
    """With fixed size no more keys are followed than told, and the curve is near."""
    trace = zipf_like(200_000, 40_000)
    curve = miss_ratio_curve(trace, samples=4096)
    assert 0.05 < curve.rate < 0.3
    for size in (1000, 4000, 16_000):
        assert curve.hit_ratio(size) == pytest.approx(lru_hit_ratio(trace, size), abs=0.015)


@pytest.mark.slow
def test_a_fixed_rate() -> None:
    """Where the rate is given, each so many-th key is looked at, and the curve is near."""
    trace = zipf_like(200_000, 40_000)
    curve = miss_ratio_curve(trace, rate=0.1)
    assert curve.rate == pytest.approx(0.1)
    for size in (1000, 4000, 16_000):
        assert curve.hit_ratio(size) == pytest.approx(lru_hit_ratio(trace, size), abs=0.015)


@pytest.mark.slow
def test_one_popular_key_does_not_distort() -> None:
    """A key with half of all requests, in the sample or not, moves the curve by little."""
    trace = zipf_like(60_000, 30_000)
    for popular in ("a", "b", "c", "d"):
        mixed = [key for number in trace for key in (number, popular)]
        curve = miss_ratio_curve(mixed, rate=0.1)
        assert curve.hit_ratio(5000) == pytest.approx(lru_hit_ratio(mixed, 5000), abs=0.02)


def test_the_size_for_a_hit_ratio() -> None:
    """The curve is read the other way round: the least size that reaches a ratio, if one does."""
    trace = zipf_like(5000, 600)
    curve = miss_ratio_curve(trace)
    size = curve.size_for(0.5)
    assert size is not None
    assert lru_hit_ratio(trace, size) >= 0.5 > lru_hit_ratio(trace, size - 1)
    assert curve.size_for(0.99) is None


def test_no_requests() -> None:
    """An empty trace has a curve, of zeros."""
    curve = miss_ratio_curve([])
    assert (curve.requests, curve.hit_ratio(100)) == (0, 0.0)


@pytest.mark.parametrize("rate", [0, -0.1, 1.5, True, "1"])
def test_bad_rate(rate: Any) -> None:
    """A rate is a share above 0."""
    with pytest.raises(ConfigurationError, match="rate must be in \\(0, 1\\]"):
        miss_ratio_curve([], rate=rate)


@pytest.mark.parametrize("samples", [0, -1, 2.5, True])
def test_bad_samples(samples: Any) -> None:
    """So many keys are followed: one or more."""
    with pytest.raises(ConfigurationError, match="samples must be a positive whole number"):
        miss_ratio_curve([], samples=samples)


def test_hashes_are_the_same_in_every_process() -> None:
    """A trace gives one curve, whatever PYTHONHASHSEED says."""
    keys = [5, 0, "user:1", "", "\udc80", b"raw"]
    code = f"from tiercache.sizing import hash_of; print([hash_of(key) for key in {keys!r}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str([hash_of(key) for key in keys])
    spread = [hash_of(number) for number in range(20_000)]
    assert sum(code < 2**32 * 0.1 for code in spread) == pytest.approx(2000, rel=0.1)


# Live


def live(memory: Memory) -> LiveSizing:
    return LiveSizing(memory, FakeClock())


@pytest.mark.slow
def test_estimates_of_other_sizes_are_near(policy: Policy) -> None:
    """Half and twice the size, estimated from a sample, against caches of those sizes."""
    trace = zipf_like(120_000, 20_000)
    memory = policy(2000)
    sizing = live(memory)
    hits = replay(memory, trace)
    estimate = sizing.snapshot(memory.hits)
    assert estimate.share == 1 / 16
    assert estimate.hits == hits
    assert estimate.loads == len(trace) - hits
    assert estimate.hit_ratio == hits / len(trace)
    # Which keys are watched depends on PYTHONHASHSEED: three times what is usual is allowed.
    for size, found, error in ((1000, estimate.half, 0.05), (4000, estimate.twice, 0.02)):
        assert found == pytest.approx(replay(policy(size), trace) / len(trace), abs=error)
    assert estimate.half < estimate.hit_ratio - 0.04
    assert estimate.twice > estimate.hit_ratio + 0.04


def test_a_loop_that_half_would_not_hold(policy: Policy) -> None:
    """Hits alone, without a load that would set off a look: half of it would be too small."""
    memory = policy(1000)
    sizing = live(memory)
    for _ in range(50):
        for part in range(0, 900, 50):
            replay(memory, range(part, part + 50))
            sizing.snapshot(memory.hits)
    estimate = sizing.snapshot(memory.hits)
    assert estimate.twice == estimate.hit_ratio == 49 / 50
    assert estimate.half < 0.85


def test_what_fits_into_half_needs_no_more(policy: Policy) -> None:
    """Where all keys fit into half of it, all three are the same."""
    memory = policy(1000)
    sizing = live(memory)
    replay(memory, zipf_like(50_000, 300))
    estimate = sizing.snapshot(memory.hits)
    assert estimate.half == estimate.hit_ratio == estimate.twice > 0.99


def test_a_scan_gains_nothing(policy: Policy) -> None:
    """Keys that are asked for once would hit in no size."""
    memory = policy(1000)
    sizing = live(memory)
    replay(memory, range(20_000))
    estimate = sizing.snapshot(memory.hits)
    assert estimate.half == estimate.hit_ratio == estimate.twice == 0


def test_invalidated_keys_are_not_hits_of_a_larger_cache(policy: Policy) -> None:
    """What was deleted is gone at any size; what is replaced is neither hit nor load."""
    memory = policy(1000)
    sizing = live(memory)
    for _ in range(20):
        replay(memory, range(400))
        for number in range(400):
            memory.put(make_entry(str(number), "new", 1e9))
        for number in range(400):
            memory.remove(str(number))
    estimate = sizing.snapshot(memory.hits)
    assert estimate.loads == 8000
    assert estimate.half == estimate.hit_ratio == estimate.twice == 0


def test_expired_keys_are_not_hits_of_a_larger_cache(policy: Policy) -> None:
    """A key that twice the size would still hold, but past its TTL, is loaded all the same."""
    clock = FakeClock()
    memory = policy(1000)
    sizing = LiveSizing(memory, clock)
    for _ in range(20):
        replay(memory, range(1500), ttl_end=clock() + 10)
        clock.advance(11)
        for key in list(memory):
            memory.remove(key)
    estimate = sizing.snapshot(memory.hits)
    assert estimate.hits == 0
    assert estimate.twice == 0


def test_a_clear_empties_the_miniatures(policy: Policy) -> None:
    """After a clear nothing hits at any size; what was counted before stands."""
    memory = policy(1000)
    sizing = live(memory)
    for _ in range(10):
        replay(memory, range(1500))
        memory.clear()
    estimate = sizing.snapshot(memory.hits)
    assert estimate.hits_at_twice == estimate.hits == 0
    assert estimate.loads == 15_000


@pytest.mark.slow
def test_weights_thin_the_sample_out(policy: Policy) -> None:
    """How many entries a weight is shows in time: the share falls, and estimates stay near."""
    trace = zipf_like(150_000, 150_000)
    memory = policy(200_000, weigh=lambda value: 10)
    sizing = live(memory)
    hits = replay(memory, trace)
    estimate = sizing.snapshot(memory.hits)
    assert estimate.share < 1 / 16
    assert len(sizing._twice.memory) <= 4 * SAMPLES
    assert sizing._twice.memory.weight <= sizing._twice.memory.maxsize
    for size, found, error in ((10_000, estimate.half, 0.1), (40_000, estimate.twice, 0.02)):
        assert found == pytest.approx(replay(policy(size), trace) / len(trace), abs=error)
    assert estimate.hits == hits


@pytest.mark.slow
def test_memory_is_bounded(policy: Policy) -> None:
    """However many keys pass, so many shadows and no more."""
    memory = policy(20_000)
    sizing = live(memory)
    replay(memory, range(100_000))
    for number in range(100_000, 101_000):
        memory.put(make_entry(str(number), number, DEAD))
    assert sizing._share == 64
    shadows = len(sizing._half.memory) + len(sizing._twice.memory)
    assert shadows <= 20_000 * 2.5 / 64 * 1.2
    assert sizing._half.out_of_it <= 20_000 / 64 * 1.5


def test_snapshots_may_be_subtracted(policy: Policy) -> None:
    """The second hour is told apart from the first."""
    memory = policy(1000)
    sizing = live(memory)
    replay(memory, range(5000))
    first = sizing.snapshot(memory.hits)
    replay(memory, [1, 2, 3] * 1000)
    later = sizing.snapshot(memory.hits).since(first)
    assert isinstance(later, Sizing)
    assert (later.hits, later.loads) == (2997, 3)
    assert later.hit_ratio == later.half == later.twice == 0.999
    assert first.hit_ratio == 0


def test_being_watched_changes_nothing_that_l1_keeps(policy: Policy) -> None:
    """An S3FIFO decides the same; in an LRU hits get a finer order, so a tie may end otherwise."""
    trace = zipf_like(30_000, 3000)
    watched, alone = policy(500), policy(500)
    live(watched)
    difference = abs(replay(watched, trace) - replay(alone, trace))
    assert difference == 0 if policy is S3FIFO else difference < 30


@pytest.mark.parametrize("l1", [LRU, S3FIFO])
def test_stats(kind: Kind, make_cache: Callable[..., Cache], l1: Policy) -> None:
    """A cache says it in its stats, of functions of both kinds, whose fast hits it sees."""
    cache = make_cache(l1=l1(64))
    f = cache.cached("{x}")(kind.function(lambda x: x))
    for _ in range(30):
        for x in range(96):
            kind.call(f, x)
    sizing = cache.stats().sizing
    assert sizing.maxsize == 64
    assert sizing.hits == cache.stats().hits_l1
    assert sizing.loads == cache.stats().loads
    assert sizing.twice == pytest.approx(29 / 30, abs=0.01)
    assert sizing.half < 0.5


def test_no_l1_no_sizing(make_cache: Callable[..., Cache]) -> None:
    """Without an L1 there is nothing to size."""
    assert make_cache(l1=None).stats().sizing is None


def test_a_finalizer_that_uses_the_cache_does_no_harm(make_cache: Callable[..., Cache]) -> None:
    """Values that change the L1 as they die, in the middle of anything, leave it in order."""
    cache = make_cache(l1=LRU(20))

    class Value:
        def __del__(self) -> None:
            cache.set(f"died-{random.random()}", 1)

    f = cache.cached(lambda x: Value())
    for number in range(2000):
        f(number % 60)
    assert len(cache.memory) <= 20
    assert 0 <= cache.stats().sizing.half <= cache.stats().sizing.twice <= 1
