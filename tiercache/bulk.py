"""Many keys at once: hits in one round trip, one bulk load for the misses, flights joined.

Each key has a flight of its own, so single readers and other batches join it, and an error of one
key is that key's alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

from .claims import HELD, Claims
from .current import loading
from .entry import Entry, LastingEntry
from .flow import Flow, outcome
from .load import Load
from .runtime import CONCURRENT_LOADS, BoxedStop, Port
from .singleflight import Flight, Source
from .spec import MISS, Spec
from .telemetry import NO_STEP, names
from .tiers.store import Claim, Fill, Kind
from .waits import Expectation, Waits

#: Loads items together; None to load them one by one, concurrently.
Batch = Callable[[list[Any]], Any] | None


@dataclass(frozen=True, slots=True)
class Want:
    """One key of a batch."""

    key: str
    item: Any  # what the caller calls it
    args: tuple[Any, ...] = ()  # to load it alone


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch brought: values by item, and the errors of the others."""

    values: dict[Any, Any]
    errors: dict[Any, Exception]

    def note(self, wants: Collection[Want], result: Callable[[], Any]) -> None:
        """Keep a result, or the error it raises, for whoever wanted it."""
        try:
            value = result()
        except Exception as error:
            self.errors.update({want.item: error for want in wants})
        else:
            if value is not MISS:
                self.values.update({want.item: value for want in wants})


async def read_many(
    flow: Flow, port: Port, spec: Spec, wants: Sequence[Want], batch: Batch = None
) -> Found:
    """Return the values of many keys; when only looking, keys without one are left out."""
    found = Found({}, {})
    missing = _look_in_memory(flow, port, spec, wants, found)
    if not missing and not flow.telemetry.traces_hits:
        return found
    spans = flow.telemetry.notice()
    step = NO_STEP if spans is None else spans.get_many(spec.function_name, len(wants))
    with step:
        outcomes = await _bring(flow, port, spec, missing, batch, found)
        step.answered(names.slowest(outcomes))
        for error in list(found.errors.values())[:1]:
            step.failed(error)
    return found


async def _bring(
    flow: Flow,
    port: Port,
    spec: Spec,
    missing: dict[str, list[Want]],
    batch: Batch,
    found: Found,
) -> set[str]:
    """Note what is not fresh in L1; return the outcomes that there were."""
    outcomes = {names.L1_HIT} if found.values else set()
    if spec.function is not None and _serve_stale(flow, port, spec, missing, found):
        outcomes.add(names.STALE)
    if missing:
        values = await flow.find_many(port, spec, list(missing))
        for key, value in values.items():
            outcomes.add(names.L2_HIT)
            found.values.update({want.item: value for want in missing.pop(key)})
    if missing and spec.function is not None:
        spec.counters.misses -= len(missing)  # counted as they land
        if _serve_stale(flow, port, spec, missing, found):
            outcomes.add(names.STALE)
    if missing and spec.function is not None:
        journey = _Journey(flow, port, spec, missing, batch, found, outcomes)
        await journey.complete()
    return outcomes


def _look_in_memory(
    flow: Flow, port: Port, spec: Spec, wants: Sequence[Want], found: Found
) -> dict[str, list[Want]]:
    """Note what L1 has; return the rest, by key."""
    missing: dict[str, list[Want]] = {}
    for want in wants:
        hit = flow.fresh(want.key) if spec.function is not None else flow.usable(want.key)
        if hit is None:
            missing.setdefault(want.key, []).append(want)
            continue
        if hit[0].__class__ is LastingEntry:
            flow.attend(port, spec, hit[0], hit[1], want.args or None, {})
        found.note([want], partial(_hit, flow, spec, want, *hit))
    return missing


def _serve_stale(
    flow: Flow, port: Port, spec: Spec, missing: dict[str, list[Want]], found: Found
) -> bool:
    """Note what L1 has that is stale, and need not be waited for; say if there was any."""
    before = len(missing)
    for key in list(missing) if spec.keep else ():
        value = flow.serve_stale(port, spec, key, missing[key][0].args or None, {})
        if value is not MISS:
            found.values.update({want.item: value for want in missing.pop(key)})
    return len(missing) < before


def _hit(flow: Flow, spec: Spec, want: Want, entry: Entry, value: Any) -> Any:
    try:
        return flow.hit(entry, value)
    finally:
        if spec.on_hit is not None:
            spec.on_hit(want.args, entry)


