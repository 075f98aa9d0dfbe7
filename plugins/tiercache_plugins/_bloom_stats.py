"""What a guard says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ._bloom_reading import Reading
from ._bloom_series import Series


class GuardState(StrEnum):
    """What a guard is about."""

    UNKNOWN = "unknown"  # rules nothing out; ``stats().error`` says why
    BUILDING = "building"  # reads the ids for the first time, and rules nothing out
    READY = "ready"
    REBUILDING = "rebuilding"  # ready, with a newer filter under way
    STOPPED = "stopped"  # rules nothing out


@dataclass(frozen=True, slots=True)
class BloomStats:
    """What a guard knows, and what came of it."""

    state: GuardState
    entries: int  # keys in the filter, but for those that seemed to be there when they were added
    capacity: int  # keys it takes before it grows
    bytes: int  # of its bits
    false_positive_rate: float  # estimated at its present load: absent keys that are let through
    lookups: int  # keys that were judged
    saved: int  # of these, ruled out
    adds: int  # keys written, here or elsewhere, while the guard was there
    builds: int  # filters that were completed, whatever from
    progress: int  # ids read by the build under way, or the last one
    expected: int | None  # of how many, where that is known
    error: str  # why it is not ready, or no newer one


def filled(series: Series | None) -> dict[str, Any]:
    """Return what there is to say of a filter, or of none."""
    if series is None:
        return {"entries": 0, "capacity": 0, "bytes": 0, "false_positive_rate": 0.0}
    return {
        "entries": series.count,
        "capacity": series.capacity,
        "bytes": series.size,
        "false_positive_rate": series.expected_rate,
    }


def read(reading: Reading | None) -> dict[str, Any]:
    """Return how far a reading of the ids has come, or none."""
    if reading is None:
        return {"progress": 0, "expected": None}
    return {"progress": reading.done, "expected": reading.expected}
