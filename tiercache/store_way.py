"""The short way to a value that L2 holds: one function from the arguments to the store.

Where L2 has a fresh value there is nothing to decide, and what the long way spends on deciding (a
coroutine for each question) is most of what a merged read costs. So this does, in one function,
what ``_slow``, ``Flow.read`` and `L2` do for such a call. It leads a flight like any other, since
others may join it and an invalidation must find it. What L2 does not hold goes on the long way, by
the same flight, without L2 being asked again. Whatever is not plain goes there at once: a flight to
join, a tracer, a store that does not answer or is owed something, a bus that is not open yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from .short_way import Call, Way, give_way
from .singleflight import Flight, Source
from .spec import MISS
from .tiers.breaker import State

if TYPE_CHECKING:
    from .async_runtime import AsyncPort
    from .flow import Flow
    from .l2 import L2
    from .runtime import BlockingPort, Port
    from .spec import Spec
    from .tiers.store import Stored


@dataclass(frozen=True, kw_only=True)
class StoreCall(Call):
    """What the way to L2 needs to know of the function it is for."""

    l2: L2

    def begin(self, flight: Flight) -> bool:
        """Lead a flight, where the way to L2 is clear and nobody is on it; else return False."""
        flow, l2 = self.flow, self.l2
        bus = flow.bus
        if (
            flow.telemetry.notice() is not None
            or l2.breaker.state is not State.CLOSED
            or l2.debts
            or bus is None
            or not bus.is_open
        ):
            return False
        flights = flow.flights
        # One step, that needs no lock. The era is a later one: what writes the key from here on
        # detaches the flight.
        if flights.decks[flight.deck].setdefault(flight.key, flight) is not flight:
            return False
        flight.era = flights.era
        flight.home = flow.name
        has_landed = flow.memory is not None and flight.key in flow.memory.table
        return not (has_landed and give_way(flights, flight))

    def take(
        self,
        port: Port,
        flight: Flight,
        stored: Stored | None,
        began: float,
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Land a flight with what L2 has answered, and count it; return the value, or MISS."""
        flow, spec = self.flow, self.spec
        now = monotonic()
        self.l2.health.succeeded(now, now - began)
        if stored is None:
            return MISS
        value = flow.served(port, flight, spec, stored, args, kwargs)
        if value is not MISS:
            flow.flights.land(flight, value)
            if flight.source is Source.STORE:
                spec.counters.hits_l2 += 1
            else:
                flow.count(spec, flight, leads=True)
        return value

    def failed(self, flight: Flight, error: Exception, began: float) -> None:
        """Count what L2 failed with."""
        self.l2.read_failed(error, flight.key, monotonic() - began)
        flight.skips_store = True

    def end(self, flight: Flight, error: BaseException, *, is_asking: bool) -> None:
        """Land a flight whose leader was interrupted or came to grief; not one carried beside."""
        if is_asking:
            self.l2.breaker.abstained()
        if flight.cancel is None:
            self.flow.flights.fail(flight, error, must_retry=not isinstance(error, Exception))


def may_hold(flow: Flow, spec: Spec) -> bool:
    """Whether the values of a function may be found in L2, and are looked for there first."""
    return flow.l2 is not None and spec.uses_store and not flow.hooks.guards


def blocking_store_way(call: StoreCall, port: BlockingPort) -> Way:
    """Return the way of a blocking function."""
    flow, l2, spec, text, copy = call.flow, call.l2, call.spec, call.text, call.copy
    seconds, tags, deck, begin = spec.flight_seconds, spec.tags, port.deck, call.begin

    def read(*args: Any, **kwargs: Any) -> Any:
        try:
            key = text(*args, **kwargs) if kwargs else text(*args)
        except Exception:
            key = call.key(*args, **kwargs)
        if flow.memory is not None and (value := call.nearby(args, kwargs, key)) is not MISS:
            return value if copy is None else copy(value)
        flight, value, leads, is_asking = Flight(key, deck, seconds), MISS, False, False
        try:
            leads = begin(flight)
            if leads:
                is_asking, began = True, monotonic()
                try:
                    stored = l2.namespace.read(key, tags)
                except Exception as error:
                    is_asking = False
                    call.failed(flight, error, began)
                else:
                    is_asking = False
                    value = call.take(port, flight, stored, began, args, kwargs)
                if value is MISS:
                    return call.long_way(args, kwargs, key, flight)
        except BaseException as error:
            call.end(flight, error, is_asking=is_asking)
            raise
        if not leads:
            return call.long_way(args, kwargs, key)
        return value if copy is None else copy(value)

    return read


def async_store_way(call: StoreCall, port: AsyncPort) -> Way:
    """Return the way of a function that is async."""
    flow, l2, spec, text, copy = call.flow, call.l2, call.spec, call.text, call.copy
    seconds, tags, deck, begin = spec.flight_seconds, spec.tags, port.deck, call.begin
    running_loop = port.loop

    async def read(*args: Any, **kwargs: Any) -> Any:
        try:
            key = text(*args, **kwargs) if kwargs else text(*args)
        except Exception:
            key = call.key(*args, **kwargs)
        if flow.memory is not None and (value := call.nearby(args, kwargs, key)) is not MISS:
            return value if copy is None else copy(value)
        flight = Flight(key, deck, seconds, running_loop())
        value, leads, is_asking = MISS, False, False
        try:
            leads = begin(flight)
            if leads:
                is_asking, began, namespace = True, monotonic(), l2.namespace
                try:
                    # Asked of the class: a proxy's instance may seem to have a method of any name.
                    soon = getattr(type(namespace), "read_soon", None)
                    if soon is None:
                        stored = await namespace.aread(key, tags)
                    else:  # a store that merges reads: a future, which spares a coroutine
                        stored = await soon(namespace, key, tags)
                except Exception as error:
                    is_asking = False
                    call.failed(flight, error, began)
                else:
                    is_asking = False
                    value = call.take(port, flight, stored, began, args, kwargs)
        except BaseException as error:
            call.end(flight, error, is_asking=is_asking)
            raise
        if value is MISS:
            return await call.long_way(args, kwargs, key, flight if leads else None)
        return value if copy is None else copy(value)

    return read
