"""One library's memory per entry, measured in a process of its own: prints bytes as JSON.

Arguments and values exist before the measurement starts, so what is counted is what the cache
adds to them. Where a library makes a key of its own from the argument, a text or a tuple, what
those keys take is counted apart. Two ways, since neither sees all: ``traced`` counts what
Python's allocators handed out (exact, blind to libraries written in Rust), ``resident`` is how
much the process grew (sees everything, only good for many entries).

Run as ``python -m benchmarks.memory_probe NAME ENTRIES traced|resident``.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from benchmarks.rivals import Function, Rival, rival

SOME = 1000  # keys are alike: so many are enough to know what one takes


def main(name: str, entries: int, how: str) -> None:
    library = rival(name)
    make = library.blocking
    assert make is not None
    keys = list(range(1000, 1000 + entries))
    cached = make(_load, entries)
    cached(1)  # what the first call sets up is not the entries' doing
    grown = {"traced": _traced, "resident": _resident}[how](lambda: _fill(cached, keys))
    made = _bytes_of_keys(library, cached, keys[:SOME]) if library.key else 0.0
    print(json.dumps({"bytes_per_entry": grown / entries - made, "bytes_per_key": made}))


def _bytes_of_keys(library: Rival, cached: Function, arguments: list[int]) -> float:
    assert library.key is not None
    library.key(cached, 1)
    kept: list[object] = [None] * len(arguments)
    gc.collect()
    tracemalloc.stop()
    tracemalloc.start()
    for place, argument in enumerate(arguments):
        kept[place] = library.key(cached, argument)
    return tracemalloc.get_traced_memory()[0] / len(arguments)


def _load(user_id: int) -> int:
    return user_id


def _fill(cached: Function, keys: list[int]) -> None:
    for key in keys:
        cached(key)


def _traced(fill: Callable[[], None]) -> int:
    gc.collect()
    tracemalloc.start()
    fill()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident(fill: Callable[[], None]) -> int:
    gc.collect()
    before = _resident_bytes()
    fill()
    gc.collect()
    return _resident_bytes() - before


def _resident_bytes() -> int:
    """Return the process's resident memory (Linux: VmRSS is in KiB)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    message = "no VmRSS in /proc/self/status"
    raise OSError(message)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
