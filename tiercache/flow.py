"""What happens after an L1 miss: join the flight, read L2, take the lease, load, fill.

Written once, as ``async def`` over a port (see runtime.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import perf_counter
from types import CoroutineType
from typing import Any

from .claims import Claims
from .entry import RememberedError, make_entry
from .errors import ConfigurationError, EncodeError
from .load import Load
from .lookup import Lookup
from .runtime import BoxedStop, Port
from .singleflight import Flight, Source, loading_now, waits_for_itself
from .spec import MISS, Spec, UncacheableValueWarning
from .tiers.memory import Removed
from .tiers.store import Fill, Kind
from .ttl import jittered

#: How a value is kept: its TTL in seconds, None for no expiry, and its tags.
Life = tuple[float | None, tuple[str, ...]]


class loading:  # noqa: N801 - reads as a statement: `with loading(flights):`
    """The time in which the loaders of some flights run, in this context."""

    __slots__ = ("_flights", "_token")

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._flights = flights

    def __enter__(self) -> None:
        self._token = loading_now.set((*self._flights, *loading_now.get()))

    def __exit__(self, *_: object) -> None:
        loading_now.reset(self._token)


class Flow(Lookup):
    """The read path of one cache behind its L1."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.claims: Claims | None = None
        if self.l2 is not None and self.bus is not None:
            self.claims = Claims(self.l2, self.bus, self.waits, self.promote)

    def after_fork(self) -> None:
        """Forget the parent's flights and waits in a forked child."""
        super().after_fork()
        if self.l2 is not None and self.bus is not None:
            self.claims = Claims(self.l2, self.bus, self.waits, self.promote)

    # Flights

    async def read(
        self, port: Port, spec: Spec, key: str, args: Any = (), kwargs: Any = None
    ) -> Flight:
        """Return the landed flight that brought the value of a key."""
        while True:
            flight, leads = self.flights.board(key, port.deck, spec.flight_seconds, port.loop())
            if leads:
                try:
                    await self._lead(port, flight, spec, args, kwargs or {})
                except BaseException as error:
                    # Deep in a recursion there may have been no stack left to land.
                    if port.leads_inline:
                        self.flights.fail(flight, error)
                    raise
            elif not loading_now.get() and not waits_for_itself(flight):
                await self._wait_for(port, flight)
            elif not await self.follow(port, flight):
                return await self.run_directly(port, flight, spec, args, kwargs or {})
            if flight.has_landed and not flight.must_retry:
                self.count(spec, flight, leads=leads)
                return flight

    async def _lead(self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any) -> None:
        """Bring a flight what is there already, else load."""
        try:
            value = self.look_nearby(flight)
            if value is MISS and self.l2 is not None:
                await self.listen(port)
                if spec.uses_store:
                    stored, has_answered = await self.l2.try_to_read(port, flight.key, spec.tags)
                    flight.skips_store = not has_answered
                    if stored is not None:
                        value = self.promote(flight, spec, stored)
        except Exception as error:
            self.flights.fail(flight, error)
            return
        except BaseException as error:
            self.flights.fail(flight, error, must_retry=True)
            raise
        if value is not MISS:
            self.flights.land(flight, value)
            return
        fly = self.fly(port, flight, spec, args, kwargs)
        if port.leads_inline:
            await fly
        else:
            await port.lead(self.flights, flight, fly, spec)

    async def refresh(self, port: Port, spec: Spec, key: str, args: Any, kwargs: Any) -> Flight:
        """Load a key again, whatever the tiers hold; return the landed flight.

        A load that is under way may have read before the caller's reason to refresh: it goes on
        for those who wait for it, but this one takes its place.
        """
        await self.listen(port)
        while True:
            with self.flights.lock:
                self.flights.detach(key)
                flight, _ = self.flights.board(key, port.deck, spec.flight_seconds, port.loop())
            flight.replaces = True
            fly = self.fly(port, flight, spec, args, kwargs)
            await port.lead(self.flights, flight, fly, spec)
            if flight.has_landed and not flight.must_retry:
                return flight

    async def follow(self, port: Port, flight: Flight) -> bool:
        """Wait for a flight; False where that would be for ever, with the flight left."""
        mine = [outer for outer in loading_now.get() if not outer.has_landed]
        if waits_for_itself(flight) or self.flights.would_deadlock(flight, mine):
            self.flights.leave(flight)
            return False
        try:
            await self._wait_for(port, flight)
        finally:
            self.flights.stop_waiting(flight, mine)
        return True

    async def _wait_for(self, port: Port, flight: Flight) -> None:
        await port.follow(self.flights, flight)
        if not flight.has_landed and flight.lease is not None and self.claims is not None:
            # Overdue, and detached: its successor must not wait for the lease that it left.
            await self.claims.give_up(port, [flight], Kind.LANDED)

    async def run_directly(
        self, port: Port, shared: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Flight:
        """Answer a load that asks for a key it is itself loading: by the function alone."""
        flight = Flight(shared.key, shared.deck, spec.load_seconds, port.loop())
        try:
            value = await port.call(spec.function, args, kwargs, spec.timeout)
        except BoxedStop as box:
            self.flights.fail(flight, box.error)
        except Exception as error:
            self.flights.fail(flight, error)
        else:
            self.flights.land(flight, value)
        return flight

    async def fly(self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any) -> None:
        """Load, and bring a flight its value or its error; whatever happens, it lands."""
        end: Kind | None = Kind.FAILED  # of a lease that is not used; None: nothing can be awaited
        try:
            value: Any = MISS
            if self.claims is not None and spec.uses_store and not flight.skips_store:
                value = await self.claims.bring(port, flight, spec)
            if value is MISS:
                value = await self._load(port, flight, spec, args, kwargs)
        except BoxedStop as box:
            self.flights.fail(flight, box.error)
        except Exception as error:
            self.flights.fail(flight, error)
        except BaseException as error:
            end = None if isinstance(error, GeneratorExit) else Kind.LANDED
            self.flights.fail(flight, error, must_retry=port.ends_the_leader_only(error))
            raise
        else:
            self.flights.land(flight, value)
        finally:
            if flight.lease is not None and self.claims is not None:
                await self.claims.give_up(port, [flight], end)

    # Loading

    async def _load(  # noqa: C901 - a helper would be one more frame in every recursion
        self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Any:
        flight.source = Source.LOAD
        flight.tags = spec.tags if spec.tags_of is None else None
        token = loading_now.set((flight, *loading_now.get()))
        limit = port.limit(self.flights, (flight,), spec)
        started = perf_counter()
        try:
            if self.hooks.around_load:
                value = await self._call_around(port, flight, spec, args, kwargs)
            elif port.leads_inline and spec.timeout is None:
                # As `port.call` would, with a frame less: a function may recurse through here.
                value = spec.function(*args, **kwargs)  # type: ignore[misc]
            else:
                value = await port.call(spec.function, args, kwargs, spec.timeout)
        except Exception as error:
            self._note_error(flight, spec, error, perf_counter() - started)
            if isinstance(error, StopIteration):
                raise BoxedStop(error) from None
            raise
        finally:
            loading_now.reset(token)
            if limit is not None:
                limit.cancel()
        seconds = perf_counter() - started
        if value.__class__ is CoroutineType:
            _refuse_coroutine(value, spec)
        self.record_load(spec, seconds)
        if self.hooks.on_event:
            self.tell("loaded", flight.key, seconds=seconds)
        life = self.judge(spec, flight.key, value, seconds)
        in_store: bool | None = None
        if life is not None:
            in_store = await self._fill_store(port, spec, flight, value, life)
        # Refused: the key was invalidated meanwhile, or given to another.
        life = None if in_store is False else life
        if flight.replaces and not in_store:
            await self._withdraw(port, flight, value, life)
        elif life is not None:
            self.put(flight, value, *life)
        return value

    async def _fill_store(
        self, port: Port, spec: Spec, flight: Flight, value: Any, life: Life
    ) -> bool | None:
        """Write a loaded value to L2; False: it was refused; None: it is not there."""
        fill = self.encode_for_store(spec, flight, value, *life)
        if fill is None or self.l2 is None:
            return None
        taken = await self.l2.fill(port, [fill])
        flight.lease = None
        flight.stop_renewing()
        return None if taken is None else taken[0]

    async def _withdraw(self, port: Port, flight: Flight, value: Any, life: Life | None) -> None:
        """Remove what a refresh has found outdated and could not replace in L2.

        A write like any other. L1 keeps the new value, where it has a life.
        """
        memory, flights = self.memory, self.flights
        removed: list[Removed] = []
        ttl, tags = life or (None, ())
        entry = make_entry(flight.key, value, 0.0, tags, flight.era)
        weight = 0.0 if memory is None else memory.weigh(entry)

        def settle(key: str, alone: bool) -> None:
            if memory is None:
                return
            if life is None or not alone or not is_current:
                removed.extend(memory.displace(key))
                return
            entry.fresh_until = self.deadline(ttl)
            removed.extend(memory.place(entry, weight))

        with flights.lock:
            is_current = flights.is_current(flight)
            flights.fence([flight.key])
        try:
            if self.l2 is not None:
                await self.l2.delete(port, [flight.key])
        finally:
            flights.unfence([flight.key], settle)
            if memory is not None:
                memory.bury(removed)

    async def _call_around(
        self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Any:
        load = Load(flight.key, spec.name)
        call_next: Callable[[], Awaitable[Any]] = partial(
            port.call, spec.function, args, kwargs, spec.timeout
        )
        for around_load in reversed(self.hooks.around_load):
            call_next = partial(around_load, load, call_next)
        return await call_next()

    def _note_error(self, flight: Flight, spec: Spec, error: Exception, seconds: float) -> None:
        if isinstance(error, BoxedStop):
            error = error.error
        self.record_load(spec, seconds)
        spec.counters.load_errors += 1
        self.tell("load_error", flight.key, cause=type(error).__name__, seconds=seconds)
        if spec.negative_errors and isinstance(error, spec.negative_errors):
            # Errors have no bytes: they are remembered in this process only.
            self.put(flight, RememberedError(error), spec.negative_ttl, spec.tags)

    def record_load(self, spec: Spec, seconds: float) -> None:
        """Count a load that took this long."""
        spec.counters.loads += 1
        spec.counters.load_times.record(seconds)
        self.load_times.record(seconds)

    def judge(self, spec: Spec, key: str, value: Any, seconds: float) -> Life | None:
        """Return how a loaded value is to be kept, or None if it is not to be stored."""
        if spec.when is not None and not spec.when(value):
            return None
        return self.life(spec, key, value, seconds)

    def life(self, spec: Spec, key: str, value: Any, seconds: float = 0.0) -> Life | None:
        """Return the TTL and the tags of a value, or None where its TTL is nothing."""
        ttl = spec.ttl if spec.ttl_of is None else spec.ttl_of(value)
        if value is None and spec.negative_ttl is not None:
            ttl = spec.negative_ttl
        if self.hooks.ttl:
            load = Load(key, spec.name, value, seconds, ttl)
            self.hooks.choose_ttl(load)
            ttl = load.ttl
        if ttl is not None:
            if ttl <= 0:
                return None
            ttl = jittered(ttl, self.jitter)
        return ttl, spec.tags if spec.tags_of is None else spec.tags_of(value)

    def encode_for_store(
        self, spec: Spec, flight: Flight, value: Any, ttl: float | None, tags: tuple[str, ...]
    ) -> Fill | None:
        """Return what to write to L2 for a flight that has a lease; None for nothing."""
        lease = flight.lease  # a follower that gives the flight up takes it
        payload = None if lease is None else self.encode(spec, flight.key, value)
        if lease is None or payload is None:
            return None
        return Fill(flight.key, lease, payload, ttl, tags, flight.replaces)

    def encode(self, spec: Spec, key: str, value: Any) -> bytes | None:
        """Return the bytes of a value, or None where it has none, which is said once."""
        try:
            return self.codec.encode(key, value, schema=spec.schema)
        except EncodeError as error:
            spec.counters.encode_errors += 1
            self.tell("encode_error", key)
            if not spec.has_warned:
                spec.has_warned = True
                warnings.warn(
                    f"{spec.name}: kept in L1 only: {error}", UncacheableValueWarning, stacklevel=2
                )
            return None

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
        elif not leads and self.memory is not None:
            entry = self.memory.get(flight.key)
            if entry is not None:
                self.memory.touch(entry)


def _refuse_coroutine(value: Any, spec: Spec) -> None:
    value.close()
    raise ConfigurationError(
        f"{spec.name} returned a coroutine where a value was expected; decorate the "
        "async def function itself, below other decorators"
    )
