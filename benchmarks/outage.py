"""An outage of Redis and the recovery: how long calls take, and what the database has to bear.

Two processes serve steady traffic, one from threads, one from asyncio (``outage_traffic``). After
5 s Redis is frozen for 10 s, or killed, to come back empty; then there are 10 good seconds again.
Beside each cache with an L2 one without goes through the same.

Starts servers of its own. Run as ``python -m benchmarks.outage``; it takes a minute.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, median
from time import monotonic
from typing import Any

from benchmarks.measure import Finding, circumstances, percentile
from benchmarks.outage_traffic import KEYS, LOAD_SECONDS, SIDES, TTL, Seen, serve
from benchmarks.report import publish_findings
from benchmarks.rivals import rival
from tests.servers import RedisServer

OURS, ALONE = SIDES
BUCKET = 0.25  # seconds
LATE = 0.1  # seconds: a call that took longer has waited for Redis
GOAL_MS = 1.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that each part of a run lasts."""

    settling: float = 4.0  # not shown: that all keys were loaded together has to wear off
    good: float = 5.0
    bad: float = 10.0
    again: float = 10.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is done to the server, and how it ends."""

    name: str
    begin: Callable[[RedisServer], None]
    end: Callable[[RedisServer], None]


TROUBLES = (
    Trouble("frozen", RedisServer.freeze, RedisServer.thaw),
    Trouble("killed, and restarted empty", RedisServer.kill, RedisServer.start),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run through a trouble came to; all times count from the trouble's begin."""

    name: str
    began: float
    mended: float
    ended: float
    seen: Sequence[Seen]

    def calls(self, side: str, begin: float, end: float) -> list[float]:
        """Return the seconds that the calls took that began in a span of time."""
        return [
            took for each in self.seen for at, took in _pairs(each.calls[side]) if begin <= at < end
        ]

    def loads(self, side: str, begin: float, end: float) -> int:
        """Count the loads that began in a span of time."""
        return sum(begin <= at < end for each in self.seen for at in each.loads[side])

    def opened(self, seen: Seen) -> float:
        """Return when a process's breaker first opened."""
        return min(at for at, state in seen.breaker if state == "open" and at > 0)

    def closed(self, seen: Seen) -> float:
        """Return when a process's breaker last closed."""
        return max(at for at, state in seen.breaker if state == "closed")


def _pairs(calls: Sequence[float]) -> Iterator[tuple[float, float]]:
    return zip(calls[::2], calls[1::2], strict=True)


# --- the run ----------------------------------------------------------------------------------


def go_through(trouble: Trouble, times: Times) -> Run:
    """Run the traffic through a trouble."""
    spawn = multiprocessing.get_context("spawn")
    with RedisServer() as server:
        pipes, processes = [], []
        for kind in ("threads", "tasks"):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(kind, server.url, theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()
        began = monotonic() + times.settling
        for pipe in pipes:
            pipe.send(began + times.good + times.bad + times.again)
        time.sleep(times.settling + times.good)
        broken = monotonic()
        trouble.begin(server)
        time.sleep(times.bad)
        mended = monotonic()
        trouble.end(server)
        seen = [pipe.recv() for pipe in pipes]
        ended = monotonic()
        for process in processes:
            process.join()
    for each in seen:
        _count_from(broken, each)
    return Run(trouble.name, began - broken, mended - broken, ended - broken, seen)


def _count_from(broken: float, seen: Seen) -> None:
    for calls in seen.calls.values():
        for place in range(0, len(calls), 2):
            calls[place] -= broken
    for loads in seen.loads.values():
        for place, at in enumerate(loads):
            loads[place] = at - broken
    seen.breaker = [(at - broken, state) for at, state in seen.breaker]


# --- what it came to --------------------------------------------------------------------------


def findings(run: Run) -> list[Finding]:
    """Return the numbers."""
    return list(chain(_opening(run), _while_open(run), _loads(run)))


def _opening(run: Run) -> Iterator[Finding]:
    about = f"{run.name}: until the breaker opens"
    for seen in run.seen:
        opened = run.opened(seen)
        late = [took for at, took in _pairs(seen.calls[OURS]) if at < opened and at + took > 0]
        waited = [took for took in late if took > LATE]
        yield _ms(about, f"{seen.kind}: it opens after", opened)
        yield Finding(
            about=about,
            what=f"{seen.kind}: calls that took over {LATE * 1e3:g} ms",
            value=len(waited),
            unit="",
        )
        yield _ms(about, f"{seen.kind}: longest call", max(late, default=0.0))


def _while_open(run: Run) -> Iterator[Finding]:
    """Hold calls after the breaker has opened against those of an L1 alone, side by side."""
    about = f"{run.name}: after it has opened, added to a call"
    begin = max(run.opened(seen) for seen in run.seen)
    ours, alone = (run.calls(side, begin, run.mended) for side in SIDES)
    loading, loading_alone = (
        [took for took in calls if took >= LOAD_SECONDS] for calls in (ours, alone)
    )
    for what, reduce in _REDUCTIONS.items():
        added = reduce(loading) - reduce(loading_alone)
        yield _ms(about, f"{what}, of those that load", added, GOAL_MS)
    for what, reduce in _REDUCTIONS.items():
        yield _ms(about, f"{what}, of all", reduce(ours) - reduce(alone), GOAL_MS)
    for side, calls in zip(SIDES, (ours, alone), strict=True):
        waited = sum(took > LATE for took in calls)
        what = f"{side}: calls of {len(calls):,} that took over {LATE * 1e3:g} ms"
        yield Finding(about=about, what=what, value=waited, unit="")
        yield _ms(about, f"{side}: longest call", max(calls))


_REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "p50": median,
    "p99": lambda values: percentile(values, 0.99),
}


