"""What L2 holds already: looked up, promoted to L1, and kept there, without loading."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .entry import (
    Entry,
    Life,
    Record,
    Standing,
    entry_of,
    make_entry,
)
from .errors import DecodeError
from .nearby import Nearby
from .runtime import Port
from .singleflight import Flight, Source
from .spec import MISS, Spec
from .telemetry import NO_STEP, names
from .tiers.columns import Columns

if TYPE_CHECKING:
    from .tiers.store import Stored

log = logging.getLogger(__name__)

NEWER_SECONDS = 0.05  # by which two values in L2 differ at least
_NO_LIFE = Life(0.0)
_new_tuple: Any = tuple.__new__  # half the cost of a named tuple's own


class Lookup(Nearby):
    """The tiers of one cache."""

    # L2

    async def listen(self, port: Port) -> None:
        """Have the bus open before L2 is read."""
        bus = self.bus
        if bus is not None and not bus.is_open:
            await bus.open(port)

    async def look(self, port: Port, spec: Spec, key: str) -> Any:
        """Return the value that L2 has for a key, or MISS, and keep it in L1."""
        spans = self.telemetry.notice()
        step = NO_STEP if spans is None else spans.get(spec.function_name, key)
        with step:
            value = await self._find(port, spec, key)
            step.answered(names.MISS if value is MISS else names.L2_HIT)
        return value

    async def _find(self, port: Port, spec: Spec, key: str) -> Any:
        if self.l2 is None:
            spec.counters.misses += 1
            return MISS
        await self.listen(port)
        era = self.flights.era
        stored = await self.l2.read(port, key, spec.tags)
        if stored is None:
            spec.counters.misses += 1
            return (await self.pending(port, spec, [key])).get(key, MISS)
        return self._keep_found(spec, era, [key], [stored]).get(key, MISS)

    async def look_many(self, port: Port, spec: Spec, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that L2 has, by key, in one round trip, and keep them in L1."""
        spans = self.telemetry.notice()
        step = NO_STEP if spans is None else spans.get_many(spec.function_name, len(keys))
        with step:
            values = await self.find_many(port, spec, keys)
            step.answered(names.L2_HIT if values else names.MISS)
        return values

    async def find_many(
        self,
        port: Port,
        spec: Spec,
        keys: Sequence[str],
        stale: dict[str, Standing] | None = None,
    ) -> dict[str, Any]:
        """Do what ``look_many`` does, as part of something larger; note what has gone stale."""
        await self.listen(port)
        if self.l2 is None or not spec.uses_store:
            spec.counters.misses += len(keys)
            return {}
        era = self.flights.era
        found = await self.l2.read_many(port, keys, spec.tags)
        values = self._keep_found(spec, era, keys, found, stale)
        if self.overlay is not None and spec.function is None and len(values) < len(keys):
            missing = [key for key in keys if key not in values]
            values.update(await self.pending(port, spec, missing))
        return values

    async def pending(self, port: Port, spec: Spec, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values of keys that are still on their way to the database."""
        if self.overlay is None:
            return {}
        return await self.overlay.values(port, spec, keys, for_load=False)

    def _keep_found(
        self,
        spec: Spec,
        era: int,
        keys: Sequence[str],
        found: Sequence[Stored | None],
        stale: dict[str, Standing] | None = None,
    ) -> dict[str, Any]:
        """Decode what L2 had and put it in L1, unless a write came between; return the values."""
        if isinstance(found, Columns):
            usual = self._keep_usual(spec, era, keys, found)
            if usual is not None:
                return usual
        values: dict[str, Any] = {}
        entries: list[Entry] = []
        now, longest, memory = self.time(), self._longest(), self.memory
        decode, schema = self.codec.decode, spec.schema
        for key, stored in zip(keys, found, strict=True):
            if stored is None:
                continue
            payload, ttl, tags = stored
            try:
                value, stale_for, _, record = decode(key, payload, schema=schema)
            except DecodeError:
                self._note_unreadable(spec, key)
                continue
            if stale_for or record is not None:
                self._keep_lasting(
                    spec,
                    era,
                    key,
                    value,
                    _left(ttl, stale_for, tags, record),
                    values,
                    entries,
                    stale,
                )
            elif ttl is None or ttl > 0:  # as would be done for any, in a loop over many
                values[key] = value
                if memory is not None:
                    until = now + (longest if ttl is None or ttl > longest else ttl)
                    entries.append(make_entry(key, value, until, tags, era))
        if entries:
            self._put_found(era, entries)
        spec.counters.hits_l2 += len(values)
        spec.counters.misses += len(keys) - len(values)
        return values

    def _keep_usual(
        self, spec: Spec, era: int, keys: Sequence[str], found: Columns
    ) -> dict[str, Any] | None:
        """Do what ``_keep_found`` does in half the time, where all is as usual; else None."""
        held = found.held(keys)
        values = self.codec.decode_many(held, found.payloads, schema=spec.schema)
        if values is None:
            return None
        if self.memory is not None:
            now, longest = self.time(), self._longest()
            rows = zip(held, values, found.lives, strict=True)
            entries = [Entry(key, value, now + min(left, longest)) for key, value, left in rows]
            self._put_found(era, entries)
        spec.counters.hits_l2 += len(held)
        spec.counters.misses += len(keys) - len(held)
        return dict(zip(held, values, strict=True))

    def _keep_lasting(
        self,
        spec: Spec,
        era: int,
        key: str,
        value: Any,
        life: Life | None,
        values: dict[str, Any],
        entries: list[Entry],
        stale: dict[str, Standing] | None,
    ) -> None:
        """Do for one value, of which there is more to decide, what ``_keep_found`` does."""
        if life is None:
            return
        if not life.is_stale:
            values[key] = value
        elif stale is not None:
            stale[key] = self._gone_stale(value, life)
        if self.memory is not None:
            entry = entry_of(key, value, life, era)
            self.schedule(entry, life, spec)
            entries.append(entry)

    def _put_found(self, era: int, entries: Sequence[Entry]) -> None:
        memory = self.memory
        assert memory is not None
        weighed = [(entry, memory.weigh(entry)) for entry in entries]
        with self.flights.lock:
            removed = [
                gone
                for entry, weight in weighed
                if self.flights.lasts(era, entry.key)
                for gone in memory.place(entry, weight)
            ]
        memory.bury(removed)

    async def peek(self, port: Port, spec: Spec, key: str) -> Any:
        """Return the value of a key in either tier, or MISS; count nothing, change nothing."""
        found = self.usable(key)
        if found is not None:
            return found[1]
        if self.l2 is None or not spec.uses_store:
            return MISS
        stored = await self.l2.read(port, key, spec.tags)
        if stored is None:
            return (await self.pending(port, spec, [key])).get(key, MISS)
        value, life = self.readable(spec, key, stored)
        return MISS if life.is_stale else value

    def promote(
        self, flight: Flight, spec: Spec, stored: Stored, source: Source = Source.STORE
    ) -> Any:
        """Return the fresh value that L2 holds and put it in L1 for its remaining life, or MISS.

        A stale one is noted on the flight, and kept.
        """
        payload, remaining, tags = stored
        try:
            value, stale_for, _, record = self.codec.decode(flight.key, payload, schema=spec.schema)
        except DecodeError:
            self._note_unreadable(spec, flight.key)
            return MISS
        life = _left(remaining, stale_for, tags, record)
        if life is None:
            return MISS
        if self.memory is not None:
            self.put(flight, spec, value, life)
        if stale_for and life.is_stale:
            flight.stale = self._gone_stale(value, life)
            return MISS
        flight.source = source
        return value

    def _gone_stale(self, value: Any, life: Life) -> Standing:
        """Return what a value that L2 holds, and that is not fresh any more, stands for."""
        stale_at = self.time() + (life.ttl or 0.0)
        return Standing(value, stale_at, stale_at + life.keep, life.record, tags=life.tags)

    def promote_newer(self, flight: Flight, spec: Spec, stored: Stored) -> Any:
        """Do so where it will be fresh for longer than what the flight is to replace, or MISS."""
        value, life = self.readable(spec, flight.key, stored)
        if value is MISS or life.ttl is None or flight.stale is None:
            return MISS
        left = flight.stale.stale_at - self.time()
        if life.ttl <= max(0.0, left) + NEWER_SECONDS:
            return MISS
        flight.source = Source.PEER
        self.put(flight, spec, value, life)
        return value

    def readable(self, spec: Spec, key: str, stored: Stored) -> tuple[Any, Life]:
        """Return a stored value and its remaining life; MISS if it has none."""
        payload, remaining, tags = stored
        try:
            value, stale_for, _, record = self.codec.decode(key, payload, schema=spec.schema)
        except DecodeError:
            self._note_unreadable(spec, key)
            return MISS, _NO_LIFE
        life = _left(remaining, stale_for, tags, record)
        return (MISS, _NO_LIFE) if life is None else (value, life)

    def _note_unreadable(self, spec: Spec, key: str) -> None:
        # The error's text may name keys and values.
        spec.counters.decode_errors += 1
        log.debug("%s: a payload is not readable and counts as a miss", spec.name)
        self.tell("decode_error", key)


def _left(
    remaining: float | None, stale_for: float, tags: tuple[str, ...], record: Record | None
) -> Life | None:
    """Return what is left of the life of what a store will hold so long; None: nothing."""
    if remaining is not None:
        if remaining <= 0:
            return None
        remaining -= stale_for
        if remaining <= 0 and not stale_for:
            return None
    life: Life = _new_tuple(Life, (remaining, tags, stale_for, record))
    return life
