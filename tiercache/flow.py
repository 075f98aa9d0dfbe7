"""What happens after an L1 miss: join the flight, read L2, take the lease, load, fill.

Written once, as ``async def`` over a port (see runtime.py). Here is who leads and who follows; what
a leader does once it must load is in loading.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .entry import Standing
from .load import Load
from .loading import Loading
from .runtime import BoxedStop, Port
from .singleflight import Flight, Source, loading_now, waits_for_itself
from .spec import MISS, Spec
from .telemetry import NO_STEP, Step, names
from .tiers.store import Kind

if TYPE_CHECKING:
    from .tiers.store import Stored


_OUTCOMES = {
    Source.MEMORY: names.L1_HIT,
    Source.STORE: names.L2_HIT,
    Source.LOAD: names.LOADED,
    Source.GUARD: names.ABSENT,
    Source.PEER: names.JOINED,
    Source.STALE: names.STALE,
}


class Flow(Loading):
    """The read path of one cache behind its L1."""

    # Flights

    async def read(
        self,
        port: Port,
        spec: Spec,
        key: str,
        args: Any = (),
        kwargs: Any = None,
        step: Step | None = None,
        led: Flight | None = None,
    ) -> Flight:
        """Return the landed flight that brought the value of a key.

        ``led``: one that this caller leads already, and for which L2 has been asked.
        """
        if step is None and (spans := self.telemetry.notice()) is not None:
            call = spans.get(spec.function_name, key)
            return await self._read_traced(call, port, spec, key, args, kwargs, led)
        while True:
            flight, leads = self._board(port, spec, key, led)
            has_looked, led = led is not None, None
            if leads:
                try:
                    await self._lead(port, flight, spec, args, kwargs or {}, has_looked=has_looked)
                except BaseException as error:
                    # Deep in a recursion there may have been no stack left to land.
                    if port.leads_inline and flight.cancel is None:  # else it is carried beside
                        self.flights.fail(flight, error)
                    raise
            elif not loading_now.get() and not waits_for_itself(flight):
                await self._wait_for(port, flight, self.patience(spec, flight))
            elif not await self.follow(port, flight, self.patience(spec, flight)):
                return await self.run_directly(port, flight, spec, args, kwargs or {})
            landed = self.landed(spec, flight)
            if landed is not None:
                self.count(spec, landed, leads=leads)
                if step is not None:
                    self.tell_answer(step, flight, landed, leads=leads)
                return landed

    def _board(self, port: Port, spec: Spec, key: str, led: Flight | None) -> tuple[Flight, bool]:
        if led is not None:
            return led, True
        return self.flights.board(key, port.deck, spec.flight_seconds, port.loop())

    async def _read_traced(
        self,
        step: Step,
        port: Port,
        spec: Spec,
        key: str,
        args: Any,
        kwargs: Any,
        led: Flight | None,
    ) -> Flight:
        with step:
            step.answered(names.LOADED)  # so it is where a load asks for its own key
            landed = await self.read(port, spec, key, args, kwargs, step, led)
            # What a guard raises is its answer, and no failure.
            if landed.error is not None and landed.source is not Source.GUARD:
                step.failed(landed.error)
        return landed

    def patience(self, spec: Spec, flight: Flight) -> float | None:
        """Return how long to wait for a flight where there is a stale value to go on with."""
        if spec.soft_timeout is None or self.servable(spec, flight) is None:
            return None
        return spec.soft_timeout

    def landed(self, spec: Spec, flight: Flight) -> Flight | None:
        """Return a flight that brought an answer, if a stale one; None: try again."""
        if flight.has_landed and not flight.must_retry:
            return flight if flight.error is None else self.fall_back(spec, flight)
        if spec.soft_timeout is None or (found := self.servable(spec, flight)) is None:
            return None
        if not flight.has_landed:
            self.flights.leave(flight)
        return self.stale_flight(flight, found)

    async def _lead(
        self,
        port: Port,
        flight: Flight,
        spec: Spec,
        args: Any,
        kwargs: Any,
        *,
        has_looked: bool = False,
    ) -> None:
        """Bring a flight what is there already, else load."""
        try:
            value = MISS if has_looked else self.look_nearby(flight)
            if value is MISS and self.l2 is not None and not has_looked:
                value = await self._look_in_store(port, flight, spec, args, kwargs)
            if value is MISS and spec.keep and flight.stale is None:
                flight.stale = self.standing(flight.key)
        except Exception as error:
            self.flights.fail(flight, error)
            return
        except BaseException as error:
            self.flights.fail(flight, error, must_retry=True)
            raise
        if value is not MISS:
            self.flights.land(flight, value)
            return
        if (
            spec.soft_timeout is not None
            and flight.stale is not None
            and await self._lead_behind(port, flight, spec, args, kwargs)
        ):
            return
        fly = self.fly(port, flight, spec, args, kwargs)
        if port.leads_inline:
            await fly
        else:
            await port.lead(self.flights, flight, fly, spec)

    async def _look_in_store(
        self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Any:
        """Return what L2 holds, if it may be served, or MISS."""
        assert self.l2 is not None
        await self.listen(port)
        if not spec.uses_store:
            return MISS
        stored, has_answered = await self.l2.try_to_read(port, flight.key, spec.tags)
        flight.skips_store = not has_answered
        if stored is None:
            return MISS
        return self.served(port, flight, spec, stored, args, kwargs)

    def served(
        self, port: Port, flight: Flight, spec: Spec, stored: Stored, args: Any, kwargs: Any
    ) -> Any:
        """Return what L2 holds, if it may be served, or MISS; note on the flight what is stale."""
        value = self.promote(flight, spec, stored)
        found = flight.stale
        if value is not MISS or found is None:
            return value
        flight.source = Source.STORE  # so far
        if spec.keep and self._serves_stale_first(port, flight, spec, found, args, kwargs):
            return found.value
        return MISS

    def _serves_stale_first(
        self, port: Port, flight: Flight, spec: Spec, found: Standing, args: Any, kwargs: Any
    ) -> bool:
        """Whether a stale value of L2 is served at once; its refresh takes this flight's place."""
        with self.flights.lock:
            is_current = self.flights.is_current(flight)
            self.flights.detach_flight(flight)
            if is_current and self.need_not_wait(
                port, spec, flight.key, found, self.flights.era, args, kwargs
            ):
                flight.source = Source.STALE
                return True
            if is_current:
                self.flights.attach(flight)
        return False

    async def _lead_behind(
        self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> bool:
        """Have a flight carried beside its caller, who waits for so long; False: no room."""
        with self.flights.lock:
            flight.passengers += 1  # that one goes on whoever leaves
        work = partial(self.fly, port, flight, spec, args, kwargs)
        if not port.carry([flight], work, is_refresh=False):
            with self.flights.lock:
                flight.passengers -= 1
            return False
        await port.follow(self.flights, flight, spec.soft_timeout)
        return True

    async def refresh(
        self,
        port: Port,
        spec: Spec,
        key: str,
        args: Any,
        kwargs: Any,
        step: Step | None = None,
    ) -> Flight:
        """Load a key again, whatever the tiers hold; return the landed flight.

        A load that is under way may have read before the caller's reason to refresh: it goes on
        for those who wait for it, but this one takes its place.
        """
        if step is None and (spans := self.telemetry.notice()) is not None:
            with spans.explicit_refresh(spec.function_name, key) as call:
                flight = await self.refresh(port, spec, key, args, kwargs, call)
                call.kept(flight.ttl)
                if flight.error is not None:
                    call.failed(flight.error)
                return flight
        await self.listen(port)
        while True:
            with self.flights.lock:
                self.flights.detach(key)
                flight = self.flights.replace(key, port.deck, spec.flight_seconds, port.loop())
            flight.replaces = True
            flight.stale = self.standing(key)
            fly = self.fly(port, flight, spec, args, kwargs)
            await port.lead(self.flights, flight, fly, spec)
            if flight.has_landed and not flight.must_retry:
                return flight

    async def follow(self, port: Port, flight: Flight, seconds: float | None = None) -> bool:
        """Wait for a flight; False where that would be for ever, with the flight left."""
        mine = [outer for outer in loading_now.get() if not outer.has_landed]
        if waits_for_itself(flight) or self.flights.would_deadlock(flight, mine):
            self.flights.leave(flight)
            return False
        try:
            await self._wait_for(port, flight, seconds)
        finally:
            self.flights.stop_waiting(flight, mine)
        return True

    async def _wait_for(self, port: Port, flight: Flight, seconds: float | None) -> None:
        spans = self.telemetry.spans
        with NO_STEP if spans is None else spans.wait(flight):
            await self.wait_for(port, flight, seconds)

    async def wait_for(self, port: Port, flight: Flight, seconds: float | None) -> None:
        """Wait until a flight has landed, or is overdue and detached; or so many seconds."""
        await port.follow(self.flights, flight, seconds)
        if (
            seconds is None
            and not flight.has_landed
            and flight.lease is not None
            and self.claims is not None
        ):
            # Overdue, and detached: its successor must not wait for the lease that it left.
            await self.claims.give_up(port, [flight], Kind.LANDED)

    async def run_directly(
        self, port: Port, shared: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Flight:
        """Answer a load that asks for a key it is itself loading: by the function alone."""
        flight = Flight(shared.key, shared.deck, spec.load_seconds, port.loop())
        spans = self.telemetry.spans
        try:
            with NO_STEP if spans is None else spans.load(spec.function_name, flight):
                value = await port.call(spec.function, args, kwargs, spec.timeout)
        except BoxedStop as box:
            self.flights.fail(flight, box.error)
        except Exception as error:
            self.flights.fail(flight, error)
        else:
            self.flights.land(flight, value)
        return flight

    def tell_answer(self, step: Step, flight: Flight, landed: Flight, *, leads: bool) -> None:
        """Say how a call was answered: by a flight, or by a stale value in its place."""
        if isinstance(flight.load, Load):
            step.note_all(flight.load.notes)
        found = landed.stale if landed.source is Source.STALE else None
        age = None if found is None else self.age(found)
        step.answered(outcome(landed.source, leads=leads), age)
        step.kept(landed.ttl)

    def count(self, spec: Spec, flight: Flight, *, leads: bool) -> None:
        """Count a call by what answered it: each call once."""
        source = flight.source
        if source is Source.LOAD or source is Source.PEER:
            spec.counters.misses += 1
            if not leads or source is Source.PEER:
                spec.counters.joined += 1
        elif source is Source.STORE:
            spec.counters.hits_l2 += 1
        elif source is Source.GUARD:
            spec.counters.absent += 1
        elif source is Source.STALE:
            if flight.stale is not None:
                self.note_stale(spec, flight.key, flight.stale)
        elif not leads and self.memory is not None:
            entry = self.memory.get(flight.key)
            if entry is not None:
                self.memory.touch(entry)


def outcome(source: Source, *, leads: bool) -> str:
    """Return what spans call an answer."""
    if source is Source.LOAD and not leads:
        return names.JOINED
    return _OUTCOMES[source]
