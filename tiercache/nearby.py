"""What L1 holds of one cache, and what is under way towards it: looked up, kept, and let go of.

It knows the protocols of the store, the L1 and the codec, and no particular one of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from math import inf, nan
from typing import TYPE_CHECKING, Any, Protocol

from .clock import Clock, CoarseClock
from .coherence.bus import Bus
from .entry import (
    Entry,
    Freshness,
    LastingEntry,
    Life,
    RemovalCause,
    Standing,
    entry_of,
    freshness,
    is_error,
    standing,
)
from .hearing import Hearing
from .hooks import Hooks
from .l2 import L2
from .lives import Lives, refresh_point
from .plugin import Event
from .runtime import Port
from .singleflight import Flight, Flights, Source
from .spec import MISS, Spec
from .stats import Counters, LoadTimes
from .telemetry import NO_STEP, Telemetry, names
from .ttl import jittered
from .waits import Waits

if TYPE_CHECKING:
    from .codec import Codec
    from .tiers.memory import Memory, Removed
    from .tiers.store import Store

log = logging.getLogger(__name__)

BLIND_TTL = 5.0  # seconds
UNWATCHED_JITTER = 0.3  # of that: what is loaded in an outage is not loaded again all at once
UNKNOWN = object()  # in place of a pending value, where the journal cannot be read
FEW_ENTRIES = 1000  # in L1, that may be looked through whenever a tag is invalidated


class Overlay(Protocol):
    """What is still on its way to the database."""

    async def values(
        self, port: Port, spec: Spec, keys: Sequence[str], *, for_load: bool
    ) -> dict[str, Any]:
        """Return what keys are to read as whose writes have not reached the database.

        For a load, deleted ones too: in the place of a value may stand an exception to be raised,
        or UNKNOWN where nobody can tell: then what is loaded is not to be kept.
        """


class Nearby:
    """The tiers of one cache, and what is under way towards them."""

    def __init__(
        self,
        name: str,
        memory: Memory | None,
        store: Store | None,
        codec: Codec,
        clock: Clock,
        jitter: float,
        hooks: Hooks,
        counters: Counters,
        blind_ttl: float = BLIND_TTL,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.name = name
        self.memory = memory
        self.codec = codec
        self.clock = clock
        self.jitter = jitter
        self.hooks = hooks
        self.counters = counters
        self.telemetry = telemetry or Telemetry(name)
        self.time = time.monotonic if isinstance(clock, CoarseClock) else clock
        self.lives = Lives(hooks, jitter)
        self.load_times = LoadTimes()  # of all functions together
        self.flights = Flights(self.name)
        self.waits = Waits()
        self.any_spec = Spec(name, counters, 0.0)  # of a value of whatever function
        self.on_outdated: Callable[[Sequence[str]], None] | None = None  # tags were invalidated
        self.overlay: Overlay | None = None  # what is written behind
        self.l2: L2 | None = None
        self.bus: Bus | None = None
        if store is not None:
            self.l2 = L2(name, store, hooks, counters, self.telemetry)
            self.l2.waits = self.waits
            self.bus = Bus(
                self.l2.namespace,
                self.l2.origin,
                Hearing(self),
                self.waits,
                blind_ttl=blind_ttl,
                breaker=self.l2.breaker,
                name=f"cache {name!r}",
                telemetry=self.telemetry,
            )

    def after_fork(self) -> None:
        """Forget the parent's flights in a forked child, and what nobody has watched over."""
        self.flights = Flights(self.name)
        self.waits = Waits()
        if self.l2 is not None and self.bus is not None:
            self.l2.after_fork()
            self.l2.waits = self.waits
            self.bus.after_fork(self.l2.namespace, self.l2.origin, self.waits)
            self.drop()

    def stop(self) -> None:
        """End the bus. What L1 holds is not watched over any more, and dropped."""
        if self.bus is not None and self.bus.is_open:
            self.bus.stop()
            self.drop()

    def drop(self) -> None:
        """Drop L1, and detach every flight."""
        with self.flights.lock:
            self.flights.hear_all()
        if self.memory is not None:
            self.memory.clear()

    def outdate(self, tags: Sequence[str]) -> None:
        """Have nothing served from L1 or from a flight that carries one of the tags."""
        self.flights.outdate(tags)
        if self.on_outdated is not None:
            self.on_outdated(tags)
        self._discard_outdated(tags)

    def _discard_outdated(self, tags: Sequence[str]) -> None:
        """Let go of values at once where that is quick; elsewhere they go as they are met."""
        memory = self.memory
        if memory is None or len(memory) > FEW_ENTRIES:
            return
        wanted = set(tags)
        for key in memory:
            entry = memory.get(key)
            if entry is not None and not wanted.isdisjoint(entry.tags):
                memory.discard(entry, RemovalCause.INVALIDATED)

    # L1

    def fresh(self, key: str) -> tuple[Entry, Any] | None:
        """Return the entry of a key in L1 and its value, if it may be served."""
        memory = self.memory
        if memory is None or (entry := memory.table.get(key)) is None:
            return None
        if self.clock.now == inf:
            self.clock.awaken()
        value = entry.value  # before its deadline is looked at: a removal takes it after
        state = freshness(entry, self.time())
        if state is Freshness.EXPIRED:
            memory.discard(entry, RemovalCause.EXPIRED)
            return None
        if entry.tags and self.flights.is_outdated(entry):
            memory.discard(entry, RemovalCause.INVALIDATED)
            return None
        return (entry, value) if state is Freshness.FRESH else None

    def standing(self, key: str) -> Standing | None:
        """Return what stands in L1 under a key, fresh or stale, and may be served at all."""
        memory = self.memory
        if memory is None or (entry := memory.table.get(key)) is None:
            return None
        found = standing(entry)
        if freshness(entry, self.time()) is Freshness.EXPIRED or is_error(found.value):
            return None
        if entry.tags and self.flights.is_outdated(entry):
            return None
        return found

    def usable(self, key: str) -> tuple[Entry, Any] | None:
        """Return what ``fresh`` does; to those who only look, a remembered error is nothing."""
        found = self.fresh(key)
        return None if found is None or is_error(found[1]) else found

    def hit(self, entry: Entry, value: Any) -> Any:
        """Count a hit in L1 off the fast path; return its value, or raise its error."""
        assert self.memory is not None
        self.memory.touch(entry)
        if is_error(value):
            raise value.afresh()
        return value

    def trace_hit(self, function: str, entry: Entry, value: Any) -> Any:
        """Do what ``hit`` does, in a span of its own."""
        spans = self.telemetry.notice()
        step = NO_STEP if spans is None else spans.get(function, entry.key)
        with step:
            value = self.hit(entry, value)
            step.answered(names.L1_HIT)
        return value

    def look_nearby(self, flight: Flight) -> Any:
        """Return what can be told without I/O, or MISS. Raises a remembered error."""
        # Someone may have landed between this caller's look at L1 and its boarding.
        found = self.fresh(flight.key)
        if found is not None:
            flight.source = Source.MEMORY
            return self.hit(*found)
        if self.hooks.guards and (guard := self.hooks.guard_against(flight.key)) is not None:
            flight.source = Source.GUARD
            if self.telemetry.spans is not None:
                self.telemetry.spans.ruled_out(type(guard).__name__)
            return guard.absent(flight.key)
        return MISS

    # Keeping in L1

    def age(self, found: Standing) -> float:
        """Return how many seconds ago a value was loaded, as far as is known."""
        ttl = None if found.record is None else found.record.ttl
        return max(0.0, self.time() - found.stale_at + (ttl or 0.0)) if ttl else nan

    def make_stale(self, key: str) -> list[Removed]:
        """Have the value of a key in L1 be stale; return it where it is not to be kept."""
        memory = self.memory
        if memory is None or memory.make_stale(key, self.time()):
            return []
        return memory.displace(key, RemovalCause.EXPIRED)

    def put(self, flight: Flight, spec: Spec, value: Any, life: Life) -> None:
        """Put a value in L1, unless the key was invalidated since the flight began."""
        memory, key = self.memory, flight.key
        if memory is None:
            return
        # One whose tag was invalidated since the flight began is outdated as soon as it is there.
        entry = entry_of(key, value, life, flight.era)
        self.schedule(entry, life, spec)
        weight = memory.weigh(entry)
        with self.flights.lock:
            is_current = self.flights.is_current(flight)
            if flight.replaces:  # what was read before must not be put over it, or stay
                self.flights.note_change(key)
            if is_current:
                removed = memory.place(entry, weight)
            else:
                removed = memory.displace(key) if flight.replaces else []
        if removed:
            memory.bury(removed)

    def _longest(self) -> float:
        """Return for how many seconds what is put in L1 now may be kept."""
        bus = self.bus
        if bus is None or not bus.keeps_short:
            return inf
        return jittered(bus.blind_ttl, UNWATCHED_JITTER)

    def schedule(self, entry: Entry, life: Life, spec: Spec) -> None:
        """Set the times of an entry whose life begins now.

        Unwatched, none lives longer than blind_ttl.
        """
        now, ttl, longest = self.time(), life.ttl, self._longest()
        stale_at = now + (longest if ttl is None else min(ttl, longest))
        if entry.__class__ is LastingEntry:
            entry.stale_at = stale_at
            entry.kept_until = min(stale_at + life.keep, now + longest)
            entry.fresh_until = refresh_point(spec, stale_at, life.record)
        else:
            entry.fresh_until = stale_at

    def tell(self, name: str, key: str, *, cause: str = "", seconds: float = 0.0) -> None:
        """Tell the plugins of an event, where one listens."""
        if self.hooks.on_event:
            self.hooks.tell(Event(name, self.name, key, cause, seconds))
