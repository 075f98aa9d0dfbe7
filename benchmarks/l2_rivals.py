"""A hit in the second tier through each library: client CPU, beside GET and msgpack by hand.

No first tier on any side, one call at a time. All but diskcache talk to one server; diskcache has
SQLite and files instead, and so has a row of its own, beside tiercache over SQLite. What each does
beside reading differs: see ``features``.

Starts a server of its own. Run as ``python -m benchmarks.l2_rivals``.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import tempfile
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path

from benchmarks.l2 import (
    KEYS,
    OURS,
    VALUE,
    Bench,
    check,
    one_at_a_time_async,
    one_at_a_time_blocking,
)
from benchmarks.measure import Row, Sample, circumstances, interleave
from benchmarks.report import publish
from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Function, Rival, installed
from tests.servers import RedisServer
from tiercache import Cache, SQLite

BASELINE = "redis_py"
SAMPLE_SECONDS = 0.03
DISK = "diskcache"


_loads = count()


def load(user_id: int) -> dict[str, object]:
    next(_loads)
    return VALUE


async def aload(user_id: int) -> dict[str, object]:
    next(_loads)
    return VALUE


def blocking(bench: Bench, rivals: Mapping[str, Rival]) -> Iterator[Row]:
    made = {
        name: one.stored(load, bench.url)
        for name, one in rivals.items()
        if one.stored and name != DISK
    }
    yield _row(bench, "rivals_blocking", "L2 hit through Redis, blocking", made, BASELINE, 1.15)


def disk(bench: Bench, rivals: Mapping[str, Rival]) -> Iterator[Row]:
    if DISK not in rivals:
        return
    make = rivals[DISK].stored
    assert make is not None
    with (
        tempfile.TemporaryDirectory() as folder,
        Cache("disk", l1=None, l2=SQLite(Path(folder) / "l2.db"), ttl=TTL_SECONDS) as cache,
    ):
        made: dict[str, Function] = {
            OURS: cache.cached("one:{user_id}")(load),
            DISK: make(load, ""),
        }
        yield _row(bench, "rivals_disk", "L2 hit through SQLite, blocking", made, DISK, None)


def awaited(bench: Bench, rivals: Mapping[str, Rival]) -> Iterator[Row]:
    run = bench.runner.run

    async def make(one: Rival) -> AsyncFunction:
        assert one.astored is not None
        cached = one.astored(aload, bench.url)
        await check(cached)
        return cached

    made = {name: run(make(one)) for name, one in rivals.items() if one.astored}
    subjects: dict[str, Sample] = {
        name: lambda calls, get=get: run(one_at_a_time_async(get, calls))  # type: ignore[misc]
        for name, get in made.items()
    }
    name, question = "rivals_asyncio", "L2 hit through Redis, asyncio"
    yield _measured(bench, name, question, subjects, BASELINE, 1.15)


def _row(
    bench: Bench,
    name: str,
    question: str,
    made: Mapping[str, Function],
    baseline: str,
    goal: float | None,
) -> Row:
    for get in made.values():
        for key in [*KEYS, *KEYS]:
            assert get(key) == VALUE
    subjects: dict[str, Sample] = {
        each: functools.partial(one_at_a_time_blocking, get) for each, get in made.items()
    }
    return _measured(bench, name, question, subjects, baseline, goal)


def _measured(
    bench: Bench,
    name: str,
    question: str,
    subjects: Mapping[str, Sample],
    baseline: str,
    goal: float | None,
) -> Row:
    """Time hits; a library that loads meanwhile stops the run, since that is no hit."""
    before = next(_loads)
    measured = interleave(
        subjects, baseline=baseline, rounds=bench.rounds, sample_seconds=SAMPLE_SECONDS, scale=1e6
    )
    if (loads := next(_loads) - before - 1) > 0:
        message = f"{question}: {loads} loads among what should be hits of {', '.join(subjects)}"
        raise AssertionError(message)
    return Row(
        name=name,
        question=question,
        unit="us of client CPU per call",
        baseline=baseline,
        goal=goal,
        subjects=measured,
    )


QUESTIONS = (blocking, awaited, disk)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    options = parser.parse_args()
    rivals, missing = installed()
    for name, why in missing.items():
        print(f"without {name}: {why}", flush=True)
    chosen = {name: one for name, one in rivals.items() if one.stored or one.astored}
    with RedisServer() as server, asyncio.Runner() as runner:
        bench = Bench(server.url, runner, rounds=7 if options.quick else 21)
        rows = [row for ask in QUESTIONS for row in ask(bench, chosen)]
    publish("l2_rivals", circumstances(chosen, missing), rows)


if __name__ == "__main__":
    main()
