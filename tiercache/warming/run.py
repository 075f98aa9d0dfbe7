"""How far one run of warming has come, how fast it may go, and what ends it early."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tiercache.errors import CircuitOpen, ConfigurationError
from tiercache.ttl import Duration, optional_seconds

log = logging.getLogger(__name__)

BURST_SECONDS = 0.02  # of a rate, whose loads may begin together

DEADLINE = "deadline"
BREAKER = "breaker"
ERRORS = "errors"
FULL = "full"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmReport:
    """What came of warming."""

    loaded: int = 0  # keys loaded, or stored from pairs
    skipped: int = 0  # keys that a tier had, a guard ruled out, or another caller is loading
    failed: int = 0  # keys whose load raised
    refused: int = 0  # of all these: values that L1 had no room for
    seconds: float = 0.0
    #: "" for the end of all sources; "deadline"; "breaker" (of the loader, or of L2 where only L2
    #: is left to warm); "errors" (too many in a row); "full" (L1, where there is no L2); "stopped".
    stopped_because: str = ""
    error: BaseException | None = None  # of the first load that failed

    @property
    def total(self) -> int:
        """Keys seen."""
        return self.loaded + self.skipped + self.failed

    def __str__(self) -> str:
        end = f", stopped: {self.stopped_because}" if self.stopped_because else ""
        return (
            f"{self.loaded} loaded, {self.skipped} skipped, {self.failed} failed "
            f"in {self.seconds:.1f} s{end}"
        )


class Pace:
    """At most so many loads per second, evenly."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1.0 / per_second
        self._next = float("-inf")  # when the next load may begin; guarded by _lock
        self._lock = threading.Lock()

    def reserve(self, count: int, now: float) -> float:
        """Reserve the next ``count`` loads; return in how many seconds they may begin."""
        with self._lock:
            begin = max(now, self._next)
            self._next = begin + count * self._interval
            return begin - now


@dataclass(frozen=True, slots=True)
class Limits:
    """How a run is to be done, checked."""

    concurrency: int
    pace: Pace | None
    most_at_once: int  # loads that are reserved together
    seconds: float | None
    errors_in_a_row: int | None

    @classmethod
    def of(
        cls,
        concurrency: int,
        rate_limit: float | None,
        deadline: Duration | None,
        stop_on_errors: int | None,
    ) -> Limits:
        """Return limits.

        Raises:
            ConfigurationError: If one is illegal.
        """
        _check_count(concurrency, "concurrency", "8 keeps a database busy")
        if stop_on_errors is not None:
            _check_count(stop_on_errors, "stop_on_errors", "None goes on whatever fails")
        if rate_limit is not None:
            _check_rate(rate_limit)
        return cls(
            concurrency,
            None if rate_limit is None else Pace(rate_limit),
            1_000_000 if rate_limit is None else max(1, int(rate_limit * BURST_SECONDS)),
            optional_seconds(deadline, name="deadline"),
            stop_on_errors,
        )


class Run:
    """One run of warming, shared by all who work on it."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.total: int | None = None  # keys to expect, where a source can tell
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        self._lock = threading.Lock()  # guards all below
        self._counts = {"loaded": 0, "skipped": 0, "failed": 0}
        self._refused = 0
        self._in_a_row = 0  # failures
        self._error: BaseException | None = None
        self._reason = ""
        self._stopping = threading.Event()

    # Counting

    def note(self, outcome: str, count: int = 1) -> None:
        """Count keys that were "loaded" or "skipped"."""
        with self._lock:
            self._counts[outcome] += count
            if outcome == "loaded" and count:
                self._in_a_row = 0

    def note_refused(self, count: int) -> None:
        """Count values that L1 had no room for."""
        with self._lock:
            self._refused += count

    def expect(self, count: int) -> None:
        """Have so many keys more shown as to come."""
        self.total = count + (self.total or 0)

    def note_error(self, error: BaseException, *, is_new: bool = True) -> None:
        """Count a key whose load failed; not ``is_new`` where its error was counted before."""
        with self._lock:
            self._counts["failed"] += 1
            self._in_a_row += is_new
            self._error = self._error or error
            most = self.limits.errors_in_a_row
            is_enough = most is not None and self._in_a_row >= most
        if isinstance(error, CircuitOpen):
            self.stop(BREAKER)
        elif is_enough:
            self.stop(ERRORS)

    # Ending

    @property
    def is_stopping(self) -> bool:
        """Whether nothing more is to be begun."""
        if self.limits.seconds is not None and self._left() <= 0:
            self.stop(DEADLINE)
        return self._stopping.is_set()

    def stop(self, reason: str) -> None:
        """Begin nothing more; the first reason counts."""
        with self._lock:
            self._reason = self._reason or reason
        self._stopping.set()

    def end(self) -> None:
        """Stop the clock."""
        self._ended = self._clock()

    def pause(self, seconds: float) -> bool:
        """Wait, unless the run is stopped meanwhile; say whether to go on."""
        self._stopping.wait(self.within(seconds))
        return not self.is_stopping

    def within(self, seconds: float) -> float:
        """Return how long to wait when the run may end before."""
        return seconds if self.limits.seconds is None else max(0.0, min(seconds, self._left()))

    def delay(self, count: int) -> float:
        """Return in how many seconds so many loads may begin."""
        pace = self.limits.pace
        return 0.0 if pace is None else pace.reserve(count, self._clock())

    def _left(self) -> float:
        assert self.limits.seconds is not None
        return self._began + self.limits.seconds - self._clock()

    def report(self) -> WarmReport:
        """Return what has come of it so far."""
        ended = self._clock() if self._ended is None else self._ended
        with self._lock:
            return WarmReport(
                **self._counts,
                refused=self._refused,
                seconds=ended - self._began,
                stopped_because=self._reason,
                error=self._error,
            )


def _check_count(count: object, name: str, hint: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigurationError(f"{name} must be a whole number >= 1, got {count!r}; {hint}")


def _check_rate(rate: object) -> None:
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not is_number or not 0 < rate < float("inf"):  # type: ignore[operator]
        raise ConfigurationError(
            f"rate_limit must be loads per second > 0, got {rate!r}; None for no limit"
        )
