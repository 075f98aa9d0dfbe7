"""Whether a change made anything slower: this engine against that of another checkout.

Each engine is measured in processes of its own, in turn, by the same benchmarks: those of this
tree. What is compared is each one's ratio to the baseline of its own run, so that a machine that is
slow for a while is slow for both sides of a fraction.

Make a checkout to compare with (``git worktree add /tmp/before HEAD~1``), then run ``python -m
benchmarks.before_after /tmp/before``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parents[1]
OURS = "tiercache"
ROUNDS = 9  # of samples, in each run

Ratios = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="the checkout to compare with")
    parser.add_argument("--runs", type=int, default=5, help="of each engine (default 5)")
    parser.add_argument("--only", help="questions whose name contains this text", default="")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(_measure(options.other, options.only)))
        return
    runs = [
        (_run(options.other, options.only), _run(HERE, options.only)) for _ in range(options.runs)
    ]
    _print(runs)
    print("load:", *os.getloadavg())


def _run(tree: Path, only: str) -> Ratios:
    """Measure one engine in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.before_after", str(tree), "--engine"]
    done = subprocess.run(
        [*command, "--only", only], cwd=HERE, check=True, stdout=subprocess.PIPE, text=True
    )
    ratios: Ratios = json.loads(done.stdout.splitlines()[-1])
    return ratios


def _measure(tree: Path, only: str) -> Ratios:
    """Return our ratio in each question, with the engine of that tree."""
    sys.path.insert(0, str(tree.resolve()))
    engine = importlib.import_module("tiercache").__file__ or ""
    if not engine.startswith(str(tree.resolve())):
        message = f"{engine} is not the engine of {tree}"
        raise RuntimeError(message)
    return {
        row.name: row.subjects[OURS].ratio for row in _rows(only) if not only or only in row.name
    }


def _rows(only: str) -> Iterator[Any]:
    # Imported here: they import the engine.
    from benchmarks import hot_path, l2
    from benchmarks.rivals import rival
    from tests.servers import RedisServer

    two = {name: rival(name) for name in (hot_path.BASELINE, OURS)}
    effort = hot_path.Effort(rounds=3 * ROUNDS, thread_rounds=ROUNDS)
    if not only.startswith("l2"):
        for ask in (hot_path.blocking_hits, hot_path.miss_and_evict, hot_path.awaited_hits):
            yield from ask(two, effort)
    if not only.startswith("hit"):
        with RedisServer() as server, asyncio.Runner() as runner:
            bench = l2.Bench(server.url, runner, ROUNDS)
            for question in l2.QUESTIONS:
                yield from question(bench)


def _print(runs: list[tuple[Ratios, Ratios]]) -> None:
    table = Table(title="medians of ratios to the baseline", title_justify="left")
    table.add_column("question")
    for heading in ("before", "after", "after / before", "of each pair of runs"):
        table.add_column(heading, justify="right")
    for name in runs[0][0]:
        before = [run[0][name] for run in runs]
        after = [run[1][name] for run in runs]
        pairs = sorted(late / early for early, late in zip(before, after, strict=True))
        shown = f"{pairs[0]:.2f} to {pairs[-1]:.2f}"
        cells = (median(before), median(after), median(pairs))
        table.add_row(name, *(f"{cell:.3f}" for cell in cells), shown)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
