"""What the clients of the service saw: calls, how long they took, and whether values were right."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from examples.city_service.bulletin import Announced, Floor, Older, Place

_STEPS = 16  # per doubling: latencies are known to 4 %


@dataclass(slots=True)
class Tally:
    """What one client saw, or several together."""

    reads: int = 0  # that were answered
    errors: Counter[str] = field(default_factory=Counter)  # by class
    slowest_error: float = 0.0  # seconds until a caller had it
    absent: int = 0  # answers "there is no such city"
    updates: int = 0
    founded: int = 0
    lost: int = 0  # of those founded by the same client: answered "there is no such city"
    weather: int = 0  # reads of what changes without the cache being told
    outdated: int = 0  # of these: had changed before the read began
    checked: int = 0  # reads of what this process had updated before
    stale: int = 0  # of these: older than its update
    checked_elsewhere: int = 0  # reads of what another process had updated later than this one
    older: list[Older] = field(default_factory=list)  # of these: older than that update
    announced: list[Announced] = field(default_factory=list)
    _latencies: Counter[int] = field(default_factory=Counter)

    def read(self, nanoseconds: int) -> None:
        """Count a read and how long it took."""
        self.reads += 1
        self._latencies[round(math.log2(nanoseconds) * _STEPS)] += 1

    def failed(self, error: Exception, nanoseconds: int) -> None:
        """Count an error that a caller got."""
        self.errors[type(error).__name__] += 1
        self.slowest_error = max(self.slowest_error, nanoseconds / 1e9)

    def check(self, place: Place, version: int, floor: Floor, began: float) -> None:
        """Compare what a read returned with what had been announced when it began."""
        if floor.own:
            self.checked += 1
            self.stale += version < floor.own
        if floor.newest > floor.own:
            self.checked_elsewhere += 1
            if floor.own <= version < floor.newest:
                self.older.append(Older(place, version, began))

    def check_weather(self, version: int, floor: int) -> None:
        """Compare what a read returned with what the station had written when it began."""
        self.weather += 1
        self.outdated += version < floor

    def add(self, other: Tally) -> None:
        """Add what another saw."""
        self.slowest_error = max(self.slowest_error, other.slowest_error)
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def percentile(self, share: float) -> float:
        """Return how many seconds that share of the reads took at most."""
        left = math.ceil(share * self.reads)
        for step in sorted(self._latencies):
            left -= self._latencies[step]
            if left <= 0:
                return math.exp2(step / _STEPS) / 1e9
        return math.nan


_SUMMED = [name for name in Tally.__slots__ if name != "slowest_error"]


def total(tallies: list[Tally]) -> Tally:
    """Return what all of them saw."""
    result = Tally()
    for tally in tallies:
        result.add(tally)
    return result
