"""Durations as users write them, and how long a value lives."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from .errors import ConfigurationError

Duration = int | float | str | timedelta
#: A fixed duration, ``None`` for no expiry, or a function of the value that gives either.
TTL = Duration | Callable[[Any], Duration | None] | None

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])", re.ASCII)
_TEXT = re.compile(rf"\s*(?:{_PART.pattern}\s*)+", re.ASCII)


def seconds(value: Duration, *, name: str = "ttl") -> float:
    """Return a duration as seconds, > 0.

    Args:
        value: Seconds, a ``timedelta``, or text such as ``"90s"``, ``"1h30m"``, ``"100ms"``.
        name: What the duration is for, in an error.

    Raises:
        ConfigurationError: If it is no duration, or not a positive finite one.
    """
    result = _parse(value, name)
    if math.isnan(result) or math.isinf(result):
        raise ConfigurationError(f"{name} must be finite, got {value!r}; {_no_limit(name)}")
    if result <= 0:
        raise ConfigurationError(f"{name} must be positive, got {value!r}; {_no_limit(name)}")
    return result


def optional_seconds(value: Duration | None, *, name: str = "ttl") -> float | None:
    """Return a duration as seconds, or None for none."""
    return None if value is None else seconds(value, name=name)


def jittered(ttl: float, jitter: float, draw: Callable[[], float] = random.random) -> float:
    """Shorten a TTL by up to ``jitter`` of itself, so that entries filled together expire apart.

    A TTL is a promise about staleness, so it is never made longer.
    """
    return ttl * (1.0 - jitter * draw()) if jitter else ttl


def check_jitter(jitter: float) -> float:
    """Return the jitter, a share of the TTL in [0, 1)."""
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter < 1:
        raise ConfigurationError(
            f"jitter must be in [0, 1), got {jitter!r}; 0.05 spreads expiry over 5 % of the ttl"
        )
    return float(jitter)


def _parse(value: Duration, name: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        return _parse_text(value, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ConfigurationError(
        f"{name} must be a duration, got {value!r} ({type(value).__name__}); "
        'use seconds, a timedelta, or text such as "90s" or "1h30m"'
    )


def _parse_text(text: str, name: str) -> float:
    if not _TEXT.fullmatch(text):
        raise ConfigurationError(
            f"{name} is not a duration: {text!r}; "
            'write a number and a unit (ms, s, m, h, d, w), such as "90s" or "1h30m"'
        )
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(text))


def _no_limit(name: str) -> str:
    return f"use {name}=None for no expiry" if name == "ttl" else f"leave {name} out to turn it off"
