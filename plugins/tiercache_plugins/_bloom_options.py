"""Options of BloomGuard that no other plugin has."""

from __future__ import annotations

import inspect
from math import inf
from typing import Any

from tiercache import ConfigurationError

from ._options import share


def checked_rate(rate: Any) -> float:
    """Return an error rate in (0, 1)."""
    return share(rate, "error_rate", "0.01 lets one of a hundred absent keys through")


def checked_rate_limit(limit: Any) -> float:
    """Return how many ids per second may be read, > 0."""
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit < inf:
        raise ConfigurationError(
            f"rate_limit must be ids per second, > 0, got {limit!r}; leave it out for no limit"
        )
    return float(limit)


def checked_absent(absent: Any) -> Any:
    """Return what an absent key gives: None, an exception class, or a function of the key."""
    if isinstance(absent, BaseException):
        raise ConfigurationError(
            f"absent must be an exception class, got the instance {absent!r}; one object would be "
            f"raised again and again: use {type(absent).__name__}"
        )
    if isinstance(absent, type) and not issubclass(absent, Exception):
        raise ConfigurationError(f"absent must be an exception class, got {absent!r}")
    if inspect.iscoroutinefunction(absent):
        raise ConfigurationError(f"absent must be a plain function, got {absent!r}; use def")
    if absent is not None and not callable(absent):
        raise ConfigurationError(
            f"absent must be an exception class or a function of the key, got {absent!r}; "
            "for a fixed value use a lambda"
        )
    return absent
