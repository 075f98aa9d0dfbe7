"""The hot path: what a hit and a miss in memory cost, beside the other Python caches.

Run as ``python -m benchmarks.hot_path``; README.md says how to read what comes out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice, repeat
from threading import Barrier, Thread
from time import perf_counter, thread_time
from typing import Any

from benchmarks.measure import Measured, Row, Sample, circumstances, constant, interleave, summarise
from benchmarks.report import publish
from benchmarks.rivals import AsyncFunction, Function, Rival, installed

BASELINE = "lru_cache"
MAXSIZE = 10_000
THREADS = 8
LARGE = 1_000_000
# Filling tables is slow, the more so while tracemalloc watches: the others would take minutes.
FILLED_LARGE = ("lru_cache", "tiercache", "cachebox")
FILLED_MEDIUM = (*FILLED_LARGE, "cachetools_lock")
GOAL_BYTES = 145


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: rounds of samples, and the largest table to fill."""

    rounds: int = 31
    thread_rounds: int = 9
    largest: int = LARGE


# --- the functions that are cached -------------------------------------------------------


def one(user_id: int) -> int:
    return user_id


def three(user_id: int, role: str, page: int) -> int:
    return user_id


def with_default(user_id: int, role: str, page: int = 1) -> int:
    return user_id


async def one_async(user_id: int) -> int:
    return user_id


# --- the loops that are timed: as short as they can be, a call and nothing else -------------
# The time of the calling thread: who else wants the processor does not count.


def _hits_one(cached: Function, calls: int) -> float:
    began = thread_time()
    for key in repeat(4711, calls):
        cached(key)
    return thread_time() - began


def _hits_one_text(cached: Function, calls: int) -> float:
    began = thread_time()
    for key in repeat("user-4711", calls):
        cached(key)
    return thread_time() - began


def _hits_default_left_out(cached: Function, calls: int) -> float:
    began = thread_time()
    for key in repeat(4711, calls):
        cached(key, "admin")
    return thread_time() - began


def _hits_three_keywords(cached: Function, calls: int) -> float:
    began = thread_time()
    for key in repeat(4711, calls):
        cached(user_id=key, role="admin", page=3)
    return thread_time() - began


def _hits_three_positional(cached: Function, calls: int) -> float:
    began = thread_time()
    for key in repeat(4711, calls):
        cached(key, "admin", 3)
    return thread_time() - began


async def _hits_awaited(cached: AsyncFunction, calls: int) -> float:
    began = thread_time()
    for key in repeat(4711, calls):
        await cached(key)
    return thread_time() - began


def _misses(cached: Function, keys: Iterator[int]) -> Sample:
    """Call with keys never seen before; in a full cache each evicts another."""

    def sample(calls: int) -> float:
        began = thread_time()
        for key in islice(keys, calls):
            cached(key)
        return thread_time() - began

    return sample


# --- the questions --------------------------------------------------------------------------


def blocking_hits(rivals: Mapping[str, Rival], effort: Effort) -> Iterator[Row]:
    kinds: tuple[tuple[str, str, Function, Callable[[Function, int], float], float], ...] = (
        ("hit_one_int", "hit, one int", one, _hits_one, 2.2),
        ("hit_three_keywords", "hit, three keywords", three, _hits_three_keywords, 1.4),
        ("hit_three_positional", "hit, three positional", three, _hits_three_positional, 3.0),
        ("hit_one_text", "hit, one text", one, _hits_one_text, 2.2),
        ("hit_default", "hit, a default left out", with_default, _hits_default_left_out, 3.0),
    )
    for name, question, function, loop, goal in kinds:
        subjects = {
            rival: _bind(loop, make(function, MAXSIZE)) for rival, make in _blocking(rivals).items()
        }
        measured = interleave(subjects, baseline=BASELINE, rounds=effort.rounds)
        yield Row(
            name=name,
            question=question,
            unit="ns per call",
            baseline=BASELINE,
            goal=goal,
            subjects=measured,
        )


def miss_and_evict(rivals: Mapping[str, Rival], effort: Effort) -> Iterator[Row]:
    subjects = {}
    for rival, make in _blocking(rivals).items():
        subjects[rival] = _full(make, MAXSIZE)
    yield Row(
        name="miss_and_evict",
        question="miss, load, evict",
        unit="ns per call",
        baseline=BASELINE,
        goal=15,
        subjects=interleave(subjects, baseline=BASELINE, rounds=effort.rounds),
    )


def awaited_hits(rivals: Mapping[str, Rival], effort: Effort) -> Iterator[Row]:
    bare = "async def"
    with asyncio.Runner() as runner:
        functions: dict[str, AsyncFunction] = {bare: one_async}
        functions |= {
            rival: described.awaited(one_async, MAXSIZE)
            for rival, described in rivals.items()
            if described.awaited
        }
        subjects: dict[str, Sample] = {
            name: _awaiting(runner, cached) for name, cached in functions.items()
        }
        yield Row(
            name="awaited_hit",
            question="awaited hit, one int",
            unit="ns per call",
            baseline=bare,
            goal=2.2,
            subjects=interleave(subjects, baseline=bare, rounds=effort.rounds),
        )


