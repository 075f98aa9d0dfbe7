"""A stampede across processes: their crowds ask for one cold key at one instant.

``floor`` is the least that can be written by hand: in each process one caller goes to Redis for
all; GET, then SET NX for the right to load; the others wait in an XREAD for the loader to say that
it is done. It has no expiry of a lock, no errors, no cancelling, and no first tier to fill.

What is timed is from the first call's start to the last one's end, wherever those were. A round in
which the key was loaded more than once, or a caller got anything else, stops the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from threading import Barrier, Event, Lock, Thread
from time import monotonic
from typing import Any, NamedTuple

import msgpack
import redis
import redis.asyncio

from benchmarks.crew import Crew, Role, sleep_until
from benchmarks.measure import Row, summarise
from benchmarks.rivals import installed, rival

FLOOR = "floor"
PROCESSES = 4
TASKS, THREADS = 250, 25  # per process
LOAD_SECONDS = 0.05
VALUE = {"id": 4711, "name": "Ada Lovelace"}
WARM_UP = 2  # rounds

Get = Callable[[int], Any]
AsyncGet = Callable[[int], Awaitable[Any]]


class Seen(NamedTuple):
    """What one process saw of a round; the times are CLOCK_MONOTONIC."""

    began: float
    ended: float
    loads: int
    wrong: int  # answers other than the value


def cluster_stampede(url: str, attempts: int) -> Iterator[Row]:
    """Measure crowds of tasks and of threads in four processes, ours beside what else there is."""
    for crowd, each, role, goal in (
        ("tasks", TASKS, task_role, 1.4),
        ("threads", THREADS, thread_role, 1.6),
    ):
        kind = "ashared" if crowd == "tasks" else "shared"
        names = [name for name, one in installed()[0].items() if getattr(one, kind)]
        walls = _walls([*names, FLOOR], role, url, attempts)
        yield Row(
            name=f"cluster_{crowd}",
            question=f"{PROCESSES} processes x {each} {crowd} on one cold key",
            unit="seconds until all have it",
            baseline="the load",
            goal=goal,
            subjects={
                name: summarise(times, [LOAD_SECONDS] * len(times)) for name, times in walls.items()
            },
        )


def _walls(names: Sequence[str], role: Role, url: str, attempts: int) -> dict[str, list[float]]:
    """Time rounds of all in turn."""
    walls: dict[str, list[float]] = {name: [] for name in names}
    with redis.Redis.from_url(url) as client:
        client.flushall()  # the rounds of the other crowds had the same numbers
    with ExitStack() as stack:
        crews = {name: stack.enter_context(Crew(role, [(name, url)] * PROCESSES)) for name in names}
        for number in range(attempts + WARM_UP):
            for name, crew in crews.items():
                walls[name].append(_wall(name, crew.round(number)))
    return {name: times[WARM_UP:] for name, times in walls.items()}


def _wall(name: str, round_: list[Seen]) -> float:
    loads = sum(seen.loads for seen in round_)
    wrong = sum(seen.wrong for seen in round_)
    if loads != 1 or wrong:
        message = (
            f"{name}: {loads} loads of one key in {PROCESSES} processes, {wrong} wrong answers"
        )
        raise AssertionError(message)
    return max(seen.ended for seen in round_) - min(seen.began for seen in round_)


# --- the crowds -----------------------------------------------------------------------------


def task_role(name: str, url: str) -> Generator[Any, Any, None]:
    """Be one process with a crowd of tasks."""
    loads: list[int] = []

    async def load(user_id: int) -> dict[str, Any]:
        loads.append(user_id)
        await asyncio.sleep(LOAD_SECONDS)
        return VALUE

    async def act(number: int, instant: float) -> Seen:
        await asyncio.sleep(instant - monotonic())
        loads.clear()
        began = monotonic()
        answers = await asyncio.gather(*(get(number) for _ in range(TASKS)))
        return Seen(began, monotonic(), len(loads), sum(each != VALUE for each in answers))

    with asyncio.Runner() as runner:
        get = runner.run(_made(_async_get(name, url, load)))
        while True:
            number = yield
            instant = yield
            yield runner.run(act(number, instant))


async def _made(get: AsyncGet) -> AsyncGet:
    """Try what there is to try, connecting included, with a key that is this process's own."""
    await asyncio.gather(*(get(-time.monotonic_ns()) for _ in range(3)))
    return get


