"""Writes that a user asks for: set, delete, expire, clear, and invalidation by tag.

Each fences the keys it writes (see singleflight.py), so that no load or read under way can put
back in L1 what it replaces, and brings L1 in line only once L2 has taken it. What L2 does not take
is owed to it, and to the other processes (see l2.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from .entry import Entry, Life, entry_of
from .flow import Flow
from .l2 import L2
from .runtime import Port
from .spec import Spec
from .telemetry import NO_STEP, Step
from .tiers.memory import Removed
from .tiers.store import Item, Stored

#: Brings L1 in line with a key; told whether no other write of it overlapped.
Settle: TypeAlias = Callable[[str, bool], list[Removed]]


class Writing:
    """The writes of one cache."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    async def put(self, port: Port, spec: Spec, values: Mapping[str, Any]) -> None:
        """Store values, in one round trip."""
        flow = self.flow
        flow.telemetry.notice()
        await flow.listen(port)
        entries: dict[str, Entry] = {}
        lives: dict[str, Life] = {}
        items: list[Item] = []
        unwritable: list[str] = []
        for key, value in values.items():
            life = flow.lives.of(spec, key, value)
            if life is None:
                unwritable.append(key)  # not to be kept: what stands there is outdated all the same
                continue
            entries[key] = entry_of(key, value, life, flow.flights.era)
            lives[key] = life
            uses_store = flow.l2 is not None and spec.uses_store
            payload = flow.encode(spec, key, value, life) if uses_store else None
            if payload is not None:
                items.append(Item(key, payload, life.ends_after, life.tags))
            elif uses_store:
                unwritable.append(key)

        memory = flow.memory
        weights = {} if memory is None else {k: memory.weigh(e) for k, e in entries.items()}

        def settle(key: str, alone: bool) -> list[Removed]:
            if flow.memory is None:
                return []
            if (alone or flow.l2 is None) and key in entries and done:
                entry = entries[key]
                flow.schedule(entry, lives[key], spec)  # now: the bus may be cut off by now
                return flow.memory.place(entry, weights[key])
            return flow.memory.displace(key)

        done = False
        for key in values if flow.pauses else ():
            flow.pauses.end(key)
        with self.fenced(list(values), settle):
            if flow.l2 is not None:
                await self._write(port, flow.l2, items, unwritable)
            done = True

    async def _write(
        self, port: Port, l2: L2, items: Sequence[Item], unwritable: Sequence[str]
    ) -> None:
        try:
            if items:
                await l2.write(port, items)
            if unwritable:
                await l2.delete(port, unwritable)
        finally:
            self.see_to_debts(l2)

    async def delete(self, port: Port, keys: Sequence[str]) -> int:
        """Remove keys from both tiers; return how many either had."""
        memory = self.flow.memory
        in_memory: set[str] = set()

        def settle(key: str, _alone: bool) -> list[Removed]:
            removed = [] if memory is None else memory.displace(key)
            in_memory.update(entry.key for entry, _ in removed)
            return removed

        in_store = 0
        with self._step("delete", keys), self.fenced(keys, settle):
            if memory is not None:  # nobody is served from L1 while L2 is being told
                memory.bury([gone for key in keys for gone in settle(key, True)])
            if self.flow.l2 is not None:
                in_store = await self._delete(port, self.flow.l2, keys)
        return max(in_store, len(in_memory))

    async def expire(self, port: Port, keys: Sequence[str]) -> None:
        """Make keys stale: the next read loads them again."""
        flow = self.flow

        def settle(key: str, _alone: bool) -> list[Removed]:
            return flow.make_stale(key)

        with self._step("expire", keys), self.fenced(keys, settle):
            if flow.l2 is not None:
                await self._expire(port, flow.l2, keys)

    async def _expire(self, port: Port, l2: L2, keys: Sequence[str]) -> None:
        """Have entries of L2 be stale.

        How long each may be is in it: whoever wrote it knows, and that may be another process.
        """
        found = await l2.read_many(port, keys)
        keeps = [self._keep_of(key, one) for key, one in zip(keys, found, strict=True)]
        try:
            await l2.expire(port, keys, keeps)
        finally:
            self.see_to_debts(l2)

    def _keep_of(self, key: str, stored: Stored | None) -> float:
        if stored is None:
            return 0.0
        return self.flow.readable(self.flow.any_spec, key, stored)[1].keep

    async def _delete(self, port: Port, l2: L2, keys: Sequence[str]) -> int:
        try:
            return await l2.delete(port, keys)
        finally:
            self.see_to_debts(l2)

    async def invalidate_tags(self, port: Port, tags: Sequence[str]) -> None:
        """Have no entry served any more that carries one of the tags, in either tier.

        Before L2 is told, so that nobody is served from L1 meanwhile; and after, for what was read
        from L2 before it knew.
        """
        flow = self.flow
        with self._step("invalidate_tags", tags):
            flow.outdate(tags)
            if flow.l2 is None:
                return
            try:
                await flow.l2.invalidate_tags(port, tags)
            finally:
                flow.outdate(tags)
                self.see_to_debts(flow.l2)

    async def clear(self, port: Port, prefix: str, forget: Callable[[], None]) -> None:
        """Remove every key that begins with a prefix; ``forget`` does so in this process."""
        flow = self.flow
        with self._step("clear", ()):
            flow.flights.fence_all()
            try:
                forget()
                if flow.l2 is not None:
                    await flow.l2.clear(port, prefix)
            finally:
                flow.flights.unfence_all(forget)
                if flow.l2 is not None:
                    self.see_to_debts(flow.l2)

    def _step(self, operation: str, subjects: Sequence[str]) -> Step:
        spans = self.flow.telemetry.notice()
        return NO_STEP if spans is None else spans.invalidate(operation, subjects)

    def see_to_debts(self, l2: L2) -> None:
        """Have what is owed to L2 delivered, even if nobody asks it for anything any more."""
        if l2.debts and self.flow.bus is not None:
            self.flow.bus.start()

    def fenced(self, keys: Sequence[str], settle: Settle) -> Fence:
        """Hold off every other fill of keys, and bring L1 in line at the end."""
        return Fence(self.flow, list(dict.fromkeys(keys)) if len(keys) > 1 else keys, settle)


class Fence:
    """The time in which nothing else fills some keys: a ``with`` statement.

    Args:
        flow: Of the cache.
        keys: Each once.
        settle: Brings L1 in line with one, at the end; see ``Flights.unfence``.
    """

    __slots__ = ("_flow", "_keys", "_removed", "_settle")

    def __init__(self, flow: Flow, keys: Sequence[str], settle: Settle) -> None:
        self._flow = flow
        self._keys = keys
        self._settle = settle
        self._removed: list[Removed] = []

    def __enter__(self) -> None:
        flow = self._flow
        if flow.hooks.on_write:
            flow.hooks.tell_of_write(list(self._keys))
        flow.flights.fence(self._keys)

    def __exit__(self, *_: object) -> None:
        flow = self._flow
        flow.flights.unfence(self._keys, self._settle_one)
        if flow.memory is not None:
            flow.memory.bury(self._removed)

    def _settle_one(self, key: str, alone: bool) -> None:
        self._removed += self._settle(key, alone)
