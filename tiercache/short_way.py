"""The short way of a plain load: in a cache of memory alone, with nothing around it.

It does what ``_slow`` and ``Flow.read`` do for such a call, in one function, since the long way
costs more than many a function that is cached: coroutines, looks at what is not there, and 0.1 us
for each function that is called on the way. Whatever is not plain after all takes the long way,
before anything was done: a flight to join, a tracer, what is written behind. A loader that has
asked for its ``current_load()`` has its value kept as on the long way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from .entry import Entry
from .load import Load
from .loading import refuse_coroutine
from .runtime import run
from .singleflight import Deck, Flight, Flights, loading_now
from .spec import MISS
from .stats import SUMMED_UP_AT

if TYPE_CHECKING:
    from .flow import Flow
    from .runtime import BlockingPort, Port
    from .spec import Spec
    from .tiers.memory import Removed

#: From the arguments of a call to its answer, or to an awaitable of it.
Way = Callable[..., Any]

ELSEWHERE: Final = object()  # in a value's place, where it is to be had on the long way

#: What keeps the value of a load that took so many seconds, lands its flight, and counts it.
Keep = Callable[["Flights", Flight, Any, float], None]


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a short way needs to know of the function it is for."""

    flow: Flow
    spec: Spec
    text: Callable[..., str]  # from arguments to key; it may raise anything
    key: Callable[..., str]  # the same, which says what is wrong with the arguments
    nearby: Callable[[Any, Any, str], Any]  # from args, kwargs and key to what L1 holds, or MISS
    long_way: Callable[..., Any]  # given args, kwargs, key, and the flight to go on with, if any
    copy: Callable[[Any], Any] | None


def is_plain(flow: Flow, spec: Spec) -> bool:
    """Whether the loads of a function may go the short way."""
    hooks = flow.hooks
    return (
        flow.l2 is None
        and flow.memory is not None
        and not flow.memory.weighs
        and not (hooks.plugins or spec.keep or spec.refreshes_ahead)
        and spec.timeout is None
        and spec.negative_ttl is None
        and not (spec.when or spec.ttl_of or spec.tags_of or spec.tags or spec.negative_errors)
    )


def blocking_way(call: Call, port: BlockingPort) -> Way:
    """Return the short way of a blocking function."""
    flow, memory, spec, text, copy = call.flow, call.flow.memory, call.spec, call.text, call.copy
    function, seconds, outer = spec.function, spec.load_seconds, loading_now.get
    counters, coroutine = spec.counters, CoroutineType
    assert function is not None
    assert memory is not None
    notice, describe, blocking = flow.telemetry.notice, flow.describe, Deck.BLOCKING
    enter, leave, keep = loading_now.set, loading_now.reset, keeper(call)

    def load(*args: Any, **kwargs: Any) -> Any:
        try:
            key = text(*args, **kwargs) if kwargs else text(*args)
        except Exception:
            key = call.key(*args, **kwargs)
        if key in memory.table and (value := call.nearby(args, kwargs, key)) is not MISS:
            return value if copy is None else copy(value)
        if notice() is not None or flow.overlay is not None:
            return call.long_way(args, kwargs, key)
        flight, flights, value = Flight(key, blocking, seconds), flow.flights, ELSEWHERE
        try:
            # One step, that needs no lock. The era is a later one: what writes the key from here on
            # detaches the flight.
            if flights.decks[blocking].setdefault(key, flight) is flight and not (
                key in memory.table and give_way(flights, flight)
            ):
                flight.era = flights.era
                maker: Any = describe, spec, args, kwargs, False
                flight.load = maker
                flight.tags = ()
                around = outer()
                token = enter((flight, *around) if around else (flight,))
                began = perf_counter()
                try:
                    value = function(*args, **kwargs) if kwargs else function(*args)
                except Exception as error:
                    flow.note_error(flight, spec, error, perf_counter() - began)
                    raise
                finally:
                    leave(token)
                took = perf_counter() - began
                if value.__class__ is coroutine or flight.load.__class__ is Load:
                    value = run(keep_as_told(call, port, flight, value, took))
                else:
                    keep(flights, flight, value, took)
                counters.misses += 1
        except BaseException as error:
            fail(call, port, flight, error)
            raise
        if value is ELSEWHERE:
            return call.long_way(args, kwargs, key)
        return value if copy is None else copy(value)

    return load


def give_way(flights: Flights, flight: Flight) -> bool:
    """Free a key for whose value somebody has landed since this caller looked; say that it is."""
    flights.fail(flight, Retry(), must_retry=True)
    return True


def keeper(call: Call) -> Keep:  # noqa: C901 - one function: see above
    """Return what keeps the value of a plain load, lands its flight, and counts it."""
    flow, memory, spec = call.flow, call.flow.memory, call.spec
    assert memory is not None
    counters, times, loaded = spec.counters, spec.counters.load_times, flow.telemetry.loaded
    admit, ttl, now = memory.admit, spec.ttl, flow.time
    jitter, draw, all_times = flow.jitter, random.random, flow.load_times

    def keep(flights: Flights, flight: Flight, value: Any, took: float) -> None:
        # A TTL is a promise, so that jitter makes it shorter only: see ttl.jittered
        until = inf if ttl is None else now() + (ttl * (1.0 - jitter * draw()) if jitter else ttl)
        key, deck = flight.key, flights.decks[flight.deck]
        entry = Entry(key, value, until)
        removed: Sequence[Removed] = ()
        with flights.lock:
            if deck.get(key) is flight:
                if not flights.closed_fences and key not in flights.fences:
                    removed = admit(entry)
                del deck[key]
            flight.value = value
            flight.has_landed = True
            waiters = flight.waiters
            if waiters is not None or flight.awaits is not None:
                flights.end(flight)
        if waiters is not None:
            for wake in waiters:
                wake()
        if removed:
            for victim, cause in removed:
                if memory.on_removal is not None:
                    memory.on_removal(victim, cause)
                victim.value = None
        loaded(took)
        counters.loads = loads = counters.loads + 1
        times.new.append(took)  # as LoadTimes.record does
        all_times.new.append(took)
        if not loads % SUMMED_UP_AT:
            times.sum_up()
            all_times.sum_up()

    return keep


async def keep_as_told(call: Call, port: Port, flight: Flight, value: Any, took: float) -> Any:
    """Keep a value as the long way does, where its loader may have asked for its load."""
    flow, spec = call.flow, call.spec
    if value.__class__ is CoroutineType:
        refuse_coroutine(value, spec)
    flow.record_load(spec, took)
    if isinstance(flight.load, Load):
        value = flight.load.outcome(value)
    await flow.keep(port, spec, flight, value, took)
    flow.flights.land(flight, value)
    return value


def fail(call: Call, port: Port, flight: Flight, error: BaseException) -> None:
    """Land a flight with what ended it, and count it."""
    is_error = isinstance(error, Exception)
    must_retry = not is_error and port.ends_the_leader_only(error)
    call.flow.flights.fail(flight, error, must_retry=must_retry)
    call.spec.counters.misses += not must_retry


class Retry(Exception):
    """Nobody sees this: its flight is flown again."""
