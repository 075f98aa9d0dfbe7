"""Before a load: its lease in L2, or what another process that has it brings.

The other's fill is not polled for but told over the bus. What is told may be wrong about what
stands there by now, so the lease is simply asked for again: the answer is the value if it has
landed, the lease if it is free, and else to go on waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from .coherence.bus import Bus
from .coherence.lease import UNHEARD_WAIT, mode_for
from .l2 import L2
from .runtime import Port
from .singleflight import Flight, Source, loading_now
from .spec import MISS, Spec
from .tiers.store import Claim, Kind, Stored
from .waits import Waits

#: The answer where a lease is not to be had now.
HELD: Any = object()

LEAST_WAIT = 0.005  # seconds before a lease that has just ended is asked for again

#: Puts what L2 holds in L1 for a flight and returns its value, or MISS.
Promote = Callable[[Flight, Spec, Stored, Source], Any]
#: Does the same where it is newer than what the flight is to replace.
PromoteNewer = Callable[[Flight, Spec, Stored], Any]


class Claims:
    """How the flights of one cache come by their leases."""

    def __init__(
        self, l2: L2, bus: Bus, waits: Waits, promote: Promote, promote_newer: PromoteNewer
    ) -> None:
        self._l2 = l2
        self._bus = bus
        self._waits = waits
        self._promote = promote
        self._promote_newer = promote_newer

    async def bring(self, port: Port, flight: Flight, spec: Spec) -> Any:
        """Take the lease of a flight's key; or wait for who has it, and return the value.

        MISS: load; under a lease, unless L2 cannot say or another's load has just failed.
        """
        if any(_is_own(outer, flight) for outer in loading_now.get()):
            return MISS  # this very call is what its holder waits for
        began = time.monotonic()
        # A stale value that stands in L2 is no answer.
        is_stale_there = flight.stale is not None and flight.source is Source.STORE
        anew, news, expectation = flight.replaces or is_stale_there, None, None
        try:
            while True:
                ((value, claim),) = await self.ask(port, [flight], spec, anew=anew)
                if value is not HELD:
                    return value
                if claim.stored is not None:  # and not readable
                    anew = True
                elif news is Kind.FAILED:
                    return MISS
                elif expectation is None:
                    # Ask once more: from now on no news is missed.
                    expectation = port.expectation()
                    self._waits.add(flight.key, expectation)
                    self._l2.note_held()
                else:
                    seconds = self.patience(flight.key, claim, began, spec)
                    if seconds <= 0:
                        return MISS
                    news = await port.news(expectation, seconds)
                    flight.source, anew = Source.PEER, flight.replaces
        finally:
            if expectation is not None:
                self._waits.remove(flight.key, expectation)

    async def renew(self, port: Port, flight: Flight, spec: Spec) -> tuple[Any, float]:
        """Try for the lease of a refresh.

        Return MISS to load; or a newer value that has come meanwhile; or HELD, and how many
        seconds another may have it.
        """
        ((value, claim),) = await self.ask(port, [flight], spec, anew=True)
        stored = None
        if flight.lease is not None:
            # Nobody else fills it while this lease lasts: what stands there now is the newest.
            stored = await self._l2.read(port, flight.key, spec.tags)
        return self._renewed(flight, spec, value, claim, stored)

    async def renew_many(
        self, port: Port, flights: Sequence[Flight], spec: Spec
    ) -> list[tuple[Any, float]]:
        """Do what ``renew`` does for each of several flights, in two round trips."""
        asked = await self.ask(port, flights, spec, anew=True)
        leased = [flight.key for flight in flights if flight.lease is not None]
        there = await self._l2.read_many(port, leased, spec.tags) if leased else ()
        stored = dict(zip(leased, there, strict=True))
        return [
            self._renewed(flight, spec, value, claim, stored.get(flight.key))
            for flight, (value, claim) in zip(flights, asked, strict=True)
        ]

    def _renewed(
        self, flight: Flight, spec: Spec, value: Any, claim: Claim, stored: Stored | None
    ) -> tuple[Any, float]:
        if value is HELD:
            return HELD, max(claim.held_for or 0.0, LEAST_WAIT)
        if stored is not None:
            value = self._promote_newer(flight, spec, stored)
        return value, 0.0

    async def ask(
        self, port: Port, flights: Sequence[Flight], spec: Spec, *, anew: bool
    ) -> list[tuple[Any, Claim]]:
        """Ask for the leases of flights, in one round trip.

        Return for each the value that stands in L2 by now, MISS to load it, or HELD; and the
        claim that says so.
        """
        mode = mode_for(spec, replaces=flights[0].replaces)
        keys = [flight.key for flight in flights]
        claims = await self._l2.claim(port, keys, spec.known_tags, mode, anew=anew)
        if claims is None:
            return [(MISS, Claim())] * len(flights)
        answers = [self._take_one(spec, *pair) for pair in zip(flights, claims, strict=True)]
        self._keep([flight for flight in flights if flight.lease is not None], spec)
        return list(zip(answers, claims, strict=True))

    def _keep(self, flights: Sequence[Flight], spec: Spec) -> None:
        """Have the leases of flights renewed while they load."""
        held = [(flight.key, flight.lease) for flight in flights if flight.lease is not None]
        if held:
            kept = self._l2.keep(held, spec.load_seconds)
            for flight in flights:
                flight.kept = kept

    def _take_one(self, spec: Spec, flight: Flight, claim: Claim) -> Any:
        if claim.lease is not None:
            flight.lease = claim.lease
            return MISS
        if claim.stored is None:
            return HELD
        source = Source.PEER if flight.source is Source.PEER else Source.STORE
        value = self._promote(flight, spec, claim.stored, source)
        return HELD if value is MISS else value

    def patience(self, key: str, claim: Claim, began: float, spec: Spec) -> float:
        """Return how many seconds to wait before a lease that is held is asked for again.

        None are left where it has been waited for as long as a load may take: then it is loaded
        alongside. So it is where a transaction of this process holds the lease until it commits:
        who waits may be part of it.
        """
        if self._l2.is_paused(key):
            return 0.0
        left = began + spec.load_seconds - time.monotonic()
        longest = max(claim.held_for or 0.0, LEAST_WAIT) if self._bus.is_live else UNHEARD_WAIT
        return max(0.0, min(left, longest))

    async def give_up(self, port: Port, flights: Sequence[Flight], kind: Kind | None) -> None:
        """End leases that brought nothing to L2, and let those who wait for them know.

        None as the kind: renew them no more, and let them end by themselves.
        """
        held = []
        for flight in flights:
            lease, flight.lease = flight.lease, None
            if lease is not None and not lease.is_shared:
                held.append((flight.key, lease.nonce))
            flight.stop_renewing()
        if held and kind is not None:
            await self._l2.release(port, held, kind)


def _is_own(outer: Flight, flight: Flight) -> bool:
    """Whether a flight is part of the load of another that holds the lease it would wait for."""
    return outer.key == flight.key and outer.home == flight.home and outer.lease is not None
