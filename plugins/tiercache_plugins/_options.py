"""Options of the plugins, checked where they are given."""

from __future__ import annotations

from typing import Any

from tiercache import ConfigurationError, Duration, seconds


def duration(value: Duration, name: str) -> float:
    """Return a duration in seconds, > 0."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
        raise ConfigurationError(f"{name} must be positive, got {value!r}; such as 30 or '30s'")
    return seconds(value, name=name)


def whole(value: Any, name: str, *, least: int) -> int:
    """Return a whole number that is not below the least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be a whole number >= {least}, got {value!r}")
    return value


def share(value: Any, name: str, remedy: str) -> float:
    """Return a number between 0 and 1, both excluded."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigurationError(f"{name} must be above 0 and below 1, got {value!r}; {remedy}")
    return float(value)
