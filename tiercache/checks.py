"""What a cache is made of, checked where it is given."""

from __future__ import annotations

from typing import Any

from .codec import Codec
from .errors import ConfigurationError
from .tiers.memory import LRU, Memory
from .tiers.store import Store
from .ttl import Duration, seconds

DEFAULT_L1_ENTRIES = 10_000
NEW_L1: Any = LRU(1)  # stands for "an LRU of this cache's own" as a default


def checked_name(name: str) -> str:
    """Return the name of a cache: a part of keys."""
    if not isinstance(name, str) or not name or ":" in name:
        raise ConfigurationError(
            f"the name of a cache must be a text without ':', got {name!r}; such as \"users\""
        )
    return name


def checked_blind_ttl(blind_ttl: Duration) -> float:
    """Return how long L1 may be served unwatched, in seconds."""
    try:
        return seconds(blind_ttl, name="blind_ttl")
    except ConfigurationError:
        raise ConfigurationError(
            f"blind_ttl must be a duration of more than 0, got {blind_ttl!r}; "
            "a short one loads more in an outage, l1=None keeps nothing in memory"
        ) from None


def checked_l1(l1: Memory | None) -> Memory | None:
    """Return an L1, by default a new one."""
    if l1 is NEW_L1:
        return LRU(DEFAULT_L1_ENTRIES)
    if l1 is not None and not isinstance(l1, Memory):
        raise ConfigurationError(f"l1 must be LRU(maxsize), S3FIFO(maxsize) or None, got {l1!r}")
    return l1


def checked_l2(l2: Store | None) -> Store | None:
    """Return a store."""
    if l2 is not None and not isinstance(l2, Store):
        raise ConfigurationError(
            f"l2 must be Redis(url), SQLite(path), another Store or None, got {l2!r}"
        )
    return l2


def checked_codec(codec: Codec | None) -> Codec:
    """Return a codec, by default a new one."""
    if codec is None:
        return Codec()
    if not isinstance(codec, Codec):
        raise ConfigurationError(f"codec must be a tiercache.Codec, got {codec!r}")
    return codec
