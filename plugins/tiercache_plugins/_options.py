"""Options of the plugins, checked where they are given."""

from __future__ import annotations

import os
from pathlib import Path
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


def file(value: Any, name: str) -> Path | None:
    """Return the path of a file, or None if none was given."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ConfigurationError(f"{name} must be the path of a file, got {value!r}")
    return Path(value)
