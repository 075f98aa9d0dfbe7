"""The default cache: ``from tiercache import cached`` works with no configuration."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .cache import Cache
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .tiers.store import Store

_making = threading.Lock()


def default_cache() -> Cache:
    """Return the default cache: L1, and the L2 that ``TIERCACHE_URL`` names, if it is set."""
    with _making:
        return _make()


@lru_cache(maxsize=1)
def _make() -> Cache:
    url = os.environ.get("TIERCACHE_URL")
    return Cache("default", l2=store_from_url(url) if url else None)


def configure(**options: Any) -> Cache:
    """Give the default cache options, those of ``Cache``; functions decorated before come along.

    Call it once, at start: what was cached before in memory is dropped.
    """
    cache = default_cache()
    cache.reconfigure(**options)
    return cache


def store_from_url(url: str) -> Store:
    """Return the store for a URL: ``redis://``, ``rediss://``, ``unix://`` or ``sqlite:///path``.

    Raises:
        ConfigurationError: If it names no store.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        from .tiers.sqlite import SQLite

        return SQLite(rest.removeprefix("/"))
    if scheme in ("redis", "rediss", "unix"):
        from .tiers.redis import Redis

        return Redis(url)
    raise ConfigurationError(
        f"TIERCACHE_URL begins with {scheme!r}; use redis://, rediss://, unix:// or sqlite:///path"
    )


if TYPE_CHECKING:
    cached = default_cache().cached
else:

    def cached(function_or_key: Any = None, /, **options: Any) -> Any:
        """Do what ``Cache.cached`` does, with the default cache."""
        return default_cache().cached(function_or_key, **options)
