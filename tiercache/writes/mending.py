"""Having nothing but a write's own entry in L2, where the journal is not in L2 itself.

Other processes do not know of what is pending in this one's memory: they may have brought the
older row into L2, or be about to, with a load that began before the write. So once the row is in
the database, and before the journal forgets that it was not, the leases of the keys are taken from
whoever has them; then what stands there is looked at, and removed unless it is the write's own.

A journal in L2 does the same in one step with ``done``: see tiers/lua/mend.lua.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tiercache.tiers.journal import Journal, Ticket
from tiercache.tiers.store import Kind, LeaseMode

if TYPE_CHECKING:
    from tiercache.l2 import L2
    from tiercache.runtime import Port
    from tiercache.writing import Writing


class Mending:
    """Mends what L2 holds of keys that were written behind."""

    def __init__(self, writing: Writing, journal: Journal) -> None:
        self._writing = writing
        self._journal = journal

    async def mend(self, port: Port, tickets: Sequence[Ticket], payloads: Sequence[bytes]) -> None:
        """Do so for tickets whose operations are written; ``payloads`` are their entries'."""
        l2 = self._writing.flow.l2
        if l2 is None or self._journal.writes_entries:
            return
        own = self._newest(tickets, payloads)
        keys = list(own)
        if not keys:
            return
        leases = await self._taken(port, l2, keys)
        found = await l2.read_many(port, keys)
        foreign = {
            key
            for key, stored in zip(keys, found, strict=True)
            if stored is None or stored.payload != own[key]
        }
        if foreign:
            await self._writing.delete(port, [key for key in keys if key in foreign])
        left = [(key, nonce) for key, nonce in leases.items() if key not in foreign]
        if left:
            await l2.release(port, left, Kind.LANDED)

    def _newest(self, tickets: Sequence[Ticket], payloads: Sequence[bytes]) -> dict[str, bytes]:
        """Return the payloads of keys of which nothing newer is pending."""
        newest = self._journal.pending([ticket.key for ticket in tickets])
        return {
            ticket.key: payload
            for ticket, payload, record in zip(tickets, payloads, newest, strict=True)
            if record is None or record.version <= ticket.records[-1].version
        }

    async def _taken(self, port: Port, l2: L2, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Take the leases of keys from whoever has them."""
        claims = await l2.claim(port, keys, (), LeaseMode.STEAL, anew=True)
        pairs = zip(keys, claims or (), strict=False)
        return {key: claim.lease.nonce for key, claim in pairs if claim.lease is not None}
