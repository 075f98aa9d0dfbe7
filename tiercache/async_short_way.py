"""The short way of a plain load, for asyncio: see short_way.py.

A load begins in its caller's own step (see carriers.py). If it ends there, it is kept as a blocking
one is, and nothing but this call has ever known of it but by its flight. If it suspends, a carrier
goes on with it, and its caller follows the flight like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import copy_context
from functools import partial
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from .carriers import Resumed, take
from .load import Load
from .short_way import ELSEWHERE, Call, Keep, Way, fail, give_way, keep_as_told, keeper
from .singleflight import Deck, Flight, loading_now
from .spec import MISS

if TYPE_CHECKING:
    from .async_runtime import AsyncPort


_SUSPENDED: Final = object()  # in a value's place, where a load has not ended in its first step


def async_way(call: Call, port: AsyncPort) -> Way:  # noqa: C901, PLR0915 - likewise
    """Return the short way of a function that is defined by ``async def``."""
    flow, memory, spec, text, copy = call.flow, call.flow.memory, call.spec, call.text, call.copy
    function, seconds, counters = spec.function, spec.load_seconds, spec.counters
    assert function is not None
    assert memory is not None
    notice, describe, deck_of_tasks = flow.telemetry.notice, flow.describe, Deck.ASYNCIO
    coroutine_type = CoroutineType
    running_loop, current_task, keep = asyncio.get_running_loop, asyncio.current_task, keeper(call)

    async def load(*args: Any, **kwargs: Any) -> Any:  # noqa: C901, PLR0912 - see short_way.py
        try:
            key = text(*args, **kwargs) if kwargs else text(*args)
        except Exception:
            key = call.key(*args, **kwargs)
        if key in memory.table and (value := call.nearby(args, kwargs, key)) is not MISS:
            return value if copy is None else copy(value)
        loop = running_loop()
        caller = current_task(loop)
        if caller is None or notice() is not None or flow.overlay is not None:
            return await call.long_way(args, kwargs, key)
        flight, flights, value = Flight(key, deck_of_tasks, seconds, loop), flow.flights, ELSEWHERE
        try:
            if flights.decks[deck_of_tasks].setdefault(key, flight) is flight and not (
                key in memory.table and give_way(flights, flight)
            ):
                flight.era = flights.era
                maker: Any = describe, spec, args, kwargs, True
                flight.load = maker
                flight.tags = ()
                carrier, context = take(loop), copy_context()
                coroutine = function(*args, **kwargs)
                began = perf_counter()
                try:
                    awaited = carrier.begin(caller, context, _first_step, flight, coroutine)
                except StopIteration as stop:
                    value, took = stop.value, perf_counter() - began
                    carrier.give_back()
                    if value.__class__ is coroutine_type or flight.load.__class__ is Load:
                        value = await keep_as_told(call, port, flight, value, took)
                    else:
                        keep(flights, flight, value, took)
                    counters.misses += 1
                except BaseException as error:
                    if isinstance(error, Exception):
                        flow.note_error(flight, spec, error, perf_counter() - began)
                    carrier.give_back()
                    raise
                else:
                    value = _SUSPENDED
                    flight.cancel = port.adopt(loop, carrier.task)
                    resumed = Resumed(coroutine, context, awaited)
                    carrier.carry_on(partial(_carry_on, call, port, keep, flight, resumed, began))
        except BaseException as error:
            fail(call, port, flight, error)
            raise
        if value is ELSEWHERE:
            return await call.long_way(args, kwargs, key)
        if value is _SUSPENDED:
            return await _followed(call, port, flight, args, kwargs)
        return value if copy is None else copy(value)

    return load


def _first_step(flight: Flight, coroutine: Coroutine[Any, Any, Any]) -> Any:
    loading_now.set((flight, *loading_now.get()))
    return coroutine.send(None)


async def _carry_on(
    call: Call,
    port: AsyncPort,
    keep: Keep,
    flight: Flight,
    resumed: Resumed,
    began: float,
    cancelled: asyncio.CancelledError | None,
) -> None:
    """Do what is left of a load that has suspended; whatever happens, its flight lands."""
    flow, spec = call.flow, call.spec
    limit = port.limit((flight,), spec, flow.overdue)
    try:
        try:
            if cancelled is not None:
                resumed.throw(cancelled)
            value = await resumed
        except Exception as error:
            flow.note_error(flight, spec, error, perf_counter() - began)
            raise
        finally:
            limit.cancel()
        took = perf_counter() - began
        if flight.load.__class__ is Load or value.__class__ is CoroutineType or flight.has_landed:
            await keep_as_told(call, port, flight, value, took)
        else:
            keep(flow.flights, flight, value, took)
    except Exception as error:
        flow.fail(flight, spec, error)
    except BaseException as error:
        flow.break_off(port, flight, spec, error)
        raise


async def _followed(call: Call, port: AsyncPort, flight: Flight, args: Any, kwargs: Any) -> Any:
    """Return what a flight brings that is carried on, as ``Flow.read`` does."""
    flow = call.flow
    await port.follow(flow.flights, flight)
    landed = flow.landed(call.spec, flight)
    if landed is None:
        return await call.long_way(args, kwargs, flight.key)
    flow.count(call.spec, landed, leads=True)
    value = landed.value if landed.error is None else landed.result()
    return value if call.copy is None else call.copy(value)
