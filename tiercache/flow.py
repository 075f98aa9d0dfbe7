"""What happens after an L1 miss: join the flight, read L2, load, fill.

Written once, as ``async def`` over a port (see runtime.py). It knows the protocols of the store,
the L1 and the codec, and no particular one of them.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import partial
from math import inf
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .clock import Clock, CoarseClock
from .entry import Entry, RememberedError, RemovalCause, TaggedEntry, is_error, make_entry
from .errors import ConfigurationError, DecodeError, EncodeError
from .l2 import L2
from .plugin import Event, Hooks, Load
from .runtime import BoxedStop, Port
from .singleflight import Flight, Flights, Source, waits_for_itself
from .spec import MISS, Spec, UncacheableValueWarning
from .stats import Counters, LoadTimes
from .ttl import jittered

if TYPE_CHECKING:
    from .codec import Codec
    from .tiers.memory import LRU
    from .tiers.store import Store, Stored

log = logging.getLogger(__name__)


#: How a value is kept: its TTL in seconds, None for no expiry, and its tags.
Life = tuple[float | None, tuple[str, ...]]

#: The flights whose loaders this context is inside of, innermost first.
_loading: ContextVar[tuple[Flight, ...]] = ContextVar("tiercache_loading", default=())


class loading:  # noqa: N801 - reads as a statement: `with loading(flights):`
    """The time in which the loaders of some flights run, in this context."""

    __slots__ = ("_flights", "_token")

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._flights = flights

    def __enter__(self) -> None:
        self._token = _loading.set((*self._flights, *_loading.get()))

    def __exit__(self, *_: object) -> None:
        _loading.reset(self._token)


class Flow:
    """The read path of one cache behind its L1."""

    def __init__(
        self,
        name: str,
        memory: LRU | None,
        store: Store | None,
        codec: Codec,
        clock: Clock,
        jitter: float,
        hooks: Hooks,
        counters: Counters,
    ) -> None:
        self.name = name
        self.memory = memory
        self.l2 = None if store is None else L2(name, store, hooks, counters)
        self.codec = codec
        self.clock = clock
        self.jitter = jitter
        self.hooks = hooks
        self.counters = counters
        self.time = time.monotonic if isinstance(clock, CoarseClock) else clock
        self.load_times = LoadTimes()  # of all functions together
        self.flights = Flights()

    def after_fork(self) -> None:
        """Forget the parent's flights in a forked child."""
        self.flights = Flights()
        if self.l2 is not None:
            self.l2.after_fork()

    # Reading

    def fresh(self, key: str) -> tuple[Entry, Any] | None:
        """Return the entry of a key in L1 and its value, if it may be served."""
        memory = self.memory
        if memory is None or (entry := memory.table.get(key)) is None:
            return None
        if self.clock.now == inf:
            self.clock.awaken()
        value = entry.value  # before its deadline is looked at: a removal takes it after
        if entry.fresh_until > self.time():
            return entry, value
        memory.discard(entry, RemovalCause.EXPIRED)
        return None

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
            elif not _loading.get() and not waits_for_itself(flight):
                await port.follow(self.flights, flight)
            elif not await self.follow(port, flight):
                return await self.run_directly(port, flight, spec, args, kwargs or {})
            if flight.has_landed and not flight.must_retry:
                self.count(spec, flight, leads=leads)
                return flight

    async def _lead(self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any) -> None:
        """Bring a flight what is there already, else load."""
        try:
            value = self.look_nearby(flight)
            if value is MISS and self.l2 is not None and spec.uses_store:
                stored = await self.l2.read(port, flight.key)
                if stored is not None:
                    value = self.promote(flight, spec, stored)
                flight.skips_store = self.l2.is_down
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

    async def look(self, port: Port, spec: Spec, key: str) -> Any:
        """Return the value that L2 has for a key, or MISS, and keep it in L1."""
        if self.l2 is None:
            spec.counters.misses += 1
            return MISS
        era = self.flights.era
        stored = await self.l2.read(port, key)
        if stored is None:
            spec.counters.misses += 1
            return MISS
        return self._keep_found(spec, era, [key], [stored]).get(key, MISS)

    async def look_many(self, port: Port, spec: Spec, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that L2 has, by key, in one round trip, and keep them in L1."""
        if self.l2 is None or not spec.uses_store:
            spec.counters.misses += len(keys)
            return {}
        era = self.flights.era
        return self._keep_found(spec, era, keys, await self.l2.read_many(port, keys))

    def _keep_found(
        self, spec: Spec, era: int, keys: Sequence[str], found: Sequence[Stored | None]
    ) -> dict[str, Any]:
        """Decode what L2 had and put it in L1, unless a write came between; return the values."""
        values: dict[str, Any] = {}
        entries: list[Entry] = []
        for key, stored in zip(keys, found, strict=True):
            if stored is None:
                continue
            value, remaining, tags = self.readable(spec, key, stored)
            if value is not MISS:
                values[key] = value
                if self.memory is not None:
                    entries.append(make_entry(key, value, self.deadline(remaining), tags))
        if entries:
            self._put_found(era, entries)
        spec.counters.hits_l2 += len(values)
        spec.counters.misses += len(keys) - len(values)
        return values

    def _put_found(self, era: int, entries: Sequence[Entry]) -> None:
        memory = self.memory
        assert memory is not None
        with self.flights.lock:
            removed = [
                gone
                for entry in entries
                if self.flights.lasts(era, entry.key)
                for gone in memory.place(entry)
            ]
        memory.bury(removed)

    async def refresh(self, port: Port, spec: Spec, key: str, args: Any, kwargs: Any) -> Flight:
        """Load a key again, whatever the tiers hold; return the landed flight.

        A load that is under way may have read before the caller's reason to refresh: it goes on
        for those who wait for it, but this one takes its place.
        """
        while True:
            with self.flights.lock:
                self.flights.detach(key)
                flight, _ = self.flights.board(key, port.deck, spec.flight_seconds, port.loop())
            flight.replaces = True
            fly = self.fly(port, flight, spec, args, kwargs)
            await port.lead(self.flights, flight, fly, spec)
            if flight.has_landed and not flight.must_retry:
                return flight

    def hit(self, entry: Entry, value: Any) -> Any:
        """Count a hit in L1 off the fast path; return its value, or raise its error."""
        assert self.memory is not None
        self.memory.touch(entry)
        if is_error(value):
            raise value.afresh()
        return value

    async def follow(self, port: Port, flight: Flight) -> bool:
        """Wait for a flight; False where that would be for ever, with the flight left."""
        mine = [outer for outer in _loading.get() if not outer.has_landed]
        if waits_for_itself(flight) or self.flights.would_deadlock(flight, mine):
            self.flights.leave(flight)
            return False
        try:
            await port.follow(self.flights, flight)
        finally:
            self.flights.stop_waiting(flight, mine)
        return True

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
        try:
            value = await self._load(port, flight, spec, args, kwargs)
        except BoxedStop as box:
            self.flights.fail(flight, box.error)
        except Exception as error:
            self.flights.fail(flight, error)
        except BaseException as error:
            self.flights.fail(flight, error, must_retry=port.ends_the_leader_only(error))
            raise
        else:
            self.flights.land(flight, value)

    def usable(self, key: str) -> tuple[Entry, Any] | None:
        """Return what ``fresh`` does; to those who only look, a remembered error is nothing."""
        found = self.fresh(key)
        return None if found is None or is_error(found[1]) else found

    def look_nearby(self, flight: Flight) -> Any:
        """Return what can be told without I/O, or MISS. Raises a remembered error."""
        # Someone may have landed between this caller's look at L1 and its boarding.
        found = self.fresh(flight.key)
        if found is not None:
            flight.source = Source.MEMORY
            return self.hit(*found)
        if self.hooks.admits and self.hooks.is_absent(flight.key):
            flight.source = Source.GUARD
            return None
        return MISS

    def promote(self, flight: Flight, spec: Spec, stored: Stored) -> Any:
        """Return the value that L2 holds and put it in L1 for its remaining life, or MISS."""
        value, remaining, tags = self.readable(spec, flight.key, stored)
        if value is not MISS:
            flight.source = Source.STORE
            self.put(flight, value, remaining, tags)
        return value

    def readable(
        self, spec: Spec, key: str, stored: Stored
    ) -> tuple[Any, float | None, tuple[str, ...]]:
        """Return a stored value, its remaining fresh life and its tags; MISS if it has none."""
        payload, remaining = stored
        try:
            value, stale_for, tags = self.codec.decode(key, payload, schema=spec.schema)
        except DecodeError as error:
            spec.counters.decode_errors += 1
            log.debug("a payload is not readable and counts as a miss: %s", error)
            self.tell("decode_error", key)
            return MISS, None, ()
        if remaining is not None:
            remaining -= stale_for
            if remaining <= 0:
                return MISS, None, ()
        return value, remaining, tags

    async def peek(self, port: Port, spec: Spec, key: str) -> Any:
        """Return the value of a key in either tier, or MISS; count nothing, change nothing."""
        found = self.usable(key)
        if found is not None:
            return found[1]
        if self.l2 is None or not spec.uses_store:
            return MISS
        stored = await self.l2.read(port, key)
        return MISS if stored is None else self.readable(spec, key, stored)[0]

    # Loading

    async def _load(  # noqa: C901 - a helper would be one more frame in every recursion
        self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Any:
        token = _loading.set((flight, *_loading.get()))
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
            _loading.reset(token)
            if limit is not None:
                limit.cancel()
        seconds = perf_counter() - started
        if value.__class__ is CoroutineType:
            _refuse_coroutine(value, spec)
        self.record_load(spec, seconds)
        if self.hooks.on_event:
            self.tell("loaded", flight.key, seconds=seconds)
        life = self.judge(spec, flight.key, value, seconds)
        if life is not None:
            in_store = self.l2 is None or await self._fill_store(
                port, self.l2, spec, flight, value, life
            )
            self.put(flight, value, *life)
            if in_store:
                return value
        if flight.replaces:
            await self._withdraw(port, flight, from_memory=life is None)
        return value

    async def _fill_store(
        self, port: Port, l2: L2, spec: Spec, flight: Flight, value: Any, life: Life
    ) -> bool:
        """Write a loaded value to L2; say whether it stands there now."""
        payload = self.encode_for_store(spec, flight, value, *life)
        if payload is None:
            return False
        written = await l2.write(port, [payload])
        if not self.flights.is_current(flight):
            l2.distrust([flight.key])  # a write has given up waiting for this fill
        return written

    async def _withdraw(self, port: Port, flight: Flight, *, from_memory: bool) -> None:
        """Remove what a refresh has found outdated and could not replace."""
        if from_memory and self.memory is not None:
            with self.flights.lock:
                removed = (
                    self.memory.displace(flight.key) if self.flights.is_current(flight) else []
                )
            self.memory.bury(removed)
        if self.l2 is not None:
            await self.l2.delete(port, [flight.key])

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
            self.put(flight, RememberedError(error), spec.negative_ttl, ())

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
            ttl = self.hooks.ttl_of(Load(key, spec.name, value, seconds, ttl))
        if ttl is not None:
            if ttl <= 0:
                return None
            ttl = jittered(ttl, self.jitter)
        return ttl, spec.tags if spec.tags_of is None else spec.tags_of(value)

    # Filling

    def encode_for_store(
        self, spec: Spec, flight: Flight, value: Any, ttl: float | None, tags: tuple[str, ...]
    ) -> tuple[str, bytes, float | None] | None:
        """Return what to write to L2 for a flight, which now may write; None for nothing."""
        if self.l2 is None or flight.skips_store or not spec.uses_store:
            return None
        payload = self.encode(spec, flight.key, value, tags)
        if payload is None or not self.flights.begin_fill(flight):
            return None
        return flight.key, payload, ttl

    def put(self, flight: Flight, value: Any, ttl: float | None, tags: tuple[str, ...]) -> None:
        """Put a value in L1, unless the key was invalidated since the flight began."""
        memory = self.memory
        if memory is None:
            return
        deadline = inf if ttl is None else self.time() + ttl
        key = flight.key
        entry = TaggedEntry(key, value, deadline, tags) if tags else Entry(key, value, deadline)
        with self.flights.lock:
            removed = memory.place(entry) if self.flights.is_current(flight) else None
        if removed:
            memory.bury(removed)

    def deadline(self, ttl: float | None) -> float:
        """Return when a value that lives for ``ttl`` seconds from now ends, by the clock."""
        return inf if ttl is None else self.time() + ttl

    def encode(self, spec: Spec, key: str, value: Any, tags: tuple[str, ...]) -> bytes | None:
        """Return the bytes of a value, or None where it has none, which is said once."""
        try:
            return self.codec.encode(key, value, schema=spec.schema, tags=tags)
        except EncodeError as error:
            spec.counters.encode_errors += 1
            self.tell("encode_error", key)
            if not spec.has_warned:
                spec.has_warned = True
                warnings.warn(
                    f"{spec.name}: kept in L1 only: {error}", UncacheableValueWarning, stacklevel=2
                )
            return None

    # Counting

    def count(self, spec: Spec, flight: Flight, *, leads: bool) -> None:
        """Count a call by what answered it: each call once."""
        source = flight.source
        if source is Source.LOAD:
            spec.counters.misses += 1
            if not leads:
                spec.counters.joined += 1
        elif source is Source.STORE:
            spec.counters.hits_l2 += 1
        elif source is Source.GUARD:
            spec.counters.absent += 1
        elif not leads and self.memory is not None:
            entry = self.memory.get(flight.key)
            if entry is not None:
                self.memory.touch(entry)

    def tell(self, name: str, key: str, *, cause: str = "", seconds: float = 0.0) -> None:
        """Tell the plugins of an event, where one listens."""
        if self.hooks.on_event:
            self.hooks.tell(Event(name, self.name, key, cause, seconds))


def _refuse_coroutine(value: Any, spec: Spec) -> None:
    value.close()
    raise ConfigurationError(
        f"{spec.name} returned a coroutine where a value was expected; decorate the "
        "async def function itself, below other decorators"
    )
