"""Writes that a user asks for: set, delete, expire, clear.

Each fences the keys it writes (see singleflight.py), so that no load or read under way can put
back what it replaces, and brings L1 in line only once L2 has taken it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .entry import Entry, RemovalCause, make_entry
from .flow import Flow
from .l2 import L2
from .runtime import Port
from .spec import Spec
from .tiers.memory import Removed


class Writing:
    """The writes of one cache."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    async def put(self, port: Port, spec: Spec, values: Mapping[str, Any]) -> None:
        """Store values, in one round trip."""
        flow = self.flow
        entries: dict[str, Entry] = {}
        payloads: list[tuple[str, bytes, float | None]] = []
        unwritable: list[str] = []
        for key, value in values.items():
            life = flow.life(spec, key, value)
            if life is None:
                unwritable.append(key)  # not to be kept: what stands there is outdated all the same
                continue
            ttl, tags = life
            entries[key] = make_entry(key, value, flow.deadline(ttl), tags)
            uses_store = flow.l2 is not None and spec.uses_store
            payload = flow.encode(spec, key, value, tags) if uses_store else None
            if payload is not None:
                payloads.append((key, payload, ttl))
            elif uses_store:
                unwritable.append(key)

        def settle(key: str, alone: bool) -> list[Removed]:
            if flow.memory is None:
                return []
            if (alone or flow.l2 is None) and key in entries and done:
                return flow.memory.place(entries[key])
            return flow.memory.displace(key)

        done = False
        async with self._fenced(port, list(values), settle):
            if flow.l2 is not None:
                await self._write(port, flow.l2, payloads, unwritable)
            done = True

    async def _write(
        self,
        port: Port,
        l2: L2,
        payloads: Sequence[tuple[str, bytes, float | None]],
        unwritable: Sequence[str],
    ) -> None:
        keys = [key for key, _, _ in payloads]
        try:
            if payloads and not await l2.write(port, payloads):
                l2.distrust(keys)  # L2 may still hold what this replaces
        except BaseException:
            l2.distrust(keys)
            raise
        if unwritable:
            await l2.delete(port, unwritable)

    async def delete(self, port: Port, keys: Sequence[str]) -> int:
        """Remove keys from both tiers; return how many either had."""
        memory = self.flow.memory
        in_memory: set[str] = set()

        def settle(key: str, _alone: bool) -> list[Removed]:
            removed = [] if memory is None else memory.displace(key)
            in_memory.update(entry.key for entry, _ in removed)
            return removed

        in_store = 0
        async with self._fenced(port, keys, settle):
            if memory is not None:  # nobody is served from L1 while L2 is being told
                memory.bury([gone for key in keys for gone in settle(key, True)])
            if self.flow.l2 is not None:
                in_store = await self.flow.l2.delete(port, keys)
        return max(in_store, len(in_memory))

    async def expire(self, port: Port, keys: Sequence[str]) -> None:
        """Make keys stale: the next read loads them again."""
        memory = self.flow.memory

        def settle(key: str, _alone: bool) -> list[Removed]:
            return [] if memory is None else memory.displace(key, RemovalCause.EXPIRED)

        async with self._fenced(port, keys, settle):
            if self.flow.l2 is not None:
                await self.flow.l2.delete(port, keys)

    async def clear(self, port: Port, prefix: str, forget: Callable[[], None]) -> None:
        """Remove every key that begins with a prefix; ``forget`` does so in this process."""
        flow = self.flow
        filling = flow.flights.fence_all()
        try:
            await port.wait_for_fills(flow.flights, filling)
            forget()
            if flow.l2 is not None:
                await flow.l2.clear(port, prefix)
        finally:
            flow.flights.unfence_all(forget)

    @asynccontextmanager
    async def _fenced(
        self, port: Port, keys: Sequence[str], settle: Callable[[str, bool], list[Removed]]
    ) -> AsyncIterator[None]:
        """Hold off every other fill of keys, and bring L1 in line at the end."""
        flow = self.flow
        unique = list(dict.fromkeys(keys))
        filling = flow.flights.fence(unique)
        removed: list[Removed] = []
        try:
            if filling:
                await port.wait_for_fills(flow.flights, filling)
                late = [flight.key for flight in filling if not flight.has_landed]
                if late and flow.l2 is not None:  # whatever they still bring to L2 is not believed
                    flow.l2.distrust(late)
            yield
        finally:
            flow.flights.unfence(unique, lambda key, alone: removed.extend(settle(key, alone)))
            if flow.memory is not None:
                flow.memory.bury(removed)
