"""functools.lru_cache: written in C, no TTL, no single flight. The baseline."""

from __future__ import annotations

from functools import lru_cache

from benchmarks.rivals import Function, Rival


def blocking(function: Function, maxsize: int) -> Function:
    return lru_cache(maxsize)(function)


RIVAL = Rival(
    distribution=None,
    features=("bounded", "threads", "counts"),
    blocking=blocking,
)
