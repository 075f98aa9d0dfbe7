"""What stands under a key, and why it is kept as it is: for people, not for programs."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan
from typing import TYPE_CHECKING

from .entry import Entry, Freshness, LastingEntry, Life, entry_of, freshness, standing
from .spec import MISS, Spec

if TYPE_CHECKING:
    from .lookup import Lookup
    from .runtime import Port


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a tier holds under a key. Durations are seconds; None: not known, or without end."""

    key: str
    tier: str = ""  # "L1" or "L2"; "": neither has it
    freshness: Freshness = Freshness.EXPIRED
    ttl: float | None = None  # that it was given
    why: str = ""  # a plugin's reason for it
    age: float | None = None
    fresh_for: float | None = None  # from now
    kept_for: float | None = None  # from now
    load_seconds: float | None = None
    hits: int = 0  # in this process's L1
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.tier:
            return f"{self.key}: in no tier"
        parts = [f"{self.freshness.value} in {self.tier}"]
        if self.age is not None:
            parts.append(f"loaded {self.age:.3g} s ago")
        if self.load_seconds:
            parts.append(f"in {self.load_seconds:.3g} s")
        parts.append("no expiry" if self.fresh_for is None else f"fresh for {self.fresh_for:.3g} s")
        if self.ttl is not None:
            parts.append(f"of {self.ttl:.3g} s" + (f" ({self.why})" if self.why else ""))
        return f"{self.key}: {', '.join(parts)}"


async def explain(flow: Lookup, port: Port, spec: Spec, key: str) -> Explanation:
    """Say what the tiers hold under a key; count nothing, change nothing."""
    entry = None if flow.memory is None else flow.memory.get(key)
    if entry is not None and not (entry.tags and flow.flights.is_outdated(entry)):
        said = _of_entry(flow, entry, "L1")
        if said.tier:
            return said
    stored = None
    if flow.l2 is not None and spec.uses_store:
        stored = await flow.l2.read(port, key, spec.tags)
    if stored is None:
        return Explanation(key=key)
    value, life = flow.readable(spec, key, stored)
    if value is MISS:
        return Explanation(key=key)
    return _of_entry(flow, _entry_of(flow, key, value, life), "L2")


def _entry_of(flow: Lookup, key: str, value: object, life: Life) -> Entry:
    entry = entry_of(key, value, life)
    stale_at = inf if life.ttl is None else flow.time() + life.ttl
    entry.fresh_until = stale_at
    if entry.__class__ is LastingEntry:
        entry.stale_at, entry.kept_until = stale_at, stale_at + life.keep
    return entry


def _of_entry(flow: Lookup, entry: Entry, tier: str) -> Explanation:
    now, found = flow.time(), standing(entry)
    state = freshness(entry, now)
    if state is Freshness.EXPIRED:
        return Explanation(key=entry.key)
    record, age = found.record, flow.age(found)
    return Explanation(
        key=entry.key,
        tier=tier,
        freshness=state,
        ttl=None if record is None else record.ttl,
        why="" if record is None else record.reason,
        age=None if isnan(age) else age,
        fresh_for=None if found.stale_at == inf else max(0.0, found.stale_at - now),
        kept_for=None if found.kept_until == inf else max(0.0, found.kept_until - now),
        load_seconds=None if record is None else record.load_seconds,
        hits=entry.hits,
        tags=entry.tags,
    )
