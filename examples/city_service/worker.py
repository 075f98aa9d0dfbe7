"""One worker process: serves its clients for a while, without the cache or with it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from examples.city_service.bulletin import Bulletin, Columns, Place
from examples.city_service.clients import AsyncService, Service, aask, ask
from examples.city_service.database import City, CityDatabase, cities
from examples.city_service.service import (
    AsyncCityService,
    AsyncUncachedService,
    CityService,
    UncachedService,
)
from examples.city_service.tally import Tally
from examples.city_service.traffic import Traffic
from tiercache import LRU, Cache, Redis, SQLite, Stats

WORKERS = 4
THREADS = 4  # clients of a threaded worker
TASKS = 8  # clients of an asyncio worker
DATABASE_THREADS = 4  # of an asyncio worker
TTL = 60.0  # seconds: nothing expires while the demo runs
BLIND_TTL = 1.0  # seconds: how late another process may hear of an update, whatever happens
_REPORT_EACH = 0.2  # seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker has to know."""

    number: int
    database: Path
    l2: Path
    redis: str | None
    seed: int

    @property
    def is_async(self) -> bool:
        """Whether this one serves from asyncio."""
        return self.number % 2 == 1

    def cache(self) -> Cache:
        """Return the cache that all workers share by its name and its L2."""
        l2 = Redis(self.redis) if self.redis else SQLite(self.l2)
        return Cache("city-demo", l1=LRU(10_000), l2=l2, ttl=TTL, blind_ttl=BLIND_TTL)


@dataclass(frozen=True, slots=True)
class Phase:
    """A while of serving."""

    seconds: float
    is_cached: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a phase in one worker."""

    tally: Tally
    seconds: float
    queries: int
    pages: Counter[Place]  # how often each was made by the database
    stats: Stats | None


def main(plan: Plan, columns: Columns, pipe: Connection) -> None:
    """Serve each phase that comes through the pipe; send reads so far, at the end the outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends, and we with it
    known = cities(plan.database)
    bulletin = Bulletin(known, columns, plan.number)
    while (phase := pipe.recv()) is not None:
        pipe.send(_serve(plan, phase, known, bulletin, pipe))


def _serve(
    plan: Plan, phase: Phase, known: Sequence[City], bulletin: Bulletin, pipe: Connection
) -> Outcome:
    database = CityDatabase(plan.database)
    cache = plan.cache() if phase.is_cached else None
    clients = TASKS if plan.is_async else THREADS
    streams = [Traffic(known, plan.seed * 1000 + number) for number in range(clients)]
    crowd = Crowd(streams, [Tally() for _ in streams], bulletin, phase.seconds)
    with _reporting(crowd, pipe):
        if plan.is_async:
            asyncio.run(_serve_tasks(database, cache, crowd))
        else:
            _serve_threads(database, cache, crowd)
    seconds = time.perf_counter() - crowd.began
    stats = None if cache is None else cache.stats()
    if cache is not None:
        cache.close()
    database.close()
    return Outcome(crowd.total(), seconds, database.queries, database.pages, stats)


@dataclass(slots=True)
class Crowd:
    """All clients of a worker in one phase."""

    streams: Sequence[Traffic]
    tallies: Sequence[Tally]
    bulletin: Bulletin
    seconds: float
    began: float = field(default_factory=time.perf_counter)

    def is_over(self) -> bool:
        """Whether the clients should go home."""
        return time.perf_counter() - self.began > self.seconds

    def total(self) -> Tally:
        """Return what all of them saw."""
        total = Tally()
        for tally in self.tallies:
            total.add(tally)
        return total


def _serve_threads(database: CityDatabase, cache: Cache | None, crowd: Crowd) -> None:
    if cache is None:
        service: Service = UncachedService(database)
    else:
        service = CityService(database, cache)
    with ThreadPoolExecutor(len(crowd.streams)) as threads:
        running = [
            threads.submit(ask, service, stream, crowd.is_over, crowd.bulletin, tally)
            for stream, tally in zip(crowd.streams, crowd.tallies, strict=True)
        ]
        for each in running:
            each.result()


async def _serve_tasks(database: CityDatabase, cache: Cache | None, crowd: Crowd) -> None:
    with ThreadPoolExecutor(DATABASE_THREADS) as threads:
        if cache is None:
            service: AsyncService = AsyncUncachedService(database, threads)
        else:
            service = AsyncCityService(database, cache, threads)
        async with asyncio.TaskGroup() as tasks:
            for stream, tally in zip(crowd.streams, crowd.tallies, strict=True):
                tasks.create_task(aask(service, stream, crowd.is_over, crowd.bulletin, tally))
    if cache is not None:
        await cache.aclose()


@contextmanager
def _reporting(crowd: Crowd, pipe: Connection) -> Iterator[None]:
    """Tell how many reads there were so far, several times a second, from a thread."""
    is_done = threading.Event()

    def report() -> None:
        while not is_done.wait(_REPORT_EACH):
            pipe.send(sum(tally.reads for tally in crowd.tallies))

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
