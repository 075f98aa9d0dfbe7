"""dogpile.cache: its memory backend, a dict without a bound; Redis with its distributed lock."""

from typing import Any

from dogpile.cache import make_region
from dogpile.cache.util import function_key_generator

from benchmarks.rivals import TTL_SECONDS, Function, Rival


def blocking(function: Function, maxsize: int) -> Any:
    return _cached(function, "dogpile.cache.memory", {})  # which has no maxsize


def shared(function: Function, url: str) -> Any:
    arguments = {"url": url, "distributed_lock": True, "thread_local_lock": False}
    return _cached(function, "dogpile.cache.redis", arguments)


def _key(cached: Any, argument: int) -> object:
    return function_key_generator(None, cached.original)(argument)


def _cached(function: Function, backend: str, arguments: dict[str, Any]) -> Any:
    return make_region().configure(backend, TTL_SECONDS, arguments).cache_on_arguments()(function)


KIND = ("ttl", "threads", "single flight")
RIVAL = Rival("dogpile.cache", KIND, key=_key, blocking=blocking, shared=shared, stored=shared)
