"""Letting go of L1 bit by bit while the bus is cut off.

What stands in L1 may be served until ``blind_ttl`` after the last contact. Dropped all at once
then, it would be loaded again all at once: a stampede on the database, in the middle of an outage.
So after a part of that time the keys begin to go, a few in each step, and all are gone by its end.
What is loaded meanwhile is short-lived anyway, each value by a time of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

__all__ = ["BEGIN", "STEP", "Fading"]

BEGIN = 0.4  # of blind_ttl, after the last contact: a cut that is over by then costs nothing
STEP = 0.1  # seconds


class Fading:
    """One outage's letting go.

    Args:
        keys: What stands in L1 as it begins.
        until: Monotonic time by which all are to be gone.
        drop: Takes keys out of L1.
    """

    def __init__(
        self, keys: Sequence[str], until: float, drop: Callable[[Sequence[str]], None]
    ) -> None:
        self._keys = keys
        self._began = time.monotonic()
        self._seconds = max(until - self._began, STEP)
        self._drop = drop
        self._gone = 0

    def advance(self, now: float) -> bool:
        """Drop as many as should be gone by now; say whether some are left."""
        share = min(1.0, (now - self._began + STEP) / self._seconds)
        due = round(share * len(self._keys))
        some, self._gone = self._keys[self._gone : due], max(self._gone, due)
        if some:
            self._drop(some)
        return self._gone < len(self._keys)

    def finish(self) -> None:
        """Drop what is left."""
        some, self._gone = self._keys[self._gone :], len(self._keys)
        if some:
            self._drop(some)
