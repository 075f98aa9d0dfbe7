"""tiercache itself, as it comes: TTL, jitter, single flight and counting are on."""

from __future__ import annotations

from itertools import count
from typing import Any

from benchmarks.rivals import TTL_SECONDS, Function, Rival
from tiercache import LRU, Cache, Redis

_names = count()


def blocking(function: Function, maxsize: int) -> Any:
    return Cache(f"bench-{next(_names)}", l1=LRU(maxsize), ttl=TTL_SECONDS).cached()(function)


def shared(function: Function, url: str) -> Any:
    return Cache("bench", l2=Redis(url), ttl=TTL_SECONDS).cached("one:{user_id}")(function)


def stored(function: Function, url: str) -> Any:
    return Cache("hits", l1=None, l2=Redis(url), ttl=TTL_SECONDS).cached("one:{user_id}")(function)


RIVAL = Rival(
    "tiercache-toolkit", ("ttl", "bounded", "threads", "single flight", "counts"),
    key=lambda cached, argument: cached.key(argument), blocking=blocking, awaited=blocking,
    shared=shared, ashared=shared, stored=stored, astored=stored,
)  # fmt: skip
