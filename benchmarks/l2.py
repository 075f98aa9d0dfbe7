"""The second tier: what an L2 hit costs, beside plain redis-py.

The rival is what one would write by hand: redis-py's GET (or MGET) and msgpack's unpack. Both
sides hold the same value, talk to the same server, and use hiredis if it is installed. One at a
time, what counts is the processor time of the client; with many callers, the time on the wall.

Starts a server of its own. Run as ``python -m benchmarks.l2``.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from threading import Barrier, Thread
from time import perf_counter, process_time
from typing import Any

import msgpack
import redis
import redis.asyncio

from benchmarks.measure import Row, Sample, circumstances, interleave
from benchmarks.report import publish
from benchmarks.rivals import rival
from tests.servers import RedisServer
from tiercache import Cache, Redis

OURS, PLAIN = "tiercache", "redis-py"
KEYS = range(1000, 1100)
VALUE: dict[str, Any] = {
    "id": 4711,
    "name": "Ada Lovelace",
    "email": "ada@example.org",
    "roles": ["admin", "author"],
    "score": 0.75,
}
TASKS, THREADS = 100, 16
CPU_SAMPLE_SECONDS = 0.03
WALL_SAMPLE_SECONDS = 0.08

Get = Callable[[int], Any]
AsyncGet = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Bench:
    """What the questions share: the server's address, the event loop, and how long to measure."""

    url: str
    runner: asyncio.Runner
    rounds: int


# --- the two sides --------------------------------------------------------------------------


def our_get(url: str) -> Get:
    cache = Cache("bench-blocking", l1=None, l2=Redis(url))

    @cache.cached("user:{user_id}")
    def user(user_id: int) -> dict[str, Any]:
        return VALUE

    _twice(user)
    return user


def plain_get(url: str) -> Get:
    client = redis.Redis.from_url(url)
    _store(url)

    def user(user_id: int) -> Any:
        return msgpack.unpackb(client.get(f"plain:{user_id}"))

    return user


async def our_async_get(url: str) -> AsyncGet:
    cache = Cache("bench-async", l1=None, l2=Redis(url))

    @cache.cached("user:{user_id}")
    async def user(user_id: int) -> dict[str, Any]:
        return VALUE

    await check(user)
    return user


async def plain_async_get(url: str) -> AsyncGet:
    client = redis.asyncio.Redis.from_url(url, max_connections=TASKS)
    _store(url)

    async def user(user_id: int) -> Any:
        return msgpack.unpackb(await client.get(f"plain:{user_id}"))

    return user


def our_get_many(url: str) -> Callable[[], Any]:
    cache = Cache("bench-many", l1=None, l2=Redis(url))
    keys = [f"user:{key}" for key in KEYS]
    cache.set_many(dict.fromkeys(keys, VALUE))
    assert len(cache.get_many(keys)) == len(keys)
    return lambda: cache.get_many(keys)


def plain_get_many(url: str) -> Callable[[], Any]:
    client = redis.Redis.from_url(url)
    keys = [f"plain:{key}" for key in KEYS]
    unpack = msgpack.unpackb
    return lambda: {
        key: unpack(raw) for key, raw in zip(keys, client.mget(keys), strict=True) if raw
    }


def _twice(user: Get) -> None:
    """Fill L2, then make sure that it answers."""
    for key in [*KEYS, *KEYS]:
        assert user(key) == VALUE


async def check(user: AsyncGet) -> None:
    """Fill L2, then make sure that it answers."""
    for key in [*KEYS, *KEYS]:
        assert await user(key) == VALUE


