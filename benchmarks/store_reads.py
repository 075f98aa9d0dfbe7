"""What the Redis store adds to a read, or saves, beside redis-py's own GET and MGET.

Bytes in, bytes out: no cache and no codec on either side (``benchmarks.l2`` has those). redis-py
runs through the pool that its users are told to use, with timeouts. One at a time the processor
time of this process counts, among many callers the time on the wall.

Starts a server of its own. Run as ``python -m benchmarks.store_reads``, with and without hiredis.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import cycle, islice
from threading import Barrier, Thread
from time import perf_counter, process_time
from typing import Any

import redis
import redis.asyncio
from redis.utils import HIREDIS_AVAILABLE

from benchmarks.measure import Measured, Sample, interleave
from tests.servers import RedisServer
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Item

OURS, PLAIN = "store", "redis-py"
KEYS = [f"user:{number}" for number in range(1000, 1100)]
PAYLOAD = b"x" * 120
TASKS, THREADS = 100, 16
POOL = {"max_connections": 128, "timeout": 5, "socket_timeout": 0.5, "socket_connect_timeout": 0.5}

Read = Callable[[str], Any]
AsyncRead = Callable[[str], Awaitable[Any]]


def plain_client(url: str) -> redis.Redis:
    return redis.Redis.from_pool(redis.BlockingConnectionPool.from_url(url, **POOL))


def plain_async_client(url: str) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_pool(redis.asyncio.BlockingConnectionPool.from_url(url, **POOL))


def one_by_one(read: Read, calls: int) -> float:
    began = process_time()
    for key in islice(cycle(KEYS), calls):
        read(key)
    return process_time() - began


async def one_by_one_async(read: AsyncRead, calls: int) -> float:
    began = process_time()
    for key in islice(cycle(KEYS), calls):
        await read(key)
    return process_time() - began


def batches(read_many: Callable[[list[str]], Any], calls: int) -> float:
    began = process_time()
    for _ in range(calls):
        read_many(KEYS)
    return process_time() - began


async def batches_async(read_many: Callable[[list[str]], Awaitable[Any]], calls: int) -> float:
    began = process_time()
    for _ in range(calls):
        await read_many(KEYS)
    return process_time() - began


async def from_tasks(read: AsyncRead, calls: int) -> float:
    async def work(key: str) -> None:
        for _ in range(each):
            await read(key)

    each = -(-calls // TASKS)
    began = perf_counter()
    await asyncio.gather(*map(work, KEYS[:TASKS]))
    return (perf_counter() - began) * calls / (each * TASKS)


def from_threads(read: Read, calls: int) -> float:
    each = -(-calls // THREADS)
    ready = Barrier(THREADS + 1)

    def work(key: str) -> None:
        ready.wait()
        for _ in range(each):
            read(key)

    threads = [Thread(target=work, args=(key,)) for key in KEYS[:THREADS]]
    for thread in threads:
        thread.start()
    ready.wait()
    began = perf_counter()
    for thread in threads:
        thread.join()
    return (perf_counter() - began) * calls / (each * THREADS)


def questions(url: str, runner: asyncio.Runner) -> dict[str, tuple[float, dict[str, Sample]]]:
    """Return each question with its goal and its two subjects."""
    run = runner.run
    store = Redis(url).namespace("bench")
    plain, aplain = plain_client(url), plain_async_client(url)
    store.write_many([Item(key, PAYLOAD, 600.0) for key in KEYS])
    plain.mset(dict.fromkeys(KEYS, PAYLOAD))

    def pair(measure: Callable[..., Any], ours: Any, theirs: Any) -> dict[str, Sample]:
        if asyncio.iscoroutinefunction(measure):
            return {
                OURS: lambda calls: run(measure(ours, calls)),
                PLAIN: lambda calls: run(measure(theirs, calls)),
            }
        return {OURS: partial(measure, ours), PLAIN: partial(measure, theirs)}

    return {
        "lone read, CPU": (1.05, pair(one_by_one, store.read, plain.get)),
        "lone aread, CPU": (1.05, pair(one_by_one_async, store.aread, aplain.get)),
        "read_many of 100, CPU": (1.05, pair(batches, store.read_many, plain.mget)),
        "aread_many of 100, CPU": (1.05, pair(batches_async, store.aread_many, aplain.mget)),
        "100 tasks, wall": (0.13, pair(from_tasks, store.aread, aplain.get)),
        "16 threads, wall": (0.35, pair(from_threads, store.read, plain.get)),
    }


def describe(name: str, goal: float, measured: dict[str, Measured]) -> str:
    ours, plain = measured[OURS], measured[PLAIN]
    verdict = "met" if ours.ratio <= goal else "MISSED"
    return (
        f"{name:<24}{ours.value:>9.1f} us{plain.value:>9.1f} us"
        f"{ours.ratio:>8.3f}x  goal {goal:.2f}  {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", help="questions that contain this text")
    options = parser.parse_args()
    print(f"redis-py {redis.__version__}, hiredis: {'yes' if HIREDIS_AVAILABLE else 'no'}")
    print(f"{'':<24}{'store':>12}{'redis-py':>12}")
    with RedisServer() as server, asyncio.Runner() as runner:
        for name, (goal, pair) in questions(server.url, runner).items():
            if not options.only or options.only in name:
                measured = interleave(
                    pair,
                    baseline=PLAIN,
                    rounds=options.rounds,
                    sample_seconds=0.05,
                    scale=1e6,
                )
                print(describe(name, goal, measured), flush=True)


if __name__ == "__main__":
    main()
