"""A stampede: many callers of one cold key at once, and how soon all of them have it.

``floor`` is the same crowd around the least that can be written by hand: one load, and an event or
a task that all others wait for. That much of the time is the crowd's own. A run in which the key
was loaded more than once, or a caller got anything but the load's outcome, stops. The crowds that
are spread over processes are in ``stampede_cluster``.

Starts a server of its own. Run as ``python -m benchmarks.stampede``.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import count
from threading import Barrier, Event, Lock, Thread
from time import perf_counter, sleep
from typing import Any

from benchmarks.measure import Row, circumstances, summarise
from benchmarks.report import publish
from benchmarks.rivals import rival
from benchmarks.stampede_cluster import cluster_stampede
from tests.servers import RedisServer
from tiercache import LRU, Cache

OURS, FLOOR = "tiercache", "floor"
TASK_CROWD, THREAD_CROWD = 1000, 100
LOAD_SECONDS = 0.05
VALUE = {"id": 4711, "name": "Ada Lovelace"}

Get = Callable[[int], Any]
AsyncGet = Callable[[int], Awaitable[Any]]


class Refused(Exception):
    """What a failing load raises."""


def stampede(runner: asyncio.Runner, attempts: int) -> Iterator[Row]:
    """Measure crowds of tasks and of threads; loads that succeed and fail; a leader cancelled."""
    run = runner.run
    yield _stampede_row(
        attempts,
        f"{TASK_CROWD:,} tasks on one cold key; its leader is cancelled half-way",
        {
            OURS: lambda: run(_cancelled_leader(_our_async_load(False))),
            FLOOR: lambda: run(_cancelled_leader(_bare_async_load(False))),
        },
    )
    for ending, fails in (("succeeds", False), ("fails", True)):
        yield _stampede_row(
            attempts,
            f"{TASK_CROWD:,} tasks on one cold key; its load {ending}",
            {
                OURS: lambda fails=fails: run(_task_crowd(_our_async_load(fails), fails)),
                FLOOR: lambda fails=fails: run(_task_crowd(_bare_async_load(fails), fails)),
            },
        )
        yield _stampede_row(
            attempts,
            f"{THREAD_CROWD} threads on one cold key; its load {ending}",
            {
                OURS: lambda fails=fails: _thread_crowd(_our_load(fails), fails),
                FLOOR: lambda fails=fails: _thread_crowd(_bare_load(fails), fails),
            },
        )


def _stampede_row(attempts: int, question: str, pair: Mapping[str, Callable[[], float]]) -> Row:
    walls: dict[str, list[float]] = {name: [] for name in pair}
    for _ in range(attempts):
        for name, attempt in pair.items():
            walls[name].append(attempt())
    return Row(
        name=question.replace(" ", "_"),
        question=question,
        unit="seconds until all have it",
        baseline="the load",
        goal=1.2,
        subjects={
            name: summarise(times, [LOAD_SECONDS] * len(times)) for name, times in walls.items()
        },
    )


@functools.cache
def _stampede_cache() -> Cache:
    return Cache("bench-stampede", l1=LRU(1000))


def _our_async_load(fails: bool) -> AsyncGet:
    key = next(_cold_keys)

    @_stampede_cache().cached(f"task:{key}:{{user_id}}")
    async def user(user_id: int) -> dict[str, Any]:
        await asyncio.sleep(LOAD_SECONDS)
        return _answer(fails)

    return user


def _our_load(fails: bool) -> Get:
    key = next(_cold_keys)

    @_stampede_cache().cached(f"thread:{key}:{{user_id}}")
    def user(user_id: int) -> dict[str, Any]:
        sleep(LOAD_SECONDS)
        return _answer(fails)

    return user


def _bare_async_load(fails: bool) -> AsyncGet:
    async def load() -> dict[str, Any]:
        next(_loads)
        await asyncio.sleep(LOAD_SECONDS)
        return _answer_uncounted(fails)

    shared: list[asyncio.Task[Any]] = []

    async def user(user_id: int) -> Any:
        if not shared:
            shared.append(asyncio.create_task(load()))
        return await asyncio.shield(shared[0])

    return user


def _bare_load(fails: bool) -> Get:
    first, landed = Lock(), Event()

    def user(user_id: int) -> Any:
        if first.acquire(blocking=False):
            next(_loads)
            sleep(LOAD_SECONDS)
            landed.set()
        landed.wait()
        return _answer_uncounted(fails)

    return user


def _answer(fails: bool) -> dict[str, Any]:
    next(_loads)
    return _answer_uncounted(fails)


def _answer_uncounted(fails: bool) -> dict[str, Any]:
    if fails:
        raise Refused
    return VALUE


_cold_keys = count()
_loads = count()


async def _task_crowd(user: AsyncGet, fails: bool) -> float:
    before = next(_loads)
    began = perf_counter()
    answers = await asyncio.gather(*(user(1) for _ in range(TASK_CROWD)), return_exceptions=True)
    took = perf_counter() - began
    _check(answers, next(_loads) - before - 1, fails)
    return took


async def _cancelled_leader(user: AsyncGet) -> float:
    """Cancel the first caller while it loads; nobody else may notice, and nobody load again."""
    before = next(_loads)
    began = perf_counter()
    tasks = [asyncio.create_task(user(1)) for _ in range(TASK_CROWD)]  # type: ignore[arg-type]
    await asyncio.sleep(LOAD_SECONDS / 2)
    tasks[0].cancel()
    leader, *answers = await asyncio.gather(*tasks, return_exceptions=True)
    took = perf_counter() - began
    assert isinstance(leader, asyncio.CancelledError), leader
    _check(answers, next(_loads) - before - 1, fails=False)
    return took


def _thread_crowd(user: Get, fails: bool) -> float:
    """Take the time from the first thread's start to the last one's end."""
    answers: list[Any] = []
    ready = Barrier(THREAD_CROWD)
    began: list[float] = []
    ended: list[float] = []

    def call() -> None:
        ready.wait()
        began.append(perf_counter())
        try:
            answers.append(user(1))
        except Refused as error:
            answers.append(error)
        ended.append(perf_counter())

    before = next(_loads)
    threads = [Thread(target=call) for _ in range(THREAD_CROWD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _check(answers, next(_loads) - before - 1, fails)
    return max(ended) - min(began)


def _check(answers: list[Any], loads: int, fails: bool) -> None:
    alike = all(isinstance(answer, Refused) if fails else answer == VALUE for answer in answers)
    if loads != 1 or not alike:
        message = f"{loads} loads for {len(answers)} callers of one key, answers alike: {alike}"
        raise AssertionError(message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=9, help="of each crowd (default 9)")
    parser.add_argument("--only", choices=["process", "cluster"])
    options = parser.parse_args()
    rows: list[Row] = []
    if options.only != "cluster":
        with asyncio.Runner() as runner:
            rows += stampede(runner, options.attempts)
    if options.only != "process":
        with RedisServer() as server:
            rows += cluster_stampede(server.url, options.attempts)
    publish("stampede", circumstances({OURS: rival(OURS)}, {}), rows)


if __name__ == "__main__":
    main()
