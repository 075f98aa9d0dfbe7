"""cachetools: a TTLCache behind a condition, so that one caller loads and the others wait."""

from __future__ import annotations

from threading import Condition

from cachetools import TTLCache, cached
from cachetools.keys import hashkey

from benchmarks.rivals import TTL_SECONDS, Function, Rival


def blocking(function: Function, maxsize: int) -> Function:
    return cached(TTLCache(maxsize, TTL_SECONDS), condition=Condition())(function)


RIVAL = Rival(
    distribution="cachetools",
    features=("ttl", "bounded", "threads", "single flight"),
    key=lambda _, argument: hashkey(argument),
    blocking=blocking,
)
