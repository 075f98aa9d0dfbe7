"""How far the order of ``LRU`` is from exact LRU: hit ratios over traces of real systems.

A hit takes no lock and moves nothing, so the order that eviction follows is caught up later
and is not exact. This replays traces through a function under ``@cached`` and through
``cachetools.LRUCache``, which is exact, and prints the gap in percentage points.

The traces are not part of the project. Name a folder that holds an ``index.json`` with, under
``hit_ratio_traces``, each one's ``name``, ``file`` (gzip of little-endian uint32 keys) and
``capacities``. Run as ``python -m benchmarks.l1_hit_ratio --traces FOLDER``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachetools import LRUCache
from rich.table import Table

from benchmarks.report import CONSOLE
from benchmarks.rivals.tiercache import blocking

GOAL_POINTS = 0.5


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hit ratios of one trace at one capacity."""

    trace: str
    requests: int
    capacity: int
    exact: float
    ours: float

    @property
    def gap_points(self) -> float:
        """Percentage points ours is above exact LRU; negative where it is below."""
        return (self.ours - self.exact) * 100


def exact_hit_ratio(trace: Sequence[int], capacity: int) -> float:
    cache: LRUCache[int, bool] = LRUCache(capacity)
    hits = 0
    for key in trace:
        if cache.get(key):  # a hit moves the key to the recent end
            hits += 1
        else:
            cache[key] = True
    return hits / len(trace)


def our_hit_ratio(trace: Sequence[int], capacity: int) -> float:
    """Replay through ``@cached``: what is not loaded is a hit."""
    loads = 0

    def load(key: int) -> bool:
        nonlocal loads
        loads += 1
        return True

    cached = blocking(load, capacity)
    for key in trace:
        cached(key)
    return 1 - loads / len(trace)


def compare(folder: Path, per_trace: int, only: Sequence[str]) -> Iterator[Comparison]:
    index = json.loads((folder / "index.json").read_text())
    for described in index["hit_ratio_traces"]:
        if only and described["name"] not in only:
            continue
        trace = _read(folder / described["file"])
        for capacity in _spread(sorted(map(int, described["capacities"])), per_trace):
            exact = exact_hit_ratio(trace, capacity)
            _check_reference(described, capacity, exact)
            ours = our_hit_ratio(trace, capacity)
            yield Comparison(described["name"], len(trace), capacity, exact, ours)


def _read(path: Path) -> array[int]:
    trace = array("I")
    assert trace.itemsize == 4
    trace.frombytes(gzip.decompress(path.read_bytes()))
    if sys.byteorder == "big":
        trace.byteswap()
    return trace


def _spread(values: list[int], count: int) -> list[int]:
    """Choose that many, evenly, with both ends; 0 chooses all."""
    if count == 0 or count >= len(values):
        return values
    if count == 1:
        return [values[len(values) // 2]]
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]


def _check_reference(described: dict[str, Any], capacity: int, exact: float) -> None:
    """Stop where the exact LRU disagrees with the index: the trace was misread."""
    reference = described["capacities"][str(capacity)]["hit_ratio"].get("lru")
    if reference is not None and abs(reference - exact) > 1e-4:
        message = (
            f"{described['name']} at {capacity}: LRU is {exact:.6f}, the index has {reference}"
        )
        raise ValueError(message)


def _print(comparisons: Sequence[Comparison]) -> None:
    table = Table(title="hit ratio of LRU, in percent", title_justify="left")
    table.add_column("trace")
    for heading in ("requests", "capacity", "exact", "tiercache", "gap, points"):
        table.add_column(heading, justify="right")
    for one in comparisons:
        table.add_row(
            one.trace,
            f"{one.requests:,}",
            f"{one.capacity:,}",
            f"{one.exact:.2%}"[:-1],
            f"{one.ours:.2%}"[:-1],
            f"{one.gap_points:+.3f}",
        )
    CONSOLE.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, help="folder with index.json and the traces")
    parser.add_argument("--trace", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--capacities", type=int, default=3, help="per trace, 0 = all (default 3)")
    options = parser.parse_args()
    if options.traces is None or not (options.traces / "index.json").exists():
        print("skipped: no traces; name the folder that holds their index.json with --traces")
        return 0
    comparisons = list(compare(options.traces, options.capacities, options.trace))
    _print(comparisons)
    worst = max((abs(one.gap_points) for one in comparisons), default=0.0)
    verdict = "met" if worst <= GOAL_POINTS else "missed"
    print(f"largest gap {worst:.3f} points; goal at most {GOAL_POINTS}: {verdict}")
    return worst > GOAL_POINTS


if __name__ == "__main__":
    sys.exit(main())
