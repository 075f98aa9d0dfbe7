"""How to spend loads where they spare most stale answers: the TTLs of one cache, taken together.

A value is loaded, lives for T seconds, and is loaded again with the first request after that, a
gap of g = 1/h later, where h is its requests per second. Of the h T answers in between, about
h r T^2 / 2 are stale, if it changes r times a second. If a load is worth w stale answers, the cost
per second (1 + h r T^2 / 2w) / (T + g) is least for

    T = sqrt(g^2 + 2w / (h r)) - g

For a hot value that is sqrt(2w / (h r)), the square-root rule: a value that is asked for, or
changes, four times as often lives half as long, which gives the fewest stale answers for the same
number of loads. For one that is rarely asked for it is w / r.

``w`` is the same for all values; it is chosen so that the share of stale answers, over all, is what
the user allows. For hot values alone it would be 2 (s N / Q)^2, where N is the number of requests,
Q the sum of sqrt(h r) over values and seconds. Gaps and limits make that too careful; so it is
corrected by what is observed: a value that turns out to have changed was stale for part of the
period, and so were its answers.

Sources: Cho and Garcia-Molina, Effective Page Refresh Policies for Web Crawlers, ACM TODS 28(4),
2003, for refreshing by rates of change under a limit on loads, and weights by use. The rule with
gaps is derived above. Constants: benchmarks/adaptive_ttl.py.
"""

from __future__ import annotations

import math
import threading

from ._change_rate import stale_share

KEPT = 1 - 1 / 2000  # of what was seen, with each load: some two thousand loads count
STEP = 0.01  # of the correction, with each load
MOST = 20.0  # times that it corrects by, either way


class Budget:
    """What the stale answers of one cache may be, and what they are."""

    def __init__(self, share: float) -> None:
        self._share = share  # of the answers, that may be stale
        self.after_fork()

    def after_fork(self) -> None:
        """Take a new lock and begin anew in a forked child."""
        self._lock = threading.RLock()
        # Guarded by _lock:
        self._requests = 0.0
        self._roots = 0.0  # sum of sqrt(h r) over values and seconds
        self._stale = 0.0
        self._correction = 1.0

    @property
    def stale_share(self) -> float:
        """Share of the latest answers that was stale, as far as loads can tell."""
        return self._stale / self._requests if self._requests else 0.0

    def spend(self, *, age: float, hits: int, changed: bool, hot: float, rate: float) -> float:
        """Count a period of one value, and return how long the next should be, in seconds.

        Args:
            age: How long it was, in seconds, > 0.
            hits: Answers from the cache in it.
            changed: Whether the value had changed at its end.
            hot: Requests per second of this value, > 0.
            rate: Changes per second of this value, > 0.
        """
        stale = hits * stale_share(rate * age) if changed else 0.0
        with self._lock:
            self._requests = self._requests * KEPT + hits + 1
            self._roots = self._roots * KEPT + math.sqrt(hot * rate) * age
            self._stale = self._stale * KEPT + stale
            self._correct()
            worth = 2 * (self._share * self._requests / self._roots) ** 2 * self._correction
        gap = 1 / hot
        return math.hypot(gap, math.sqrt(2 * worth / (hot * rate))) - gap

    def _correct(self) -> None:
        error = 1 - self.stale_share / self._share
        correction = self._correction * math.exp(STEP * max(-1.0, error))
        self._correction = min(MOST, max(1 / MOST, correction))
