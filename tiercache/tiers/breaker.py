"""The breaker of a store: keeps calls off one that does not answer. Pure; the clock is passed in.

It opens by the *share of time wasted*: of the seconds that calls have lately spent on the store,
those that ended in failure. Lately is this period and the one before, each as long as the store's
timeout. So once every connection in use has timed out, at least half is wasted, however much went
well before; while one slow command is no reason as long as other connections do well. Quick
failures (refused, reset) count for a millisecond, and it takes three of them.

What says nothing about the store is not recorded: that all connections are in use, that it refused
a command, that bytes could not be decoded, that a caller was cancelled.

While open, nothing is let through until the pause is over; then one call is, the probe: if it
fails the next pause is twice as long. A probe may cost its caller a whole timeout. So where
somebody *watches* the store all the time (the reader of the bus does), the pause lasts until it has
been heard from. Pauses are randomised, so that processes do not come back all at once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from enum import Enum

WASTED_SHARE = 0.5  # of the time spent, from which it opens
QUICK_FAILURES = 3  # needed to open, unless one of them took most of a timeout
LONG_SHARE = 0.8  # of the timeout: a failure that took as long opens alone
LEAST_SECONDS = 0.001  # what a failure counts at least, so that a quick one weighs something
FIRST_PAUSE = 0.2  # seconds
LONGEST_PAUSE = 2.0  # seconds: how much later than possible a store may be used again
WATCHED_PAUSE = 30.0  # seconds: should the watcher be unable to reach what callers could
RETURN_SECONDS = 0.1  # over which processes spread their return once the store is heard from
PROBE_SECONDS = 5.0  # after which a probe that has not reported is given up


class State(Enum):
    """Whether calls are let through."""

    CLOSED = "closed"  # all
    OPEN = "open"  # none
    HALF_OPEN = "half-open"  # one has been, to see


class Breaker:
    """The breaker of one store, shared by all caches on it. Safe for threads.

    Args:
        timeout: The store's, in seconds.
        draw: Gives numbers in [0, 1).
    """

    def __init__(self, timeout: float, draw: Callable[[], float] = random.random) -> None:
        self.state = State.CLOSED  # written under _lock; read without, as a hint
        self.openings = 0
        self._timeout = timeout
        self._draw = draw
        self._lock = threading.RLock()
        self._period = 0  # number of the present one, by the clock
        self._good, self._good_before = 0.0, 0.0  # seconds, of this period and of the one before
        self._bad, self._bad_before = 0.0, 0.0
        self._failures, self._failures_before = 0, 0
        self._watchers = 0  # guarded by _lock
        self._pause = FIRST_PAUSE
        self._until = 0.0  # end of the pause, or of a probe's patience

    def admits(self, now: float) -> bool:
        """Whether a call may go to the store now; in the half-open state the first one only."""
        if self.state is State.CLOSED:
            return True
        with self._lock:
            if self._is_closed():  # meanwhile
                return True
            if now < self._until:
                return False
            self.state = State.HALF_OPEN
            self._until = now + PROBE_SECONDS
            return True

    def succeeded(self, now: float, seconds: float) -> bool:
        """Record a call that the store answered; say whether that closed the breaker."""
        if self.state is State.CLOSED:
            if int(now / self._timeout) != self._period:
                self._turn(now)
            self._good += seconds
            return False
        with self._lock:
            was_open = not self._is_closed()
            self.state = State.CLOSED
            self._pause = FIRST_PAUSE
            self._forget()
            return was_open

    def failed(self, now: float, seconds: float) -> bool:
        """Record a call that failed; say whether that opened the breaker."""
        with self._lock:
            if self.state is State.HALF_OPEN:
                self._open(now)
                return False
            if self.state is State.OPEN:  # began before it opened
                return False
            self._turn(now)
            self._bad += max(seconds, LEAST_SECONDS)
            self._failures += 1
            if not self._is_bad(seconds):
                return False
            self.openings += 1
            self._open(now)
            return True

    def abstained(self) -> None:
        """Take back a probe that said nothing about the store: the next call is one."""
        with self._lock:
            if self.state is State.HALF_OPEN:
                self._until = 0.0

    def watched(self, *, begins: bool) -> None:
        """Take note that somebody begins, or ceases, to watch the store: see ``heard_from``."""
        with self._lock:
            self._watchers = max(0, self._watchers + (1 if begins else -1))

    def heard_from(self, now: float) -> None:
        """Take note that the store is alive, by another way: a call is let through soon."""
        if self.state is State.OPEN:
            with self._lock:
                self._until = min(self._until, now + RETURN_SECONDS * self._draw())

    def after_fork(self) -> None:
        """Take a new lock in a forked child, where nobody watches yet."""
        self._lock = threading.RLock()
        self._watchers = 0

    def _is_closed(self) -> bool:
        return self.state is State.CLOSED

    def _turn(self, now: float) -> None:
        """Begin the period of a moment, where it is a later one."""
        with self._lock:
            passed = int(now / self._timeout) - self._period
            if passed <= 0:
                return
            self._period += passed
            before = (self._good, self._bad, self._failures) if passed == 1 else (0.0, 0.0, 0)
            self._good_before, self._bad_before, self._failures_before = before
            self._good, self._bad, self._failures = 0.0, 0.0, 0

    def _forget(self) -> None:
        self._good = self._good_before = self._bad = self._bad_before = 0.0
        self._failures = self._failures_before = 0

    def _is_bad(self, seconds: float) -> bool:
        if (
            seconds < self._timeout * LONG_SHARE
            and self._failures + self._failures_before < QUICK_FAILURES
        ):
            return False
        bad, good = self._bad + self._bad_before, self._good + self._good_before
        return bad >= WASTED_SHARE * (bad + good)

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        pause = WATCHED_PAUSE if self._watchers else self._pause
        self._until = now + pause * (0.5 + self._draw())
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._forget()
