"""How a few keys of one source are brought: looked for in both tiers, then loaded under leases.

It flies as a batch does (``journeys``), over a flow of its own, a copy of the cache's: with the
same flights, so that callers join, but with an L1 that evicts nothing (``room``), counters of which
only the loads are kept, and claims that do not wait.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from tiercache.batches import Found, told_apart
from tiercache.claims import HELD
from tiercache.entry import Life, entry_of
from tiercache.errors import CacheError
from tiercache.journeys import Journey
from tiercache.runtime import BoxedStop
from tiercache.singleflight import Flight, Source
from tiercache.spec import MISS, Spec
from tiercache.stats import Counters
from tiercache.tiers.breaker import State

from .room import Room
from .run import BREAKER, FULL, Run
from .sources import BATCH, Job
from .sources import Source as WarmSource

if TYPE_CHECKING:
    from tiercache.flow import Flow
    from tiercache.runtime import Port
    from tiercache.tiers.memory import Memory
    from tiercache.tiers.store import Claim

HOLD_SECONDS = 0.05  # for which single keys are claimed together: callers who join wait so long
MOST_SINGLE = 64  # keys that are claimed together
LOCKED = 64  # keys that are put, or landed, under one lock: some 50 microseconds

Loaded = tuple[Flight, Any, float]  # a value, and the seconds its load took
Kept = tuple[Flight, Any, Life]

#: Waits so many seconds; says whether to go on.
Pause = Callable[[float], Awaitable[bool]]


class Carrier:
    """Brings the keys of one source. Used by many threads or tasks at once."""

    def __init__(self, flow: Flow, port: Port, source: WarmSource, run: Run, pause: Pause) -> None:
        self.source = source
        self.run = run
        self.port = port
        self.pause = pause
        self.room = None if flow.memory is None else Room(flow.memory, run.note_refused)
        self.flow = _over(flow, self.room)
        self._spec = source.spec()
        self._seconds = HOLD_SECONDS  # that a load takes where nothing holds it up

    @property
    def size(self) -> int:
        """Keys to bring at once: as many as can be loaded while callers who join may wait."""
        most = min(BATCH, self.run.limits.most_at_once)
        if not self.source.loads_singly:
            return most
        return max(1, min(most, MOST_SINGLE, int(HOLD_SECONDS / self._seconds)))

    def is_pointless(self) -> bool:
        """Whether nothing could be kept of what is loaded; then the run is stopped."""
        if self.room is not None and not self.room.is_full:
            return False
        l2 = self.flow.l2
        if l2 is None or not self._spec.uses_store:
            self.run.stop(FULL)
            return True
        if l2.breaker.state is State.OPEN:
            self.run.stop(BREAKER)
            return True
        return False

    async def bring(self, jobs: Sequence[Job]) -> None:
        """Bring keys, and count what came of each."""
        spec = replace(self._spec, counters=self._counters())
        try:
            missing = await self._look(spec, jobs)
            if missing and await self._may_load(len(missing)):
                while missing and not self.run.is_stopping:
                    missing = await _Visit(self, spec, missing).complete_all()
        finally:
            self._keep_counts(spec.counters)

    def note_load(self, seconds: float) -> None:
        """Learn how long a load takes."""
        self._seconds = max(1e-6, seconds)

    async def _look(self, spec: Spec, jobs: Sequence[Job]) -> dict[str, Job]:
        """Return what no tier has and can be loaded, by key; what L2 has is put in L1."""
        flow, is_near = self.flow, self.is_near
        missing = {job.key: job for job in jobs if not is_near(job.key)}
        if missing and flow.l2 is not None:
            for key in await flow.look_many(self.port, spec, list(missing)):
                del missing[key]
        missing = {key: job for key, job in missing.items() if job.args is not None}
        self.run.note("skipped", len(jobs) - len(missing))
        return missing

    def is_near(self, key: str) -> bool:
        """Whether L1 has a key, fresh: most have not, and are looked for no further."""
        memory = self.flow.memory
        return memory is not None and key in memory.table and self.flow.fresh(key) is not None

    async def _may_load(self, count: int) -> bool:
        delay = self.run.delay(count)
        return not self.run.is_stopping and (delay <= 0 or await self.pause(delay))

    def _counters(self) -> Counters:
        counters = Counters()
        counters.load_times = self._spec.counters.load_times
        return counters

    def _keep_counts(self, counters: Counters) -> None:
        """Have loads counted where users look, in single steps; calls there were none."""
        kept = self._spec.counters
        kept.loads += counters.loads
        kept.load_errors += counters.load_errors
        kept.encode_errors += counters.encode_errors
        kept.decode_errors += counters.decode_errors


class _Visit(Journey):
    """One attempt to bring some keys, each led by this flight or left to whoever has it."""

    def __init__(self, carrier: Carrier, spec: Spec, missing: dict[str, Job]) -> None:
        wants: Any = {key: (job,) for key, job in missing.items()}  # which have what a Want has
        batch = carrier.source.batch or _no_batch
        super().__init__(carrier.flow, carrier.port, spec, wants, batch, Found({}, {}))
        self._carrier = carrier
        self._jobs = missing
        self._source = carrier.source
        self._run = carrier.run
        self._done: set[Flight] = set()  # counted, or left to others: the run may be stopping

    async def complete_all(self) -> dict[str, Job]:
        """Return the jobs that were broken off, through no fault of their own."""
        led, others = self._board()
        for flight in others:
            self.flow.flights.leave(flight)
        self._run.note("skipped", len(others))
        if led:
            await self.port.lead_many(self.flow.flights, led, self._carry(led), self.spec, ())
        return self._count(led)

    def _count(self, led: Sequence[Flight]) -> dict[str, Job]:
        broken: dict[str, Job] = {}
        seen: set[int] = set()
        landed = Counter[Source]()
        for flight in led:
            if flight in self._done:
                continue
            if not flight.has_landed or flight.must_retry:
                broken[flight.key] = self._jobs[flight.key]
            elif flight.error is None or flight.source is Source.GUARD:
                landed[flight.source] += 1
            else:
                self._run.note_error(flight.error, is_new=id(flight.error) not in seen)
                seen.add(id(flight.error))
        loaded = landed.pop(Source.LOAD, 0)
        self._run.note("loaded", loaded)
        self._run.note("skipped", landed.total())
        return broken

    def _land_at_once(self, flight: Flight) -> bool:
        if not self.flow.hooks.guards and not self._carrier.is_near(flight.key):
            return False
        return super()._land_at_once(flight)

    async def _load_batch(self, flights: Sequence[Flight]) -> None:
        mine = await self._take(flights)
        if self._source.has_values:
            await self._store(mine)
        elif self._source.batch is not None:
            for some in told_apart(mine, self.wants):
                await self._load_own(some)
        else:
            await self._load_each(mine)

    async def _load_each(self, flights: Sequence[Flight]) -> None:
        """Load keys one after the other; what is not begun after a while is broken off."""
        load, port, spec, jobs = self.flow._load, self.port, self.spec, self._jobs  # noqa: SLF001
        loaded: list[Loaded] = []
        began = now = time.perf_counter()
        for flight in flights:
            if self._run.is_stopping:
                self._leave(flight)
                continue
            if now - began > HOLD_SECONDS:
                self._break_off(flight)
                continue
            before = now
            try:
                value = await load(port, flight, spec, jobs[flight.key].args, {})
            except Exception as error:
                self._note_failure(flight, error)
                now = time.perf_counter()
            else:
                now = time.perf_counter()
                loaded.append((flight, value, now - before))
        if loaded:
            self._carrier.note_load(min(seconds for _, _, seconds in loaded))
        await self._keep_all(loaded)

    def _note_failure(self, flight: Flight, error: Exception) -> None:
        """Fail a flight, and count that at once: it may end the run."""
        reason = error.error if isinstance(error, BoxedStop) else error
        self.flow.fail(flight, self.spec, reason)
        self._run.note_error(reason)
        self._done.add(flight)

    async def _store(self, flights: Sequence[Flight]) -> None:
        for flight in flights:
            flight.source = Source.LOAD
            flight.tags = self.spec.tags if self.spec.tags_of is None else None
        await self._keep_all([(flight, self._jobs[flight.key].value, 0.0) for flight in flights])

    # Keeping

    async def _fill(self, flights: Sequence[Flight], values: list[Any], seconds: float) -> None:
        await self._keep_all([(*pair, seconds) for pair in zip(flights, values, strict=True)])

    async def _keep_all(self, loaded: Sequence[Loaded]) -> None:
        """Store loaded values in both tiers, each tier at once, then let their flights land.

        In this order: who asks for a key after its flight has landed finds the value.
        """
        lives = [life for each in loaded if (life := self._judged(*each)) is not None]
        fills = [self.flow.encode_for_store(self.spec, *kept) for kept in lives]
        flights = [flight for flight, _, _ in loaded]
        refused = await self._fill_store(flights, [fill for fill in fills if fill is not None])
        self._put_all([kept for kept in lives if kept[0].key not in refused])
        landing = self.flow.flights
        for start in range(0, len(loaded), LOCKED):
            with landing.lock:
                for flight, value, _ in loaded[start : start + LOCKED]:
                    landing.land(flight, value)

    def _judged(self, flight: Flight, value: Any, seconds: float) -> Kept | None:
        """Return how a value is to be kept; None: not at all."""
        flow = self.flow
        try:
            life = None if flight.has_landed else flow.judge(self.spec, flight, value, seconds)
        except Exception as error:
            self._note_failure(flight, error)
            return None
        if flow.pauses:
            flow.pauses.end(flight.key)
        flight.ttl = None if life is None else life.ttl
        return None if life is None else (flight, value, life)

    def _put_all(self, lives: Sequence[Kept]) -> None:
        """Put values in L1, unless their keys were invalidated since their flights began."""
        flow, room = self.flow, self._carrier.room
        if room is None:
            return
        entries = []
        for flight, value, life in lives:
            entry = entry_of(flight.key, value, life, flight.era)
            flow.schedule(entry, life, self.spec)
            entries.append((flight, entry, room.weigh(entry)))
        is_current = flow.flights.is_current
        for start in range(0, len(entries), LOCKED):
            with flow.flights.lock:
                removed = room.place_all(
                    [(e, w) for f, e, w in entries[start : start + LOCKED] if is_current(f)]
                )
            if removed:
                room.bury(removed)

    # Leases

    async def _take(self, flights: Sequence[Flight]) -> list[Flight]:
        """Return the flights that may load; the others have landed or are left."""
        claims, spec = self.flow.claims, self.spec
        if claims is None or not spec.uses_store or not flights:
            return list(flights)
        answers = await claims.ask(self.port, flights, spec, anew=False)
        mine, past = self._sorted(flights, answers)
        if past:  # a stale value stands there, or an unreadable one
            answers = await claims.ask(self.port, past, spec, anew=True)
            more, rest = self._sorted(past, answers)
            mine += more
            for flight in rest:
                self._leave(flight)
        return mine

    def _sorted(
        self, flights: Sequence[Flight], answers: Sequence[tuple[Any, Claim]]
    ) -> tuple[list[Flight], list[Flight]]:
        mine: list[Flight] = []
        past: list[Flight] = []
        for flight, (answer, claim) in zip(flights, answers, strict=True):
            if answer is MISS:
                mine.append(flight)
            elif answer is not HELD:
                self.flow.flights.land(flight, answer)
            elif claim.stored is not None:
                past.append(flight)
            else:
                self._run.note("skipped")
                self._leave(flight)
        return mine, past

    def _leave(self, flight: Flight) -> None:
        """Let whoever has joined a flight try by themselves."""
        self._done.add(flight)
        self._break_off(flight)

    def _break_off(self, flight: Flight) -> None:
        """End a flight without a result: who has joined it tries again, as does this carrier."""
        self.flow.flights.fail(flight, CacheError("not warmed"), must_retry=True)


def _over(flow: Flow, room: Room | None) -> Flow:
    """Return a flow that shares all with another but its L1."""
    other = copy.copy(flow)
    other.memory = cast("Memory | None", room)  # all of an L1 that a flow asks for
    other.keep = _keep_later  # type: ignore[assignment, method-assign]  # of many at once
    if flow.l2 is not None and flow.bus is not None:
        other.claims = other._make_claims(flow.l2, flow.bus)  # noqa: SLF001 - its own, once more
    return other


def _no_batch(_: list[Any]) -> Any:
    raise AssertionError("keys of this source are loaded one by one")


async def _keep_later(*_: Any) -> None:
    """Keep nothing yet: what a flow of warming loads is kept together with others."""
