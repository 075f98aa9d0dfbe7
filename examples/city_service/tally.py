"""What the clients of the service saw: calls, how long they took, and whether values were stale."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

_STEPS = 16  # per doubling: latencies are known to 4 %


@dataclass(slots=True)
class Tally:
    """What one client saw, or several together."""

    reads: int = 0
    updates: int = 0
    checked: int = 0  # reads of what this process had updated before
    stale: int = 0  # of these: older than its update, by a load of its own
    put_back: int = 0  # of these: older, by a load of another process that came late to L2
    _latencies: Counter[int] = field(default_factory=Counter)

    def read(self, nanoseconds: int) -> None:
        """Count a read and how long it took."""
        self.reads += 1
        self._latencies[round(math.log2(nanoseconds) * _STEPS)] += 1

    def check(self, version: int, floor: int, *, own: bool) -> None:
        """Count a read of something of which this process had written version ``floor``."""
        self.checked += 1
        if version < floor:
            if own:
                self.stale += 1
            else:
                self.put_back += 1

    def add(self, other: Tally) -> None:
        """Add what another saw."""
        self.reads += other.reads
        self.updates += other.updates
        self.checked += other.checked
        self.stale += other.stale
        self.put_back += other.put_back
        self._latencies += other._latencies

    def percentile(self, share: float) -> float:
        """Return how many seconds that share of the reads took at most."""
        left = math.ceil(share * self.reads)
        for step in sorted(self._latencies):
            left -= self._latencies[step]
            if left <= 0:
                return math.exp2(step / _STEPS) / 1e9
        return math.nan
