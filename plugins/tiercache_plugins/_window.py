"""Successes and failures of the last seconds, counted in a ring of slices.

A slice is forgotten whole, so a count is of between 9 and 10 tenths of the window. Ten slices are
kept whatever the traffic.
"""

from __future__ import annotations

SLICES = 10


class Window:
    """Counts over a sliding window; not safe for threads by itself."""

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / SLICES
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._numbers = [-1] * SLICES  # which slice of time each counts
        self._calls = [0] * SLICES
        self._failures = [0] * SLICES

    def add(self, now: float, *, failed: bool) -> None:
        """Count a call that ended."""
        number = int(now // self._slice_seconds)
        at = number % SLICES
        if self._numbers[at] != number:
            self._numbers[at], self._calls[at], self._failures[at] = number, 0, 0
        self._calls[at] += 1
        self._failures[at] += failed

    def counts(self, now: float) -> tuple[int, int]:
        """Return how many calls ended within the window, and how many of them failed."""
        oldest = int(now // self._slice_seconds) - SLICES
        within = [at for at, number in enumerate(self._numbers) if number > oldest]
        return sum(self._calls[at] for at in within), sum(self._failures[at] for at in within)
