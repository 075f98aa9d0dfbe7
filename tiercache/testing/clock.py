"""A clock that moves when told."""

from __future__ import annotations

from tiercache.ttl import Duration, seconds


class FakeClock:
    """A clock for tests: ``Cache(clock=FakeClock())`` expires entries exactly, without sleeping.

    It rules L1. A store keeps its own time.
    """

    def __init__(self, start: float = 0.0) -> None:
        self.now = float(start)  # seconds

    def __call__(self) -> float:
        return self.now

    def advance(self, duration: Duration) -> None:
        """Move on by a duration: seconds, a timedelta, or text such as ``"1h"``."""
        self.now += seconds(duration, name="duration")

    def awaken(self) -> None:
        """There is nothing to wake: the time stands until it is advanced."""