def _store(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.mset({f"plain:{key}": msgpack.packb(VALUE) for key in KEYS})


# --- the loops that are timed --------------------------------------------------------------


def one_at_a_time_blocking(get: Get, calls: int) -> float:
    began = process_time()
    for key in islice(cycle(KEYS), calls):
        get(key)
    return process_time() - began


async def one_at_a_time_async(get: AsyncGet, calls: int) -> float:
    began = process_time()
    for key in islice(cycle(KEYS), calls):
        await get(key)
    return process_time() - began


def _batches(get_many: Callable[[], Any], calls: int) -> float:
    began = process_time()
    for _ in range(calls):
        get_many()
    return process_time() - began


async def _from_tasks(get: AsyncGet, calls: int) -> float:
    """Spread the calls over tasks, each with a key of its own, so that none joins another."""

    async def work(key: int) -> None:
        for _ in range(each):
            await get(key)

    each = -(-calls // TASKS)
    began = perf_counter()
    await asyncio.gather(*map(work, KEYS))
    return (perf_counter() - began) * calls / (each * TASKS)


def _from_threads(get: Get, calls: int) -> float:
    """Spread the calls over threads; from the first start to the last end."""
    each = -(-calls // THREADS)
    ready = Barrier(THREADS)
    began: list[float] = []
    ended: list[float] = []

    def work(key: int) -> None:
        ready.wait()
        began.append(perf_counter())
        for _ in range(each):
            get(key)
        ended.append(perf_counter())

    _join([Thread(target=work, args=(key,)) for key in KEYS[:THREADS]])
    return (max(ended) - min(began)) * calls / (each * THREADS)


def _join(threads: list[Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- the questions -----------------------------------------------------------------------


def one_at_a_time(bench: Bench) -> Iterator[Row]:
    pair: dict[str, Sample] = {
        OURS: functools.partial(one_at_a_time_blocking, our_get(bench.url)),
        PLAIN: functools.partial(one_at_a_time_blocking, plain_get(bench.url)),
    }
    yield _cpu_row(bench, "l2_hit", "L2 hit, one at a time, blocking", pair)
    run = bench.runner.run
    ours, plain = run(our_async_get(bench.url)), run(plain_async_get(bench.url))
    pair = {
        OURS: lambda calls: run(one_at_a_time_async(ours, calls)),
        PLAIN: lambda calls: run(one_at_a_time_async(plain, calls)),
    }
    yield _cpu_row(bench, "l2_hit_async", "L2 hit, one at a time, asyncio", pair)


def many(bench: Bench) -> Iterator[Row]:
    pair: dict[str, Sample] = {
        OURS: functools.partial(_batches, our_get_many(bench.url)),
        PLAIN: functools.partial(_batches, plain_get_many(bench.url)),
    }
    yield _cpu_row(bench, "get_many", f"get_many of {len(KEYS)} keys", pair)


def concurrent(bench: Bench) -> Iterator[Row]:
    run = bench.runner.run
    ours, plain = run(our_async_get(bench.url)), run(plain_async_get(bench.url))
    pair: dict[str, Sample] = {
        OURS: lambda calls: run(_from_tasks(ours, calls)),
        PLAIN: lambda calls: run(_from_tasks(plain, calls)),
    }
    yield _wall_row(bench, "tasks", f"L2 hits, {TASKS} tasks", 0.15, pair)
    pair = {
        OURS: functools.partial(_from_threads, our_get(bench.url)),
        PLAIN: functools.partial(_from_threads, plain_get(bench.url)),
    }
    yield _wall_row(bench, "threads", f"L2 hits, {THREADS} threads", 0.4, pair)


def _cpu_row(bench: Bench, name: str, question: str, pair: Mapping[str, Sample]) -> Row:
    measured = interleave(
        pair,
        baseline=PLAIN,
        rounds=bench.rounds,
        sample_seconds=CPU_SAMPLE_SECONDS,
        scale=1e6,
    )
    return Row(
        name=name,
        question=question,
        unit="us of client CPU per call",
        baseline=PLAIN,
        goal=1.15,
        subjects=measured,
    )


def _wall_row(
    bench: Bench, name: str, question: str, goal: float, pair: Mapping[str, Sample]
) -> Row:
    measured = interleave(
        pair,
        baseline=PLAIN,
        rounds=bench.rounds,
        sample_seconds=WALL_SAMPLE_SECONDS,
        scale=1e6,
    )
    return Row(
        name=name,
        question=question,
        unit="us on the wall per call",
        baseline=PLAIN,
        goal=goal,
        subjects=measured,
    )


QUESTIONS = (one_at_a_time, many, concurrent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", choices=[ask.__name__ for ask in QUESTIONS], action="append")
    options = parser.parse_args()
    rows: list[Row] = []
    with RedisServer() as server, asyncio.Runner() as runner:
        bench = Bench(server.url, runner, rounds=7 if options.quick else 21)
        for ask in QUESTIONS:
            if not options.only or ask.__name__ in options.only:
                print(f"measuring {ask.__name__} ...", flush=True)
                rows.extend(ask(bench))
        running = _server_version(server.url)
    made = circumstances({OURS: rival(OURS)}, {})
    made["versions"] |= {name: _version(name) for name in ("redis", "hiredis", "msgpack")}
    made["server"] = running
    publish("l2", made, rows)


def _server_version(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        about = client.info("server")
    return f"{about.get('server_name', 'redis')} {about['redis_version']}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