def thread_role(name: str, url: str) -> Generator[Any, Any, None]:
    """Be one process with a crowd of threads."""
    loads: list[int] = []

    def load(user_id: int) -> dict[str, Any]:
        loads.append(user_id)
        time.sleep(LOAD_SECONDS)
        return VALUE

    get = _get(name, url, load)
    get(-time.monotonic_ns())
    while True:
        number = yield
        crowd = ThreadCrowd(get, number)
        loads.clear()
        instant = yield
        began, ended, wrong = crowd.act(instant)
        yield Seen(began, ended, len(loads), wrong)


class ThreadCrowd:
    """Threads that have been started, and wait for the instant."""

    def __init__(self, get: Get, number: int) -> None:
        self._get = get
        self._number = number
        self._gate = Barrier(THREADS + 1)
        self._times: list[tuple[float, float]] = []
        self._answers: list[Any] = []
        self._threads = [Thread(target=self._call) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def act(self, instant: float) -> tuple[float, float, int]:
        """Let them go; return when the first began and the last ended, and the wrong answers."""
        sleep_until(instant)
        self._gate.wait()
        for thread in self._threads:
            thread.join()
        began, ended = zip(*self._times, strict=True)
        return min(began), max(ended), sum(each != VALUE for each in self._answers)

    def _call(self) -> None:
        self._gate.wait()
        began = monotonic()
        answer = self._get(self._number)
        self._times.append((began, monotonic()))
        self._answers.append(answer)


# --- what is called ---------------------------------------------------------------------------


def _async_get(name: str, url: str, load: AsyncGet) -> AsyncGet:
    if name == FLOOR:
        return _floor_tasks(url, load)
    make = rival(name).ashared
    assert make is not None
    return make(load, url)


def _get(name: str, url: str, load: Get) -> Get:
    if name == FLOOR:
        return _floor_threads(url, load)
    make = rival(name).shared
    assert make is not None
    return make(load, url)


def _floor_tasks(url: str, load: AsyncGet) -> AsyncGet:
    client = redis.asyncio.Redis.from_url(url)
    flights: dict[int, asyncio.Task[Any]] = {}

    async def fly(user_id: int) -> Any:
        key, done = f"floor:{user_id}", f"floor-done:{user_id}"
        if (raw := await client.get(key)) is None:
            if await client.set(f"floor-lock:{user_id}", 1, nx=True):
                value = await load(user_id)
                pipe = client.pipeline(transaction=False)
                pipe.set(key, msgpack.packb(value))
                pipe.xadd(done, {"": ""})
                await pipe.execute()
                return value
            await client.xread({done: "0"}, block=10_000)
            raw = await client.get(key)
        return msgpack.unpackb(raw)

    async def get(user_id: int) -> Any:
        if user_id not in flights:
            flights[user_id] = asyncio.create_task(fly(user_id))
        return await flights[user_id]

    return get


def _floor_threads(url: str, load: Get) -> Get:
    client = redis.Redis.from_url(url)
    first, values, landed = Lock(), dict[int, Any](), dict[int, Event]()

    def fly(user_id: int) -> Any:
        key, done = f"floor:{user_id}", f"floor-done:{user_id}"
        if (raw := client.get(key)) is None:
            if client.set(f"floor-lock:{user_id}", 1, nx=True):
                value = load(user_id)
                pipe = client.pipeline(transaction=False)
                pipe.set(key, msgpack.packb(value))
                pipe.xadd(done, {"": ""})
                pipe.execute()
                return value
            client.xread({done: "0"}, block=10_000)
            raw = client.get(key)
        return msgpack.unpackb(raw)

    def get(user_id: int) -> Any:
        with first:
            leads, event = user_id not in landed, landed.setdefault(user_id, Event())
        if leads:
            values[user_id] = fly(user_id)
            event.set()
        event.wait()
        return values[user_id]

    return get