class _Journey:
    """The flights of one batch, led and followed, until every key has its answer."""

    def __init__(
        self,
        flow: Flow,
        port: Port,
        spec: Spec,
        missing: Mapping[str, list[Want]],
        batch: Batch,
        found: Found,
        outcomes: set[str] | None = None,
    ) -> None:
        self.flow = flow
        self.port = port
        self.spec = spec
        self.missing = dict(missing)
        self.batch = batch
        self.found = found
        self.outcomes = set() if outcomes is None else outcomes  # for telemetry

    async def complete(self) -> None:
        """Fly until nothing is missing: flights whose leader vanished are flown again."""
        while self.missing:
            led, followed = self._board()
            if led:
                carry = self._carry(led)
                await self.port.lead_many(self.flow.flights, led, carry, self.spec, followed)
            await self._follow(followed)
            for flight in led:
                self._arrive(flight, leads=True)

    def _board(self) -> tuple[list[Flight], list[Flight]]:
        led: list[Flight] = []
        followed: list[Flight] = []
        flow, spec = self.flow, self.spec
        deck = self.port.deck
        loop = self.port.loop()
        rounds = 1 if self.batch else -(-len(self.missing) // CONCURRENT_LOADS)
        with flow.flights.lock:
            for key in self.missing:
                flight, leads = flow.flights.board(key, deck, spec.flight_seconds * rounds, loop)
                (led if leads else followed).append(flight)
                if leads and spec.keep:
                    flight.stale = flow.standing(key)
        return led, followed

    async def _follow(self, followed: list[Flight]) -> None:
        while followed:
            flight = followed.pop()
            try:
                landed = await self.flow.follow(self.port, flight)
            except BaseException:
                for other in followed:
                    self.flow.flights.leave(other)
                raise
            if not landed:  # this batch is part of loading that very key
                flight = await self._run_directly(flight)
            self._arrive(flight, leads=False)

    async def _run_directly(self, flight: Flight) -> Flight:
        want = self.missing[flight.key][0]
        if self.batch is None:
            return await self.flow.run_directly(self.port, flight, self.spec, want.args, {})
        batch = self.batch
        spec = replace(self.spec, function=lambda: batch([want.item]))
        flight = await self.flow.run_directly(self.port, flight, spec, (), {})
        if flight.error is None:
            flight.value = _aligned(flight.value, [want.item])[0]
        return flight

    def _arrive(self, flight: Flight, *, leads: bool) -> None:
        if not flight.has_landed or flight.must_retry:
            return
        wants = self.missing.pop(flight.key)
        if flight.error is not None:
            flight = self.flow.fall_back(self.spec, flight)
        self.flow.count(self.spec, flight, leads=leads)
        self.outcomes.add(outcome(flight.source, leads=leads))
        self.found.note(wants, flight.result)

    # Below, on behalf of all passengers: in the caller's thread, or in a task of its own.

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
            self._fail(led, error, must_retry=self.port.ends_the_leader_only(error))
            raise
        finally:
            await self._give_up(led, end)

    async def _load_batch(self, flights: Sequence[Flight]) -> None:
        """Load the keys whose leases are to be had; then see what the others' holders bring.

        Loading one's own before waiting for another's: so no two batches wait for each other.
        """
        began = time.monotonic()
        with _expecting(self.flow.waits, self.port) as expectation:
            while flights:
                failed = expectation.take_failed()
                mine, held, soonest = await self._claim(flights, began)
                # Of those whose load has just failed: loaded alongside, without leases.
                mine += [flight for flight in held if flight.key in failed]
                held = [flight for flight in held if flight.key not in failed]
                mine, twins = _told_apart(mine, self.missing)
                for some in filter(None, (mine, *([flight] for flight in twins))):
                    await self._load_own(some)
                if held and not expectation.covers(held):
                    expectation.cover(held)  # and ask once more: from now on no news is missed
                elif held:
                    await self.port.news(expectation.waiter, soonest)
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
        """Ask for leases; once more, past what stands there, where that is stale or unreadable."""
        answers = await claims.ask(self.port, flights, self.spec, anew=False)
        asked = [(flight, *answer) for flight, answer in zip(flights, answers, strict=True)]
        useless = [each[0] for each in asked if each[1] is HELD and each[2].stored is not None]
        if not useless:
            return asked
        answers = await claims.ask(self.port, useless, self.spec, anew=True)
        again = [(flight, *answer) for flight, answer in zip(useless, answers, strict=True)]
        return [each for each in asked if each[0] not in useless] + again

    def _fail(
        self, led: Sequence[Flight], error: BaseException, *, must_retry: bool = False
    ) -> None:
        for flight in led:
            if must_retry:
                self.flow.flights.fail(flight, error, must_retry=True)
            else:
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
        want = self.missing[flight.key][0]
        await self.flow.fly(self.port, flight, self.spec, want.args, {})

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
        for flight in flights if values else ():
            if flight.key in values:
                try:
                    value = await flow.keep_pending(self.port, flight, spec, values[flight.key])
                except Exception as error:
                    flow.fail(flight, spec, error)
                else:
                    flow.flights.land(flight, value)
        return [flight for flight in flights if flight.key not in values]

    async def _call(
        self, batch: Callable[[list[Any]], Any], items: list[Any], flights: Sequence[Flight]
    ) -> Any:
        """Call the bulk loader, inside of what plugins put around loads."""
        flow, port, spec = self.flow, self.port, self.spec
        if not flow.hooks.around_load:
            return await port.call(batch, (items,), {}, spec.timeout)
        load = Load(
            *("", spec.name),
            cache=flow.name,
            module=spec.module,
            args=(items,),
            is_async=not port.leads_inline,
            items=tuple(items),
        )
        for flight in flights:
            flight.load = load
        return await flow.hooks.around(load, partial(port.call, batch, (items,), {}, spec.timeout))

    async def _load_together(self, flights: Sequence[Flight]) -> None:
        spec, batch = self.spec, self.batch
        assert batch is not None
        items = [self.missing[flight.key][0].item for flight in flights]
        for flight in flights:
            flight.source = Source.LOAD
            has_fixed_tags = spec.tags_of is None and flight.stale is None
            flight.tags = spec.tags if has_fixed_tags else None
        limit = self.port.limit(flights, spec, self.flow.overdue)
        spans = self.flow.telemetry.spans
        started = perf_counter()
        with loading(flights):
            try:
                with NO_STEP if spans is None else spans.load_many(spec.function_name, flights):
                    result = await self._call(batch, items, flights)
                values = _aligned(result, items)
            except Exception:
                self.flow.record_load(spec, perf_counter() - started)
                spec.counters.load_errors += 1
                raise
            finally:
                if limit is not None:
                    limit.cancel()
        seconds = perf_counter() - started
        self.flow.record_load(spec, seconds)
        await self._fill(flights, values, seconds)

    async def _fill(self, flights: Sequence[Flight], values: list[Any], seconds: float) -> None:
        flow, spec = self.flow, self.spec
        kept = []
        fills: list[Fill] = []
        for flight, value in zip(flights, values, strict=True):
            try:
                life = None if flight.has_landed else flow.judge(spec, flight, value, seconds)
            except Exception as error:
                flow.fail(flight, spec, error)
                continue
            if life is None:
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


class _Expecting:
    """A batch's waiting for news of any of some keys."""

    def __init__(self, waits: Waits, port: Port) -> None:
        self._waits = waits
        self._port = port
        self._notes: dict[str, _Note] = {}
        self._failed: set[str] = set()  # keys; added to by any thread
        self.waiter: Any = None

    def covers(self, flights: Sequence[Flight]) -> bool:
        """Whether news of all these keys would be heard."""
        return all(flight.key in self._notes for flight in flights)

    def cover(self, flights: Sequence[Flight]) -> None:
        """Have news of these keys heard, too."""
        if self.waiter is None:
            self.waiter = self._port.expectation()
        for flight in flights:
            if flight.key not in self._notes:
                note = self._notes[flight.key] = _Note(flight.key, self._failed, self.waiter)
                self._waits.add(flight.key, note)

    def take_failed(self) -> set[str]:
        """Return the keys whose load, elsewhere, has failed since this was asked last."""
        failed = self._failed.copy()
        self._failed -= failed
        return failed

    def end(self) -> None:
        """Expect nothing any more."""
        for key, note in self._notes.items():
            self._waits.remove(key, note)


class _Note:
    """A batch's waiting for news of one key."""

    def __init__(self, key: str, failed: set[str], waiter: Expectation) -> None:
        self._key = key
        self._failed = failed
        self._waiter = waiter

    def wake(self, kind: Kind) -> None:
        if kind is Kind.FAILED:
            self._failed.add(self._key)
        self._waiter.wake(kind)


@contextmanager
def _expecting(waits: Waits, port: Port) -> Iterator[_Expecting]:
    expecting = _Expecting(waits, port)
    try:
        yield expecting
    finally:
        expecting.end()


def _told_apart(
    flights: Sequence[Flight], missing: Mapping[str, list[Want]]
) -> tuple[list[Flight], list[Flight]]:
    """Part off flights whose items a dict takes for others', such as True beside 1."""
    seen: set[Any] = set()
    apart: list[Flight] = []
    twins: list[Flight] = []
    for flight in flights:
        item = missing[flight.key][0].item
        (twins if item in seen else apart).append(flight)
        seen.add(item)
    return apart, twins


def _aligned(result: Any, items: list[Any]) -> list[Any]:
    """Return a batch's values in the order of its items; one it does not name is None."""
    if isinstance(result, str | bytes | Set):
        raise TypeError(
            f"a batch returned a {type(result).__name__}; "
            "return one value for each item in order, or a dict by item"
        )
    if isinstance(result, Mapping):
        return [result.get(item) for item in items]
    values = list(result)
    if len(values) != len(items):
        raise ValueError(
            f"a batch of {len(items)} items returned {len(values)} values; "
            "return one for each in order, or a dict by item"
        )
    return values
