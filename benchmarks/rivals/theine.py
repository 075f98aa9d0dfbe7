"""theine: W-TinyLFU with its policy in Rust."""

from __future__ import annotations

from datetime import timedelta

from theine import Memoize

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Function, Rival


def blocking(function: Function, maxsize: int) -> Function:
    return Memoize(maxsize, timedelta(seconds=TTL_SECONDS))(function)


def awaited(function: AsyncFunction, maxsize: int) -> AsyncFunction:
    return blocking(function, maxsize)


RIVAL = Rival(
    distribution="theine",
    features=("ttl", "bounded", "threads", "single flight", "counts"),
    blocking=blocking,
    awaited=awaited,
)
