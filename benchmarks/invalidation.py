"""How soon another process stops serving what was invalidated, while every core is busy.

One process deletes a key 1,000 times. Two others, one of threads and one of asyncio, do nothing but
read it through ``@cached``, from L1, as fast as they can; and two more spin, so that a message that
arrives must first get a core, and then the interpreter. A delay is from when ``delete`` returned to
when the first read began that was not answered with the old value: an upper bound, since between
that read and the one before the old value may have been gone already.

``floor`` is the least that can be written by hand: a dict, and a thread in an XREAD that takes keys
out of it. So much of the delay is the machine's.

Starts a server of its own. Run as ``python -m benchmarks.invalidation``.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import redis

from benchmarks.measure import Finding, circumstances, percentile
from benchmarks.report import publish_findings
from benchmarks.rivals import rival
from tests.servers import RedisServer
from tiercache import Cache, Redis, SQLite

FLOOR = "floor"
SPINNERS = 2
GOAL_MS = 50.0
OVER = -1  # the version that ends a reader
PAUSE = 0.004  # seconds at most, between the readers' having a value and its end

Versions = Any  # of shared memory: a version per place
Change = tuple[int, float]  # a version, and when the read began that first gave it
Read = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where processes meet: a name of a side, and the address that it needs."""

    side: str  # "redis", "sqlite" or FLOOR
    address: str

    def cache(self) -> Cache:
        l2 = SQLite(self.address) if self.side == "sqlite" else Redis(self.address)
        return Cache("bench", l2=l2, ttl=600)


# --- the processes ----------------------------------------------------------------------------


def read_from_threads(
    place: Place, database: Versions, seen: Versions, number: int, pipe: Connection
) -> None:
    """Read for ever as a thread does; at the end send each version and when it came."""
    if place.side == FLOOR:
        pipe.send(_watch(_floor_reader(place.address, database), seen, number))
        return
    with place.cache() as cache:

        @cache.cached("version")
        def version() -> int:
            return int(database[0])

        pipe.send(_watch(version, seen, number))


def read_from_tasks(
    place: Place, database: Versions, seen: Versions, number: int, pipe: Connection
) -> None:
    """Do the same in an event loop."""
    if place.side == FLOOR:
        read_from_threads(place, database, seen, number, pipe)
    else:
        pipe.send(asyncio.run(_watch_tasks(place, database, seen, number)))


async def _watch_tasks(
    place: Place, database: Versions, seen: Versions, number: int
) -> list[Change]:
    async with place.cache() as cache:

        @cache.cached("version")
        async def version() -> int:
            return int(database[0])

        changes, last = [], 0
        while last != OVER:
            began = monotonic()
            found = await version()
            if found != last:
                changes.append((found, began))
                seen[number] = last = found
        return changes


def _watch(version: Read, seen: Versions, number: int) -> list[Change]:
    changes, last = [], 0
    while last != OVER:
        began = monotonic()
        found = version()
        if found != last:
            changes.append((found, began))
            seen[number] = last = found
    return changes


def _floor_reader(url: str, database: Versions) -> Read:
    values: dict[str, int] = {}
    client: Any = redis.Redis.from_url(url)

    def listen() -> None:
        position: Any = "0"
        while True:
            ((_, messages),) = client.xread({"floor": position}, block=0)
            values.clear()
            position = messages[-1][0]

    threading.Thread(target=listen, daemon=True).start()

    def version() -> int:
        value = values.get("version")
        if value is None:
            value = values["version"] = int(database[0])
        return value

    return version


def spin() -> None:
    """Use a core until killed."""
    while True:
        pass


# --- the run ----------------------------------------------------------------------------------


def delays(place: Place, count: int) -> list[float]:
    """Return the delays, in seconds, of that many invalidations in two processes each."""
    database, seen = RawArray("q", [1]), RawArray("q", 2)
    with _processes(place, database, seen) as pipes, _deleter(place) as delete:
        deleted: dict[int, float] = {}
        for version in range(2, count + 2):
            _await(seen, version - 1)
            time.sleep(random.uniform(0, PAUSE))
            database[0] = version
            delete()
            deleted[version] = monotonic()
        _await(seen, count + 1)
        database[0] = OVER
        delete()
        changes = [change for pipe in pipes for change in pipe.recv()]
    return [max(0.0, began - deleted[version]) for version, began in changes if version in deleted]


@contextmanager
def _deleter(place: Place) -> Iterator[Callable[[], object]]:
    if place.side == FLOOR:
        with redis.Redis.from_url(place.address) as client:
            yield lambda: client.xadd("floor", {"": ""}, maxlen=1000)
    else:
        with place.cache() as cache:
            yield lambda: cache.delete("version")


def _await(seen: Versions, version: int) -> None:
    """Wait until all readers have a version."""
    deadline = monotonic() + 30
    while any(each != version for each in seen):
        if monotonic() > deadline:
            message = f"version {version} was not seen everywhere within 30 s: {list(seen)}"
            raise AssertionError(message)
        time.sleep(0.0005)


@contextmanager
def _processes(place: Place, database: Versions, seen: Versions) -> Iterator[Sequence[Connection]]:
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe(duplex=False) for _ in seen]
    processes = [
        spawn.Process(target=read, args=(place, database, seen, number, pipe), daemon=True)
        for number, (read, (_, pipe)) in enumerate(
            zip((read_from_threads, read_from_tasks), pipes, strict=True)
        )
    ]
    processes += [spawn.Process(target=spin, daemon=True) for _ in range(SPINNERS)]
    for process in processes:
        process.start()
    try:
        yield [ours for ours, _ in pipes]
    finally:
        for process in processes:
            process.terminate()
            process.join()


def findings(side: str, seconds: Sequence[float]) -> list[Finding]:
    """Reduce delays to what is reported."""
    about = f"{side}: {len(seconds):,} times until another process's L1 is current"
    goal = None if side == FLOOR else GOAL_MS
    shown: dict[str, tuple[float, float | None]] = {
        "p50": (median(seconds), None),
        "p99": (percentile(seconds, 0.99), goal),
        "longest": (max(seconds), None),
    }
    return [
        Finding(about=about, what=what, value=value * 1e3, unit="ms", goal=limit)
        for what, (value, limit) in shown.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="invalidations (default 1000)")
    parser.add_argument("--only", choices=["redis", "sqlite", FLOOR], action="append")
    options = parser.parse_args()
    found: list[Finding] = []
    with RedisServer() as server, tempfile.TemporaryDirectory() as directory:
        for place in (
            Place(FLOOR, server.url),
            Place("redis", server.url),
            Place("sqlite", str(Path(directory, "l2.sqlite"))),
        ):
            if not options.only or place.side in options.only:
                print(f"measuring {place.side} ...", flush=True)
                found += findings(place.side, delays(place, options.count))
    made = circumstances({"tiercache": rival("tiercache")}, {})
    publish_findings("invalidation", made, found)


if __name__ == "__main__":
    main()
