"""Counters, and the snapshots that ``Cache.stats()`` and ``f.cache_info()`` return.

Counters are plain ints: CPython switches threads between bytecodes that call or jump back, and
``x.n += 1`` on a slot does neither, so none is lost and none costs a lock. Hits in L1 are counted
on the entries themselves, by the wrappers.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

EWMA_WEIGHT = 0.1  # of the newest load
SUMMED_UP_AT = 128  # durations that wait to be
RECENT_LOADS = 1024  # that percentiles are taken over


@dataclass(frozen=True, slots=True)
class LoadSeconds:
    """How long loads took, in seconds; NaN where there was none."""

    mean: float = math.nan
    ewma: float = math.nan  # exponentially weighted, 0.1 for the newest
    p50: float = math.nan  # percentiles: of the last 1,024
    p95: float = math.nan
    p99: float = math.nan


class LoadTimes:
    """Durations of loads, summed up in O(1) memory but for the last 1,024.

    They are noted in a queue and summed up now and then, since noting is a part of every miss.
    """

    __slots__ = ("_count", "_ewma", "_recent", "_total", "new")

    def __init__(self) -> None:
        #: Not summed up yet; whoever takes one sums it up.
        self.new: deque[float] = deque()
        self._count = 0
        self._total = 0.0
        self._ewma = math.nan
        self._recent: deque[float] = deque(maxlen=RECENT_LOADS)

    def record(self, seconds: float) -> None:
        """Add the duration of a load, in seconds."""
        self.new.append(seconds)
        if len(self.new) >= SUMMED_UP_AT:
            self.sum_up()

    def sum_up(self) -> None:
        """Sum up what waits in ``new``."""
        new = self.new
        with suppress(IndexError):  # empty: another thread has taken the last
            while new:
                seconds = new.popleft()
                self._count += 1
                self._total += seconds
                first = self._count == 1
                self._ewma = seconds if first else self._ewma + EWMA_WEIGHT * (seconds - self._ewma)
                self._recent.append(seconds)

    def snapshot(self) -> LoadSeconds:
        """Return what is known so far."""
        self.sum_up()
        recent = sorted(self._recent.copy())
        if not recent:
            return LoadSeconds()
        return LoadSeconds(
            mean=self._total / self._count,
            ewma=self._ewma,
            p50=_percentile(recent, 0.50),
            p95=_percentile(recent, 0.95),
            p99=_percentile(recent, 0.99),
        )


class Counters:
    """What is counted off the L1 hit path, for one function or for a cache's own methods."""

    __slots__ = (
        "absent",
        "bus_gaps",
        "decode_errors",
        "encode_errors",
        "hits_l2",
        "joined",
        "load_errors",
        "load_times",
        "loads",
        "misses",
        "plugin_errors",
        "refresh_errors",
        "stale_served",
        "store_errors",
    )
    absent: int
    bus_gaps: int
    decode_errors: int
    encode_errors: int
    hits_l2: int
    joined: int
    load_errors: int
    load_times: LoadTimes
    loads: int
    misses: int
    plugin_errors: int
    refresh_errors: int
    stale_served: int
    store_errors: int

    def __init__(self) -> None:
        for name in COUNTED:
            setattr(self, name, 0)
        self.load_times = LoadTimes()

    def absorb(self, other: Counters) -> None:
        """Add what another counted."""
        for name in COUNTED:
            setattr(self, name, getattr(self, name) + getattr(other, name))


COUNTED = tuple(name for name in Counters.__slots__ if name != "load_times")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """What became of the calls of one function so far.

    Functions that share a key share the count of its L1 hits.
    """

    hits_l1: int
    hits_l2: int
    misses: int  # calls that no tier could answer, those that joined another's load included
    loads: int
    load_errors: int
    joined: int  # loads saved by single flight
    absent: int = 0  # calls that a guard answered
    stale_served: int = 0  # calls that a value past its TTL answered
    load_seconds: LoadSeconds = field(default_factory=LoadSeconds)

    @property
    def hits(self) -> int:
        """Calls that a tier answered."""
        return self.hits_l1 + self.hits_l2

    @property
    def hit_ratio(self) -> float:
        """Share of calls that a tier answered, if with a stale value; 0 before the first."""
        answered = self.hits + self.stale_served
        calls = answered + self.misses + self.absent
        return answered / calls if calls else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What other sizes of L1 would have done, from a sample of the keys.

    Counts are since the cache was made; those of two snapshots may be subtracted: ``since``.
    """

    maxsize: int
    share: float  # of the keys, that was looked at
    hits: int  # of L1, as it is
    loads: int  # values that were stored in L1 since it did not hold their keys
    hits_at_half: float  # that half of maxsize would have had, estimated
    hits_at_twice: float

    @property
    def hit_ratio(self) -> float:
        """Hits in L1 over hits and loads; 0 before the first."""
        return self._ratio(self.hits)

    @property
    def half(self) -> float:
        """The same as it would be with half of maxsize, in [0, 1]."""
        return self._ratio(self.hits_at_half)

    @property
    def twice(self) -> float:
        """The same as it would be with twice maxsize, in [0, 1]."""
        return self._ratio(self.hits_at_twice)

    def since(self, earlier: Sizing) -> Sizing:
        """Return what happened after an earlier snapshot of the same cache."""
        return Sizing(
            maxsize=self.maxsize,
            share=self.share,
            hits=self.hits - earlier.hits,
            loads=self.loads - earlier.loads,
            hits_at_half=self.hits_at_half - earlier.hits_at_half,
            hits_at_twice=self.hits_at_twice - earlier.hits_at_twice,
        )

    def _ratio(self, hits: float) -> float:
        requests = self.hits + self.loads
        return min(1.0, max(0.0, hits / requests)) if requests else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(CacheInfo):
    """A snapshot of a cache."""

    evictions: Mapping[str, int]  # entries that left L1, by cause
    entries: int  # in L1
    weight: float  # of them; their number, where the L1 does not weigh
    store_errors: int  # operations of L2 that failed
    decode_errors: int  # payloads of L2 that were not ours to read
    encode_errors: int  # values that could not be written to L2
    plugin_errors: int
    refresh_errors: int = 0  # values whose refresh behind failed; of a batch, each
    l2_state: str = ""  # of the breaker: "closed" (all is well), "open", "half-open"; "": no L2
    owed: int = 0  # invalidations not delivered to L2 yet
    bus_gaps: int = 0  # times that messages of other processes were missed, and L1 was dropped
    sizing: Sizing | None = None  # what half or twice the maxsize would have given; None: no L1


def _percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted numbers."""
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
