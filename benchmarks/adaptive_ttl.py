"""Staleness and loads of ``AdaptiveTTL`` against fixed TTLs, on traces with known change times.

A trace says who asks for what when; when values change is made up, by a seed, so that it is known
which answers are stale. Three values in ten never change; five change at random, one at regular
intervals, one in bursts; the mean intervals are spread evenly, on a logarithmic scale, from a
thousandth of the trace's length to twice of it, and have nothing to do with how hot a key is. The
plugin is driven as a cache would, load by load, and is told nothing but values, ages and hits.

Each point of the chart is a run: a fixed TTL, or AdaptiveTTL with one ``staleness``, always with
min = 1/5000 and max = 1/4 of the trace's length. How many loads a fixed TTL would need for the same
staleness lies between the two fixed TTLs next to it, on the straight line of their logarithms. The
chart also has AdaptiveTTL(hot=False), which knows changes alone.

Run as ``python -m benchmarks.adaptive_ttl`` for a synthetic Zipf trace; ``--trace FILE`` adds a
file of ``ts_ms,client,key,size,op,ttl_s`` rows (csv, gzip), of which the gets are taken.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import random
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from rich.table import Table

from benchmarks.measure import python_tag
from benchmarks.report import CONSOLE
from tiercache import Load, Previous
from tiercache_plugins import AdaptiveTTL

GOAL = 0.30  # fewer loads than the best fixed TTL, for the same share of stale answers
STALENESS = (0.01, 0.02, 0.05, 0.1, 0.2)
RESULTS = Path(__file__).parent / "results"

Trace: TypeAlias = Sequence[tuple[float, int]]  # seconds, key
Changes: TypeAlias = Mapping[int, Sequence[float]]  # when each key's value changes
#: A TTL for key, value and what stands there; and a state for the next time.
Policy: TypeAlias = Callable[[int, int, Previous | None], tuple[float, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy came to."""

    policy: str
    setting: float
    loads: int
    stale_share: float  # of all answers
    stale_seconds: float  # mean over all answers of for how long they have been outdated


@dataclass(slots=True)
class _Held:
    loaded_at: float
    until: float
    version: int
    hits: int
    state: Any


def zipf(requests: int, keys: int = 2000, exponent: float = 0.9, day: float = 86_400.0) -> Trace:
    draw = random.Random(1)
    weights = [1 / rank**exponent for rank in range(1, keys + 1)]
    times = sorted(draw.uniform(0, day) for _ in range(requests))
    return list(zip(times, draw.choices(range(keys), weights, k=requests), strict=True))


def read(path: Path) -> Trace:
    with gzip.open(path, "rt", newline="") as file:
        rows = csv.DictReader(file)
        return [(int(row["ts_ms"]) / 1000, int(row["key"])) for row in rows if row["op"] == "get"]


def make_changes(trace: Trace) -> Changes:
    span, draw = trace[-1][0], random.Random(2)
    low, high = math.log(span / 1000), math.log(span * 2)
    changes: dict[int, list[float]] = {}
    for key in sorted({key for _, key in trace}):
        steps = _steps(draw.random(), math.exp(draw.uniform(low, high)), draw)
        changes[key] = []
        at = next(steps, math.inf)
        while at < span:
            changes[key].append(at)
            at += next(steps)
    return changes


def _steps(kind: float, mean: float, draw: random.Random) -> Iterator[float]:
    """Iterate over the seconds between changes."""
    if kind < 0.3:
        return
    if kind >= 0.8:  # it began before the trace does
        yield draw.uniform(0, mean)
    while True:
        if kind < 0.8:
            yield draw.expovariate(1 / mean)
        elif kind < 0.9:
            yield mean
        else:  # four short ones in five, the same mean
            yield draw.expovariate(1 / (mean * (0.1 if draw.random() < 0.8 else 4.6)))


def fixed(ttl: float) -> Policy:
    return lambda *_: (ttl, None)


def adaptive(plugin: AdaptiveTTL) -> Policy:
    def choose(key: int, value: int, previous: Previous | None) -> tuple[float, Any]:
        load = Load(str(key), "simulated", value, previous=previous)
        ttl = plugin.ttl(load)
        assert ttl is not None
        return ttl, load.state

    return choose


def replay(trace: Trace, changes: Changes, policy: Policy, name: str, setting: float) -> Outcome:
    """Run a trace through a cache of one policy and no bound."""
    held: dict[int, _Held] = {}
    loads, stale, stale_seconds = 0, 0, 0.0
    for now, key in trace:
        entry = held.get(key)
        if entry is not None and now < entry.until:
            entry.hits += 1
            times = changes[key]
            if entry.version < len(times) and times[entry.version] <= now:
                stale += 1
                stale_seconds += now - times[entry.version]
            continue
        version = bisect_right(changes[key], now)
        previous = None
        if entry is not None:
            age = now - entry.loaded_at
            previous = Previous(entry.version, age, None, entry.hits, entry.state)
        ttl, state = policy(key, version, previous)
        held[key] = _Held(now, now + ttl, version, 0, state)
        loads += 1
    return Outcome(name, setting, loads, stale / len(trace), stale_seconds / len(trace))


