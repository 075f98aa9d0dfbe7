"""cachebox: caches in Rust; results are handed out uncopied, as the others do."""

from __future__ import annotations

import cachebox

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Function, Rival


def blocking(function: Function, maxsize: int) -> Function:
    cache = cachebox.TTLCache(maxsize, TTL_SECONDS)
    return cachebox.cached(cache, postprocess=None)(function)


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    return blocking(function, maxsize)


RIVAL = Rival(
    distribution="cachebox",
    features=("ttl", "bounded", "threads", "single flight", "counts"),
    is_native=True,
    blocking=blocking,
    awaited=awaited,
)
