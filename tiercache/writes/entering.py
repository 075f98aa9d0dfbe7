"""How a write enters: the journal and L2 in one step, then L1, with everything else held off.

The key is fenced (see writing.py) from before the journal is asked until L1 is in line, so no load
or read under way puts back what the write replaces. Where nobody knows whether the journal took
it, both tiers are left without the key, and the caller is told.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tiercache.entry import Entry, Life, entry_of
from tiercache.errors import StoreError, WriteFailed
from tiercache.tiers.journal import Accepted, Change, Draft, Journal
from tiercache.tiers.store import Item, Kind, StoreBusy
from tiercache.writes.operation import new_head
from tiercache.writing import Fence

if TYPE_CHECKING:
    from tiercache.flow import Flow
    from tiercache.l2 import L2
    from tiercache.runtime import Port
    from tiercache.spec import Spec
    from tiercache.tiers.memory import Removed
    from tiercache.writing import Writing

BUSY_SECONDS: Final = 30.0  # that a write waits for a connection, as by default for a full journal


class Write(NamedTuple):
    """A write, ready to be made."""

    draft: Draft
    change: Change | None  # None: there is no L2
    entry: Entry | None = None  # for L1
    life: Life | None = None


class Entering:
    """Brings writes into a journal and the tiers of a cache."""

    def __init__(self, flow: Flow, writing: Writing, journal: Journal, spec: Spec) -> None:
        self.journal = journal
        self._flow = flow
        self._writing = writing
        self._spec = spec

    # Making ready: nothing is done yet

    def put(self, key: str, item: Any, value: Any) -> Write:
        """Return the write of a value.

        Raises:
            EncodeError: If the value or the item has no bytes.
        """
        flow = self._flow
        life = flow.lives.of(self._spec, key, value)
        kept = life or Life(None)
        payload = flow.codec.encode(key, value, stale_for=kept.keep, record=kept.record)
        draft = Draft(key, False, self._head(key, item) + payload, self._exists(key))
        if life is None:  # not to be kept: what stands there is outdated all the same
            return Write(draft, self._change(Change(Kind.DELETE)))
        change = self._change(Change(Kind.SET, Item(key, payload, life.ends_after, life.tags)))
        return Write(draft, change, entry_of(key, value, life, flow.flights.era), life)

    def delete(self, key: str, item: Any) -> Write:
        """Return the write that removes a key's row."""
        draft = Draft(key, True, self._head(key, item), self._exists(key))
        return Write(draft, self._change(Change(Kind.DELETE)))

    def _head(self, key: str, item: Any) -> bytes:
        spans = self._flow.telemetry.spans
        return new_head(self._flow.codec, key, item, b"" if spans is None else spans.mark())

    def _exists(self, key: str) -> bool:
        found = self._flow.usable(key)
        return found is not None and found[1] is not None

    def _change(self, change: Change) -> Change | None:
        return None if self._flow.l2 is None else change

    # Doing it

    async def make(self, port: Port, write: Write, most: int) -> Accepted:
        """Make a write, unless the journal is full: then nothing has changed.

        Raises:
            WriteFailed: If it was not made, or nobody knows.
            JournalMismatch: If the journal is of another format.
        """
        flow, key = self._flow, write.draft.key
        memory = flow.memory
        await flow.listen(port)
        weight = 0.0 if memory is None or write.entry is None else memory.weigh(write.entry)
        accepted: Accepted | None = None

        def settle(key: str, alone: bool) -> list[Removed]:
            if memory is None or (accepted is not None and accepted.version is None):
                return []
            if write.entry is None or write.life is None or accepted is None:
                return memory.displace(key)
            if not alone and flow.l2 is not None:
                return memory.displace(key)
            flow.schedule(write.entry, write.life, self._spec)
            return memory.place(write.entry, weight)

        if flow.pauses:
            flow.pauses.end(key)
        with Fence(flow, (key,), settle):
            accepted = await self._offer(port, write, most)
            if accepted.version is not None:
                await self._store_beside(port, write)
        return accepted

    async def _offer(self, port: Port, write: Write, most: int) -> Accepted:
        l2 = self._flow.l2
        if l2 is None or not self.journal.writes_entries:
            accepted: Accepted = self.journal.put(write.draft, write.change, most)
            return accepted
        try:
            answer = await self._demand(l2, port, write, most)
        except Exception as error:
            if not isinstance(error, StoreError):  # then nothing has changed
                raise
            self._owe(l2, write)
            raise WriteFailed(
                f"a write behind was not accepted, or may not have been: {error}; write it again"
            ) from error
        except BaseException:  # interrupted: nobody knows what was done
            self._owe(l2, write)
            raise
        return answer

    async def _demand(self, l2: L2, port: Port, write: Write, most: int) -> Accepted:
        """Offer a write to a journal in L2; while all connections are in use, wait for one."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                answer: Accepted = await l2.demand(
                    port, self.journal, "put", write.draft, write.change, most
                )
            except StoreBusy:  # nothing was sent, after a wait that may end sooner than their turn
                if time.monotonic() > deadline:
                    raise
            else:
                return answer

    def _owe(self, l2: L2, write: Write) -> None:
        l2.debts.owe(Kind.DELETE, [write.draft.key])
        self._writing.see_to_debts(l2)

    async def _store_beside(self, port: Port, write: Write) -> None:
        """Bring L2 in line where the journal does not."""
        l2, change = self._flow.l2, write.change
        if l2 is None or change is None or self.journal.writes_entries:
            return
        try:
            if change.item is not None:
                await l2.write(port, [change.item])
            else:
                await l2.delete(port, [write.draft.key])
        finally:
            self._writing.see_to_debts(l2)
