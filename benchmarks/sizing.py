"""How near ``tiercache.sizing`` and ``stats().sizing`` come, over traces of real systems.

- The miss-ratio curve by sampling, against exact LRU as the index of the traces has it: error in
  percentage points at each capacity that 100 sampled keys or more fit into; requests per second.
- Live: a trace is replayed through an L1, then what ``stats().sizing`` says of half and twice its
  size is compared with replays through caches of those sizes.

The traces are not part of the project: see ``benchmarks/l1_hit_ratio.py``. Run as
``python -m benchmarks.sizing --traces FOLDER``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.l1_hit_ratio import SHARES, traces
from benchmarks.report import CONSOLE
from tiercache import LRU, S3FIFO, Sizing
from tiercache.clock import coarse_clock
from tiercache.entry import Entry
from tiercache.miniature import LiveSizing
from tiercache.sizing import miss_ratio_curve
from tiercache.tiers.memory import Memory

GOAL_CURVE_POINTS = 1.5
GOAL_REQUESTS_PER_SECOND = 2e6
FEWEST_SAMPLES = 100  # sampled keys in a cache of a size, for its point of the curve to mean much
FEWEST_ENTRIES = 1000  # of an L1, for a live estimate to be judged
LIVE_REQUESTS = 300_000  # of each trace


@dataclass(frozen=True, slots=True)
class CurveError:
    """The furthest point of a sampled curve from exact LRU."""

    trace: str
    requests: int
    rate: float
    points: float
    capacity: int
    per_second: float


@dataclass(frozen=True, slots=True)
class LiveError:
    """How far live estimates were off, in percentage points."""

    trace: str
    policy: str
    maxsize: int
    sizing: Sizing
    half: float
    twice: float

    @property
    def points(self) -> tuple[float, float]:
        return (self.sizing.half - self.half) * 100, (self.sizing.twice - self.twice) * 100


def curve_errors(folder: Path, only: Sequence[str]) -> Iterator[CurveError]:
    for described, trace in traces(folder, only):
        began = time.process_time()
        curve = miss_ratio_curve(trace)
        per_second = len(trace) / (time.process_time() - began)
        errors = {
            int(size): (curve.hit_ratio(int(size)) - known["hit_ratio"]["lru"]) * 100
            for size, known in described["capacities"].items()
            if curve.rate == 1 or int(size) * curve.rate >= FEWEST_SAMPLES
        }
        worst = max(errors, key=lambda size: abs(errors[size]))
        yield CurveError(
            described["name"], len(trace), curve.rate, errors[worst], worst, per_second
        )


def live_errors(folder: Path, only: Sequence[str]) -> Iterator[LiveError]:
    for described, whole in traces(folder, only):
        trace = [str(key) for key in islice(whole, LIVE_REQUESTS)]
        for policy in (LRU, S3FIFO):
            for share in SHARES:
                size = int(share * described["unique"])
                if size >= FEWEST_ENTRIES:
                    yield _live_error(described["name"], trace, policy, size)


def _live_error(name: str, trace: Sequence[str], policy: Any, size: int) -> LiveError:
    memory = policy(size)
    live = LiveSizing(memory, coarse_clock)
    replay(memory, trace)
    half, twice = (replay(policy(other), trace) for other in (size // 2, 2 * size))
    return LiveError(name, policy.__name__, size, live.snapshot(memory.hits), half, twice)


def replay(memory: Memory, trace: Sequence[str]) -> float:
    """Read keys as the wrappers of tiercache/hit.py do; return the hit ratio."""
    for key in trace:
        entry = memory.table.get(key)
        if entry is None:
            memory.put(Entry(key, True, float("inf")))
        else:
            entry.hits += 1
            entry.used = memory.tick
    return memory.hits / len(trace)


def _print_curves(found: Sequence[CurveError]) -> None:
    table = Table(title="miss-ratio curves with 8,192 samples", title_justify="left")
    table.add_column("trace")
    for heading in ("requests", "rate", "worst, points", "at", "M requests/s"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.trace,
            f"{one.requests:,}",
            f"{one.rate:.3f}",
            f"{one.points:+.2f}",
            f"{one.capacity:,}",
            f"{one.per_second / 1e6:.2f}",
        )
    CONSOLE.print(table)


def _print_live(found: Sequence[LiveError]) -> None:
    table = Table(title="stats().sizing, hit ratios in percent", title_justify="left")
    table.add_column("trace")
    for heading in ("policy", "maxsize", "now", "half", "error", "twice", "error"):
        table.add_column(heading, justify="right")
    for one in found:
        half, twice = one.points
        table.add_row(
            one.trace,
            one.policy,
            f"{one.maxsize:,}",
            f"{one.sizing.hit_ratio * 100:.1f}",
            f"{one.sizing.half * 100:.1f}",
            f"{half:+.1f}",
            f"{one.sizing.twice * 100:.1f}",
            f"{twice:+.1f}",
        )
    CONSOLE.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, help="folder with index.json and the traces")
    parser.add_argument("--trace", action="append", default=[], help="only this one; repeatable")
    options = parser.parse_args()
    if options.traces is None or not (options.traces / "index.json").exists():
        print("skipped: no traces; name the folder that holds their index.json with --traces")
        return 0
    curves = list(curve_errors(options.traces, options.trace))
    _print_curves(curves)
    worst = max(abs(one.points) for one in curves)
    sampled = [one for one in curves if one.rate < 0.2 and one.requests > 500_000]
    slowest = min((one.per_second for one in sampled), default=GOAL_REQUESTS_PER_SECOND)
    is_met = worst <= GOAL_CURVE_POINTS and slowest >= GOAL_REQUESTS_PER_SECOND
    print(
        f"furthest {worst:.2f} points, goal at most {GOAL_CURVE_POINTS}; slowest long trace "
        f"{slowest / 1e6:.2f} M requests/s, goal at least 2: {'met' if is_met else 'missed'}"
    )
    live = list(live_errors(options.traces, options.trace))
    _print_live(live)
    errors = [abs(points) for one in live for points in one.points]
    print(f"live: mean error {sum(errors) / len(errors):.2f} points, largest {max(errors):.2f}")
    return not is_met


if __name__ == "__main__":
    sys.exit(main())