def threads(rivals: Mapping[str, Rival], effort: Effort) -> Iterator[Row]:
    """Compare calls per second of eight threads together with those of one, each to itself."""
    subjects: dict[str, Measured] = {}
    for rival, make in _blocking(rivals).items():
        cached = make(one, MAXSIZE)
        pair = {
            1: lambda calls, cached=cached: _from_threads(cached, calls, 1),
            THREADS: lambda calls, cached=cached: _from_threads(cached, calls, THREADS),
        }
        subjects[rival] = _speed_up(pair, effort.thread_rounds)
    yield Row(
        name="threads",
        question=f"{THREADS} threads hitting together",
        unit="million calls per second; ratio to its own single thread",
        baseline="one thread",
        goal=0.95,
        higher_is_better=True,
        subjects=subjects,
    )


def scale(rivals: Mapping[str, Rival], effort: Effort) -> Iterator[Row]:
    """Compare a miss with eviction in a large cache with the same in a small one."""
    subjects: dict[str, Measured] = {}
    for rival, make in _blocking(_only(FILLED_LARGE, rivals)).items():
        pair = {
            "small": _full(make, MAXSIZE),
            "large": _full(make, effort.largest),
        }
        measured = interleave(pair, baseline="small", rounds=effort.rounds)
        subjects[rival] = measured["large"]
    yield Row(
        name="scale",
        question=f"miss, load, evict: {effort.largest:,} entries against {MAXSIZE:,}",
        unit="ns per call; ratio to its own small cache",
        baseline="small",
        goal=1.3,
        subjects=subjects,
    )


def memory(rivals: Mapping[str, Rival], effort: Effort) -> Iterator[Row]:
    """Count bytes per entry; each number comes from a process of its own."""
    plans = (
        (10_000, "traced", tuple(rivals)),
        (100_000, "traced", FILLED_MEDIUM),
        (LARGE, "resident", FILLED_LARGE),
    )
    for entries, how, names in plans:
        if entries > effort.largest:
            continue
        among = _only(names, rivals)
        if how == "traced":
            among = {name: rival for name, rival in among.items() if not rival.is_native}
        found = {rival: _probe(rival, entries, how) for rival in _blocking(among)}
        yield Row(
            name=f"memory_{how}_{entries}",
            question=f"memory above key and value, {entries:,} entries, {how} (goal {GOAL_BYTES})",
            unit="bytes per entry",
            baseline=BASELINE,
            subjects={name: constant(value, found[BASELINE]) for name, value in found.items()},
            goal=GOAL_BYTES / found[BASELINE],
        )


QUESTIONS = (blocking_hits, miss_and_evict, awaited_hits, threads, scale, memory)


# --- setting up -----------------------------------------------------------------------------


def _blocking(rivals: Mapping[str, Rival]) -> dict[str, Callable[[Function, int], Function]]:
    return {name: rival.blocking for name, rival in rivals.items() if rival.blocking}


def _only(names: Collection[str], rivals: Mapping[str, Rival]) -> dict[str, Rival]:
    return {name: rival for name, rival in rivals.items() if name in names}


def _bind(loop: Callable[[Function, int], float], cached: Function) -> Sample:
    return lambda calls: loop(cached, calls)


def _awaiting(runner: asyncio.Runner, cached: AsyncFunction) -> Sample:
    return lambda calls: runner.run(_hits_awaited(cached, calls))


def _full(make: Callable[[Function, int], Function], maxsize: int) -> Sample:
    """Fill a cache to its brim; return the sample that misses in it."""
    cached = make(one, maxsize)
    keys = count(1000)
    sample = _misses(cached, keys)
    sample(maxsize + 1)
    return sample


def _from_threads(cached: Function, calls: int, threads: int) -> float:
    """Spread the calls over threads; return the time from the first start to the last end."""
    cached(4711)
    ready = Barrier(threads)
    began: list[float] = []
    ended: list[float] = []

    def work() -> None:
        ready.wait()
        began.append(perf_counter())
        _hits_one(cached, calls // threads)
        ended.append(perf_counter())

    workers = [Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(ended) - min(began)


def _speed_up(pair: Mapping[int, Sample], rounds: int) -> Measured:
    """Return throughput of many threads in million calls per second, over that of one."""
    calls = max(THREADS, round(0.04 / max(pair[1](2000) / 2000, 1e-9)) // THREADS * THREADS)
    times = [(pair[THREADS](calls), pair[1](calls)) for _ in range(rounds)]
    return summarise(
        [calls / many / 1e6 for many, _ in times], [calls / single / 1e6 for _, single in times]
    )


def _probe(rival: str, entries: int, how: str) -> float:
    command = [sys.executable, "-m", "benchmarks.memory_probe", rival, str(entries), how]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(answer)["bytes_per_entry"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no large tables")
    parser.add_argument("--only", choices=[ask.__name__ for ask in QUESTIONS], action="append")
    options = parser.parse_args()
    effort = Effort(rounds=21, thread_rounds=3, largest=100_000) if options.quick else Effort()
    rivals, missing = installed()
    for name, why in missing.items():
        print(f"without {name}: {why}", flush=True)
    rows: list[Row] = []
    for ask in QUESTIONS:
        if options.only and ask.__name__ not in options.only:
            continue
        print(f"measuring {ask.__name__} ...", end=" ", flush=True)
        began = perf_counter()
        rows.extend(ask(rivals, effort))
        print(f"{perf_counter() - began:.0f} s", flush=True)
    made: dict[str, Any] = circumstances(rivals, missing)
    publish("hot_path", made, rows)


if __name__ == "__main__":
    main()
