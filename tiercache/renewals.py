"""Many values that are due, refreshed together behind the back of the call that was served them.

One bulk load for all of them; where there is no bulk loader, they are loaded side by side, a few at
a time. Either takes one place among what the cache carries in the background, and some more while
others have no use for them; where there is none, the keys are left alone for a moment.

As for one key, the leases are tried for: what another process has is its to bring. Under the
others L2 is looked at once more, and what is newer there is not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .batches import Batch, Found, Want, told_apart
from .claims import HELD
from .entry import Standing
from .errors import CacheError
from .flow import Flow
from .journeys import Journey, rounds
from .runtime import Port
from .singleflight import Flight
from .spec import MISS, Spec
from .telemetry import NO_STEP


class Due(NamedTuple):
    """A value that is to be refreshed."""

    want: Want
    found: Standing  # what is served meanwhile


def renew_behind(
    flow: Flow, port: Port, spec: Spec, due: Mapping[str, Due], batch: Batch, era: int
) -> None:
    """Load keys again in the background, but for those that are under way.

    Args:
        flow: Of the cache.
        port: The caller's.
        spec: Of the function.
        due: What is to be refreshed, by key.
        batch: The bulk loader, if there is one.
        era: Of the flights, from before anything was looked at.
    """
    seconds = spec.flight_seconds * rounds(len(due), batch)
    boarded = [flow.board_refresh(port, key, due[key].found, era, seconds) for key in due]
    flights = [flight for flight in boarded if flight is not None]
    if not flights:
        return
    wants = {flight.key: [due[flight.key].want] for flight in flights}
    renewal = Renewal(flow, port, spec, wants, batch, Found({}, {}))
    spans = flow.telemetry.notice()
    renewal.cause = None if spans is None else spans.current()
    if not port.carry(flights, partial(renewal.fly, flights), is_refresh=True):
        flow.postpone(flights)


class Renewal(Journey):
    """The flights of values that are served meanwhile. Nobody waits for them."""

    cause: Any = None  # the span of the call that was served them

    async def fly(self, flights: Sequence[Flight]) -> None:
        """Load; whatever happens, all land. A bulk load is a trace of its own."""
        spans = self.flow.telemetry.spans
        step = NO_STEP
        if spans is not None and self.batch is not None:
            step = spans.refresh_many(self.spec.function_name, len(flights), self.cause)
        with step:
            await self._carry(flights)
            for flight in flights:
                if flight.error is not None and not flight.must_retry:
                    step.failed(flight.error)
                    break

    def _land_at_once(self, flight: Flight) -> bool:
        return False  # what L1 has is what is to be replaced

    async def _load_one(self, flight: Flight) -> None:
        args = self.wants[flight.key][0].args
        await self.flow.fly_apart(self.cause, self.port, flight, self.spec, args, {})

    async def _load_batch(self, flights: Sequence[Flight]) -> None:
        for some in told_apart(await self._try_for(flights), self.wants):
            await self._load_own(some)

    async def _try_for(self, flights: Sequence[Flight]) -> list[Flight]:
        """Try for leases; return the flights to load. The others land."""
        flow, spec, claims = self.flow, self.spec, self.flow.claims
        if claims is None or not spec.uses_store:
            return list(flights)
        mine: list[Flight] = []
        answers = await claims.renew_many(self.port, flights, spec)
        for flight, (value, seconds) in zip(flights, answers, strict=True):
            if value is MISS:
                mine.append(flight)
            elif value is HELD:
                flow.put_off(flight, seconds)
                flow.flights.fail(flight, CacheError("loaded elsewhere"), must_retry=True)
            else:
                flow.flights.land(flight, value)
        return mine
