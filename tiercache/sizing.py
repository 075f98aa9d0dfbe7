"""How large should L1 be? The hit ratio of every size at once, from one pass over a trace.

LRU keeps a *stack*: a request hits in every cache larger than its *reuse distance*, the number of
different keys asked for since the same key was last. So the distances of one pass give the hit
ratio of all sizes (Mattson et al., IBM Systems Journal, 1970), and a sample of the keys, chosen by
hash, gives nearly the same (SHARDS: Waldspurger et al., "Efficient MRC Construction with SHARDS",
FAST '15): all requests of a chosen key are looked at, and a distance among a share R of the keys
stands for one of 1/R times as many.

- Fixed rate: R is given. Memory grows with the number of different keys.
- Fixed size (the default): R begins at 1 and falls so that no more than ``samples`` keys are
  followed at a time, the ones with the smallest hashes. Memory is constant, and a trace with fewer
  keys than that is not sampled at all: its curve is exact.

Popular keys make the sampled requests more, or fewer, than R times all of them; the difference is
put to the shortest distance, which takes most of the error away ("SHARDS-adj", section 3.3 there).

Measured against exact LRU over ten traces in benchmarks/sizing.py, with 8,192 samples: within 0.9
points at all sizes that 100 sampled keys fit into (100 / R entries), most within 0.3; below that
the sample is too coarse: up to 1.5 points at 80 keys, 2.8 at 44.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, islice
from zlib import crc32

from .errors import ConfigurationError

SAMPLES = 8192
_CHUNK = 1 << 14  # requests that are filtered at a time
_HASHES = 1 << 32  # hashes are below that
_MASK = _HASHES - 1
_BLOCK = 1024  # times in one block of a recency list


@dataclass(frozen=True, slots=True)
class MissRatioCurve:
    """The hit ratio that an LRU of any size would have had on a trace.

    ``sizes`` rise, and ``hit_ratios`` with them: at each size the ratio of an LRU of so many
    entries; in between it is that of the size below.
    """

    requests: int
    rate: float  # share of the keys that was looked at in the end; 1: the curve is exact
    sizes: Sequence[int]
    hit_ratios: Sequence[float]

    def hit_ratio(self, size: float) -> float:
        """Return the hit ratio of an LRU of so many entries, in [0, 1]."""
        place = bisect_right(self.sizes, size)
        return self.hit_ratios[place - 1] if place else 0.0

    def miss_ratio(self, size: float) -> float:
        """Return the share of requests that an LRU of so many entries would miss, in [0, 1]."""
        return 1.0 - self.hit_ratio(size)

    def size_for(self, hit_ratio: float) -> int | None:
        """Return the smallest size that reaches a hit ratio; None where no size does."""
        place = bisect_left(self.hit_ratios, hit_ratio)
        return self.sizes[place] if place < len(self.sizes) else None


def miss_ratio_curve(
    trace: Iterable[Hashable], *, rate: float | None = None, samples: int = SAMPLES
) -> MissRatioCurve:
    """Return the miss-ratio curve of LRU over a trace, by sampling its keys.

    Args:
        trace: The keys in the order in which they were asked for; read once, so it may be a
            generator.
        rate: Share of the keys to look at, in (0, 1]; None for as many as ``samples`` allows.
        samples: Keys to follow at a time where there is no ``rate``; memory is some 200 bytes each.

    Raises:
        ConfigurationError: If ``rate`` or ``samples`` is out of its bounds.
    """
    sampler = _Sampler(_checked_rate(rate), _checked_samples(samples) if rate is None else None)
    requests = iter(trace)
    while chunk := list(islice(requests, _CHUNK)):
        sampler.read(chunk)
    return sampler.curve()


class _Sampler:
    """Follows sampled keys, and sums up how far apart their requests are."""

    def __init__(self, rate: float, samples: int | None) -> None:
        self._requests = 0
        self._threshold = int(rate * _HASHES)  # hashes below it are looked at
        self._weight = _HASHES / self._threshold  # requests that a sampled one stands for
        self._samples = samples
        self._largest: list[tuple[int, _Opaque]] = []  # heap of negated hashes; with samples only
        self._last: dict[Hashable, int] = {}  # when each sampled key was asked for last
        self._recency = _Recency()
        self._weights: dict[int, float] = {}  # requests, by reuse distance
        self._seen = 0.0  # requests that the sample stands for

    def read(self, chunk: list[Hashable]) -> None:
        """Take up the next requests."""
        self._requests += len(chunk)
        chosen = _chosen(set(chunk), self._threshold)
        for key in filter(chosen.__contains__, chunk):
            if chosen[key] < self._threshold:  # which may have fallen within the chunk
                self._follow(key, chosen[key])

    def _follow(self, key: Hashable, code: int) -> None:
        weight = self._weight
        self._seen += weight
        last = self._last.get(key)
        if last is None:
            self._last[key] = self._recency.append()
            if self._samples is not None:
                self._add_sample(code, key, self._samples)
            return
        distance, self._last[key] = self._recency.renew(last)
        far = int((distance - 1) * weight) + 1  # those between, and itself
        self._weights[far] = self._weights.get(far, 0.0) + weight

    def _add_sample(self, code: int, key: Hashable, samples: int) -> None:
        """Follow one more key; let go of those with the largest hash if they are too many."""
        heappush(self._largest, (-code, _Opaque(key)))
        if len(self._last) <= samples:
            return
        self._threshold = -self._largest[0][0]
        self._weight = _HASHES / self._threshold
        while self._largest and -self._largest[0][0] >= self._threshold:
            gone = heappop(self._largest)[1].key
            self._recency.remove(self._last.pop(gone))

    def curve(self) -> MissRatioCurve:
        """Return what was found."""
        weights = dict(self._weights)
        weights[1] = weights.get(1, 0.0) + self._requests - self._seen  # may be below 0
        sizes = sorted(weights)
        total = max(1, self._requests)
        hits = accumulate(accumulate(weights[size] for size in sizes), max)
        return MissRatioCurve(
            self._requests,
            self._threshold / _HASHES,
            array("q", sizes),
            array("d", (min(1.0, max(0.0, count / total)) for count in hits)),
        )


class _Opaque:
    """A key in a heap, where it is not compared."""

    __slots__ = ("key",)

    def __init__(self, key: Hashable) -> None:
        self.key = key

    def __lt__(self, other: object) -> bool:
        return False


class _Recency:
    """Times at which sampled keys were last asked for, in order: blocks of rising numbers.

    Whatever is asked for again was mostly asked for lately, so the blocks are walked from the end.
    """

    def __init__(self) -> None:
        self._blocks: list[list[int]] = [[]]
        self._starts = [0]  # below which no time in the block of the same number is
        self._now = 0

    def append(self) -> int:
        """Return the time of a first request, later than all."""
        self._now += 1
        if len(self._blocks[-1]) >= _BLOCK:
            self._blocks.append([])
            self._starts.append(self._now)
        self._blocks[-1].append(self._now)
        return self._now

    def renew(self, then: int) -> tuple[int, int]:
        """Return how many keys back a time is, itself included, and the time that replaces it."""
        at = bisect_right(self._starts, then) - 1
        block = self._blocks[at]
        place = bisect_left(block, then)
        distance = len(block) - place + sum(map(len, self._blocks[at + 1 :]))
        self._delete(at, place)
        return distance, self.append()

    def remove(self, then: int) -> None:
        """Forget a time."""
        at = bisect_right(self._starts, then) - 1
        self._delete(at, bisect_left(self._blocks[at], then))

    def _delete(self, at: int, place: int) -> None:
        block = self._blocks[at]
        del block[place]
        if not block and len(self._blocks) > 1:
            del self._blocks[at], self._starts[at]


def _chosen(keys: set[Hashable], threshold: int) -> dict[Hashable, int]:
    """Return the keys whose hash is below a threshold, with their hashes."""
    if set(map(type, keys)) == {int}:  # hash_of for all of them, without a call for each
        codes = map(hash, zip(keys, strict=True))
        return {
            key: code & _MASK
            for key, code in zip(keys, codes, strict=True)
            if code & _MASK < threshold
        }
    return {key: code for key in keys if (code := hash_of(key)) < threshold}


def hash_of(key: Hashable) -> int:
    """Return a hash below 2**32, the same in every process for numbers, text and bytes.

    The hash of a tuple mixes well (it is xxHash), that of a number not at all.
    """
    if isinstance(key, str):
        key = crc32(key.encode("utf-8", "surrogatepass"))
    elif isinstance(key, bytes):
        key = crc32(key)
    return hash((key,)) & _MASK


def _checked_rate(rate: float | None) -> float:
    if rate is None:
        return 1.0
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise ConfigurationError(f"rate must be in (0, 1], got {rate!r}; 0.01 looks at every 100th")
    return float(rate)


def _checked_samples(samples: int) -> int:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ConfigurationError(
            f"samples must be a positive whole number, got {samples!r}; {SAMPLES} is a good one"
        )
    return samples
