"""How long ``import tiercache`` takes, in interpreters that are started for it. Goal: 60 ms.

The time of an interpreter that imports nothing is taken away; rounds alternate all subjects. What
comes late on purpose is timed, too: the Redis store (redis-py), the plugins, the OpenTelemetry API.

Run as ``python -m benchmarks.import_time``.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from statistics import median
from time import perf_counter

from benchmarks.measure import Finding, circumstances
from benchmarks.report import publish_findings
from benchmarks.rivals import rival

NOTHING = "pass"
GOAL_MS = 60.0
OURS = {
    "import tiercache": "import tiercache",
    "the Redis store as well": "from tiercache import Redis; Redis('redis://127.0.0.1:1')",
    "the first-party plugins as well": "from tiercache_plugins import BloomGuard, LoaderBreaker",
}
OTHERS = ("cachetools", "cachebox", "theine", "dogpile.cache", "aiocache", "cashews", "redis")


def statements() -> dict[str, str]:
    others = {f"import {name}": f"import {name}" for name in OTHERS if _is_installed(name)}
    return OURS | others


def _is_installed(name: str) -> bool:
    return find_spec(name.partition(".")[0]) is not None


def measure(chosen: Mapping[str, str], rounds: int) -> dict[str, float]:
    """Return milliseconds of each above an interpreter that imports nothing."""
    times: dict[str, list[float]] = {name: [] for name in [NOTHING, *chosen]}
    order = [(NOTHING, NOTHING), *chosen.items()]
    for _, statement in order:
        _seconds(statement)  # compiles what has not been compiled yet
    for _ in range(rounds):
        random.shuffle(order)
        for name, statement in order:
            times[name].append(_seconds(statement))
    nothing = median(times[NOTHING])
    return {name: (median(times[name]) - nothing) * 1e3 for name in chosen}


def _seconds(statement: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    began = perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment)
    return perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 7 if parser.parse_args().quick else 25
    found = [
        Finding(
            about="above an interpreter that imports nothing",
            what=name,
            value=milliseconds,
            unit="ms",
            goal=GOAL_MS if name == "import tiercache" else None,
        )
        for name, milliseconds in measure(statements(), rounds).items()
    ]
    publish_findings("import_time", circumstances({"tiercache": rival("tiercache")}, {}), found)


if __name__ == "__main__":
    main()
