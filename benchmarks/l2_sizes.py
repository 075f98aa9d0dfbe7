"""L2 hits of small and large values: 100 B, 10 KB, 1 MB; one at a time, and from 16 tasks at once.

Beside redis-py's GET and msgpack, as in ``l2``. One at a time the client's processor time counts,
from tasks the time on the wall. A merged read of large values is one large answer, which nobody
gets before it has arrived whole: here one sees what merging costs where it cannot help.

Starts a server of its own. Run as ``python -m benchmarks.l2_sizes``.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from time import perf_counter, process_time
from typing import Any

import msgpack
import redis
import redis.asyncio

from benchmarks.measure import Row, Sample, circumstances, interleave
from benchmarks.report import OURS, publish
from benchmarks.rivals import rival
from tests.servers import RedisServer
from tiercache import Cache, Redis

PLAIN = "redis-py"
SIZES = {"100 B": 100, "10 KB": 10_000, "1 MB": 1_000_000}
KEYS = range(16)  # and as many tasks

Get = Callable[[int], Any]
AsyncGet = Callable[[int], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Sides:
    """Both sides, holding values of one size: ours and the one by hand."""

    blocking: Mapping[str, Get]
    awaited: Mapping[str, AsyncGet]


def sides(url: str, size: int, stack: ExitStack, runner: asyncio.Runner) -> Sides:
    """Store the values and make sure that all four ways read them."""
    value = {"id": 4711, "body": "x" * size}
    cache = stack.enter_context(Cache(f"size-{size}", l1=None, l2=Redis(url)))
    client = stack.enter_context(redis.Redis.from_url(url))
    aclient = redis.asyncio.Redis.from_url(url, max_connections=len(KEYS))
    stack.callback(lambda: runner.run(aclient.aclose()))
    client.mset({f"plain:{size}:{key}": msgpack.packb(value) for key in KEYS})

    @cache.cached("blocking:{key}")
    def ours(key: int) -> dict[str, Any]:
        return value

    @cache.cached("awaited:{key}")
    async def aours(key: int) -> dict[str, Any]:
        return value

    def plain(key: int) -> Any:
        return msgpack.unpackb(client.get(f"plain:{size}:{key}"))

    async def aplain(key: int) -> Any:
        return msgpack.unpackb(await aclient.get(f"plain:{size}:{key}"))

    made = Sides({OURS: ours, PLAIN: plain}, {OURS: aours, PLAIN: aplain})
    for key in [*KEYS, *KEYS]:
        assert all(get(key) == value for get in made.blocking.values())
        assert all(runner.run(_value(get, key)) == value for get in made.awaited.values())
    before = cache.stats().loads
    assert ours(0) == value and runner.run(_value(aours, 0)) == value  # noqa: PT018
    assert cache.stats().loads == before, f"values of {size} bytes are not kept in L2"
    return made


async def _value(get: AsyncGet, key: int) -> Any:
    return await get(key)


def one_at_a_time(get: Get, calls: int) -> float:
    began = process_time()
    for key in islice(cycle(KEYS), calls):
        get(key)
    return process_time() - began


async def from_tasks(get: AsyncGet, calls: int) -> float:
    async def work(key: int) -> None:
        for _ in range(each):
            await get(key)

    each = -(-calls // len(KEYS))
    began = perf_counter()
    await asyncio.gather(*map(work, KEYS))
    return (perf_counter() - began) * calls / (each * len(KEYS))


def rows(name: str, made: Sides, runner: asyncio.Runner, rounds: int) -> Iterator[Row]:
    lone: dict[str, Sample] = {
        side: partial(one_at_a_time, made.blocking[side]) for side in made.blocking
    }
    yield _row(
        f"lone_{name}", f"{name}, one at a time", "us of client CPU per call", 1.15, lone, rounds
    )
    together: dict[str, Sample] = {
        side: lambda calls, get=get: runner.run(from_tasks(get, calls))  # type: ignore[misc]
        for side, get in made.awaited.items()
    }
    question = f"{name}, {len(KEYS)} tasks"
    yield _row(f"tasks_{name}", question, "us on the wall per call", None, together, rounds)


def _row(
    name: str,
    question: str,
    unit: str,
    goal: float | None,
    pair: Mapping[str, Sample],
    rounds: int,
) -> Row:
    measured = interleave(pair, baseline=PLAIN, rounds=rounds, sample_seconds=0.05, scale=1e6)
    return Row(
        name=name.replace(" ", "_"),
        question=f"L2 hit, {question}",
        unit=unit,
        baseline=PLAIN,
        goal=goal,
        subjects=measured,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 7 if parser.parse_args().quick else 21
    found: list[Row] = []
    with RedisServer() as server, asyncio.Runner() as runner, ExitStack() as stack:
        for name, size in SIZES.items():
            found += rows(name, sides(server.url, size, stack, runner), runner, rounds)
    publish("l2_sizes", circumstances({OURS: rival(OURS)}, {}), found)


if __name__ == "__main__":
    main()
