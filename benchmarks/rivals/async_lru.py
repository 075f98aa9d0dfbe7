"""async-lru: lru_cache for coroutines, with a TTL kept by loop timers."""

from __future__ import annotations

from async_lru import alru_cache

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Rival


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    return alru_cache(maxsize, ttl=TTL_SECONDS)(function)


RIVAL = Rival(
    distribution="async-lru",
    features=("ttl", "bounded", "single flight", "counts"),
    awaited=awaited,
)
