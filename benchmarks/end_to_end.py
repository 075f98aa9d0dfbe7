"""Whole traces through four workers: requests per second, loads, stale answers.

Each worker is a process that replays its clients' requests in their order, 32 at a time, as fast as
it can. Reads go through ``@cached`` over a table that takes 5 ms; a write (the trace's set or
delete) changes the table and invalidates. Beside it: the same workers with Redis by hand (GET, else
load and SET; DEL after a write), and each with an L1 of its own and no L2, which hears of no other
worker's writes. L1 holds 2 % of the trace's keys, as in the index's model; L2 is as large as it
needs to be, and no entry lives to its TTL, since a day is replayed in seconds.

An answer is stale if it is older than what was committed, invalidation included, before the call
began. In another process's L1 that may be for the milliseconds that a message takes.

The traces are not part of the project: name a folder with an ``index.json`` whose
``end_to_end_traces`` have ``name``, ``file`` (gzip, csv: ts_ms, client, key, size, op, ttl_s) and
``unique``. Starts a server of its own. Run as ``python -m benchmarks.end_to_end --traces FOLDER``.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import json
import multiprocessing
from collections.abc import Awaitable, Callable, Generator, Iterator
from itertools import islice
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import msgpack
import redis.asyncio

from benchmarks.crew import Crew
from benchmarks.measure import Finding, Row, circumstances, percentile, summarise
from benchmarks.report import OURS, print_findings, publish
from benchmarks.rivals import rival
from tests.servers import RedisServer
from tiercache import LRU, Cache, Redis

WORKERS, CALLERS = 4, 32
LOAD_SECONDS = 0.005
BY_HAND, ALONE = "redis-py by hand", "L1 alone"
SIDES = (OURS, BY_HAND, ALONE)
READS = {"get", "get_missing"}
QUICK_REQUESTS = 30_000
SAMPLED = 20  # every so manieth read's latency is kept

Request = tuple[int, int, bool]  # key, size of the value, is a read
Value = list[Any]  # its version, and a text of its size


class Table(NamedTuple):
    """The database all workers share: the version of each key, and what is known everywhere."""

    versions: Any  # guarded by lock
    committed: Any  # written once the invalidation has returned
    lock: Any


class Way(NamedTuple):
    """How one side reads and writes."""

    read: Callable[[int, int], Awaitable[Value]]
    written: Callable[[int, int], Awaitable[Any]]
    hits_l1: Callable[[], int]
    close: Callable[[], Awaitable[Any]]


class Seen(NamedTuple):
    """What one worker saw of a round; times are CLOCK_MONOTONIC, latencies seconds."""

    began: float
    ended: float
    reads: int
    loads: int
    stale: int
    hits_l1: int
    latencies: list[float]


def requests_of(path: Path, worker: int, limit: int | None) -> list[Request]:
    """Return a worker's part: by client, or in turn if the trace has one client only."""
    with gzip.open(path, "rt") as file:
        rows = list(islice(csv.DictReader(file), limit))
    in_turn = len({row["client"] for row in rows}) < WORKERS
    return [
        (int(row["key"]), int(row["size"]), row["op"] in READS)
        for number, row in enumerate(rows)
        if (number if in_turn else int(row["client"])) % WORKERS == worker
    ]


