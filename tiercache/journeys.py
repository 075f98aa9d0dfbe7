"""The flights of one batch: boarded together, carried together, each with an end of its own.

Each key has a flight, so single readers and other batches join it, and an error of one key is that
key's alone. Those that nobody leads yet are led here and loaded together; the others are followed.

Where a stale value may be served after ``soft_timeout``, the batch is carried beside its caller,
who waits for so long, once for all keys that have one, and without limit for the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

from .batches import Batch, Found, Want, aligned, told_apart
from .claims import HELD, Claims
from .current import loading
from .entry import Life, Standing
from .flow import Flow, outcome
from .load import Load
from .runtime import CONCURRENT_LOADS, BoxedStop, Port
from .singleflight import Flight, Source
from .spec import MISS, Spec
from .telemetry import NO_STEP
from .tiers.store import Claim, Fill, Kind
from .waits import Expecting


class Journey:
    """The flights of one batch, led and followed, until every key has its answer."""

    stood: Mapping[str, Standing] = {}  # what was stale in L2, by key, for those without an L1
    era = 0  # before that was looked at

    def __init__(
        self,
        flow: Flow,
        port: Port,
        spec: Spec,
        wants: Mapping[str, list[Want]],
        batch: Batch,
        found: Found,
    ) -> None:
        self.flow = flow
        self.port = port
        self.spec = spec
        self.wants = dict(wants)  # not changed: who carries may outlast who asked
        self.missing = dict(wants)  # without an answer yet; the caller's alone
        self.batch = batch
        self.found = found
        self.outcomes: set[str] = set()  # for telemetry

    async def complete(self) -> None:
        """Fly until nothing is missing: flights whose leader vanished are flown again."""
        while self.missing:
            led, followed = self._board()
            if led and not self._lead_beside(led):
                carry = self._carry(led)
                await self.port.lead_many(self.flow.flights, led, carry, self.spec, followed)
            await self._await(led, followed)

    def _board(self) -> tuple[list[Flight], list[Flight]]:
        led: list[Flight] = []
        followed: list[Flight] = []
        flow, spec = self.flow, self.spec
        deck, loop = self.port.deck, self.port.loop()
        seconds = spec.flight_seconds * rounds(len(self.missing), self.batch)
        with flow.flights.lock:
            for key in self.missing:
                flight, leads = flow.flights.board(key, deck, seconds, loop)
                (led if leads else followed).append(flight)
                if leads:
                    self._note_standing(flight)
        return led, followed

    def _note_standing(self, flight: Flight) -> None:
        """Note what stands under a new flight's key; under the lock, so that it still does."""
        key, flow = flight.key, self.flow
        if self.spec.keep:
            flight.stale = flow.standing(key)
        if key in self.stood and flow.flights.lasts(self.era, key):
            flight.stale = flight.stale or self.stood[key]
            flight.source = Source.STORE  # so far: its lease is to be asked for past that

    def _lead_beside(self, led: Sequence[Flight]) -> bool:
        """Have led flights carried beside this caller if it may go on before they land."""
        flow, spec = self.flow, self.spec
        hasty = [flight for flight in led if flow.patience(spec, flight) is not None]
        if not hasty:
            return False
        _count_in(flow, hasty, 1)  # those go on whoever leaves
        if self.port.carry(led, partial(self._carry, led), is_refresh=False):
            return True
        _count_in(flow, hasty, -1)
        return False

    async def _await(self, led: Sequence[Flight], followed: Sequence[Flight]) -> None:
        """Wait until all have landed, but no longer than that for those with a stale value."""
        until = time.monotonic() + (self.spec.soft_timeout or 0.0)
        flying = [*self._take_landed(led, leads=True), *self._take_landed(followed, leads=False)]
        flying.sort(key=lambda each: each[2])  # the hasty last: they may have landed by then
        for number, (flight, leads, is_hasty) in enumerate(flying, 1):
            try:
                arrived = await self._wait_for(flight, until if is_hasty else None, leads=leads)
            except BaseException:
                for other, *_ in flying[number:]:
                    self.flow.flights.leave(other)
                raise
            self._arrive(arrived, leads=leads)

    def _take_landed(
        self, flights: Sequence[Flight], *, leads: bool
    ) -> list[tuple[Flight, bool, bool]]:
        """Have those arrive that have landed; return the others, and which have a stale value."""
        flying = []
        for flight in flights:
            if flight.has_landed:
                self._arrive(flight, leads=leads)
            else:
                is_hasty = self.flow.patience(self.spec, flight) is not None
                flying.append((flight, leads, is_hasty))
        return flying

    async def _wait_for(self, flight: Flight, until: float | None, *, leads: bool) -> Flight:
        """Wait for a flight, until then; return it, or what was loaded in its place."""
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return flight
        if leads:
            await self.flow.wait_for(self.port, flight, left)
        elif not await self.flow.follow(self.port, flight, left):
            return await self._run_directly(flight)  # this batch is part of loading that very key
        return flight

    async def _run_directly(self, flight: Flight) -> Flight:
        want = self.wants[flight.key][0]
        if self.batch is None:
            return await self.flow.run_directly(self.port, flight, self.spec, want.args, {})
        batch = self.batch
        spec = replace(self.spec, function=lambda: batch([want.item]))
        flight = await self.flow.run_directly(self.port, flight, spec, (), {})
        if flight.error is None:
            flight.value = aligned(flight.value, [want.item])[0]
        return flight

    def _arrive(self, flight: Flight, *, leads: bool) -> None:
        landed = self.flow.landed(self.spec, flight)
        if landed is None:
            return
        self.flow.count(self.spec, landed, leads=leads)
        self.outcomes.add(outcome(landed.source, leads=leads))
        self.found.note(self.missing.pop(flight.key), landed.result)

    # Below, on behalf of all passengers: in the caller's thread, or in a task or thread of its own.

    async def _carry(self, led: Sequence[Flight]) -> None:
        """Bring the led flights their values or errors; whatever happens, they land."""
        end: Kind | None = Kind.FAILED
        try:
            unread = [flight for flight in led if not self._land_at_once(flight)]
            if self.batch is None:
                await self.port.gather([partial(self._load_one, flight) for flight in unread])
            else:
                await self._load_batch(unread)
        except BoxedStop as box:
            self._fail(led, box.error)
        except Exception as error:
            self._fail(led, error)
        except BaseException as error:
            end = None if isinstance(error, GeneratorExit) else Kind.LANDED
            for flight in led:
                self.flow.break_off(self.port, flight, self.spec, error)
            raise
        finally:
            await self._give_up(led, end)

    async def _load_batch(self, flights: Sequence[Flight]) -> None:
        """Load the keys whose leases are to be had; then see what the others' holders bring.

        Loading one's own before waiting for another's: so no two batches wait for each other.
        """
        began = time.monotonic()
        with Expecting(self.flow.waits, self.port.expectation) as expecting:
            while flights:
                failed = expecting.take_failed()
                mine, held, soonest = await self._claim(flights, began)
                # Of those whose load has just failed: loaded alongside, without leases.
                mine += [flight for flight in held if flight.key in failed]
                held = [flight for flight in held if flight.key not in failed]
                for some in told_apart(mine, self.wants):
                    await self._load_own(some)
                keys = [flight.key for flight in held]
                if held and not expecting.covers(keys):
                    expecting.cover(keys)  # and ask once more: from now on no news is missed
                elif held:
                    await self.port.news(expecting.waiter, soonest)
                    for flight in held:
                        flight.source = Source.PEER
                flights = held

    async def _claim(
        self, flights: Sequence[Flight], began: float
    ) -> tuple[list[Flight], list[Flight], float]:
        """Ask for leases; return the flights to load, those to wait for, and for how long."""
        flow, spec, claims = self.flow, self.spec, self.flow.claims
        if claims is None or not spec.uses_store:
            return list(flights), [], 0.0
        mine, held, soonest, is_late = [], [], inf, False
        for flight, answer, claim in await self._ask(flights, claims):
            if answer is MISS:
                mine.append(flight)
            elif answer is not HELD:
                flow.flights.land(flight, answer)
            else:
                held.append(flight)
                patience = claims.patience(flight.key, claim, began, spec)
                soonest, is_late = min(soonest, patience), is_late or patience <= 0
        if is_late:  # waited for long enough: loaded alongside
            return [*mine, *held], [], 0.0
        return mine, held, soonest

    async def _ask(
        self, flights: Sequence[Flight], claims: Claims
    ) -> list[tuple[Flight, Any, Claim]]:
        """Ask for leases; past what stands there, where that is stale or unreadable."""
        past = [flight for flight in flights if _is_stale_there(flight)]
        asked = await self._asked(claims, [f for f in flights if f not in past], anew=False)
        past += [each[0] for each in asked if each[1] is HELD and each[2].stored is not None]
        answered = [each for each in asked if each[0] not in past]
        return [*answered, *await self._asked(claims, past, anew=True)]

    async def _asked(
        self, claims: Claims, flights: Sequence[Flight], *, anew: bool
    ) -> list[tuple[Flight, Any, Claim]]:
        if not flights:
            return []
        answers = await claims.ask(self.port, flights, self.spec, anew=anew)
        return [(flight, *answer) for flight, answer in zip(flights, answers, strict=True)]

    def _fail(self, led: Sequence[Flight], error: BaseException) -> None:
        for flight in led:
            self.flow.fail(flight, self.spec, error)

    def _land_at_once(self, flight: Flight) -> bool:
        try:
            value = self.flow.look_nearby(flight)
        except Exception as error:
            self.flow.flights.fail(flight, error)
            return True
        if value is not MISS:
            self.flow.flights.land(flight, value)
        return value is not MISS

    async def _load_one(self, flight: Flight) -> None:
        await self.flow.fly(self.port, flight, self.spec, self.wants[flight.key][0].args, {})

    async def _load_own(self, flights: Sequence[Flight]) -> None:
        """Load flights together; an error is theirs, and not of those that others load."""
        try:
            flights = await self._land_pending(flights)
            if flights:
                await self._load_together(flights)
        except BoxedStop as box:
            self._fail(flights, box.error)
        except Exception as error:
            self._fail(flights, error)
        # What brought nothing to L2 is not to be waited for until the whole batch has ended.
        await self._give_up(flights, Kind.FAILED)

    async def _give_up(self, flights: Sequence[Flight], kind: Kind | None) -> None:
        claims = self.flow.claims
        if claims is not None and any(flight.lease is not None for flight in flights):
            await claims.give_up(self.port, flights, kind)

    async def _land_pending(self, flights: Sequence[Flight]) -> Sequence[Flight]:
        """Land flights of keys that are still on their way to the database; return the rest."""
        flow, spec = self.flow, self.spec
        if flow.overlay is None:
            return flights
        keys = [flight.key for flight in flights]
        values = await flow.overlay.values(self.port, spec, keys, for_load=True)
        left = [flight for flight in flights if flight.key not in values]
        for flight in flights if values else ():
            if flight.key in values:
                try:
                    value = await flow.keep_pending(self.port, flight, spec, values[flight.key])
                except Exception as error:
                    flow.fail(flight, spec, error)
                else:
                    if value is MISS:
                        left.append(flight)
                    else:
                        flow.flights.land(flight, value)
        return left

    async def _load_together(self, flights: Sequence[Flight]) -> None:
        batch, spec = self.batch, self.spec
        assert batch is not None
        items = [self.wants[flight.key][0].item for flight in flights]
        for flight in flights:
            flight.source = Source.LOAD
            has_fixed_tags = spec.tags_of is None and flight.stale is None
            flight.tags = spec.tags if has_fixed_tags else None
        limit = self.port.limit(flights, spec, self.flow.overdue)
        started = perf_counter()
        try:
            with loading(flights):
                values = aligned(await self._call(batch, items, flights), items)
        except Exception as error:
            self._note_error(flights, error, perf_counter() - started)
            raise
        finally:
            if limit is not None:
                limit.cancel()
        seconds = perf_counter() - started
        self._note_loads(flights, seconds)
        await self._fill(flights, values, seconds)

    async def _call(
        self, batch: Callable[[list[Any]], Any], items: list[Any], flights: Sequence[Flight]
    ) -> Any:
        """Call the bulk loader, inside of what plugins put around loads."""
        flow, port, spec = self.flow, self.port, self.spec
        spans = flow.telemetry.spans
        call = partial(port.call, batch, (items,), {}, spec.timeout)
        with NO_STEP if spans is None else spans.load_many(spec.function_name, flights):
            if not flow.hooks.around_load:
                return await call()
            load = Load(
                *("", spec.name),
                cache=flow.name,
                module=spec.module,
                args=(items,),
                is_async=not port.leads_inline,
                is_refresh=flights[0].renews,
                items=tuple(items),
            )
            for flight in flights:
                flight.load = load
            return await flow.hooks.around(load, call)

    def _note_error(self, flights: Sequence[Flight], error: Exception, seconds: float) -> None:
        """Count a bulk load that failed, once, and tell of each of its keys."""
        under_way = [flight for flight in flights if not flight.has_landed]
        if not under_way:  # overdue; how its cancellation went says nothing
            return
        self.flow.record_load(self.spec, seconds)
        self.spec.counters.load_errors += 1
        reason = error.error if isinstance(error, BoxedStop) else error
        for flight in under_way:
            self.flow.tell("load_error", flight.key, cause=type(reason).__name__, seconds=seconds)

    def _note_loads(self, flights: Sequence[Flight], seconds: float) -> None:
        """Count a bulk load, once, and tell of each of its keys."""
        self.flow.record_load(self.spec, seconds)
        for flight in flights if self.flow.hooks.on_event else ():
            self.flow.tell("loaded", flight.key, seconds=seconds)

    async def _fill(self, flights: Sequence[Flight], values: list[Any], seconds: float) -> None:
        """Store loaded values in both tiers, each tier at once, and let the flights land."""
        flow, spec = self.flow, self.spec
        kept: list[tuple[Flight, Any, Life]] = []
        fills: list[Fill] = []
        for flight, value in zip(flights, values, strict=True):
            life = self._life_of(flight, value, seconds)
            if life is None:
                if flight.renews and not flight.has_landed:
                    await flow.let_be(self.port, flight, spec, value)
                continue
            kept.append((flight, value, life))
            fill = flow.encode_for_store(spec, flight, value, life)
            if fill is not None:
                fills.append(fill)
        refused = await self._fill_store(flights, fills)
        for flight, value, life in kept:
            if flight.key not in refused:
                flow.put(flight, spec, value, life)
        for flight, value in zip(flights, values, strict=True):
            flow.flights.land(flight, value)

    def _life_of(self, flight: Flight, value: Any, seconds: float) -> Life | None:
        """Return how a loaded value is to be kept; None: not at all."""
        flow, spec = self.flow, self.spec
        if flight.has_landed:
            return None
        try:
            life = flow.judge(spec, flight, value, seconds)
        except Exception as error:
            flow.fail(flight, spec, error)
            return None
        if flow.pauses:
            flow.pauses.end(flight.key)
        flight.ttl = None if life is None else life.ttl
        return life

    async def _fill_store(self, flights: Sequence[Flight], fills: Sequence[Fill]) -> set[str]:
        """Write loaded values to L2; return the keys of those that it refused."""
        l2 = self.flow.l2
        if not fills or l2 is None:
            return set()
        taken = await l2.fill(self.port, fills)
        filled = {fill.key for fill in fills}
        for flight in flights:
            if flight.key in filled:
                flight.lease = None
                flight.stop_renewing()
        if taken is None:
            return set()
        return {fill.key for fill, was_taken in zip(fills, taken, strict=True) if not was_taken}


def rounds(count: int, batch: Batch) -> int:
    """Return how many loads one after the other so many keys may take."""
    return 1 if batch is not None else -(-count // CONCURRENT_LOADS)


def _count_in(flow: Flow, flights: Sequence[Flight], passengers: int) -> None:
    with flow.flights.lock:
        for flight in flights:
            flight.passengers += passengers


def _is_stale_there(flight: Flight) -> bool:
    """Whether what stands in L2 under a flight's key is known to be no answer."""
    return flight.stale is not None and flight.source is Source.STORE
