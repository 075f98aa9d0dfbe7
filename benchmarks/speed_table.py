"""The table of speed in README.md, made of results/: what was measured, never typed by hand.

Each row says which result it reads. A row whose result is not there is left out; a value of one
Python only says so by standing alone. Run as ``python -m benchmarks.speed_table`` to see it,
``--write`` to put it between the marks in README.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.measure import Row
from benchmarks.report import OURS, RESULTS, put_between_marks, row_of

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
FIRST = PYTHONS[0]
TIMES = "\N{MULTIPLICATION SIGN}"
NAMES = {
    "cachetools_lock": "cachetools TTL + lock",
    "cachetools_condition": "cachetools with a condition",
    "async_lru": "async-lru",
    "django_redis": "django-redis",
}

Line = tuple[str, str, str]


@cache
def result(name: str, python: str) -> Mapping[str, Any] | None:
    path = RESULTS / f"{name}-{python}.json"
    loaded: Mapping[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return loaded


def row(benchmark: str, name: str, python: str = FIRST) -> Row | None:
    rows = (result(benchmark, python) or {}).get("rows", ())
    return next((row_of(one) for one in rows if one["name"] == name), None)


def finding(benchmark: str, about: str, what: str, python: str = FIRST) -> float | None:
    """Return the value of the finding whose texts begin so."""
    for one in (result(benchmark, python) or {}).get("findings", ()):
        if one["about"].startswith(about) and one["what"].startswith(what):
            value: float = one["value"]
            return value
    return None


def times(ratio: float) -> str:
    digits = 0 if ratio >= 10 else 2 if ratio < 1 else 1
    return f"{ratio:.{digits}f}{TIMES}"


def ours_of(benchmark: str, name: str, show: Callable[[float], str] = times) -> str:
    """Return our ratio on each Python that has one."""
    rows = (row(benchmark, name, python) for python in PYTHONS)
    return " / ".join(
        show(one.subjects[OURS].ratio) for one in rows if one and OURS in one.subjects
    )


def others_of(
    benchmark: str, name: str, which: tuple[str, ...], show: Callable[[float], str] = times
) -> str:
    one = row(benchmark, name)
    assert one is not None
    return ", ".join(
        f"{NAMES.get(each, each)} {show(one.subjects[each].ratio)}"
        for each in which
        if each in one.subjects
    )


def hits() -> Iterator[Line]:
    for name, text, which in (
        (
            "hit_one_int",
            "blocking L1 hit, one int, against `functools.lru_cache` (no TTL)",
            ("cachebox", "cachetools_lock", "theine", "dogpile"),
        ),
        ("hit_three_keywords", "the same, three keywords", ("cachebox", "cachetools_lock")),
        ("hit_three_positional", "the same, three positional", ("cachebox", "cachetools_lock")),
        (
            "awaited_hit",
            "awaited L1 hit, against a bare `async def` call",
            ("cachebox", "async_lru", "aiocache", "cashews"),
        ),
        (
            "miss_and_evict",
            "miss, load, evict, L1 only, against lru_cache's",
            ("cachebox", "cachetools_condition", "theine"),
        ),
    ):
        if row("hot_path", name):
            yield text, ours_of("hot_path", name), others_of("hot_path", name, which)
    if row("hot_path", "threads"):
        plain = "{:.2f}".format
        others = others_of("hot_path", "threads", ("cachebox", "cachetools_lock"), plain)
        yield "8 threads hitting, against one", ours_of("hot_path", "threads", plain), others


def second_tier() -> Iterator[Line]:
    fine = ("{:.2f}" + TIMES).format
    for name, text, rivals, which in (
        (
            "l2_hit",
            "L2 hit, client CPU, against redis-py GET + msgpack, blocking",
            "rivals_blocking",
            ("django_redis", "dogpile"),
        ),
        ("l2_hit_async", "the same, asyncio", "rivals_asyncio", ("aiocache", "cashews")),
        ("get_many", "`get_many` of 100, against MGET + unpack", "", ()),
        ("threads", "L2 hits by 16 threads, wall, against redis-py", "", ()),
        ("tasks", "L2 hits by 100 tasks, wall, against redis.asyncio", "", ()),
    ):
        if row("l2", name):
            others = others_of("l2_rivals", rivals, which) if row("l2_rivals", rivals) else ""
            yield text, ours_of("l2", name, fine), others
    for size in ("10_KB", "1_MB"):
        if one := row("l2_sizes", f"lone_{size}"):
            text = f"L2 hit of {size.replace('_', ' ')}, blocking, client CPU"
            yield text, fine(one.subjects[OURS].ratio), ""


def processes() -> Iterator[Line]:
    for name, text, rival in (
        (
            "cluster_tasks",
            f"4 processes {TIMES} 250 tasks, one cold key: all have it in",
            "cashews",
        ),
        ("cluster_threads", f"4 processes {TIMES} 25 threads, the same", "dogpile"),
    ):
        if one := row("stampede", name):
            ours, floor = (one.subjects[each].ratio for each in (OURS, "floor"))
            said = f"{ours:.2f} times the load (by hand {floor:.2f})"
            yield text, said, others_of("stampede", name, (rival,))
    parts = []
    for side, shown in (("redis", "Redis"), ("sqlite", "SQLite"), ("floor", "by hand")):
        p50, p99 = (finding("invalidation", side, which) for which in ("p50", "p99"))
        if p50 and p99:
            parts.append(f"{shown} {p50:.2g} / {p99:.2g} ms")
    if parts:
        text = "from an invalidation to the end of the old value elsewhere, cores busy: p50 / p99"
        yield text, ", ".join(parts), ""


def memory() -> Iterator[Line]:
    ratios = result("hit_ratio", FIRST)
    if ratios:
        text = "hit ratio of `LRU`, furthest from exact LRU on 30 traces and sizes"
        yield text, f"{ratios['largest_gap_points']:.2f} points", ""
        lru = ratios["distances"]
        mean = sum(one["optimum"] - one["lru"] for one in lru) / len(lru) * 100
        text = "hit ratio of `S3FIFO`, mean gap to Belady's optimum"
        yield text, f"{ratios['mean_gap_points']:.2f} points", f"exact LRU {mean:.1f}"
    small, large = (row("hot_path", f"memory_traced_{n}") for n in (10_000, 100_000))
    if small and large:
        ours, theirs = (
            f"{small.subjects[each].value:.0f} / {large.subjects[each].value:.0f}"
            for each in (OURS, "cachetools_lock")
        )
        text = "bytes per entry above key and value, 10 k / 100 k entries"
        yield text, ours, f"cachetools TTL + lock {theirs}"
    imports = [finding("import_time", "above", "import tiercache", python) for python in PYTHONS]
    if found := [f"{each:.0f}" for each in imports if each]:
        yield "`import tiercache`, ms", " / ".join(found), _imports()


def _imports() -> str:
    pairs = [
        (name, finding("import_time", "above", f"import {name}"))
        for name in ("aiocache", "cashews")
    ]
    return ", ".join(f"{name} {value:.0f}" for name, value in pairs if value)


def table() -> list[str]:
    lines = [*hits(), *second_tier(), *processes(), *memory()]
    head = ["| | tiercache, on 3.11 / 3.12 / 3.13 | others, on 3.11 |", "|---|---|---|"]
    return head + [f"| {' | '.join(line)} |" for line in lines] + ["", _said()]


def _said() -> str:
    loads = [
        made["load"][0]
        for path in RESULTS.glob("*.json")
        if "load" in (made := json.loads(path.read_text()).get("made", {}))
    ]
    made = (result("hot_path", FIRST) or {}).get("made")
    about = f"Measured on {made['cpu']}, {made['cores']} cores" if made else "Measured"
    busy = f"; load while measuring {min(loads):.1f} to {max(loads):.1f}" if loads else ""
    return f"{about}{busy}. Where we lose: [benchmarks](benchmarks/README.md#where-we-lose)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    lines = table()
    print("\n".join(lines))
    if parser.parse_args().write:
        put_between_marks(ROOT / "README.md", "speed", lines)


if __name__ == "__main__":
    main()
