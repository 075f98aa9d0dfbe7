"""Time as the cache sees it: monotonic, and cheap enough to read on every hit.

``time.monotonic()`` costs as much as half an L1 hit, so a hit compares with an attribute instead,
``clock.now``, which a thread advances every TICK seconds while the process is using the cache.

A clock that stands still would serve expired entries for ever, so ``now`` is finite only while
the thread runs: it *parks* once a second by setting ``now`` to infinity. Nothing is fresh at
infinity; the next read takes the slow path, sets the true time and wakes the thread. An idle
process therefore has no wake-ups, and a forked child, where the thread is gone, heals itself.

An entry may so be served for up to TICK plus one switch of the interpreter's lock after its
expiry: 20 ms on an idle machine. ``Cache(clock=time.monotonic)`` reads the true time per hit.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Protocol, runtime_checkable

from .errors import ConfigurationError

TICK = 0.01  # seconds
TICKS_UNTIL_PARKED = 100


@runtime_checkable
class Clock(Protocol):
    """Seconds since some start, never going back."""

    @property
    def now(self) -> float:
        """At most slightly behind the true time; infinity while nobody advances it."""
        ...

    def __call__(self) -> float:
        """Return the true time."""
        ...

    def awaken(self) -> None:
        """Have ``now`` advanced for a while."""
        ...


class CoarseClock:
    """The process's clock: ``time.monotonic()``, kept in ``now`` by a thread while it is needed."""

    def __init__(self) -> None:
        self.now = inf  # finite only while a ticker runs, or has been told to
        self._lock = threading.RLock()
        self._ticker: _Ticker | None = None  # guarded by _lock

    def __call__(self) -> float:
        return time.monotonic()

    def awaken(self) -> None:
        """Start the ticker, or wake it where it is parked; ``now`` is right at once."""
        with self._lock:
            if self._ticker is None:
                self._ticker = _Ticker(self)
                self._ticker.start()
            self.now = time.monotonic()
            self._ticker.unpark()

    def park(self, ticker: _Ticker) -> bool:
        """Have nothing served from now on, as a ticker is about to stand still.

        False if it has been stopped, and another may run.
        """
        with self._lock:
            if self._ticker is not ticker:
                return False
            self.now = inf
            ticker.is_parked = True
            return True

    def stop(self) -> None:
        """End the ticker; the next read that needs it starts another."""
        with self._lock:
            ticker, self._ticker = self._ticker, None
            if ticker is None:
                return
            ticker.is_stopped = True
            ticker.unpark()
        ticker.join()
        with self._lock:
            if self._ticker is None:
                self.now = inf

    def after_fork(self) -> None:
        """Forget the parent's ticker and whatever it held."""
        self.__init__()  # type: ignore[misc]


class _Ticker(threading.Thread):
    """Advances a clock; parks every second, and goes on when it is told to.

    Where it would stand still it has set ``now`` to infinity under the clock's lock, under which
    it is also told to go on: so ``now`` is never finite while nobody advances it.
    """

    def __init__(self, clock: CoarseClock) -> None:
        super().__init__(name="tiercache-clock", daemon=True)
        self.is_parked = False  # guarded by the clock's lock
        self.is_stopped = False
        self._clock = clock
        # A bare lock, not an Event: a signal handler may interrupt its own thread in here.
        self._gate = threading.Lock()
        self._gate.acquire()

    def unpark(self) -> None:
        """Go on; the clock's lock is held."""
        if self.is_parked:
            self.is_parked = False
            self._gate.release()

    def run(self) -> None:
        while not self.is_stopped:
            for _ in range(TICKS_UNTIL_PARKED):
                if self.is_stopped:
                    return
                self._clock.now = time.monotonic()
                time.sleep(TICK)
            if self._clock.park(self):
                self._gate.acquire()  # released once for each time it was parked


class PreciseClock:
    """A clock read anew on each hit: exact expiry, for about 40 ns a hit."""

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        self._read = read

    @property
    def now(self) -> float:
        return self._read()

    def __call__(self) -> float:
        return self._read()

    def awaken(self) -> None:
        """There is nothing to wake."""


coarse_clock = CoarseClock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=coarse_clock.after_fork)


def as_clock(clock: Callable[[], float] | None) -> Clock:
    """Return the clock for ``Cache(clock=)``: None is the shared coarse one."""
    if clock is None:
        return coarse_clock
    if isinstance(clock, Clock):
        return clock
    if callable(clock):
        return PreciseClock(clock)
    raise ConfigurationError(
        f"clock must be a callable that returns seconds, got {clock!r}; "
        "use time.monotonic for exact expiry"
    )
