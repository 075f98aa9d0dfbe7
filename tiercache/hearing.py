"""What is done about news of the bus: L1 and flights are brought in line."""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .entry import RemovalCause
from .runtime import BlockingPort, run
from .tiers.store import Kind

AT_ONCE = 1000  # entries let go of before others get a turn

if TYPE_CHECKING:
    from .nearby import Nearby


class Hearing:
    """The listener of one cache's bus."""

    def __init__(self, flow: Nearby) -> None:
        self._flow = weakref.ref(flow)  # the bus is the flow's: a cycle would keep both
        self._port = BlockingPort()

    def hear_keys(self, keys: Sequence[str], kind: Kind) -> None:
        flow = self._flow()
        if flow is None:
            return
        memory, removed = flow.memory, []
        if flow.hooks.on_write:
            flow.hooks.tell_of_write(keys)
        with flow.flights.lock:
            flow.flights.hear(keys)
            if memory is not None and kind is Kind.EXPIRE:
                removed = [gone for key in keys for gone in flow.make_stale(key)]
            elif memory is not None:
                cause = RemovalCause.INVALIDATED
                removed = [gone for key in keys for gone in memory.displace(key, cause)]
        if memory is not None and removed:
            memory.bury(removed)

    def hear_tags(self, tags: Sequence[str]) -> None:
        flow = self._flow()
        if flow is not None:
            flow.outdate(tags)

    def hear_clear(self, prefix: str) -> None:
        flow = self._flow()
        if flow is None:
            return
        if not prefix:
            flow.drop()
            return
        with flow.flights.lock:
            flow.flights.hear_all()
        for key in flow.memory or ():
            if key.startswith(prefix):
                self.hear_keys([key], Kind.DELETE)

    def hear_gap(self, *, was_blind: bool) -> None:
        flow = self._flow()
        if flow is None:
            return
        if was_blind:  # L1 has been dropped then, and what came since is short-lived
            with flow.flights.lock:
                flow.flights.hear_all()
            flow.tell("bus_gap", "", cause="blind")  # a plugin may have counted on hearing all
            return
        flow.counters.bus_gaps += 1
        flow.tell("bus_gap", "")
        flow.drop()

    def begin_to_fade(self) -> Sequence[str]:
        flow = self._flow()
        if flow is None:
            return ()
        flow.flights.hear_all()
        return () if flow.memory is None else list(flow.memory)

    def let_go(self, keys: Sequence[str]) -> None:
        flow = self._flow()
        memory = None if flow is None else flow.memory
        if flow is None or memory is None:
            return
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            for key in some:  # a load under way may have one of these to serve if it fails
                flow.flights.detach(key)
            memory.bury([g for key in some for g in memory.displace(key, RemovalCause.EXPIRED)])

    def see_again(self) -> None:
        flow = self._flow()
        if flow is None or flow.l2 is None:
            return
        flow.l2.breaker.heard_from(time.monotonic())
        if flow.l2.debts:
            run(flow.l2.settle(self._port))
