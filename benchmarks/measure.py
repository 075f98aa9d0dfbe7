"""How everything here is timed: interleaved samples, medians, and ratios within a round.

A machine's speed drifts while a benchmark runs, so one subject is never timed to the end
before the next begins. Each round takes one short sample of every subject, in a new order,
and compares each with the baseline's sample of the same round; what is reported is the
median over the rounds and the middle half of them (the quartiles). The garbage collector
is off within a sample, as in timeit.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.rivals import Rival

Sample = Callable[[int], float]
"""Make that many calls; return the seconds they took."""

SAMPLE_SECONDS = 0.005
ROUNDS = 31
MAX_CALLS = 1 << 20


@dataclass(frozen=True, slots=True)
class Measured:
    """One subject's median and quartiles, of its times and of its ratios to the baseline."""

    value: float
    spread: tuple[float, float]
    ratio: float
    ratio_spread: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question, and every subject's answer to it."""

    name: str
    question: str
    unit: str
    baseline: str
    subjects: Mapping[str, Measured]
    goal: float | None = None  # for tiercache's ratio
    higher_is_better: bool = False

    def reached(self, name: str) -> bool:
        """Is the goal met by this subject?"""
        assert self.goal is not None
        ratio = self.subjects[name].ratio
        return ratio >= self.goal if self.higher_is_better else ratio <= self.goal


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A number that needs no rival: a bound was promised, or it says how much."""

    about: str  # findings about the same thing stand together
    what: str
    value: float
    unit: str
    goal: float | None = None  # at most

    @property
    def is_reached(self) -> bool:
        """Is the goal met?"""
        return self.goal is None or self.value <= self.goal


def percentile(values: Sequence[float], share: float) -> float:
    """Return what that share of the values is at or below."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def interleave(
    subjects: Mapping[str, Sample],
    *,
    baseline: str,
    rounds: int = ROUNDS,
    sample_seconds: float = SAMPLE_SECONDS,
    scale: float = 1e9,
) -> dict[str, Measured]:
    """Time all subjects, a sample of each in every round.

    Args:
        subjects: What to time, by name.
        baseline: The subject whose time is 1 in the ratios.
        rounds: How many samples of each to take.
        sample_seconds: How long a sample should last; the calls it makes follow from it.
        scale: What a second per call is reported as; nanoseconds unless told.
    """
    calls = {name: _calibrate(sample, sample_seconds) for name, sample in subjects.items()}
    times: dict[str, list[float]] = {name: [] for name in subjects}
    order = list(subjects)
    shuffle = random.Random(1).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            times[name].append(_without_gc(subjects[name], calls[name]) / calls[name])
    return {name: summarise(times[name], times[baseline], scale) for name in subjects}


def summarise(times: list[float], baseline: list[float], scale: float = 1.0) -> Measured:
    """Reduce the samples of one subject, the n-th of which belongs to the baseline's n-th."""
    ratios = [own / other for own, other in zip(times, baseline, strict=True)]
    low, high = _quartiles(times)
    return Measured(
        value=median(times) * scale,
        spread=(low * scale, high * scale),
        ratio=median(ratios),
        ratio_spread=_quartiles(ratios),
    )


def constant(value: float, baseline: float) -> Measured:
    """Wrap what is counted rather than timed: it has no spread."""
    ratio = value / baseline
    return Measured(value, (value, value), ratio, (ratio, ratio))


def _calibrate(sample: Sample, seconds: float) -> int:
    """Find how many calls take about that long; warms the subject up as well."""
    for _ in range(3):  # what happens once (an import, a thread) is not what calls take
        _without_gc(sample, 10)
    calls = 1
    while (took := _without_gc(sample, calls)) < seconds / 2 and calls < MAX_CALLS:
        calls *= 2
    return max(1, min(MAX_CALLS, round(calls * seconds / max(took, 1e-9))))


def _without_gc(sample: Sample, calls: int) -> float:
    gc.disable()
    try:
        return sample(calls)
    finally:
        gc.enable()


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4)
    return low, high


def circumstances(rivals: Mapping[str, Rival], missing: Mapping[str, str]) -> dict[str, Any]:
    """Say what the numbers depend on: processor, interpreter, versions, and who else was busy."""
    return {
        "arguments": sys.argv[1:],  # --quick: fewer repeats
        "load": [round(load, 2) for load in os.getloadavg()],
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "versions": {name: rival.version for name, rival in rivals.items()},
        "features": {name: list(rival.features) for name, rival in rivals.items()},
        "missing": dict(missing),
    }


def python_tag() -> str:
    """Return the interpreter's part of a result's file name, as 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
