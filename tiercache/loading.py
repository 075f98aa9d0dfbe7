"""A load: its lease, what plugins and limits stand around it, the loader, what is kept of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .claims import HELD, Claims
from .current import load_of
from .entry import Life, RememberedError, entry_of
from .errors import CacheError, ConfigurationError, EncodeError, LoadTimeout
from .load import Load, Previous
from .nearby import UNKNOWN
from .refreshing import Refreshing
from .runtime import BoxedStop, Port
from .singleflight import Flight, Source, loading_now
from .spec import MISS, Spec, UncacheableValueWarning
from .telemetry import NO_STEP
from .tiers.memory import Removed
from .tiers.store import Fill, Kind

if TYPE_CHECKING:
    from .coherence.bus import Bus
    from .l2 import L2
    from .nearby import Overlay


SKIPPED_SECONDS = 1.0  # until a refresh whose loader skipped is tried again


class Loading(Refreshing):
    """The tiers of one cache, and how a flight is flown."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.claims: Claims | None = None
        if self.l2 is not None and self.bus is not None:
            self.claims = self._make_claims(self.l2, self.bus)

    def _make_claims(self, l2: L2, bus: Bus) -> Claims:
        return Claims(l2, bus, self.waits, self.promote, self.promote_newer)

    def after_fork(self) -> None:
        """Forget the parent's flights and waits in a forked child."""
        super().after_fork()
        if self.l2 is not None and self.bus is not None:
            self.claims = self._make_claims(self.l2, self.bus)

    async def fly(self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any) -> None:
        """Load, and bring a flight its value or its error; whatever happens, it lands."""
        end: Kind | None = Kind.FAILED  # of a lease that is not used; None: nothing can be awaited
        try:
            value: Any = MISS
            if self.claims is not None and spec.uses_store and not flight.skips_store:
                value = await self._bring(port, flight, spec, self.claims)
            if value is MISS and self.overlay is not None:
                value = await self._take_pending(port, flight, spec, self.overlay)
            if value is MISS:
                value = await self._load(port, flight, spec, args, kwargs)
        except BoxedStop as box:
            self.fail(flight, spec, box.error)
        except Exception as error:
            self.fail(flight, spec, error)
        except BaseException as error:
            end = None if isinstance(error, GeneratorExit) else Kind.LANDED
            self.break_off(port, flight, spec, error)
            raise
        else:
            if value is HELD:
                self.flights.fail(flight, CacheError("loaded elsewhere"), must_retry=True)
            else:
                self.flights.land(flight, value)
        finally:
            if flight.lease is not None and self.claims is not None:
                await self.claims.give_up(port, [flight], end)

    def break_off(self, port: Port, flight: Flight, spec: Spec, error: BaseException) -> None:
        """Land a flight that was ended by something else than its load."""
        is_news = flight.renews and not flight.has_landed
        self.flights.fail(flight, error, must_retry=port.ends_the_leader_only(error))
        if is_news:
            self.note_failure(flight, spec)

    def fail(self, flight: Flight, spec: Spec, error: BaseException) -> None:
        """Land a flight with a load's error, unless it was overdue before."""
        if flight.has_landed:
            return
        self.flights.fail(flight, error)
        if flight.stale is not None:
            self.note_failure(flight, spec)

    def overdue(self, flights: Sequence[Flight], spec: Spec) -> None:
        """Land flights whose load takes too long, as one that has failed."""
        self.record_load(spec, spec.load_seconds)
        spec.counters.load_errors += 1
        limit = f"{spec.name}: the load took longer than {spec.load_seconds:g} s"
        for flight in flights:
            self.tell("load_error", flight.key, cause="LoadTimeout", seconds=spec.load_seconds)
            self.fail(flight, spec, LoadTimeout(limit))
            if isinstance(flight.load, Load):
                flight.load.has_timed_out = True

    async def _bring(self, port: Port, flight: Flight, spec: Spec, claims: Claims) -> Any:
        """Return what another process brings; MISS to load; HELD: it refreshes the value."""
        if not flight.renews:
            return await claims.bring(port, flight, spec)
        value, seconds = await claims.renew(port, flight, spec)
        if value is HELD:
            self.put_off(flight, seconds)
        return value

    async def _take_pending(self, port: Port, flight: Flight, spec: Spec, overlay: Overlay) -> Any:
        """Return what is still on its way to the database, or MISS; it is kept like a load.

        Once the lease is had: a write that comes later ends it, and neither this nor what is
        loaded is kept.
        """
        values = await overlay.values(port, spec, [flight.key], for_load=True)
        if flight.key not in values:
            return MISS
        return await self.keep_pending(port, flight, spec, values[flight.key])

    async def keep_pending(self, port: Port, flight: Flight, spec: Spec, value: Any) -> Any:
        """Keep and return what a load is answered with from what is written behind; or MISS."""
        if value is UNKNOWN:
            flight.is_unsure = True
            return MISS
        if isinstance(value, BaseException) or (
            isinstance(value, type) and issubclass(value, BaseException)
        ):
            raise value
        flight.source = Source.STORE
        await self.keep(port, spec, flight, value, 0.0)
        return value

    async def _load(  # a helper would be one more frame in every recursion
        self, port: Port, flight: Flight, spec: Spec, args: Any, kwargs: Any
    ) -> Any:
        flight.source = Source.LOAD
        flight.tags = spec.tags if spec.tags_of is None and flight.stale is None else None
        flight.load = self.describe, spec, args, kwargs, not port.leads_inline
        token = loading_now.set((flight, *loading_now.get()))
        limit = port.limit((flight,), spec, self.overdue)
        spans = self.telemetry.spans
        started = perf_counter()
        try:
            with NO_STEP if spans is None else spans.load(spec.function_name, flight):
                if self.hooks.around_load:
                    value = await self._call_around(port, flight, spec, args, kwargs)
                elif port.leads_inline and spec.timeout is None:
                    # As `port.call` would, with a frame less: a function may recurse through here.
                    value = spec.function(*args, **kwargs)  # type: ignore[misc]
                else:
                    value = await port.call(spec.function, args, kwargs, spec.timeout)
        except Exception as error:
            self.note_error(flight, spec, error, perf_counter() - started)
            if isinstance(error, StopIteration):
                raise BoxedStop(error) from None
            raise
        finally:
            loading_now.reset(token)
            if limit is not None:
                limit.cancel()
        seconds = perf_counter() - started
        if value.__class__ is CoroutineType:
            refuse_coroutine(value, spec)
        self.record_load(spec, seconds)
        if self.hooks.on_event:
            self.tell("loaded", flight.key, seconds=seconds)
        if isinstance(flight.load, Load):
            value = flight.load.outcome(value)
        await self.keep(port, spec, flight, value, seconds)
        return value

    async def keep(
        self, port: Port, spec: Spec, flight: Flight, value: Any, seconds: float
    ) -> None:
        """Store a loaded value in both tiers, unless it is not to be, or comes too late."""
        life = None if flight.has_landed else self.judge(spec, flight, value, seconds)
        if self.pauses:
            self.pauses.end(flight.key)
        in_store: bool | None = None
        flight.ttl = None if life is None else life.ttl
        is_not_kept = life is None and not flight.has_landed
        if life is not None:
            in_store = await self._fill_store(port, spec, flight, value, life)
        # Refused: the key was invalidated meanwhile, or given to another.
        life = None if in_store is False else life
        if flight.replaces and not in_store:
            await self._withdraw(port, flight, spec, value, life)
        elif is_not_kept and flight.renews:
            await self.let_be(port, flight, spec, value)
        elif life is not None:
            self.put(flight, spec, value, life)

    async def let_be(self, port: Port, flight: Flight, spec: Spec, value: Any) -> None:
        """See to the old value after a refresh whose value is not to be kept.

        A loader that skips says nothing of the old one. A value that is not kept by the options
        of the function is the newest all the same: the old one goes.
        """
        has_skipped = isinstance(flight.load, Load) and flight.load.is_skipped
        if has_skipped or flight.is_unsure:
            self.put_off(flight, SKIPPED_SECONDS)
        else:
            await self._withdraw(port, flight, spec, value, None)

    async def _fill_store(
        self, port: Port, spec: Spec, flight: Flight, value: Any, life: Life
    ) -> bool | None:
        """Write a loaded value to L2; False: it was refused; None: it is not there."""
        fill = self.encode_for_store(spec, flight, value, life)
        if fill is None or self.l2 is None:
            return None
        taken = await self.l2.fill(port, [fill])
        flight.lease = None
        flight.stop_renewing()
        return None if taken is None else taken[0]

    async def _withdraw(
        self, port: Port, flight: Flight, spec: Spec, value: Any, life: Life | None
    ) -> None:
        """Remove what a refresh has found outdated and could not replace in L2.

        A write like any other. L1 keeps the new value, where it has a life.
        """
        memory, flights = self.memory, self.flights
        removed: list[Removed] = []
        entry = entry_of(flight.key, value, life or Life(None), flight.era)
        weight = 0.0 if memory is None else memory.weigh(entry)

        def settle(key: str, alone: bool) -> None:
            if memory is None:
                return
            if life is None or not alone or not is_current:
                removed.extend(memory.displace(key))
                return
            self.schedule(entry, life, spec)
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
        call = partial(port.call, spec.function, args, kwargs, spec.timeout)
        return await self.hooks.around(load_of(flight), call)

    def note_error(self, flight: Flight, spec: Spec, error: Exception, seconds: float) -> None:
        if isinstance(error, BoxedStop):
            error = error.error
        if flight.has_landed:  # as overdue; how its cancellation went says nothing
            return
        self.record_load(spec, seconds)
        spec.counters.load_errors += 1
        self.tell("load_error", flight.key, cause=type(error).__name__, seconds=seconds)
        if spec.negative_errors and isinstance(error, spec.negative_errors):
            # Errors have no bytes: they are remembered in this process only.
            self.put(flight, spec, RememberedError(error), Life(spec.negative_ttl, spec.tags))

    def record_load(self, spec: Spec, seconds: float) -> None:
        """Count a load that took this long."""
        self.telemetry.loaded(seconds)
        spec.counters.loads += 1
        spec.counters.load_times.record(seconds)
        self.load_times.record(seconds)

    def judge(self, spec: Spec, flight: Flight, value: Any, seconds: float) -> Life | None:
        """Return how a loaded value is to be kept, or None if it is not to be stored."""
        if flight.is_unsure:
            return None
        load = flight.load
        if isinstance(load, Load) and load.items is not None and not load.is_skipped:
            load = None  # a bulk load's is of no key
        if not isinstance(load, Load):
            load = self.describe(spec, (), None, False, flight) if self.hooks.ttl else None
        if load is not None and load.is_skipped:
            return None
        if spec.when is not None and not spec.when(value):
            return None
        return self.lives.of(spec, flight.key, value, seconds, load)

    def describe(
        self,
        spec: Spec,
        args: Any,
        kwargs: Any,
        is_async: bool,
        flight: Flight,
    ) -> Load:
        """Return a flight's load as its loader and plugins see it."""
        found, previous, stale_value = flight.stale, None, MISS
        if found is None:
            found = self.standing(flight.key)
        if found is not None:
            record = found.record
            ttl, state = (None, None) if record is None else (record.ttl, record.state)
            previous = Previous(found.value, self.age(found), ttl, found.hits, state, found.tags)
            if self.time() < found.stale_at + spec.keep:
                stale_value = found.value
        return Load(
            *(flight.key, spec.name),
            ttl=spec.ttl,
            module=spec.module,
            cache=self.name,
            tags=spec.tags,
            args=args,
            kwargs=kwargs,
            is_async=is_async,
            is_refresh=flight.renews or flight.replaces,
            stale_value=stale_value,
            previous=previous,
        )

    def encode_for_store(self, spec: Spec, flight: Flight, value: Any, life: Life) -> Fill | None:
        """Return what to write to L2 for a flight that has a lease; None for nothing."""
        lease = flight.lease  # a follower that gives the flight up takes it
        payload = None if lease is None else self.encode(spec, flight.key, value, life)
        if lease is None or payload is None:
            return None
        tells_peers = flight.replaces or flight.renews
        return Fill(flight.key, lease, payload, life.ends_after, life.tags, tells_peers)

    def encode(self, spec: Spec, key: str, value: Any, life: Life) -> bytes | None:
        """Return the bytes of a value, or None where it has none, which is said once."""
        try:
            return self.codec.encode(
                key, value, schema=spec.schema, stale_for=life.keep, record=life.record
            )
        except EncodeError as error:
            spec.counters.encode_errors += 1
            self.tell("encode_error", key)
            if not spec.has_warned:
                spec.has_warned = True
                warnings.warn(
                    f"{spec.name}: kept in L1 only: {error}", UncacheableValueWarning, stacklevel=2
                )
            return None


def refuse_coroutine(value: Any, spec: Spec) -> None:
    """Raise for a function that turned out to be async."""
    value.close()
    raise ConfigurationError(
        f"{spec.name} returned a coroutine where a value was expected; decorate the "
        "async def function itself, below other decorators"
    )
