"""The caches that are open in this process: to find clashing names, and to heal after a fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .cache import Cache


class Registry:
    """Open caches, held weakly."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._caches: weakref.WeakSet[Cache] = weakref.WeakSet()  # guarded by _lock

    def add(self, cache: Cache) -> None:
        """Add a cache.

        Raises:
            ConfigurationError: If one of that name has other settings on the same store, or its
                L1 belongs to another cache.
        """
        with self._lock:
            for other in self._caches:
                _refuse_clash(cache, other)
            self._caches.add(cache)

    def remove(self, cache: Cache) -> None:
        """Forget a cache that was closed."""
        with self._lock:
            self._caches.discard(cache)

    def after_fork(self) -> None:
        """Bring every cache in order in a forked child."""
        self._lock = threading.Lock()
        for cache in self._caches:
            cache.after_fork()


def _refuse_clash(cache: Cache, other: Cache) -> None:
    if cache is other:
        return
    if cache.memory is not None and cache.memory is other.memory:
        raise ConfigurationError(
            f"the L1 of cache {cache.name!r} belongs to cache {other.name!r}; give each its own"
        )
    if cache.store is None or other.store is None or cache.name != other.name:
        return
    if cache.store.label != other.store.label:
        return
    differing = [
        f"{name}={mine!r} and {theirs!r}"
        for (name, mine), theirs in zip(
            cache.settings().items(), other.settings().values(), strict=True
        )
        if mine != theirs
    ]
    if differing:
        raise ConfigurationError(
            f"two caches named {cache.name!r} share {cache.store.label} with different settings: "
            f"{', '.join(differing)}; give one of them another name"
        )


live_caches = Registry()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=live_caches.after_fork)
