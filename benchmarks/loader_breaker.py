"""What LoaderBreaker, Bulkhead and ErrorMemory add to a load that succeeds; goal: breaker 4 µs.

Every call of a function in a cache without tiers is a load. The same load is timed with no plugin,
with a plugin that only hands on, and with each of the three. "adds" is the difference to none, of
samples taken within the same round (measure.py); "its own" is that to the plugin that hands on: the
rest is what the engine does for any plugin around loads. Opening, refusing and probing are not on
the way of a load that succeeds; what a refused call costs is a row of its own. For comparison,
pybreaker's own ``call()`` around a function.

Run as ``python -m benchmarks.loader_breaker``.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any

import pybreaker
from rich.table import Table

from benchmarks.measure import Finding, Measured, Row, Sample, circumstances, interleave
from benchmarks.report import CONSOLE, publish
from tiercache import Cache, CircuitOpen, Load, Plugin
from tiercache_plugins import Bulkhead, ErrorMemory, LoaderBreaker

GOAL_US = 4.0
NONE, HANDS_ON = "no plugin", "hands on"


class HandsOn(Plugin):
    """The least that a plugin around a load costs."""

    async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
        return await call_next()


def plugins() -> Mapping[str, list[Plugin]]:
    return {
        NONE: [],
        HANDS_ON: [HandsOn()],
        "breaker": [LoaderBreaker()],
        "breaker, rate": [LoaderBreaker(failure_rate=0.5)],
        "bulkhead": [Bulkhead(8)],
        "error memory": [ErrorMemory()],
    }


def one(key: int) -> int:
    return key


async def aone(key: int) -> int:
    return key


def failing(key: int) -> int:
    raise OSError


def blocking_sample(function: Callable[[int], int]) -> Sample:
    def sample(calls: int) -> float:
        began = perf_counter()
        for key in range(calls):
            function(key)
        return perf_counter() - began

    return sample


def asyncio_sample(function: Callable[[int], Awaitable[int]], runner: asyncio.Runner) -> Sample:
    async def main(calls: int) -> float:
        began = perf_counter()
        for key in range(calls):
            await function(key)
        return perf_counter() - began

    return lambda calls: runner.run(main(calls))


def open_sample(cache: Cache) -> Sample:
    """Time calls that an open breaker refuses."""
    function = cache.cached("row:{key}")(failing)
    with suppress(OSError):
        function(0)

    def sample(calls: int) -> float:
        began = perf_counter()
        for key in range(calls):
            with suppress(CircuitOpen):
                function(key)
        return perf_counter() - began

    return sample


def cached(which: Any, chosen: list[Plugin]) -> Any:
    return Cache("bench", l1=None, plugins=chosen).cached("row:{key}")(which)


def added(measured: Mapping[str, Measured], name: str) -> float:
    """Return the microseconds above no plugin, from ratios within rounds."""
    return measured[NONE].value * (measured[name].ratio - 1)


def show(title: str, measured: Mapping[str, Measured]) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("", "µs a load", "ratio", "adds, µs", "its own, µs"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one_ in measured.items():
        adds = added(measured, name)
        own = adds - added(measured, HANDS_ON)
        texts = f"{one_.value:.2f}", f"{one_.ratio:.2f}", f"{adds:+.2f}", f"{own:+.2f}"
        table.add_row(name, *texts)
    CONSOLE.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    subjects = {name: blocking_sample(cached(one, chosen)) for name, chosen in plugins().items()}
    refusing = LoaderBreaker(1, "1h")
    subjects["breaker, open"] = open_sample(Cache("bench", l1=None, plugins=[refusing]))
    theirs = pybreaker.CircuitBreaker()
    subjects["pybreaker's call(), no cache"] = blocking_sample(lambda key: theirs.call(one, key))
    with asyncio.Runner() as runner:
        asubjects = {
            name: asyncio_sample(cached(aone, chosen), runner) for name, chosen in plugins().items()
        }
        results = {
            "blocking": interleave(
                subjects, baseline=NONE, rounds=rounds, sample_seconds=0.02, scale=1e6
            ),
            "asyncio": interleave(
                asubjects, baseline=NONE, rounds=rounds, sample_seconds=0.02, scale=1e6
            ),
        }
    for title, measured in results.items():
        show(title, measured)
    rows = [
        Row(
            name=kind,
            question=f"a load that succeeds, {kind}",
            unit="us per load",
            baseline=NONE,
            subjects=measured,
        )
        for kind, measured in results.items()
    ]
    findings = [
        Finding(
            about="what LoaderBreaker adds to a load",
            what=kind,
            value=added(measured, "breaker"),
            unit="us",
            goal=GOAL_US,
        )
        for kind, measured in results.items()
    ]
    publish("loader_breaker", circumstances({}, {}), rows, findings)
    for kind, measured in results.items():
        adds = added(measured, "breaker")
        verdict = "met" if adds <= GOAL_US else "missed"
        print(f"{kind}: the breaker adds {adds:.2f} µs a load; goal {GOAL_US:g}: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
