"""Leases: one loader per key in the cluster.

The right to load and fill a key is a *lease* in L2. It is short, and renewed while its holder
loads, so that a holder which has died or is frozen holds nobody up for long: its lease ends by
itself, and another process takes over. A fill compares the lease: a value that was loaded before a
write or delete of its key, or by a holder that was given up, is refused.

Those who are told to wait are woken over the bus when the fill has landed, or when the lease has
ended without one. Should that message get lost they look again when the lease may have ended.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tiercache.coherence.keeper import Handle
from tiercache.tiers.store import LeaseMode

if TYPE_CHECKING:
    from tiercache.spec import Spec

__all__ = ["LEASE_SECONDS", "RENEWALS", "UNHEARD_WAIT", "Kept", "mode_for", "new_nonces"]

LEASE_SECONDS = 3.0  # how long a dead holder holds others up
RENEWALS = 3  # per life of a lease: two may fail
UNHEARD_WAIT = 0.1  # seconds between looks while the bus is silent


def new_nonces(count: int) -> list[bytes]:
    """Return marks for so many leases, each of 8 random bytes."""
    random = os.urandom(8 * count)
    return [random[at : at + 8] for at in range(0, 8 * count, 8)]


def mode_for(spec: Spec, *, replaces: bool) -> LeaseMode:
    """Return how the lease of a load is asked for."""
    if replaces:  # a load that began before must not put back what this one finds outdated
        return LeaseMode.STEAL
    return LeaseMode.EXCLUSIVE if spec.lease else LeaseMode.SHARED


class Kept:
    """The renewal of leases that were taken together, until the last of them is let go."""

    def __init__(self, handle: Handle, count: int) -> None:
        self._handle = handle
        self._count = count  # each is let go once, by whoever carries its flight

    def let_go(self) -> None:
        """Renew one less; the last one ends it."""
        self._count -= 1
        if self._count <= 0:
            self._handle.cancel()
