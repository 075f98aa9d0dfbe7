"""The short way of a plain load: blocking, in a cache of memory alone, with nothing around it.

It does what ``Flow.read`` does for such a call, in one function, since the long way costs more than
many a function that is cached: coroutines, and looks at what is not there. Whatever is not plain
after all takes the long way: a flight to join, a tracer, a value that has landed meanwhile, a
loader that asks for its ``current_load()``.
"""

from __future__ import annotations

from math import inf
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from .entry import Entry
from .load import Load
from .loading import refuse_coroutine
from .runtime import run
from .singleflight import Deck, Flight, loading_now
from .ttl import jittered

if TYPE_CHECKING:
    from .flow import Flow
    from .runtime import BlockingPort
    from .spec import Spec

#: The answer where a call must take the long way; nothing has been done then.
LONG_WAY: Final = object()


def is_plain(flow: Flow, spec: Spec) -> bool:
    """Whether the loads of a function may go the short way."""
    hooks = flow.hooks
    return (
        flow.l2 is None
        and flow.memory is not None
        and not (hooks.plugins or spec.keep or spec.refreshes_ahead)
        and spec.timeout is None
        and spec.negative_ttl is None
        and not (spec.when or spec.ttl_of or spec.tags_of or spec.tags or spec.negative_errors)
    )


def load_plainly(
    flow: Flow, port: BlockingPort, spec: Spec, key: str, args: Any, kwargs: Any
) -> Any:
    """Load a key, keep its value, and return it; or raise what the loader raises."""
    if flow.overlay is not None or flow.telemetry.notice() is not None:
        return LONG_WAY
    flights = flow.flights
    flight = flights.start(key, Deck.BLOCKING, spec.flight_seconds)
    if flight is None:
        return LONG_WAY
    try:
        if flow.fresh(key) is not None:  # somebody has landed since the caller looked
            flights.fail(flight, _Retry(), must_retry=True)
            return LONG_WAY
        flight.load = flow.describe, spec, args, kwargs, False
        flight.tags = ()
        value, seconds = _call(flow, spec, flight, args, kwargs)
        if isinstance(flight.load, Load):
            value = flight.load.outcome(value)
            run(flow.keep(port, spec, flight, value, seconds))
        else:
            _keep(flow, spec, flight, value)
        flights.land(flight, value)
    except Exception as error:
        flights.fail(flight, error)
        raise
    except BaseException as error:
        flights.fail(flight, error, must_retry=port.ends_the_leader_only(error))
        raise
    finally:
        spec.counters.misses += flight.has_landed and not flight.must_retry
    return value


def _call(flow: Flow, spec: Spec, flight: Flight, args: Any, kwargs: Any) -> tuple[Any, float]:
    """Call the function; return its value, and how many seconds it took."""
    token = loading_now.set((flight, *loading_now.get()))
    started = perf_counter()
    try:
        value = spec.function(*args, **kwargs)  # type: ignore[misc]
    except Exception as error:
        flow.note_error(flight, spec, error, perf_counter() - started)
        raise
    finally:
        loading_now.reset(token)
    seconds = perf_counter() - started
    if value.__class__ is CoroutineType:
        refuse_coroutine(value, spec)
    flow.record_load(spec, seconds)
    return value, seconds


def _keep(flow: Flow, spec: Spec, flight: Flight, value: Any) -> None:
    """Put a value in L1, unless its key was written meanwhile."""
    memory = flow.memory
    assert memory is not None
    ttl = spec.ttl
    until = inf if ttl is None else flow.time() + jittered(ttl, flow.jitter)
    entry = Entry(flight.key, value, until)
    weight = memory.weigh(entry)
    with flow.flights.lock:
        removed = memory.place(entry, weight) if flow.flights.is_current(flight) else None
    if removed:
        memory.bury(removed)


class _Retry(Exception):
    """Nobody sees this: its flight is flown again."""
