"""cashews: its memory backend. Without lock=True, which gives one load but takes 4x per hit."""

from __future__ import annotations

from cashews import Cache

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Rival


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    cache = Cache()
    cache.setup(f"mem://?size={maxsize}")
    return cache(ttl=TTL_SECONDS)(function)


RIVAL = Rival(
    distribution="cashews",
    features=("ttl", "bounded"),
    awaited=awaited,
)
