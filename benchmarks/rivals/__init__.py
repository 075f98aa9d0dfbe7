"""The libraries measured, each behind the same two functions.

An adapter is a module of some 30 lines that sets the library up the way its own
documentation recommends, with as much of tiercache's service as it can give (TTL, locks,
one load per key), and says in ``features`` which of it that is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

TTL_SECONDS = 300
"""Life of every entry, in all libraries that know one."""

Function = Callable[..., Any]
AsyncFunction = Callable[..., Awaitable[Any]]

# In the order of the tables. The first is the baseline of the blocking rows.
NAMES = (
    "lru_cache",
    "tiercache",
    "cachebox",
    "cachetools_lock",
    "cachetools_condition",
    "theine",
    "dogpile",
    "async_lru",
    "aiocache",
    "cashews",
    "redis_py",
    "diskcache",
    "django_redis",
)


@dataclass(frozen=True, slots=True)
class Rival:
    """One library: how it caches a function, and what else it does meanwhile.

    ``features`` are words of: ttl, bounded, threads (safe), single flight, counts (hits).
    """

    distribution: str | None  # whose version is recorded; None for the standard library
    features: tuple[str, ...]
    is_native: bool = False  # keeps entries where tracemalloc cannot see them
    key: Callable[[Any, int], object] | None = None  # what it makes of the argument as key
    blocking: Callable[[Function, int], Function] | None = None  # function, maxsize -> cached
    awaited: Callable[[AsyncFunction, int], AsyncFunction] | None = None
    # In Redis, with one load in the whole cluster if the library has that: function, URL -> cached
    shared: Callable[[Function, str], Function] | None = None
    ashared: Callable[[AsyncFunction, str], AsyncFunction] | None = None
    # In Redis alone, or whatever its second tier is, nothing in memory: function, URL -> cached
    stored: Callable[[Function, str], Function] | None = None
    astored: Callable[[AsyncFunction, str], AsyncFunction] | None = None

    @property
    def version(self) -> str:
        return version(self.distribution) if self.distribution else sys.version.split()[0]


def rival(name: str) -> Rival:
    """Return one rival; ImportError where its library is not installed."""
    adapter: Rival = importlib.import_module(f"{__name__}.{name}").RIVAL
    return adapter


def installed() -> tuple[dict[str, Rival], dict[str, str]]:
    """Return the rivals that are here, by name, and why each other one is not."""
    rivals: dict[str, Rival] = {}
    missing: dict[str, str] = {}
    for name in NAMES:
        try:
            rivals[name] = rival(name)
        except ImportError as error:
            if name == "tiercache":
                raise  # without it there is nothing to compare
            missing[name] = str(error)
    return rivals, missing
