"""Values that need not be waited for: served while they are loaded again behind the caller's back.

A value of L1 or L2 may be *due*: about to go stale (``refresh_ahead``), or stale and servable while
it is revalidated. Its reader gets it at once, and the first such reader sets off one refresh: a
flight of its own, which nobody waits for, and which whoever misses the key meanwhile joins. In the
cluster its lease is only tried for: where another process has it, that one's value will come.

A value that is stale beyond that is a miss; it is served all the same where its load fails
(``stale_if_error``), or takes longer than ``soft_timeout``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine, Sequence
from functools import partial
from time import monotonic
from typing import Any

from .entry import Entry, LastingEntry, Standing
from .errors import CacheError, ConfigurationError
from .lives import is_drawn
from .lookup import Lookup
from .pauses import Pauses
from .runtime import Port
from .singleflight import Flight, Source
from .spec import MISS, Spec
from .telemetry import NO_STEP, names

BUSY_SECONDS = 0.1  # until a refresh that found no thread is tried again


class Refreshing(Lookup):
    """The tiers of one cache, with values served while they are refreshed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pauses = Pauses()

    def after_fork(self) -> None:
        """Forget the parent's flights in a forked child."""
        super().after_fork()
        self.pauses.after_fork()

    @abstractmethod
    def fly(
        self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Coroutine[Any, Any, None]:
        """Load, and bring a flight its value or its error; whatever happens, it lands."""

    def nearby(
        self, port: Port, spec: Spec, key: str, args: Any, kwargs: Any
    ) -> tuple[Any, Entry | None]:
        """Return what L1 has for a caller who would load, or MISS; and the entry that was hit.

        A value that is due is refreshed behind. A remembered error is raised.
        """
        era = self.flights.era
        found = self.fresh(key)
        if found is None:
            if not spec.keep:
                return MISS, None
            return self._stale_nearby(port, spec, key, args, kwargs), None
        entry, value = found
        if entry.__class__ is LastingEntry:
            at_stake = self.at_stake(spec, entry, value)
            if at_stake is not None:
                self.refresh_behind(port, spec, key, at_stake, era, args, kwargs)
        if self.telemetry.traces_hits:
            return self.trace_hit(spec.function_name, entry, value), entry
        return self.hit(entry, value), entry

    def _stale_nearby(self, port: Port, spec: Spec, key: str, args: Any, kwargs: Any) -> Any:
        """Return a stale value of L1, as a read of its own, or MISS."""
        spans = self.telemetry.notice()
        if spans is None:
            return self._serve_stale(port, spec, key, args, kwargs)
        found = self.standing(key)
        if found is None or not self.may_skip_waiting(spec, key, found):
            return MISS
        with spans.get(spec.function_name, key) as step:
            value = self._serve_stale(port, spec, key, args, kwargs)
            step.answered(names.MISS if value is MISS else names.STALE, self.age(found))
        return value

    def at_stake(self, spec: Spec, entry: LastingEntry, value: Any) -> Standing | None:
        """Return what a fresh value of L1 stands for where it is due, else None."""
        now, record = self.time(), entry.record
        if entry.fresh_until > now or record is None or not spec.refreshes_ahead:
            return None
        key, stale_at = entry.key, entry.stale_at
        if self.pauses.holds(key, now) or not is_drawn(spec, stale_at - now, record):
            return None
        return Standing(value, stale_at, entry.kept_until, record, entry.hits, entry.tags)

    def _serve_stale(self, port: Port, spec: Spec, key: str, args: Any, kwargs: Any) -> Any:
        """Return a stale value of L1 that may be served without waiting, or MISS."""
        era = self.flights.era
        found = self.standing(key)
        if found is None or not self.need_not_wait(port, spec, key, found, era, args, kwargs):
            return MISS
        self.note_stale(spec, key, found)
        return found.value

    def need_not_wait(
        self, port: Port, spec: Spec, key: str, found: Standing, era: int, args: Any, kwargs: Any
    ) -> bool:
        """Whether a stale value is served at once, and refreshed behind if it is due."""
        if not self.may_skip_waiting(spec, key, found):
            return False
        if not self.is_paused(key):
            self.refresh_behind(port, spec, key, found, era, args, kwargs)
        return True

    def may_skip_waiting(self, spec: Spec, key: str, found: Standing) -> bool:
        """Whether a stale value is served at once.

        Also where it is served on error, and its load has failed a moment ago.
        """
        now = self.time()
        if now < found.stale_at + spec.stale_while_revalidate:
            return True
        return now < found.stale_at + spec.stale_if_error and self.pauses.holds(key, now)

    def is_paused(self, key: str) -> bool:
        """Whether a key is not to be refreshed for now."""
        return self.pauses.holds(key, self.time())

    def refresh_behind(
        self, port: Port, spec: Spec, key: str, found: Standing, era: int, args: Any, kwargs: Any
    ) -> None:
        """Load a key again in the background, unless that is under way.

        Args:
            port: The caller's.
            spec: Of the function.
            key: The key.
            found: What is served meanwhile.
            era: Of the flights, from before that was found.
            args: Of the call.
            kwargs: Of the call.
        """
        flight = self.board_refresh(port, key, found, era, spec.flight_seconds)
        if flight is None:
            return
        work = partial(self.fly, port, flight, spec, args, kwargs or {})
        spans = self.telemetry.notice()
        if spans is not None:
            cause = spans.current()
            work = partial(self.fly_apart, cause, port, flight, spec, args, kwargs or {})
        if not port.carry([flight], work, is_refresh=True):
            self.postpone([flight])

    def board_refresh(
        self, port: Port, key: str, found: Standing, era: int, seconds: float
    ) -> Flight | None:
        """Start a flight that replaces what is served meanwhile; None: there need be none.

        One is under way; or the key was invalidated since: who joins the flight must not be
        served what was found before.
        """
        flights = self.flights
        with flights.lock:
            if not flights.lasts(era, key):
                return None
            flight, leads = flights.board(key, port.deck, seconds, port.loop())
            if not leads:
                flight.passengers -= 1
                if flight.deadline > monotonic():
                    return None
                # It hangs, and nobody follows it who would leave it behind.
                flight = flights.replace(key, port.deck, seconds, port.loop())
            flight.renews = True
            flight.stale = found
            return flight

    def postpone(self, flights: Sequence[Flight]) -> None:
        """End refreshes that there is no thread for."""
        until = self.time() + BUSY_SECONDS
        for flight in flights:
            self.pauses.hold(flight.key, until)
            self.flights.fail(flight, CacheError("no thread for a refresh"), must_retry=True)

    async def fly_apart(
        self, cause: Any, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> None:
        """Fly in a trace of its own, linked to the one that set it off."""
        spans = self.telemetry.spans
        step = NO_STEP
        if spans is not None:
            step = spans.refresh(spec.function_name, flight.key, cause)
        with step:
            await self.fly(port, flight, spec, args, kwargs)
            step.kept(flight.ttl)
            if flight.error is not None:
                step.failed(flight.error)

    # Where a load does not bring a value, or not in time

    def servable(self, spec: Spec, flight: Flight) -> Standing | None:
        """Return the stale value that stands in for what a flight does not bring."""
        if not spec.keep:
            return None
        found = flight.stale or self.standing(flight.key)
        return found if found is not None and self._lasts(found, spec.keep) else None

    def fall_back(self, spec: Spec, flight: Flight) -> Flight:
        """Return a failed flight, or one that brought the stale value in its place."""
        if not spec.stale_if_error or not _may_be_hidden(spec, flight.error):
            return flight
        found = flight.stale or self.standing(flight.key)
        if found is None or not self._lasts(found, spec.stale_if_error):
            return flight
        return self.stale_flight(flight, found)

    def _lasts(self, found: Standing, seconds: float) -> bool:
        """Whether a value may be served yet that may be so many seconds stale."""
        return self.time() < min(found.stale_at + seconds, found.kept_until)

    def stale_flight(self, flight: Flight, found: Standing) -> Flight:
        """Return a landed flight that brought a stale value."""
        served = Flight(flight.key, flight.deck, 0.0, flight.loop)
        served.source, served.stale = Source.STALE, found
        served.value = found.value
        served.has_landed = True
        return served

    def note_failure(self, flight: Flight, spec: Spec) -> None:
        """Leave a key alone for a while whose value could not be replaced."""
        found = flight.stale
        if found is None or is_answer(spec, flight.error):
            return
        now, ttl = self.time(), None if found.record is None else found.record.ttl
        until = self.pauses.failed(flight.key, now, spec.ttl if ttl is None else ttl)
        self._rest(flight.key, until)
        if flight.renews:
            spec.counters.refresh_errors += 1
            self.tell("refresh_failed", flight.key, cause=type(flight.error).__name__)

    def put_off(self, flight: Flight, seconds: float) -> None:
        """Leave a key alone that another process is loading."""
        until = self.time() + seconds
        self.pauses.hold(flight.key, until)
        self._rest(flight.key, until)

    def _rest(self, key: str, until: float) -> None:
        """Have a fresh value served without a thought until its refresh is tried again."""
        if self.memory is not None:
            self.memory.let_rest(key, until)

    def note_stale(self, spec: Spec, key: str, found: Standing) -> None:
        """Count a stale answer."""
        spec.counters.stale_served += 1
        self.telemetry.served_stale(self.age(found))
        self.tell("stale_served", key, seconds=self.age(found))


def _may_be_hidden(spec: Spec, error: BaseException | None) -> bool:
    """Whether a stale value may stand in for an error: not for one that is an answer."""
    if not isinstance(error, Exception) or isinstance(error, ConfigurationError):
        return False
    return not is_answer(spec, error)


def is_answer(spec: Spec, error: BaseException | None) -> bool:
    """Whether an error is one that a function is known to answer with."""
    return bool(spec.negative_errors) and isinstance(error, spec.negative_errors)
