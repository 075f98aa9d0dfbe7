"""What a large L1 costs the garbage collector: the pause of a full collection, 1,000,000 entries.

A full collection (``gc.collect()``; CPython starts one by itself now and then) visits every object
that the collector tracks, and stops all threads meanwhile. Each number comes from a process of its
own, which fills a cache and times full collections: with the cache as it is, and after
``gc.freeze()``, which takes what lives now out of later collections. Values are texts, which are
not tracked; a value that is a list or an object is visited, too, whoever holds it. The advice that
follows is docs/how-to/gc.md.

Run as ``python -m benchmarks.gc_pressure``.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

from benchmarks.measure import Finding, circumstances
from benchmarks.report import publish_findings
from benchmarks.rivals import installed, rival

ENTRIES = 1_000_000
COLLECTIONS = 7
NOTHING = "nothing"
# Those that fill a million entries in seconds.
NAMES = (NOTHING, "tiercache", "lru_cache", "cachebox", "cachetools_lock")
VALUES: dict[str, Callable[[int], object]] = {
    "texts": lambda key: f"user {key}",
    "lists": lambda key: [key, f"user {key}"],
}


def probe(name: str, entries: int, values: str) -> dict[str, float]:
    """Fill that cache in this process; return medians in milliseconds."""
    load = VALUES[values]
    cached = load
    if name != NOTHING:
        make = rival(name).blocking
        assert make is not None
        gc.disable()  # filling is not what is measured
        cached = make(load, entries)
        for key in range(entries):
            cached(key)
        gc.enable()
    as_it_is = _pause_ms()
    tracked = len(gc.get_objects())
    gc.freeze()
    return {"as_it_is": as_it_is, "frozen": _pause_ms(), "tracked": tracked}


def _pause_ms() -> float:
    gc.collect()
    pauses = []
    for _ in range(COLLECTIONS):
        began = perf_counter()
        gc.collect()
        pauses.append((perf_counter() - began) * 1e3)
    return median(pauses)


def _asked(name: str, entries: int, values: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.gc_pressure", "--probe", name, values]
    command += ["--entries", str(entries)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(answer)
    return found


def findings(entries: int) -> list[Finding]:
    rivals, _ = installed()
    found = []
    for values in VALUES:
        about = f"a full collection, {entries:,} entries, values are {values}"
        for name in NAMES:
            if name == NOTHING or name in rivals:
                pause = _asked(name, entries, values)
                found += [
                    Finding(about=about, what=name, value=pause["as_it_is"], unit="ms"),
                    Finding(
                        about=about,
                        what=f"{name}, after gc.freeze()",
                        value=pause["frozen"],
                        unit="ms",
                        goal=10.0 if name == "tiercache" else None,
                    ),
                    Finding(
                        about=about,
                        what=f"{name}, tracked objects an entry",
                        value=pause["tracked"] / entries,
                        unit="",
                    ),
                ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100,000 entries")
    parser.add_argument("--entries", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(probe(options.probe[0], options.entries, options.probe[1])))
        return
    entries = ENTRIES // 10 if options.quick else ENTRIES
    made = circumstances({"tiercache": rival("tiercache")}, {}) | {"entries": entries}
    publish_findings("gc_pressure", made, findings(entries))


if __name__ == "__main__":
    main()
