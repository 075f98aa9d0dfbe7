"""What telemetry costs: on a hit in L1, on a miss without an SDK, and on a cold load with one.

Three questions, with a goal each (DESIGN, guarantee 12):

- a hit in L1 while an SDK records spans and metrics, against the same hit without: nothing;
- a miss without an SDK: what the statements cost that are there for telemetry, timed by
  themselves, since no engine without them is at hand: under 1 us;
- a cold load through L1 and L2 with a recording SDK, its whole tree of four spans and the load's
  duration in a histogram, against the same without: at most 60 us. Most of that is the SDK's own,
  so there is a second number that does not depend on the machine: what it costs against the same
  spans, with the same attributes, and the same measurement, made by hand around the same call
  without telemetry. What exports them runs in a thread of its own, and is not counted: here they go
  nowhere.

What is timed is the time of the caller's thread: the store's bus has one, too.

Run as ``python -m benchmarks.telemetry``; 15 s.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer, use_span

from benchmarks.measure import Finding, Sample, circumstances, interleave
from benchmarks.report import publish_findings
from benchmarks.rivals import rival
from tiercache import LRU, Cache
from tiercache.telemetry import NO_STEP, Telemetry
from tiercache.testing import DictStore

ROUNDS = 61

ByHand: TypeAlias = tuple[Tracer, Histogram]


def told_by_hand(tracer: Tracer, duration: Histogram) -> None:
    """Make the tree of a cold load, and say how long the load took."""
    one, both = {"tiercache.cache": "on"}, {"tiercache.cache": "on", "tiercache.function": "f"}
    get = tracer.start_span("tiercache.get", attributes=both)
    with use_span(get):
        tracer.start_span("tiercache.l2.get", attributes=one).end()
        load = tracer.start_span("tiercache.load", attributes=both)
        with use_span(load):
            pass
        load.end()
        duration.record(0.001, one)
        tracer.start_span("tiercache.l2.set", attributes=one).end()
    get.set_attributes({"tiercache.outcome": "loaded", "tiercache.ttl_s": 300.0})
    get.end()


def repeat(call: Callable[[], object]) -> Sample:
    """Make a sample of a call."""

    def sample(calls: int) -> float:
        began = time.thread_time()
        for _ in itertools.repeat(None, calls):
            call()
        return time.thread_time() - began

    return sample


def hits(on: Cache, off: Cache, rounds: int) -> list[Finding]:
    """Time hits in L1."""
    subjects = {}
    for name, cache in (("on", on), ("off", off)):
        get = cache.cached("user:{user_id}")(lambda user_id: user_id)
        get(1), get(1)
        subjects[name] = repeat(lambda get=get: get(1))  # type: ignore[misc]
    found = interleave(subjects, baseline="off", rounds=rounds)
    about = "hit in L1, an SDK recording"
    return [_finding(about, "against the same without", found["on"].ratio, "x", 1.05)]


def miss(rounds: int) -> list[Finding]:
    """Time what a miss does for telemetry where there is no SDK."""
    telemetry = Telemetry("bench")

    def statements(steps: int) -> Callable[[], None]:
        def run() -> None:
            if telemetry.notice() is not None:
                raise RuntimeError("an SDK is installed")
            for _ in range(steps):
                spans = telemetry.spans
                with NO_STEP if spans is None else spans.wait(None):  # type: ignore[arg-type]
                    pass
            telemetry.loaded(0.001)

        return run

    # The load; and with L2 its read, its lease and its fill.
    subjects = {"in memory only": repeat(statements(1)), "with L2": repeat(statements(4))}
    found = interleave(subjects, baseline="with L2", rounds=rounds, scale=1e6)
    about = "statements of a miss for telemetry, the API imported, no SDK"
    return [_finding(about, name, found[name].value, "us", 1.0) for name in subjects]


def loads(on: Cache, off: Cache, by_hand: ByHand, rounds: int) -> list[Finding]:
    """Time cold loads."""
    findings = []
    numbers = itertools.count()
    about = "cold load through L1 and L2, an SDK recording"
    with asyncio.Runner() as runner:
        for kind in ("blocking", "asyncio"):
            found = interleave(
                {
                    "on": _sample(kind, on, numbers, runner),
                    "off": _sample(kind, off, numbers, runner),
                    "by hand": _sample(kind, off, numbers, runner, by_hand),
                },
                baseline="off",
                rounds=rounds,
                scale=1e6,
            )
            more, hand = (found[n].value - found["off"].value for n in ("on", "by hand"))
            findings += [
                _finding(about, f"{kind}: more than without", more, "us", 60.0),
                _finding(about, f"{kind}: of the same made by hand", more / hand, "x", 1.5),
            ]
    return findings


def _finding(about: str, what: str, value: float, unit: str, goal: float) -> Finding:
    return Finding(about=about, what=what, value=value, unit=unit, goal=goal)


def _sample(
    kind: str,
    cache: Cache,
    numbers: Any,
    runner: asyncio.Runner,
    by_hand: ByHand | None = None,
) -> Sample:
    """Make a sample of cold loads, each told of by hand where there is something to do it with."""
    if kind == "blocking":
        get = cache.cached("user:{user_id}")(lambda user_id: user_id)
        if by_hand is None:
            return repeat(lambda: get(next(numbers)))
        return repeat(lambda: (get(next(numbers)), told_by_hand(*by_hand)))

    @cache.cached("auser:{user_id}")
    async def aget(user_id: int) -> int:
        return user_id

    def sample(calls: int) -> float:
        async def main() -> float:
            began = time.thread_time()
            for _ in itertools.repeat(None, calls):
                await aget(next(numbers))
                if by_hand is not None:
                    told_by_hand(*by_hand)
            return time.thread_time() - began

        return runner.run(main())

    return sample


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 15 if parser.parse_args().quick else ROUNDS
    spans = TracerProvider()
    meters = MeterProvider([InMemoryMetricReader()])
    findings = miss(rounds)
    with (
        Cache(
            "on", l1=LRU(1000), l2=DictStore(), tracer_provider=spans, meter_provider=meters
        ) as on,
        Cache("off", l1=LRU(1000), l2=DictStore()) as off,
    ):
        findings += hits(on, off, rounds)
        duration = meters.get_meter("by hand").create_histogram("duration", "s")
        findings += loads(on, off, (spans.get_tracer("by hand"), duration), rounds)
    publish_findings("telemetry", circumstances({"tiercache": rival("tiercache")}, {}), findings)


if __name__ == "__main__":
    main()