def run(trace: Trace, changes: Changes) -> list[Outcome]:
    span = trace[-1][0]
    outcomes = []
    ttl = span / 20_000
    while ttl < span:
        outcomes.append(replay(trace, changes, fixed(ttl), "fixed", ttl))
        ttl *= 1.6
    for hot, name in ((True, "adaptive"), (False, "adaptive, hot=False")):
        for share in STALENESS:
            plugin = AdaptiveTTL(span / 5000, span / 4, staleness=share, hot=hot, start=span / 300)
            outcomes.append(replay(trace, changes, adaptive(plugin), name, share))
    return outcomes


def fixed_loads(outcomes: Sequence[Outcome], staleness: float, measure: str) -> float | None:
    """Return how many loads a fixed TTL needs for the same staleness; None: out of range."""
    points = sorted(
        (getattr(one, measure), one.loads)
        for one in outcomes
        if one.policy == "fixed" and getattr(one, measure) > 0
    )
    for (low, more), (high, fewer) in pairwise(points):
        if low <= staleness <= high:
            part = math.log(staleness / low) / math.log(high / low)
            return float(more * (fewer / more) ** part)
    return None


def saved(outcomes: Sequence[Outcome], one: Outcome, measure: str) -> float | None:
    """Return the share of loads saved against the best fixed TTL of the same staleness."""
    loads = fixed_loads(outcomes, getattr(one, measure), measure)
    return None if loads is None else 1 - one.loads / loads


def show(name: str, trace: Trace, outcomes: Sequence[Outcome]) -> list[float]:
    """Print a trace's table; return what the adaptive runs saved."""
    title = f"{name}: {len(trace):,} requests of {len({key for _, key in trace}):,} keys"
    table = Table(title=title, title_justify="left")
    for heading in (
        "policy",
        "allowed",
        "loads",
        "stale",
        "mean s stale",
        "fewer loads",
        "by mean s",
    ):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    savings = []
    for one in outcomes:
        if one.policy == "fixed":
            continue
        by_share = saved(outcomes, one, "stale_share")
        if one.policy == "adaptive" and by_share is not None:
            savings.append(by_share)
        table.add_row(
            *(one.policy, f"{one.setting:.0%}", f"{one.loads:,}", f"{one.stale_share:.2%}"),
            *(f"{one.stale_seconds:.2f}", _percent(by_share)),
            _percent(saved(outcomes, one, "stale_seconds")),
        )
    CONSOLE.print(table)
    return savings


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def draw_chart(path: Path, runs: Mapping[str, Sequence[Outcome]]) -> None:
    """Draw a column for each trace: share of stale answers above, mean seconds below."""
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "tiercache"  # the same run draws the same file
    from matplotlib import pyplot as plt

    measures = {"stale_share": "stale answers, share", "stale_seconds": "mean staleness, s"}
    figure, axes = plt.subplots(
        len(measures), len(runs), figsize=(5.2 * len(runs), 8), squeeze=False
    )
    styles = {"fixed": ("#8a9199", "o-"), "adaptive": ("#1a6faf", "s-")}
    for column, (name, outcomes) in enumerate(runs.items()):
        for row, (measure, label) in enumerate(measures.items()):
            plot = axes[row][column]
            for policy in dict.fromkeys(one.policy for one in outcomes):
                points = [one for one in outcomes if one.policy == policy]
                colour, marks = styles.get(policy, ("#d98c2b", "^--"))
                xs = [getattr(one, measure) for one in points]
                ys = [one.loads for one in points]
                plot.plot(xs, ys, marks, color=colour, label=policy, markersize=4)
            plot.set(xscale="log", yscale="log", xlabel=label, ylabel="loads")
            plot.set_title(name if row == 0 else "")
            plot.grid(visible=True, which="major", alpha=0.3)
            plot.legend(frameon=False)
    figure.suptitle("AdaptiveTTL against fixed TTLs: further down and left is better")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trace", type=Path, action="append", default=[], help="repeatable")
    parser.add_argument("--requests", type=int, default=300_000, help="of the synthetic trace")
    options = parser.parse_args()
    traces = {"Zipf 0.9, one day": zipf(options.requests)}
    traces |= {path.name.partition(".")[0]: read(path) for path in options.trace}
    runs = {name: run(trace, make_changes(trace)) for name, trace in traces.items()}
    savings = {name: show(name, traces[name], runs[name]) for name in traces}
    tag = f"adaptive_ttl-{python_tag()}"
    everything = {name: [asdict(one) for one in outcomes] for name, outcomes in runs.items()}
    (RESULTS / f"{tag}.json").write_text(json.dumps(everything, indent=1) + "\n")
    try:
        draw_chart(RESULTS / f"{tag}.svg", runs)
    except ImportError:
        print("no chart: matplotlib is not installed (pip install -e '.[bench]')")
    for name, saving in savings.items():
        low, high = min(saving), max(saving)
        verdict = "met" if low >= GOAL else "missed in part" if high >= GOAL else "missed"
        print(f"{name}: {low:.0%} to {high:.0%} fewer loads; goal {GOAL:.0%}: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
