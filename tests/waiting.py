"""Waiting for what another thread does, within a bound."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(happened: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once something has happened; fail, instead of hanging, if it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)
