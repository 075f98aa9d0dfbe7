"""When a value that could not be refreshed is next tried: exponentially later, from now.

A refresh that fails leaves the value in place, due as before, so every read would try again: the
database that just failed is hammered. So its key *pauses*; reads meanwhile are served what there
is.
"""

from __future__ import annotations

import random
import threading
from collections import OrderedDict

MOST_PAUSES = 10_000  # keys; beyond, the oldest is forgotten, and tried again
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0
SPREAD = 0.2  # of a pause, by which it is shortened at random: keys that failed together part


class Pauses:
    """The keys of one cache that are not refreshed for now. Times are of the cache's clock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # How often in a row a key has failed, and until when it is left alone; guarded by _lock
        self._pauses: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pauses)

    def holds(self, key: str, now: float) -> bool:
        """Whether a key is to be left alone."""
        pause = self._pauses.get(key)
        return pause is not None and pause[1] > now

    def failed(self, key: str, now: float, ttl: float | None) -> float:
        """Note that a key could not be loaded; return until when it is left alone.

        Args:
            key: The key.
            now: The time.
            ttl: Of its value, in seconds: the first pause is no longer, nor than a second.
        """
        first = FIRST_SECONDS if ttl is None else min(FIRST_SECONDS, ttl)
        with self._lock:
            failures = self._pauses.get(key, (0, 0.0))[0]
            seconds = min(first * 2.0 ** min(failures, 30), LONGEST_SECONDS)
            until = now + seconds * (1.0 - SPREAD * random.random())  # noqa: S311 - no secret
            self._note(key, failures + 1, until)
        return until

    def hold(self, key: str, until: float) -> None:
        """Leave a key alone for a while, though it has not failed: somebody else loads it."""
        with self._lock:
            self._note(key, self._pauses.get(key, (0, 0.0))[0], until)

    def end(self, key: str) -> None:
        """Note that a key was loaded."""
        with self._lock:
            self._pauses.pop(key, None)

    def after_fork(self) -> None:
        """Take a new lock in a forked child."""
        self._lock = threading.RLock()

    def _note(self, key: str, failures: int, until: float) -> None:
        self._pauses[key] = failures, until
        self._pauses.move_to_end(key)
        while len(self._pauses) > MOST_PAUSES:
            self._pauses.popitem(last=False)
