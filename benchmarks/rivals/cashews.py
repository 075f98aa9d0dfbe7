"""cashews: memory without lock=True (one load, but 4x per hit); Redis alone, shared with it."""

from __future__ import annotations

from typing import Any

from cashews import Cache

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Rival


def awaited(function: AsyncFunction, maxsize: int) -> Any:
    return _cached(function, f"mem://?size={maxsize}")


def ashared(function: AsyncFunction, url: str) -> Any:
    return _cached(function, url, key="one:{user_id}", lock=True)


def astored(function: AsyncFunction, url: str) -> Any:
    return _cached(function, url, key="hit:{user_id}")


def _cached(function: AsyncFunction, url: str, **options: Any) -> Any:
    cache = Cache()
    cache.setup(url)
    return cache(ttl=TTL_SECONDS, **options)(function)


RIVAL = Rival("cashews", ("ttl", "bounded"), awaited=awaited, ashared=ashared, astored=astored)
