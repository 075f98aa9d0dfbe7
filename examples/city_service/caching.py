"""The cache of one process: two tiers, and the plugins around its loads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from examples.city_service.service import CITY
from tiercache import LRU, Cache, Event, Plugin, Redis, SQLite, Store
from tiercache_plugins import AdaptiveTTL, BloomGuard, HotKeys, LoaderBreaker

NAME = "city-demo"
BLIND_TTL = 1.0  # seconds: how late another process may hear of an update, whatever happens
TIMEOUT = 2.0  # seconds, for L2: four busy processes on two cores may keep it waiting
RESET_SECONDS = 0.3  # after which an open breaker tries one load
STALENESS = 0.05  # the share of answers that AdaptiveTTL may let be outdated


class BreakerDiary(Plugin):
    """Writes down when a breaker opened and closed: a plugin in six lines."""

    def __init__(self) -> None:
        self.events: list[tuple[str, float]] = []  # and the time, CLOCK_MONOTONIC

    def on_event(self, event: Event) -> None:
        if event.name.startswith("breaker_"):
            self.events.append((event.name, time.monotonic()))


@dataclass(frozen=True, slots=True)
class Tier:
    """What all processes share: a Redis or, without one, a file of this machine."""

    redis: str | None  # its URL
    file: Path
    prefix: str = "tc"  # of all keys in Redis

    def open(self) -> Store:
        """Return it as L2 of a cache."""
        if self.redis is None:
            return SQLite(self.file, timeout=TIMEOUT)
        return Redis(self.redis, prefix=self.prefix, timeout=TIMEOUT)


class Caching:
    """The cache, with its plugins at hand for those who want to look at them.

    Args:
        tier: What is shared.
        ids: Reads the ids of all cities there are.
    """

    def __init__(self, tier: Tier, ids: Callable[[], Iterable[int]]) -> None:
        # Answers for cities that do not exist. In Redis its filter is shared: one process reads
        # the ids, the others take over what it has made.
        self.guard = BloomGuard(ids, key=CITY, capacity=50_000, shared=tier.redis)
        # The TTL of a value follows how often it really changes.
        self.adaptive = AdaptiveTTL(min="50ms", max="1m", staleness=STALENESS)
        # Leaves a database that fails alone, and tries again now and then.
        self.breaker = LoaderBreaker(fail_max=3, reset_timeout=RESET_SECONDS, name="database")
        # The next process begins with what this one was asked for most.
        self.hot_keys = HotKeys(top=2000)
        self.diary = BreakerDiary()
        self.cache = Cache(
            NAME,
            l1=LRU(10_000),
            l2=tier.open(),
            stale_if_error="1m",  # the last value, where the database is down
            blind_ttl=BLIND_TTL,
            plugins=[self.guard, self.adaptive, self.breaker, self.hot_keys, self.diary],
        )
