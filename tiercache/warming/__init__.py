"""Warming: values brought into the tiers before anybody asks for them.

``sources`` says what is to be warmed, ``run`` how far a run has come and when it ends, ``carrier``
how a few keys are brought, ``drivers`` who does that side by side, ``hot`` which keys deserve it.
``api`` is what a cache offers of all that.

A warmed load is a load like any other: it has the key's flight, so callers join it instead of
loading twice; it has the lease, so several processes that warm at once share the work; plugins see
it; and a write that comes between is not overwritten. It differs in three ways. It takes only what
room there is in L1. It counts as a load, but neither as a hit nor as a miss. And it never waits
for a key that somebody else is loading.
"""

from __future__ import annotations

from .api import Warming

__all__ = ["Warming"]
