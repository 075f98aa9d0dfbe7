"""All benchmarks, in one go: the table of what there is, and how much of it a run takes.

``make bench`` asks every question with few repeats, in some five minutes; ``make bench-full`` takes
as many as each benchmark wants, and replays the traces if ``TRACES=folder`` names them. Questions
about the interpreter's own speed are asked on every Python, those about what goes on between
processes on the first one only: there the interpreter is not what makes the difference.

Each benchmark runs in a process of its own and leaves its JSON in results/; one that fails does
not keep the others from running. At the end stands what was met and what was missed. Run as
``python -m benchmarks.suite``; ``--only NAME`` for some, ``--full`` for all of each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.measure import python_tag
from benchmarks.report import RESULTS, met_goals, missed_goals

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A module of this package, and its arguments for a quick run and a full one."""

    module: str
    question: str
    quick: tuple[str, ...] = ("--quick",)
    full: tuple[str, ...] = ()
    is_everywhere: bool = False  # on every Python, or on the first alone
    reads_traces: bool = False


SUITE = (
    Benchmark("hot_path", "hits, misses, threads, memory, scale; rivals", is_everywhere=True),
    Benchmark("misses", "a miss above its loader, blocking and asyncio", is_everywhere=True),
    Benchmark("l2", "L2 hits: lone, many, merged", is_everywhere=True),
    Benchmark("codec", "encode and decode, beside msgpack", is_everywhere=True),
    Benchmark("telemetry", "spans and metrics, on and off", is_everywhere=True),
    Benchmark("import_time", "import tiercache", is_everywhere=True),
    Benchmark("gc_pressure", "a full collection beside a large L1", is_everywhere=True),
    Benchmark("l2_rivals", "an L2 hit through other libraries"),
    Benchmark("l2_sizes", "L2 hits of 100 B, 10 KB, 1 MB"),
    Benchmark("stampede", "tasks, threads, processes; failing; cancelled", ("--attempts", "3")),
    Benchmark("invalidation", "until other processes know", ("--count", "200")),
    Benchmark("outage", "latency and loads while Redis is gone"),
    Benchmark("loader_breaker", "what plugins around a load add", ("--rounds", "9")),
    Benchmark("bloom", "lookups, size and rate of BloomGuard"),
    Benchmark("write_behind", "a put, the worker, merging", ("--write", "--quick"), ("--write",)),
    Benchmark("warming", "many keys beside the loader's own speed"),
    Benchmark("adaptive_ttl", "loads and staleness", ("--requests", "60000")),
    Benchmark("round_trips", "what operations cost on the wire", ()),
    Benchmark("l1_hit_ratio", "hit ratios of LRU and S3FIFO", (), reads_traces=True),
    Benchmark("sizing", "miss-ratio curves by sampling", (), reads_traces=True),
    Benchmark("end_to_end", "whole traces, four workers", reads_traces=True),
)


def chosen(only: Sequence[str], *, is_first: bool) -> list[Benchmark]:
    return [
        one for one in SUITE if (not only or one.module in only) and (is_first or one.is_everywhere)
    ]


def run(one: Benchmark, *, is_full: bool, traces: Path | None) -> int:
    """Run a benchmark in a process of its own; return its exit status."""
    arguments = one.full if is_full else one.quick
    if one.reads_traces:
        if traces is None:
            print(f"skipped: {one.module} needs traces; name their folder with TRACES=folder")
            return 0
        arguments += ("--traces", str(traces))
    command = [sys.executable, "-m", f"benchmarks.{one.module}", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def say_goals(modules: Sequence[str]) -> None:
    """Say how many goals these benchmarks met just now, and name each that was missed."""
    results = [json.loads(path.read_text()) for path in _written(modules)]
    met = sum(met_goals(result) for result in results)
    missed = [(result["benchmark"], each) for result in results for each in missed_goals(result)]
    print(f"\n{met} goals met, {len(missed)} missed" + (":" if missed else ""))
    for module, what in missed:
        print(f"  {module}: {what}")


def _written(modules: Sequence[str]) -> Iterator[Path]:
    for module in modules:
        path = RESULTS / f"{module}-{python_tag()}.json"
        if path.exists():
            yield path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="as many repeats as each one wants")
    parser.add_argument("--further", action="store_true", help="not the first Python of this run")
    parser.add_argument("--traces", type=Path, help="folder with index.json and the traces")
    parser.add_argument("--only", choices=[one.module for one in SUITE], action="append")
    options = parser.parse_args()
    failed = []
    benchmarks = chosen(options.only or (), is_first=not options.further)
    for one in benchmarks:
        print(f"\n-- {one.module}: {one.question}", flush=True)
        began = perf_counter()
        if run(one, is_full=options.full, traces=options.traces):
            failed.append(one.module)
        print(f"-- {one.module}: {perf_counter() - began:.0f} s", flush=True)
    say_goals([one.module for one in benchmarks if one.module not in failed])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