def _loads(run: Run) -> Iterator[Finding]:
    about = f"{run.name}: loads per second, of both processes"
    spans = {
        "before": (run.began, 0.0),
        "during": (0.0, run.mended),
        "after, the first second": (run.mended, run.mended + 1),
        "after, later": (run.mended + 1, run.ended),
    }
    for side in SIDES:
        for name, (begin, end) in spans.items():
            rate = run.loads(side, begin, end) / (end - begin)
            yield Finding(about=about, what=f"{side}: {name}", value=rate, unit="/s")
        after = list(buckets(run.mended, run.ended))
        most = max(run.loads(side, *bucket) for bucket in after) / BUCKET
        yield Finding(about=about, what=f"{side}: after, the busiest 0.25 s", value=most, unit="/s")
    for seen in run.seen:
        yield _ms(about, f"{seen.kind}: L2 in use again after", run.closed(seen) - run.mended)


def _ms(about: str, what: str, seconds: float, goal: float | None = None) -> Finding:
    return Finding(about=about, what=what, value=seconds * 1e3, unit="ms", goal=goal)


def buckets(begin: float, end: float) -> Iterator[tuple[float, float]]:
    """Divide a span of time; what is left over at its end is no bucket."""
    while begin + BUCKET <= end:
        yield begin, begin + BUCKET
        begin += BUCKET


def series(run: Run) -> dict[str, Any]:
    """Return what the chart shows: for each side and bucket p50, p99, and loads per second."""
    spans = list(buckets(run.began, run.ended))
    drawn: dict[str, Any] = {"name": run.name, "mended": run.mended, "at": [at for at, _ in spans]}
    for side in SIDES:
        calls = [run.calls(side, *span) for span in spans]
        drawn[side] = {
            "p50": [median(each) if each else None for each in calls],
            "p99": [percentile(each, 0.99) if each else None for each in calls],
            "loads": [run.loads(side, *span) / BUCKET for span in spans],
        }
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2, 4 and 3 s instead")
    options = parser.parse_args()
    times = Times(3, 2, 4, 3) if options.quick else Times()
    found: list[Finding] = []
    drawn = []
    for trouble in TROUBLES:
        print(f"Redis is {trouble.name} ...", flush=True)
        run = go_through(trouble, times)
        found += findings(run)
        drawn.append(series(run))
    setting = f"{KEYS} keys, TTL {TTL:g} s, a database that takes {LOAD_SECONDS * 1e3:g} ms"
    made = circumstances({"tiercache": rival("tiercache")}, {}) | {"setting": setting}
    publish_findings("outage", made, found, series=drawn)


if __name__ == "__main__":
    main()
