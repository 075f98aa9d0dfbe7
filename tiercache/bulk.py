"""Many keys at once: hits in one round trip, one bulk load for the misses, flights joined.

In this order: what L1 has; what of L1 is stale and need not be waited for; what L2 has, in one
read; what of that is stale. What was served and is due is then refreshed behind, all of it together
(renewals.py), and the rest is loaded, also together (journeys.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from .batches import Batch, Found, Want
from .entry import Entry, LastingEntry, Standing
from .flow import Flow
from .journeys import Journey
from .renewals import Due, renew_behind
from .runtime import Port
from .spec import Spec
from .telemetry import NO_STEP, names


async def read_many(
    flow: Flow, port: Port, spec: Spec, wants: Sequence[Want], batch: Batch = None
) -> Found:
    """Return the values of many keys, and the errors of those that could not be loaded."""
    reading = _Reading(flow, port, spec, batch)
    reading.look_nearby(wants)
    found = reading.found
    if not reading.missing and not flow.telemetry.traces_hits:
        reading.refresh_due()
        return found
    spans = flow.telemetry.notice()
    step = NO_STEP if spans is None else spans.get_many(spec.function_name, len(wants))
    with step:
        await reading.bring_the_rest()
        step.answered(names.slowest(reading.outcomes))
        for error in list(found.errors.values())[:1]:
            step.failed(error)
    return found


class _Reading:
    """One call for many keys."""

    def __init__(self, flow: Flow, port: Port, spec: Spec, batch: Batch) -> None:
        self.flow = flow
        self.port = port
        self.spec = spec
        self.batch = batch
        self.era = flow.flights.era  # before anything is looked at
        self.found = Found({}, {})
        self.missing: dict[str, list[Want]] = {}  # what has no answer yet, by key
        self.stale: dict[str, Standing] = {}  # what L2 had, by key
        self.due: dict[str, Due] = {}  # what was served, and is to be refreshed
        self.outcomes: set[str] = set()

    def look_nearby(self, wants: Sequence[Want]) -> None:
        """Note what is fresh in L1."""
        flow, spec = self.flow, self.spec
        for want in wants:
            hit = flow.fresh(want.key)
            if hit is None:
                self.missing.setdefault(want.key, []).append(want)
                continue
            entry, value = hit
            if entry.__class__ is LastingEntry:
                self._note_due(want, entry, value)
            self.found.note([want], partial(_hit, flow, spec, want, entry, value))

    def _note_due(self, want: Want, entry: LastingEntry, value: Any) -> None:
        at_stake = self.flow.at_stake(self.spec, entry, value)
        if at_stake is not None:
            self.due[want.key] = Due(want, at_stake)

    async def bring_the_rest(self) -> None:
        """Note what is not fresh in L1."""
        if self.found.values:
            self.outcomes.add(names.L1_HIT)
        self._serve_stale()
        if self.missing:
            await self._look_in_store()
            self._serve_stale()
        self.refresh_due()
        if self.missing:
            await self._load()

    def refresh_due(self) -> None:
        """Have what is due refreshed behind."""
        if self.due:
            renew_behind(self.flow, self.port, self.spec, self.due, self.batch, self.era)

    async def _look_in_store(self) -> None:
        """Note what is fresh in L2, and what is stale there."""
        values = await self.flow.find_many(self.port, self.spec, list(self.missing), self.stale)
        for key, value in values.items():
            self.outcomes.add(names.L2_HIT)
            self.found.values.update({want.item: value for want in self.missing.pop(key)})
        self.spec.counters.misses -= len(self.missing)  # counted as they land

    def _serve_stale(self) -> None:
        """Note what is stale, and need not be waited for."""
        flow, spec = self.flow, self.spec
        for key in list(self.missing) if spec.keep else ():
            found = flow.standing(key) or self.stale.get(key)
            if found is not None and flow.may_skip_waiting(spec, key, found):
                self._serve(key, found)

    def _serve(self, key: str, found: Standing) -> None:
        wants = self.missing.pop(key)
        self.outcomes.add(names.STALE)
        self.found.values.update({want.item: found.value for want in wants})
        if not self.flow.is_paused(key):
            self.due[key] = Due(wants[0], found)
        self.flow.note_stale(self.spec, key, found)

    async def _load(self) -> None:
        journey = Journey(self.flow, self.port, self.spec, self.missing, self.batch, self.found)
        journey.stood, journey.era = self.stale, self.era
        await journey.complete()
        self.outcomes |= journey.outcomes


def _hit(flow: Flow, spec: Spec, want: Want, entry: Entry, value: Any) -> Any:
    try:
        return flow.hit(entry, value)
    finally:
        if spec.on_hit is not None:
            spec.on_hit(want.args, entry)
