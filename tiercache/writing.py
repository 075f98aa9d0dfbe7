"""Writes that a user asks for: set, delete, expire, clear.

Each fences the keys it writes (see singleflight.py), so that no load or read under way can put
back what it replaces, and brings L1 in line only once L2 has taken it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .entry import Entry, RemovalCause, make_entry
from .flow import Flow, Spec
from .runtime import Port


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
            payload = None if flow.store is None else flow.encode(spec, key, value, tags)
            if payload is not None:
                payloads.append((key, payload, ttl))
            elif flow.store is not None:
                unwritable.append(key)

        def settle(key: str, alone: bool) -> None:
            if flow.memory is None:
                return
            if alone and key in entries and done:
                flow.memory.put(entries[key])
            else:
                flow.memory.remove(key)

        done = False
        async with self._fenced(port, list(values), settle):
            if flow.store is not None:
                await self._write(port, payloads, unwritable)
            done = True

    async def _write(
        self,
        port: Port,
        payloads: Sequence[tuple[str, bytes, float | None]],
        unwritable: Sequence[str],
    ) -> None:
        keys = [key for key, _, _ in payloads]
        try:
            if payloads and not await self.flow.write_store(port, payloads):
                self.flow.distrust(keys)  # L2 may still hold what this replaces
        except BaseException:
            self.flow.distrust(keys)
            raise
        if unwritable:
            await self.flow.delete_store(port, unwritable)

    async def delete(self, port: Port, keys: Sequence[str]) -> int:
        """Remove keys from both tiers; return how many either had."""
        removed: set[str] = set()

        def settle(key: str, _alone: bool) -> None:
            if self.flow.memory is not None and self.flow.memory.remove(key) is not None:
                removed.add(key)

        in_store = 0
        async with self._fenced(port, keys, settle):
            for key in keys:
                settle(key, True)
            if self.flow.store is not None:
                in_store = await self.flow.delete_store(port, keys)
        return max(in_store, len(removed))

    async def expire(self, port: Port, keys: Sequence[str]) -> None:
        """Make keys stale: the next read loads them again."""
        memory = self.flow.memory

        def settle(key: str, _alone: bool) -> None:
            if memory is not None:
                memory.remove(key, RemovalCause.EXPIRED)

        async with self._fenced(port, keys, settle):
            if self.flow.store is not None:
                await self.flow.delete_store(port, keys)

    async def clear(self, port: Port, prefix: str, forget: Callable[[], None]) -> None:
        """Remove every key that begins with a prefix; ``forget`` does so in this process."""
        flow = self.flow
        filling = flow.flights.fence_all()
        try:
            await port.wait_for_fills(flow.flights, filling)
            forget()
            if flow.store is not None:
                await flow.clear_store(port, prefix)
        finally:
            flow.flights.unfence_all(forget)

    @asynccontextmanager
    async def _fenced(
        self, port: Port, keys: Sequence[str], settle: Callable[[str, bool], None]
    ) -> AsyncIterator[None]:
        """Hold off every other fill of keys, and bring L1 in line at the end."""
        flights = self.flow.flights
        unique = list(dict.fromkeys(keys))
        filling = flights.fence(unique)
        try:
            if filling:
                await port.wait_for_fills(flights, filling)
            yield
        finally:
            flights.unfence(unique, settle)
