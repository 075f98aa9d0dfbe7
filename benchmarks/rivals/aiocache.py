"""aiocache: its cached decorator over the memory cache, which has no bound."""

from __future__ import annotations

from aiocache import SimpleMemoryCache, cached

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Rival


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    del maxsize  # the cache has none
    return cached(ttl=TTL_SECONDS, cache=SimpleMemoryCache)(function)


RIVAL = Rival(
    distribution="aiocache",
    features=("ttl",),
    awaited=awaited,
)
