"""aiocache: its cached decorator, over the memory cache, which has no bound, and over Redis."""

from __future__ import annotations

from aiocache import RedisCache, SimpleMemoryCache, cached
from aiocache.serializers import JsonSerializer

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Rival


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    del maxsize  # the cache has none
    return cached(ttl=TTL_SECONDS, cache=SimpleMemoryCache)(function)


def astored(function: AsyncFunction, url: str) -> AsyncFunction:
    host, _, port = url.partition("//")[2].partition("/")[0].partition(":")
    where = {"endpoint": host, "port": int(port), "serializer": JsonSerializer()}
    return cached(ttl=TTL_SECONDS, cache=RedisCache, **where)(function)


RIVAL = Rival(
    distribution="aiocache",
    features=("ttl",),
    awaited=awaited,
    astored=astored,
)
