"""cachetools: a TTLCache behind a lock, the documented thread-safe form; duplicate loads."""

from __future__ import annotations

from threading import Lock

from cachetools import TTLCache, cached
from cachetools.keys import hashkey

from benchmarks.rivals import TTL_SECONDS, Function, Rival


def blocking(function: Function, maxsize: int) -> Function:
    return cached(TTLCache(maxsize, TTL_SECONDS), lock=Lock())(function)


RIVAL = Rival(
    distribution="cachetools",
    features=("ttl", "bounded", "threads"),
    key=lambda _, argument: hashkey(argument),
    blocking=blocking,
)
