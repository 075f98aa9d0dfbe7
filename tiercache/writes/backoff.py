"""How long to wait after a failure: exponentially longer, up to a bound, and never in step."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from tiercache.errors import ConfigurationError
from tiercache.ttl import Duration, seconds

FACTOR = 3.0
SPREAD = 0.3  # of a delay, by which it is shortened at random


class Backoff(NamedTuple):
    """The first delay and the longest, in seconds."""

    first: float
    longest: float

    def after(self, attempts: int, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after so many attempts (>= 1) in vain."""
        delay = min(self.first * FACTOR ** min(attempts - 1, 50), self.longest)
        return delay * (1.0 - SPREAD * draw())


def backoff_of(option: Duration | tuple[Duration, Duration]) -> Backoff:
    """Return what ``backoff=`` says: the first delay and the longest, or one for both."""
    pair = option if isinstance(option, tuple) else (option, option)
    if len(pair) != 2:
        raise ConfigurationError(
            f'backoff must be the first delay and the longest, got {option!r}; as ("100ms", "1m")'
        )
    first, longest = (seconds(each, name="backoff") for each in pair)
    if first > longest:
        raise ConfigurationError(
            f"backoff must not begin above its end, got {option!r}; swap the two"
        )
    return Backoff(first, longest)
