"""Ways to break the engine, to see that the checker notices: each takes out one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tiercache.claims import Claims
from tiercache.coherence.debts import Debts
from tiercache.hearing import Hearing
from tiercache.l2 import L2
from tiercache.singleflight import Flights
from tiercache.spec import MISS
from tiercache.tiers.store import Fill, Item


def be_deaf() -> None:
    """Read the bus, and do nothing to L1 about what it says."""
    Hearing.hear_keys = lambda self, keys, kind: None  # type: ignore[method-assign]
    Hearing.hear_tags = lambda self, tags: None  # type: ignore[method-assign]
    Hearing.hear_clear = lambda self, prefix: None  # type: ignore[method-assign]


def have_no_fences() -> None:
    """Fill both tiers with whatever was loaded, invalidated since or not."""

    async def fill(self: L2, port: Any, fills: Sequence[Fill]) -> list[bool]:
        items = [Item(fill.key, fill.payload, fill.ttl, fill.tags) for fill in fills]
        await self._ask(port, "write_many", items[0].key, items)
        return [True] * len(fills)

    L2.fill = fill  # type: ignore[method-assign]
    Flights.is_current = lambda self, flight: True  # type: ignore[method-assign]
    Flights.lasts = lambda self, era, key: True  # type: ignore[method-assign]


def take_no_lease() -> None:
    """Load without asking for the lease."""

    async def bring(self: Claims, *args: Any) -> Any:
        return MISS

    Claims.bring = bring  # type: ignore[method-assign]


def owe_nothing() -> None:
    """Forget invalidations that L2 did not take."""
    Debts.owe = lambda self, kind, names: None  # type: ignore[method-assign]


def be_loud() -> None:
    """Let the store's errors through to callers."""

    def failed(self: L2, operation: str, error: Exception, *args: Any) -> None:
        raise error

    L2._failed = failed  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    "deaf": be_deaf,
    "no fences": have_no_fences,
    "no lease": take_no_lease,
    "no debts": owe_nothing,
    "loud": be_loud,
}
