"""Waiting for a guard, or for another plugin, in a thread or in a task.

By looking again: whether a guard is ready also depends on whether others can be heard, which nobody
signals.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf

from tiercache import Duration

from ._options import duration

PAUSE = 0.02  # seconds between two looks


def wait(happened: Callable[[], bool], timeout: Duration | None) -> bool:
    """Return True once it has happened, False if that takes longer than the timeout."""
    deadline = _deadline(timeout)
    while not happened():
        if time.monotonic() >= deadline:
            return False
        time.sleep(PAUSE)
    return True


async def await_(happened: Callable[[], bool], timeout: Duration | None) -> bool:
    """Do what ``wait`` does, awaited."""
    deadline = _deadline(timeout)
    while not happened():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(PAUSE)
    return True


def _deadline(timeout: Duration | None) -> float:
    if timeout is None:
        return inf
    return time.monotonic() + (0.0 if timeout == 0 else duration(timeout, "timeout"))
