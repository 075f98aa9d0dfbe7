"""What BloomGuard costs and keeps: lookups, building, memory, false positives at every size.

``python -m benchmarks.bloom`` writes ``results/bloom-<python>.json``. Times are of lookups through
the guard's hook, as a miss of L1 pays them, next to a plain ``pybloom_live.BloomFilter`` of the
same capacity in the same rounds. Rates are measured with a million keys that are not in the filter,
at full load, after growth by four filters, and, for comparison, of ``ScalableBloomFilter`` at the
same size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Container
from itertools import cycle, islice

from pybloom_live import BloomFilter, ScalableBloomFilter

from benchmarks.measure import Finding, Sample, circumstances, interleave
from benchmarks.report import publish_findings
from tiercache import Cache
from tiercache_plugins import BloomGuard
from tiercache_plugins._bloom_series import Series

IDS = 100_000
RATE = 0.01
PROBES = 1_000_000
GOAL_US = 4.0  # of a lookup
GOAL_RATE = 1.2  # measured over nominal
KEYS = 1024  # that are looked up in turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the probes")
    probes = PROBES // 5 if parser.parse_args().quick else PROBES
    guard = BloomGuard(range(IDS), key="user:{user_id}", capacity=IDS, error_rate=RATE)
    with Cache("bloom", plugins=[guard]):
        began = time.perf_counter()
        assert guard.wait_until_ready(60)
        build_seconds = time.perf_counter() - began
        findings = [*lookups(guard), *sizes(guard, build_seconds)]
    findings += rates(probes)
    publish_findings("bloom", circumstances({}, {}), findings)


def lookups(guard: BloomGuard) -> list[Finding]:
    """Time the guard beside a plain filter, for keys that are there and that are not."""
    plain = BloomFilter(IDS, RATE)
    for number in range(IDS):
        plain.add(f"user:{number}")
    there = [f"user:{number}" for number in range(KEYS)]
    absent = [key for n in range(IDS, 2 * IDS) if not guard.admits(key := f"user:{n}")][:KEYS]
    other = [f"post:{number}" for number in range(KEYS)]
    measured = interleave(
        {
            "there": _sample(guard.admits, there),
            "absent": _sample(guard.admits, absent),
            "other": _sample(guard.admits, other),
            "plain": _sample(plain.__contains__, absent),
        },
        baseline="plain",
        scale=1e6,
    )
    about = f"one lookup, {IDS:,} ids at {RATE:.0%}"
    return [
        Finding(about=about, what="a key that is there", value=measured["there"].value, unit="us",
                goal=GOAL_US),
        Finding(about=about, what="a key that is not", value=measured["absent"].value, unit="us",
                goal=GOAL_US),
        Finding(about=about, what="a key of another template", value=measured["other"].value,
                unit="us", goal=GOAL_US),
        Finding(about=about, what="a key that is not, over a plain filter's lookup",
                value=measured["absent"].ratio, unit="x"),
    ]  # fmt: skip


def _sample(look: Callable[[str], object], keys: list[str]) -> Sample:
    def sample(calls: int) -> float:
        some = list(islice(cycle(keys), calls))
        began = time.perf_counter()
        for key in some:
            look(key)
        return time.perf_counter() - began

    return sample


def sizes(guard: BloomGuard, seconds: float) -> list[Finding]:
    """Say what a build takes."""
    stats = guard.stats()
    about = "building"
    return [
        Finding(about=about, what="ids per second", value=IDS / seconds, unit="/s"),
        Finding(about=about, what="memory", value=stats.bytes / IDS, unit="bytes an id"),
        Finding(about=about, what="expected false positives over nominal",
                value=stats.false_positive_rate / RATE, unit="x", goal=GOAL_RATE),
    ]  # fmt: skip


def rates(probes: int) -> list[Finding]:
    """Measure false positives over the nominal rate."""
    grown = 3_000 * (1 + 2 + 4 + 8 + 16)  # five filters, all full
    about = "false positives over nominal, measured"
    full, series = Series(grown, RATE), Series(3_000, RATE)
    scalable = ScalableBloomFilter(3_000, RATE, ScalableBloomFilter.SMALL_SET_GROWTH)
    for number in range(grown):
        for each in (full, series, scalable):
            each.add(f"user:{number}")
    assert len(series.filters) == 5
    return [
        Finding(about=about, what="at full load", value=_rate(full, probes) / RATE, unit="x",
                goal=GOAL_RATE),
        Finding(about=about, what="grown to 31 times its size", value=_rate(series, probes) / RATE,
                unit="x", goal=GOAL_RATE),
        Finding(about=about, what="ScalableBloomFilter, grown alike",
                value=_rate(scalable, probes) / RATE, unit="x"),
    ]  # fmt: skip


def _rate(members: Container[str], probes: int) -> float:
    return sum(f"other:{number}" in members for number in range(probes)) / probes


if __name__ == "__main__":
    main()
