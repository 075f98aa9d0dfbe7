"""One circuit: pybreaker's state machine, driven from outside.

pybreaker decides which state follows which. All else is ours, since its own ``call()`` runs the
function under a lock, knows no asyncio, counts cancellation as a failure, lets everybody through
when half-open, and orders by the wall clock:

- *Admission* is by ``storage.state`` and by our clock. pybreaker notes when it opened by the wall
  clock, and lets itself half-open by that; so nothing is told to it while it is open.
- *Half-open* there is one permit for a probe. One that has not ended after ``reset_timeout`` (it
  hangs) is written off: another may try.
- *What came of a load* is told after the fact, as a call that does nothing, or only raises.
- A permit is the number of the *era* in which it was given; each change of state begins another. A
  load that began in an earlier era says nothing about this one: it neither closes a circuit that
  has opened since, nor opens one that has closed.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import pybreaker

from ._forks import heal_after_fork
from ._window import Window

log = logging.getLogger(__name__)

CLOSED, OPEN, HALF_OPEN = (
    pybreaker.STATE_CLOSED,
    pybreaker.STATE_OPEN,
    pybreaker.STATE_HALF_OPEN,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """When a circuit opens, and for how long."""

    fail_max: int | None  # failures in a row
    failure_rate: float | None  # of the calls in the window, if they are min_calls or more
    window: float  # seconds
    min_calls: int
    reset_timeout: float  # seconds


@dataclass(frozen=True, slots=True)
class Change:
    """A circuit went over from one state into another."""

    circuit: str
    old: str
    new: str
    seconds: float  # open: until the next probe; else: since the outage began
    refused: int  # loads, since the outage began


class Hearer(Protocol):
    """Somebody to tell of changes."""

    def hear(self, change: Change) -> None:
        """Hear of a change; called without a lock."""


class _Failure(Exception):
    """Stands for a load's error: raising that one again would write into its traceback."""


class Circuit:
    """A circuit that loads pass, of any thread and event loop."""

    def __init__(self, name: str, settings: Settings, clock: Callable[[], float]) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.failures = 0  # ever
        self.refused = 0  # ever
        self._hearers: weakref.WeakSet[Hearer] = weakref.WeakSet()  # guarded by _lock
        self._window = None if settings.failure_rate is None else Window(settings.window)
        self.after_fork()
        heal_after_fork(self)

    def after_fork(self) -> None:
        """Begin closed, with locks of our own."""
        self._lock = threading.RLock()  # guards all below; a finalizer may load within
        self._storage = pybreaker.CircuitMemoryStorage(CLOSED)
        self._machine = self._new_machine()
        self._era = 0
        self._opened_at = 0.0
        self._failing_since = 0.0  # when it last left closed
        self._refused_before = self.refused  # by then
        self._probe_began: float | None = None
        self._changes: list[Change] = []  # not told yet
        if self._window is not None:
            self._window.clear()

    def _new_machine(self) -> pybreaker.CircuitBreaker:
        return pybreaker.CircuitBreaker(
            fail_max=self.settings.fail_max or sys.maxsize,
            reset_timeout=self.settings.reset_timeout,
            listeners=[_Listener(self)],
            state_storage=self._storage,
            name=self.name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` or ``"half-open"``."""
        return self._storage.state

    # Admission

    def admit(self) -> tuple[int, float]:
        """Return a permit for one load and 0; or, where there is none, in how many seconds, > 0."""
        era = self._era  # read before the state: of an era that has ended, a permit says nothing
        if self._storage.state == CLOSED:
            return era, 0.0
        with self._lock:
            if self._storage.state == CLOSED:
                return self._era, 0.0
            wait = self._seconds_to_wait(self.clock())
            if wait > 0:
                self.refused += 1
                return self._era, wait
            return self._admit_probe(), 0.0

    def _seconds_to_wait(self, now: float) -> float:
        begun = self._opened_at if self._storage.state == OPEN else self._probe_began
        return 0.0 if begun is None else begun + self.settings.reset_timeout - now

    def _admit_probe(self) -> int:
        if self._storage.state == OPEN:
            self._machine.half_open()
        else:
            self._era += 1  # of a probe before this one, nothing is heard any more
        self._probe_began = self.clock()
        return self._era

    # What came of it

    def succeeded(self, permit: int) -> None:
        """Note that a load returned."""
        if self._window is None and not self._storage.counter and self._storage.state == CLOSED:
            return  # it would change nothing
        with self._lock:
            if permit != self._era or self._storage.state == OPEN:
                return
            if self._window is not None:
                self._window.add(self.clock(), failed=False)
            if self._storage.counter or self._storage.state != CLOSED:
                self._machine.call(_return)

    def failed(self, permit: int) -> None:
        """Note that a load raised."""
        with self._lock:
            self.failures += 1
            if permit != self._era or self._storage.state == OPEN:
                return
            with suppress(_Failure):
                self._machine.call(_fail)
            if self._window is not None and self._storage.state == CLOSED:
                self._judge_rate(self._window, self.clock())

    def gave_up(self, permit: int) -> None:
        """Note that a load ended with nothing said: another may be the probe."""
        with self._lock:
            if permit == self._era:
                self._probe_began = None

    def _judge_rate(self, window: Window, now: float) -> None:
        window.add(now, failed=True)
        calls, failures = window.counts(now)
        rate = self.settings.failure_rate or 1.0
        if calls >= self.settings.min_calls and failures >= rate * calls:
            self._machine.open()

    # Changes

    def changed(self, old: str, new: str) -> None:
        """Hear of a change from pybreaker; called with the lock."""
        now = self.clock()
        self._era += 1
        self._probe_began = None
        if new == OPEN:
            self._opened_at = now
        if old == CLOSED:
            self._failing_since, self._refused_before = now, self.refused
        if new == CLOSED and self._window is not None:
            self._window.clear()  # what failed then is not to open it again
        lasts = self.settings.reset_timeout if new == OPEN else now - self._failing_since
        refused = self.refused - self._refused_before
        self._changes.append(Change(self.name, old, new, lasts, refused))

    def tell_to(self, hearer: Hearer) -> None:
        """Have somebody told of changes from now on, as long as they live."""
        with self._lock:
            self._hearers.add(hearer)

    def tell(self) -> None:
        """Tell of what has changed, each change once. Called without a lock."""
        if not self._changes:
            return
        with self._lock:
            changes, self._changes = self._changes, []
            hearers = list(self._hearers)
        for change in changes:
            _log(change, self.failures)
            for hearer in hearers:
                hearer.hear(change)


class _Listener(pybreaker.CircuitBreakerListener):
    """Passes on changes."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        self._circuit.changed("" if old_state is None else old_state.name, new_state.name)


def _log(change: Change, failures: int) -> None:
    """Say when an outage begins and when it has ended; nothing of the probes between."""
    if change.old == CLOSED:
        log.warning(
            "breaker of %s opened; one load tries again in %g s (%d failures so far)",
            change.circuit,
            change.seconds,
            failures,
        )
    elif change.new == CLOSED:
        log.warning(
            "breaker of %s closed after %.1f s; %d loads were refused",
            change.circuit,
            change.seconds,
            change.refused,
        )


def _return() -> None:
    pass


def _fail() -> None:
    raise _Failure
