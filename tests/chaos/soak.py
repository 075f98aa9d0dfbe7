"""The long form of the chaos test: rounds of all kinds, one after another, until the time is up.

Run as ``make soak``. The environment says for how long, from which seed on, and what to leave out:
SOAK_SECONDS (600), SOAK_SEED (the time), SOAK_TOPOLOGIES ("standalone sentinel cluster"),
SOAK_MUTATION (one of mutations.py: then rounds are to fail). A seed fixes what happens, not exactly
when; the history of a round that failed is kept, to be judged again by ``SOAK_HISTORY=<its path>``.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.checker import Report, check
from tests.chaos.history import read_from
from tests.chaos.play import Plan, play

ROUND_SECONDS = 20.0
LEAST_SECONDS = 2.0
SECONDS_AROUND = 15.0  # that a round takes besides, at most


def plan_of(seed: int, seconds: float, topologies: list[str], mutation: str) -> Plan:
    """Draw what a round is like."""
    rng = random.Random(seed)
    return Plan(
        seed=seed,
        seconds=seconds,
        topology=rng.choice(topologies),
        l1=rng.choice([(1000, 12, 1000, None), (1000, 1000, 1000), (5, 20, None), (100, 100)]),
        threads=rng.choice((1, 2, 4)),
        tasks=rng.choice((2, 4, 12)),
        pace=rng.choice((0.003, 0.01, 0.03)),
        updates=rng.choice((0.05, 0.15, 0.4)),
        long_loads=rng.choice((0.0, 0.3)),
        blind_ttl=rng.choice((0.6, 1.0, 3.0)),
        timeout=rng.choice((0.2, 0.5)),
        calm=rng.choice((0.8, 2.0, 6.0)),
        has_faults=rng.random() < 0.9,
        mutation=mutation,
    )


def describe(plan: Plan) -> str:
    """Name what sets a round apart."""
    kind = plan.topology if plan.has_faults else f"{plan.topology}, no faults"
    return f"seed {plan.seed} ({kind}, {len(plan.l1)} processes)"


def soak(seconds: float, seed: int, topologies: list[str], mutation: str) -> int:
    """Play rounds; return how many broke a promise."""
    ends, totals, failed = time.monotonic() + seconds, Counter[str](), 0
    while (left := ends - time.monotonic() - SECONDS_AROUND) > LEAST_SECONDS:
        plan = plan_of(seed, min(ROUND_SECONDS, left), topologies, mutation)
        played = play(plan)
        report = check(played)
        totals.update(report.counts)
        totals["rounds"] += 1
        say(f"{describe(plan)}: {brief(report)}")
        if report.violations:
            failed += 1
            path = Path(tempfile.mkdtemp(prefix="tiercache-chaos-"), "history")
            played.save(path)
            say("\n".join(report.violations))
            say(f"history in {path}; again: make soak SOAK_SEED={seed}, with the same SOAK_...")
        seed += 1
    for name, count in sorted(totals.items()):
        say(f"{count:>14,} {name}")
    return failed


def brief(report: Report) -> str:
    """Say in a line what a round has checked."""
    counts = report.counts
    faults = sum(count for name, count in counts.items() if name.startswith("faults: "))
    pairs = counts["pairs of reads and invalidations across processes"]
    return (
        f"{'BROKEN' if report.violations else 'kept'}: {counts['reads']:,} reads, "
        f"{counts['loads']:,} loads, {counts['invalidations']:,} invalidations, "
        f"{pairs:,} pairs across processes, {faults} faults"
    )


def say(what: str) -> None:
    """Print at once: whoever looks wants to see it go on."""
    print(what, flush=True)  # noqa: T201 - a program


def main() -> int:
    """Do what the environment says."""
    if "SOAK_HISTORY" in os.environ:
        report = check(read_from(Path(os.environ["SOAK_HISTORY"])))
        say("\n".join([*report.violations, str(report)]))
        return bool(report.violations)
    failed = soak(
        float(os.environ.get("SOAK_SECONDS") or 600),
        int(os.environ.get("SOAK_SEED") or time.time()),
        (os.environ.get("SOAK_TOPOLOGIES") or "standalone standalone sentinel cluster").split(),
        os.environ.get("SOAK_MUTATION") or "",
    )
    say(f"{failed} rounds broke a promise" if failed else "every promise was kept")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
