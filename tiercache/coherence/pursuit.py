"""What a caller does who wants a lock, after each answer of the store.

Refused, it waits for news of the lock, and asks again when it hears any. News may get lost, so it
also asks when the holder's time is over, and before that now and then, ever more rarely: the bus
may be silent. Where the store does not answer it asks again soon, and less soon each time.

It gives up when the time it was given is over. One that waits for as long as it takes gives up
when the store has been in trouble for as long as the lock would last, without one answer between.
"""

from __future__ import annotations

import random
from math import inf

from tiercache.errors import LockTimeout, StoreError
from tiercache.tiers.store import StoreRefused

SHORTEST_PAUSE = 0.01  # seconds; a store may say that the holder's time is all but over
FIRST_POLL = 0.1
LONGEST_POLL = 2.0
FIRST_RETRY = 0.05


class Pursuit:
    """One caller's way to one lock. No I/O and no clock: the time is passed in.

    Args:
        label: Names the lock in errors.
        ttl: Seconds that the lock is to last.
        wait: Seconds that the caller waits; None: as long as the store answers.
        timeout: The store's, seconds.
        now: Monotonic seconds.
    """

    def __init__(
        self, label: str, ttl: float, wait: float | None, timeout: float, now: float
    ) -> None:
        self.may_hold = False  # the store may have granted it without our knowing
        self._label = label
        self._ttl = ttl
        self._wait = wait
        self._deadline = inf if wait is None else now + wait
        self._longest_retry = max(timeout, FIRST_RETRY)
        self._poll = FIRST_POLL
        self._retry = FIRST_RETRY
        self._troubled_since: float | None = None

    def ask(self) -> None:
        """Take note that the store is asked."""
        self.may_hold = True

    def after_refusal(self, held_for: float, now: float) -> float:
        """Return how long to wait for news before asking again.

        Raises:
            LockTimeout: If the caller has waited for long enough.
        """
        self.may_hold = False
        self._troubled_since, self._retry = None, FIRST_RETRY
        if now >= self._deadline:
            raise LockTimeout(self._say_held())
        # At random, so that those who wait for one lock do not ask together.
        poll = self._poll * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
        self._poll = min(self._poll * 2, LONGEST_POLL)
        return min(poll, max(held_for, SHORTEST_PAUSE), self._deadline - now)

    def after_trouble(self, error: StoreError, asked: float, now: float) -> float:
        """Return how long to wait before asking a store again that did not answer.

        Raises:
            LockTimeout: If the caller has waited for long enough.
        """
        if isinstance(error, StoreRefused):
            raise LockTimeout(
                f"{self._label} cannot be acquired: {error}; enter without it by required=False"
            ) from error
        if self._troubled_since is None:
            self._troubled_since = asked
        patience = self._ttl if self._wait is None else inf
        if now >= self._deadline or now - self._troubled_since >= patience:
            raise LockTimeout(
                f"{self._label} was not acquired, as its store is out of reach: {error}; "
                "enter without it by required=False"
            ) from error
        pause, self._retry = self._retry, min(self._retry * 2, self._longest_retry)
        return min(pause, self._deadline - now)

    def check_grant(self, asked: float, now: float) -> None:
        """Refuse a grant that has taken so long that it is over.

        Raises:
            LockTimeout: If so.
        """
        if now - asked >= self._ttl:
            raise LockTimeout(
                f"{self._label} was granted after {now - asked:.2g} s, when its ttl of "
                f"{self._ttl:g} s was over; choose a longer ttl"
            )

    def _say_held(self) -> str:
        if not self._wait:
            return (
                f"{self._label} is held by somebody else; wait for it (wait=2), "
                "or enter without it by required=False"
            )
        return (
            f"{self._label} did not become free within {self._wait:g} s; wait longer, "
            "or enter without it by required=False"
        )
