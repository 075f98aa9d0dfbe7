"""A miss, load and eviction in a cache of memory alone: what it takes above the loader's own time.

The loader only returns, so what is left after taking its bare call away is the cache's: the key, a
flight, the telemetry's look, the entry, the eviction of another. Goals: at most 3 us blocking and
3.5 us asyncio, of the calling thread's own time. Beside it the awaited misses of the libraries that
have them; the blocking ones are in ``hot_path``. Threads that miss different keys are timed
together, on the wall, each cache against itself in one thread: a lock held for long shows there.

Run as ``python -m benchmarks.misses``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from threading import Barrier, Thread
from time import perf_counter, thread_time
from typing import Any

from benchmarks.measure import Finding, Row, Sample, circumstances, interleave, summarise
from benchmarks.report import OURS, print_findings, publish
from benchmarks.rivals import AsyncFunction, Function, Rival, installed

BARE = "bare call"
MAXSIZE = 10_000
THREADS = 8
GOAL_US = {"blocking": 3.0, "asyncio": 3.5}
IN_THREADS = ("lru_cache", "tiercache", "cachebox", "cachetools_lock")


def one(user_id: int) -> int:
    return user_id


async def aone(user_id: int) -> int:
    return user_id


def _sample(function: Function, keys: Iterator[int]) -> Sample:
    def sample(calls: int) -> float:
        began = thread_time()
        for key in islice(keys, calls):
            function(key)
        return thread_time() - began

    return sample


def _async_sample(function: AsyncFunction, keys: Iterator[int], runner: asyncio.Runner) -> Sample:
    async def main(calls: int) -> float:
        began = thread_time()
        for key in islice(keys, calls):
            await function(key)
        return thread_time() - began

    return lambda calls: runner.run(main(calls))


def blocking(rivals: Mapping[str, Rival], rounds: int) -> Row:
    make = rivals[OURS].blocking
    assert make is not None
    subjects = {OURS: _sample(make(one, MAXSIZE), count()), BARE: _sample(one, count())}
    subjects[OURS](MAXSIZE + 1)
    return _row("blocking", "blocking miss, load, evict", subjects, rounds)


def awaited(rivals: Mapping[str, Rival], rounds: int) -> Row:
    with asyncio.Runner() as runner:
        subjects = {BARE: _async_sample(aone, count(), runner)}
        for name, rival in rivals.items():
            if rival.awaited:
                cached = rival.awaited(aone, MAXSIZE)
                subjects[name] = _async_sample(cached, count(), runner)
                subjects[name](MAXSIZE + 1)
        return _row("asyncio", "awaited miss, load, evict", subjects, rounds)


def _row(name: str, question: str, subjects: Mapping[str, Sample], rounds: int) -> Row:
    return Row(
        name=name,
        question=question,
        unit="ns per call",
        baseline=BARE,
        subjects=interleave(subjects, baseline=BARE, rounds=rounds),
    )


def threads(rivals: Mapping[str, Rival], rounds: int) -> Row:
    """Compare misses per second of eight threads with those of one, each library to itself."""
    subjects = {}
    for name in IN_THREADS:
        if name in rivals and (make := rivals[name].blocking):
            cached, keys = make(one, MAXSIZE), count()
            calls = max(THREADS, round(0.02 / max(_spread(cached, keys, 2000, 1) / 2000, 1e-9)))
            pairs = [
                (_spread(cached, keys, calls, THREADS), _spread(cached, keys, calls, 1))
                for _ in range(rounds)
            ]
            subjects[name] = summarise(
                [calls / many / 1e6 for many, _ in pairs], [calls / lone / 1e6 for _, lone in pairs]
            )
    return Row(
        name="threads",
        question=f"{THREADS} threads missing together",
        unit="million calls per second; ratio to its own single thread",
        baseline="one thread",
        higher_is_better=True,
        subjects=subjects,
    )


def _spread(cached: Function, keys: Iterator[int], calls: int, threads: int) -> float:
    """Spread misses over threads; from the first start to the last end."""
    ready = Barrier(threads)
    times: list[tuple[float, float]] = []

    def work(mine: Callable[[], Any]) -> None:
        ready.wait()
        began = perf_counter()
        for key in mine():
            cached(key)
        times.append((began, perf_counter()))

    parts = [list(islice(keys, calls // threads)) for _ in range(threads)]
    workers = [Thread(target=work, args=(lambda part=part: part,)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(ended for _, ended in times) - min(began for began, _ in times)


def above_the_loader(row: Row) -> Finding:
    """Return what a miss takes above the bare call, from the medians of one run."""
    above = (row.subjects[OURS].value - row.subjects[BARE].value) / 1e3
    what = f"{row.question}, above the loader"
    return Finding(about="L1 only", what=what, value=above, unit="us", goal=GOAL_US[row.name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 15 if parser.parse_args().quick else 31
    rivals, missing = installed()
    lone = [blocking(rivals, rounds), awaited(rivals, rounds)]
    made = circumstances(rivals, missing)
    found = [above_the_loader(row) for row in lone]
    print_findings(f"misses on {made['python']}, load {os.getloadavg()[0]:.1f}", found)
    publish("misses", made, [*lone, threads(rivals, rounds)], findings=found)


if __name__ == "__main__":
    main()
