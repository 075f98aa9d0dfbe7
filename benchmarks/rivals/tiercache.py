"""tiercache itself, as it comes: TTL, jitter, single flight and counting are on."""

from __future__ import annotations

from itertools import count

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Function, Rival
from tiercache import LRU, Cache, Redis

_names = count()


def blocking(function: Function, maxsize: int) -> Function:
    cache = Cache(f"bench-{next(_names)}", l1=LRU(maxsize), ttl=TTL_SECONDS)
    return cache.cached()(function)


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    return blocking(function, maxsize)


def shared(function: Function, url: str) -> Function:
    cache = Cache("bench", l2=Redis(url), ttl=TTL_SECONDS)
    return cache.cached("one:{user_id}")(function)


def stored(function: Function, url: str) -> Function:
    cache = Cache(f"hits-{next(_names)}", l1=None, l2=Redis(url), ttl=TTL_SECONDS)
    return cache.cached("one:{user_id}")(function)


RIVAL = Rival(
    distribution="tiercache-toolkit",
    features=("ttl", "bounded", "threads", "single flight", "counts"),
    key=lambda cached, argument: cached.key(argument),
    blocking=blocking,
    awaited=awaited,
    shared=shared,
    ashared=shared,
    stored=stored,
    astored=stored,
)
