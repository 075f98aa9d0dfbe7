"""dogpile.cache: a region over its memory backend, which is a dict without a bound.

Shared, a region over Redis with its distributed lock.
"""

from __future__ import annotations

from dogpile.cache import make_region
from dogpile.cache.util import function_key_generator

from benchmarks.rivals import TTL_SECONDS, Function, Rival


def blocking(function: Function, maxsize: int) -> Function:
    del maxsize  # the backend has none
    region = make_region().configure("dogpile.cache.memory", expiration_time=TTL_SECONDS)
    return region.cache_on_arguments()(function)


def shared(function: Function, url: str) -> Function:
    arguments = {"url": url, "distributed_lock": True, "thread_local_lock": False}
    region = make_region().configure("dogpile.cache.redis", TTL_SECONDS, arguments)
    return region.cache_on_arguments()(function)


RIVAL = Rival(
    distribution="dogpile.cache",
    features=("ttl", "threads", "single flight"),
    key=lambda cached, argument: function_key_generator(None, cached.original)(argument),
    blocking=blocking,
    shared=shared,
    stored=shared,
)