class Worker:
    """One process's part of a round."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._reads = self._loads = self._stale = 0
        self._latencies: list[float] = []

    async def load(self, key: int, size: int) -> Value:
        self._loads += 1
        version = self._table.versions[key]
        await asyncio.sleep(LOAD_SECONDS)
        return [version, "x" * size]

    async def act(self, way: Way, requests: list[Request]) -> Seen:
        began, waiting = monotonic(), iter(requests)
        await asyncio.gather(*(self._call(way, waiting) for _ in range(CALLERS)))
        seen = Seen(
            began,
            monotonic(),
            self._reads,
            self._loads,
            self._stale,
            way.hits_l1(),
            self._latencies[::SAMPLED],
        )
        await way.close()
        return seen

    async def _call(self, way: Way, waiting: Iterator[Request]) -> None:
        for key, size, is_read in waiting:
            if is_read:
                await self._read(way, key, size)
            else:
                await self._write(way, key, size)

    async def _read(self, way: Way, key: int, size: int) -> None:
        known = self._table.committed[key]
        began = perf_counter()
        version, _ = await way.read(key, size)
        self._latencies.append(perf_counter() - began)
        self._reads += 1
        self._stale += version < known

    async def _write(self, way: Way, key: int, size: int) -> None:
        with self._table.lock:
            self._table.versions[key] = version = self._table.versions[key] + 1
        await way.written(key, size)
        with self._table.lock:
            self._table.committed[key] = max(version, self._table.committed[key])


def way_for(side: str, worker: Worker, name: str, maxsize: int, url: str) -> Way:
    if side == BY_HAND:
        return way_by_hand(worker, name, url)
    return cached_way(worker, name, maxsize, url if side == OURS else None)


def cached_way(worker: Worker, name: str, maxsize: int, url: str | None) -> Way:
    """Go through ``@cached``, with an L2 if there is a URL."""
    cache = Cache(name, l1=LRU(maxsize), l2=Redis(url) if url else None, ttl=3600)

    @cache.cached("row:{key}")
    async def read(key: int, size: int) -> Value:
        return await worker.load(key, size)

    return Way(read, read.invalidate, lambda: cache.stats().hits_l1, cache.aclose)


def way_by_hand(worker: Worker, name: str, url: str) -> Way:
    """Read Redis each time, load and set where it has nothing, delete after a write."""
    client = redis.asyncio.Redis.from_url(url, max_connections=CALLERS)

    async def read(key: int, size: int) -> Value:
        if (raw := await client.get(f"{name}:{key}")) is not None:
            value: Value = msgpack.unpackb(raw)
            return value
        value = await worker.load(key, size)
        await client.set(f"{name}:{key}", msgpack.packb(value), ex=3600)
        return value

    return Way(read, lambda key, _: client.delete(f"{name}:{key}"), int, client.aclose)


def role(
    side: str,
    url: str,
    path: Path,
    number: int,
    limit: int | None,
    maxsize: int,
    table: Table,
) -> Generator[Any, Any, None]:
    """Be one worker."""
    requests = requests_of(path, number, limit)
    with asyncio.Runner() as runner:
        while True:
            name = f"{side}-{yield}".replace(" ", "-")
            worker = Worker(table)
            way = way_for(side, worker, name, maxsize, url)
            key = len(table.versions) - 1 - number  # of its own
            runner.run(_first(way, key))
            instant = yield
            yield runner.run(_at(instant, worker, way, requests))


async def _first(way: Way, key: int) -> None:
    """Connect, and try what there is to try."""
    await way.read(key, 1)


async def _at(instant: float, worker: Worker, way: Way, requests: list[Request]) -> Seen:
    await asyncio.sleep(instant - monotonic())
    return await worker.act(way, requests)


def replay(
    server: RedisServer, path: Path, described: dict[str, Any], limit: int | None, rounds: int
) -> dict[str, list[list[Seen]]]:
    """Let all sides replay a trace, in turn; return what the workers saw, by side and round."""
    keys = 1 + max(key for number in range(WORKERS) for key, *_ in requests_of(path, number, limit))
    versions, committed = (RawArray("q", keys + WORKERS) for _ in range(2))
    table = Table(versions, committed, multiprocessing.get_context("spawn").Lock())
    maxsize = max(1, described["unique"] // 50)
    seen: dict[str, list[list[Seen]]] = {}
    for side in SIDES:
        parts = [
            (side, server.url, path, number, limit, maxsize, table) for number in range(WORKERS)
        ]
        with Crew(role, parts) as crew:
            seen[side] = [crew.round(number) for number in range(rounds)]
    return seen


def _wall(round_: list[Seen]) -> float:
    return max(one.ended for one in round_) - min(one.began for one in round_)


def row_for(name: str, count: int, seen: dict[str, list[list[Seen]]]) -> Row:
    walls = {
        side: [_wall(round_) / count * 1e6 for round_ in rounds] for side, rounds in seen.items()
    }
    return Row(
        name=name.replace("-", "_"),
        question=f"{name}: {count:,} requests, {WORKERS} workers",
        unit="us on the wall per request",
        baseline=BY_HAND,
        subjects={side: summarise(times, walls[BY_HAND]) for side, times in walls.items()},
    )


def findings_of(
    name: str, described: dict[str, Any], seen: dict[str, list[list[Seen]]]
) -> list[Finding]:
    found = []
    for side, rounds in seen.items():
        workers = [one for round_ in rounds for one in round_]
        reads = sum(one.reads for one in workers)
        latencies = [each for one in workers for each in one.latencies]
        found += [
            Finding(about=f"{name}, {side}", what=what, value=value, unit=unit)
            for what, value, unit in (
                ("loads", sum(one.loads for one in workers) / reads * 100, "% of reads"),
                ("hits in L1", sum(one.hits_l1 for one in workers) / reads * 100, "% of reads"),
                ("stale answers", sum(one.stale for one in workers) / reads * 100, "% of reads"),
                ("a read, p50", percentile(latencies, 0.5) * 1e6, "us"),
                ("a read, p99", percentile(latencies, 0.99) * 1e3, "ms"),
            )
        ]
    if model := described.get("reference", {}).get("lru_bus0_sfworker"):
        found.append(
            Finding(
                about=f"{name}, the index's model of an exact LRU with TTLs, L2 of 25 %",
                what="hits in L1",
                value=model["l1_hit"] * 100,
                unit="% of reads",
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, help="folder with index.json and the traces")
    parser.add_argument("--trace", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--quick", action="store_true", help="a part of each trace, once")
    options = parser.parse_args()
    if options.traces is None or not (options.traces / "index.json").exists():
        print("skipped: no traces; name the folder that holds their index.json with --traces")
        return
    limit, rounds = (QUICK_REQUESTS, 1) if options.quick else (None, 3)
    index = json.loads((options.traces / "index.json").read_text())["end_to_end_traces"]
    rows: list[Row] = []
    found: list[Finding] = []
    for described in index:
        if not options.trace or described["name"] in options.trace:
            print(f"replaying {described['name']} ...", flush=True)
            with RedisServer() as server:
                path = options.traces / described["file"]
                seen = replay(server, path, described, limit, rounds)
            count = min(described["requests"], limit or described["requests"])
            rows.append(row_for(described["name"], count, seen))
            found += findings_of(described["name"], described, seen)
    made = circumstances({OURS: rival(OURS)}, {}) | {"workers": WORKERS, "callers": CALLERS}
    made["arguments"] = ["--quick"] if options.quick else []  # a folder of this machine stays here
    print_findings("end to end", found)
    publish("end_to_end", made, rows, found)


if __name__ == "__main__":
    main()
