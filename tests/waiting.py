"""Waiting for what another thread does, within a bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.kinds import Kind


def until(happened: Callable[[], object], seconds: float = 10.0) -> None:
    """Return once something has happened; fail, instead of hanging, if it does not."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def in_time(do: Callable[[], object], seconds: float, tries: int = 5) -> float:
    """Return how long it takes, which must be less than some seconds.

    It may be done again and again: what is in time once would be, but for a busy machine.
    """
    for _ in range(tries):
        began = time.monotonic()
        do()
        took = time.monotonic() - began
        if took < seconds:
            return took
    raise AssertionError(f"it took {took:.2f} s at last, and should take less than {seconds} s")


def until_then(
    kind: Kind, begin: Callable[[Any], object], may_end: Callable[[], bool]
) -> Callable[..., Any]:
    """Return a function of this kind that begins, and returns its argument as soon as it may.

    What ``may_end`` raises is raised.
    """
    if kind.name == "blocking":

        def load(x: Any) -> Any:
            begin(x)
            until(may_end)
            return x

        return load

    async def aload(x: Any) -> Any:
        begin(x)
        async with asyncio.timeout(10):
            while not may_end():
                await asyncio.sleep(0)
        return x

    return aload
