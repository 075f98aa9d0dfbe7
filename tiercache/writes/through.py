"""Write-through: what a write of the database has made stands in the cache before anybody goes on.

Two writers of one key may finish in the one order in the database and in the other in the cache,
and a load may bring what it read before either. So a write *begins* before the database is written:
it fences the key in this process, and takes its lease in L2 from whoever has it. Its value is then
filled under that lease. Where the fill is refused, because another write or an invalidation came
between, nobody here knows which is the newer: the key is removed, and the next read loads it.

Where the cache cannot take the value, the key is invalidated, which is owed if L2 is out of reach.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from tiercache.entry import Entry, Life, entry_of
from tiercache.flow import Flow
from tiercache.runtime import Port
from tiercache.singleflight import Deck, Flight
from tiercache.spec import Spec
from tiercache.tiers.memory import Removed
from tiercache.tiers.store import Fill, LeaseMode


class Outcome(Enum):
    """What became of the cache's part of a write."""

    STORED = "stored"
    INVALIDATED = "invalidated"  # another write came between, or the value is not to be kept
    FAILED = "failed"  # the cache could not take it, and what stood there is, or will be, gone


class KeyWrite:
    """One write of one key: begun, then finished with a value, or abandoned."""

    def __init__(self, flow: Flow, spec: Spec, key: str) -> None:
        self._flow = flow
        self._spec = spec
        self.key = key
        #: Stands for this write in ``loading_now``, so that its own reads do not wait for it.
        self.flight = Flight(key, Deck.BLOCKING, spec.load_seconds)
        self.flight.home = flow.name
        self.reaches_store = True  # as far as is known
        self._is_fenced = False
        self._era = 0  # in which it began: a tag that is invalidated later outdates the value
        self._era_of_pause: int | None = None  # in which it let go of the key, until finish

    async def begin(self, port: Port) -> None:
        """Keep others from filling the key, here and in L2."""
        flow = self._flow
        if flow.hooks.on_write:
            flow.hooks.tell_of_write([self.key])
        await flow.listen(port)
        self._fence()
        self._era = flow.flights.era
        try:
            await self._take_lease(port)
        except BaseException:
            self._unfence(None)
            raise

    async def finish(self, port: Port, value: Any) -> Outcome:
        """Have a value stand in both tiers, or nothing."""
        was_overtaken = self._fence()
        kept: tuple[Entry, Life] | None = None
        try:
            life = self._flow.lives.of(self._spec, self.key, value)
            outcome = await self._store(port, value, life)
            if was_overtaken and self._flow.l2 is None:
                outcome = Outcome.INVALIDATED
            if outcome is Outcome.STORED and life is not None and not was_overtaken:
                kept = entry_of(self.key, value, life, self._era), life
        except BaseException:
            await self._invalidate(port)
            raise
        finally:
            self._unfence(kept)
        return outcome

    async def abandon(self, port: Port) -> None:
        """End a write that failed; forget what stood there, since the database may have it."""
        try:
            await self._invalidate(port)
        finally:
            self._unfence(None)

    async def pause(self, port: Port) -> bool:
        """Let go of the key until ``finish``, in some later moment; say if that can be done.

        The lease is not renewed meanwhile: should it end, ``finish`` removes the key.
        """
        lease = self.flight.lease
        self.flight.stop_renewing()
        if lease is not None and self._flow.l2 is not None:
            renewed = await self._flow.l2.renew(port, [(self.key, lease)])
            self.reaches_store = renewed is not None
            self._flow.l2.pause(self.key)
        self._unfence(None)
        return self.reaches_store

    # The lease

    async def _take_lease(self, port: Port) -> None:
        flow, spec = self._flow, self._spec
        if flow.l2 is None or not spec.uses_store:
            return
        claims = await flow.l2.claim(port, [self.key], spec.known_tags, LeaseMode.STEAL, anew=True)
        self.flight.lease = None if claims is None else claims[0].lease
        self.reaches_store = self.flight.lease is not None
        if self.flight.lease is not None:
            self.flight.kept = flow.l2.keep([(self.key, self.flight.lease)], spec.load_seconds)

    async def _store(self, port: Port, value: Any, life: Life | None) -> Outcome:
        """Write a value to L2 under the lease; else remove what stands there."""
        flow, spec, lease = self._flow, self._spec, self.flight.lease
        uses_store = flow.l2 is not None and spec.uses_store
        payload = None
        if life is not None and uses_store:
            payload = flow.encode(spec, self.key, value, life)
        taken: Any = None
        if payload is not None and life is not None and lease is not None and flow.l2 is not None:
            fill = Fill(self.key, lease, payload, life.ends_after, life.tags, replaces=True)
            taken = await flow.l2.fill(port, [fill])
        if taken is not None and taken[0]:
            self._forget_lease()
            return Outcome.STORED
        if not uses_store:
            return Outcome.INVALIDATED if life is None else Outcome.STORED
        was_taken = await self._invalidate(port)
        is_refused = taken is not None or life is None
        return Outcome.INVALIDATED if is_refused and was_taken else Outcome.FAILED

    async def _invalidate(self, port: Port) -> bool:
        """Remove the key from L2, or owe it; say whether it was done."""
        self._forget_lease()
        l2 = self._flow.l2
        if l2 is None:
            return True
        try:
            return await l2.try_to_delete(port, [self.key])
        finally:
            if l2.debts and self._flow.bus is not None:
                self._flow.bus.start()

    def _forget_lease(self) -> None:
        if self._flow.l2 is not None:
            self._flow.l2.unpause(self.key)
        self.flight.lease = None
        self.flight.stop_renewing()

    # The fence

    def _fence(self) -> bool:
        """Hold off other fills of the key; say whether it was changed since ``pause``."""
        if self._is_fenced:
            return False
        flights, paused = self._flow.flights, self._era_of_pause
        with flights.lock:
            was_overtaken = paused is not None and not flights.lasts(paused, self.key)
            flights.fence([self.key])
        self._is_fenced = True
        return was_overtaken

    def _unfence(self, kept: tuple[Entry, Life] | None) -> None:
        """Bring L1 in line: the new value, or, where it is not known to be that, none."""
        if not self._is_fenced:
            return
        self._is_fenced = False
        flow, memory = self._flow, self._flow.memory
        weight = 0.0 if memory is None or kept is None else memory.weigh(kept[0])
        removed: list[Removed] = []

        def settle(key: str, alone: bool) -> None:
            self._era_of_pause = flow.flights.era
            if memory is None:
                return
            if kept is None or not alone:
                removed.extend(memory.displace(key))
                return
            entry, life = kept
            flow.schedule(entry, life, self._spec)
            removed.extend(memory.place(entry, weight))

        flow.flights.unfence([self.key], settle)
        if memory is not None:
            memory.bury(removed)
