"""cashews: its memory backend, without lock=True, which gives one load but takes 4x per hit.

Shared, in Redis alone, with it: it has no first tier that would hear of other processes.
"""

from __future__ import annotations

from cashews import Cache

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Rival


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    cache = Cache()
    cache.setup(f"mem://?size={maxsize}")
    return cache(ttl=TTL_SECONDS)(function)


def ashared(function: AsyncFunction, url: str) -> AsyncFunction:
    cache = Cache()
    cache.setup(url)
    return cache(ttl=TTL_SECONDS, key="one:{user_id}", lock=True)(function)


def astored(function: AsyncFunction, url: str) -> AsyncFunction:
    cache = Cache()
    cache.setup(url)
    return cache(ttl=TTL_SECONDS, key="hit:{user_id}")(function)


RIVAL = Rival(
    distribution="cashews",
    features=("ttl", "bounded"),
    awaited=awaited,
    ashared=ashared,
    astored=astored,
)
