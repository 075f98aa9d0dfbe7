"""What writing behind costs: a put, the worker, and what merging saves.

- **put** against a plain pipeline of XADD and SET, by redis-py, of the same value as msgpack. A put
  also numbers the operation, merges it, keeps it for readers, tells peers, and fills L1.
- **worker** against a loop written by hand that reads a stream by XREADGROUP, decodes, calls the
  same writer, and does XACK and XDEL: keys per second. The writer fills a SQLite table; and one
  that does nothing shows the worker alone.
- **merging**: how often the writer is called, and for how many operations, for 100,000 puts on 100
  hot keys.

Starts a server of its own. Run as ``python -m benchmarks.write_behind``.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgpack
import redis

from benchmarks.measure import Finding, circumstances, interleave
from benchmarks.report import print_findings, publish_findings
from tests.servers import RedisServer
from tiercache import Cache, Redis

VALUE = {"id": 1, "name": "someone", "email": "someone@example.org", "roles": ["a", "b"]}
BATCH = 100
COUNT = 20_000  # keys for the worker
PUTS = 100_000
HOT_KEYS = 100
NO_BOUND = 10**9
UPSERT = (
    "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = excluded.name,"
    " version = excluded.version WHERE excluded.version > users.version"
)


def measure_put(server: RedisServer) -> Finding:
    """Compare a put with a pipeline."""
    client = redis.Redis(port=server.port)

    def plain(calls: int) -> float:
        began = time.perf_counter()
        for number in range(calls):
            key, data = f"user:{number % 1000}", msgpack.packb(VALUE)
            pipeline = client.pipeline(transaction=False)
            pipeline.xadd("plain", {"key": key, "value": data}, maxlen=10_000, approximate=True)
            pipeline.set(key, data, ex=300)
            pipeline.execute()
        return time.perf_counter() - began

    with Cache("puts", l2=Redis(server.url)) as cache:
        behind = cache.write_behind(_nothing, key="user:{}", workers=0, max_pending=NO_BOUND)

        def put(calls: int) -> float:
            began = time.perf_counter()
            for number in range(calls):
                behind.put(number % 1000, VALUE)
            return time.perf_counter() - began

        subjects = {"pipeline": plain, "put": put}
        found = interleave(subjects, baseline="pipeline", sample_seconds=0.05, scale=1e6)
    client.close()
    return Finding(
        about="put",
        what=f"put ({found['put'].value:.0f} µs) / XADD + SET ({found['pipeline'].value:.0f} µs)",
        value=found["put"].ratio,
        unit="x",
        goal=1.3,
    )


def measure_aput(server: RedisServer) -> Finding:
    """Compare an awaited put with a pipeline of redis.asyncio."""

    async def compare() -> tuple[float, float, float]:
        import redis.asyncio

        client = redis.asyncio.Redis(port=server.port)
        async with Cache("aputs", l2=Redis(server.url)) as cache:
            behind = cache.write_behind(_nothing, key="user:{}", workers=0, max_pending=NO_BOUND)

            async def plain(number: int) -> None:
                key, data = f"user:{number % 1000}", msgpack.packb(VALUE)
                pipeline = client.pipeline(transaction=False)
                pipeline.xadd("plain", {"key": key, "value": data}, maxlen=10_000)
                pipeline.set(key, data, ex=300)
                await pipeline.execute()

            async def timed(do: Callable[[int], Any]) -> float:
                began = time.perf_counter()
                for number in range(300):
                    await do(number)
                return (time.perf_counter() - began) / 300 * 1e6

            async def put(number: int) -> None:
                await behind.aput(number % 1000, VALUE)

            pairs = [(await timed(plain), await timed(put)) for _ in range(16)][1:]
        await client.aclose()
        ratio = median(own / other for other, own in pairs)
        return ratio, median(own for _, own in pairs), median(other for other, _ in pairs)

    ratio, own, other = asyncio.run(compare())
    return Finding(
        about="put",
        what=f"aput ({own:.0f} µs) / XADD + SET by redis.asyncio ({other:.0f} µs)",
        value=ratio,
        unit="x",
        goal=1.3,
    )


def measure_worker(
    server: RedisServer, count: int, make_writer: Callable[[], Callable[..., None]], what: str
) -> Finding:
    """Compare the throughput of a worker with that of a loop."""
    ratios = [
        _by_hand(server, count, make_writer()) / _by_worker(server, count, make_writer())
        for _ in range(5)
    ]
    share = 1 / median(ratios)  # at most, so that a goal can be one
    return Finding(
        about="worker",
        what=f"time of the worker / of the loop, {what}",
        value=share,
        unit="x",
        goal=2.0,
    )


def _by_worker(server: RedisServer, count: int, writer: Callable[..., None]) -> float:
    server.command("FLUSHALL")
    with Cache("work", l2=Redis(server.url, timeout=10)) as cache:
        putter = cache.write_behind(writer, key="user:{}", workers=0, max_pending=NO_BOUND)
        for number in range(count):
            putter.put(number, VALUE)
    with Cache("work", l2=Redis(server.url, timeout=10)) as cache:
        behind = cache.write_behind(writer, key="user:{}", max_batch=BATCH, max_pending=NO_BOUND)
        began = time.perf_counter()
        behind.flush("10m")
        return time.perf_counter() - began


def _by_hand(server: RedisServer, count: int, writer: Callable[..., None]) -> float:
    server.command("FLUSHALL")
    client = redis.Redis(port=server.port)
    client.xgroup_create("stream", "group", "0", mkstream=True)
    for start in range(0, count, 1000):
        pipeline = client.pipeline(transaction=False)
        for number in range(start, min(start + 1000, count)):
            pipeline.xadd("stream", {"id": number, "value": msgpack.packb(VALUE)})
        pipeline.execute()
    began = time.perf_counter()
    while found := client.xreadgroup("group", "me", {"stream": ">"}, count=BATCH):
        messages = found[0][1]
        writer([_Plain(fields) for _, fields in messages])
        ids = [number for number, _ in messages]
        pipeline = client.pipeline(transaction=False)
        pipeline.xack("stream", "group", *ids)
        pipeline.xdel("stream", *ids)
        pipeline.execute()
    seconds = time.perf_counter() - began
    client.close()
    return seconds


class _Plain:
    """What the loop hands over: the attributes that the writer needs."""

    __slots__ = ("item", "value", "version")

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.item = int(fields[b"id"])
        self.value = msgpack.unpackb(fields[b"value"])
        self.version = 1


def _nothing(operations: Sequence[Any]) -> None:
    pass


def _table_writer(directory: str) -> Callable[[], Callable[..., None]]:
    """Return what makes writers into a table that is empty at first."""

    def make() -> Callable[..., None]:
        path = Path(directory, "table.db")
        path.unlink(missing_ok=True)
        db = sqlite3.connect(path, check_same_thread=False)
        db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, version INTEGER)")

        def write(operations: Sequence[Any]) -> None:
            with db:
                db.executemany(
                    UPSERT, [(each.item, each.value["name"], each.version) for each in operations]
                )

        return write

    return make


def measure_merging(server: RedisServer, delay: str, puts: int) -> list[Finding]:
    """Count what the writer is called for."""
    batches: list[int] = []
    with Cache("hot", l2=Redis(server.url)) as cache:
        behind = cache.write_behind(
            lambda operations: batches.append(len(operations)),
            key="user:{}",
            max_batch=BATCH,
            max_delay=delay,
        )
        began = time.perf_counter()
        for number in range(puts):
            behind.put(number % HOT_KEYS, number)
        seconds = time.perf_counter() - began
        behind.flush("1m")
    about = f"merging: {puts:,} puts on {HOT_KEYS} keys, max_delay={delay}, in {seconds:.0f} s"
    return [
        Finding(
            about=about,
            what="calls of the writer / puts",
            value=len(batches) / puts * 100,
            unit="%",
            goal=2.0,
        ),
        Finding(
            about=about,
            what="calls of the writer / calls without merging",
            value=len(batches) / (puts / BATCH) * 100,
            unit="%",
        ),
        Finding(
            about=about,
            what="operations handed over / puts",
            value=sum(batches) / puts * 100,
            unit="%",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the keys and puts")
    parser.add_argument("--write", action="store_true", help="keep the result")
    args = parser.parse_args()
    count, puts = (COUNT // 5, PUTS // 5) if args.quick else (COUNT, PUTS)
    with RedisServer() as server, tempfile.TemporaryDirectory() as directory:
        findings = [
            measure_put(server),
            measure_aput(server),
            measure_worker(server, count, _table_writer(directory), "into a SQLite table"),
            measure_worker(server, count, lambda: _nothing, "with an empty writer"),
            *measure_merging(server, "100ms", puts),
            *measure_merging(server, "500ms", puts),
        ]
    made = circumstances({}, {})
    if args.write:
        publish_findings("write_behind", made, findings)
    else:
        print_findings(f"write_behind on {made['python']}, {made['cpu']}", findings)


if __name__ == "__main__":
    main()
