"""One worker process: does the jobs that come through its pipe, and says what came of each.

A job is a small object of an act (acts/) with a method ``run(worker)``. What it counts on its way
in the database, the cache, the guard and the spans is sent along with its result.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from examples.city_service.bulletin import Bulletin
from examples.city_service.caching import Caching, Tier
from examples.city_service.clients import Client, Tasks, Threads
from examples.city_service.database import AsyncCityDatabase, CityDatabase, cities
from examples.city_service.service import CityService, register_warmers
from examples.city_service.shared import Shared
from examples.city_service.spans import Spans
from examples.city_service.tally import Tally
from examples.city_service.traffic import Request
from examples.city_service.watch import Watch

WORKERS = 4
DATABASE_THREADS = 4  # of an asyncio worker
_COUNTED = (
    *("hits_l1", "hits_l2", "misses", "loads", "load_errors", "joined", "absent"),
    *("stale_served", "refresh_errors", "store_errors", "plugin_errors"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a worker has to know."""

    number: int
    database: Path
    tier: Tier

    @property
    def is_async(self) -> bool:
        """Whether this one serves from asyncio."""
        return self.number % 2 == 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job in one worker."""

    value: Any
    counts: Counter[str]  # what was counted meanwhile, by name
    pages: Counter[int | str]  # how often each was made by the database
    log: list[str]  # what the cache had to say


class Job(Protocol):
    """Something to do in a worker."""

    def run(self, worker: Worker) -> Any:
        """Do it; return what the act wants to know."""


class Log(logging.Handler):
    """Keeps what the cache logs, to be printed by the parent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Worker:
    """What a job finds in its process. The cache comes about when it is first asked for."""

    def __init__(self, plan: Plan, shared: Shared) -> None:
        self.plan = plan
        self.spans = Spans()
        self.spans.install()
        self.database = CityDatabase(plan.database, shared.is_down)
        self.known = cities(plan.database)
        self.countries = self.database.countries()
        self.reported = self.database.reported()
        self._numbers = {country: number for number, country in enumerate(self.reported)}
        self._bulletin = Bulletin(self.known, shared.announced, plan.number)
        self._shared = shared
        self.crew: Threads | Tasks = Tasks() if plan.is_async else Threads()
        self._threads = ThreadPoolExecutor(DATABASE_THREADS)
        self._has_cache = False
        self._log = Log()
        logging.getLogger("tiercache").addHandler(self._log)
        logging.getLogger("tiercache_plugins").addHandler(self._log)

    @cached_property
    def asked(self) -> CityDatabase | AsyncCityDatabase:
        """The database, as this worker's kind of callers asks it."""
        if self.plan.is_async:
            return AsyncCityDatabase(self.database, self._threads)
        return self.database

    @cached_property
    def caching(self) -> Caching:
        """The cache and its plugins."""
        caching = Caching(self.plan.tier, self.database.ids)
        self._has_cache = True
        return caching

    @cached_property
    def service(self) -> CityService:
        """The service, cached."""
        service = CityService(self.asked, self.caching.cache)
        register_warmers(service, self.database, self.caching.cache)
        return service

    def serve(self, service: Any, streams: Sequence[Any], seconds: float) -> list[Tally]:
        """Serve a client for each stream of requests; return what each has seen."""
        tallies = [Tally() for _ in streams]
        clients = [self._client(*each) for each in zip(streams, tallies, strict=True)]
        until = time.monotonic() + seconds
        self.crew.serve(service, clients, lambda: time.monotonic() > until)
        return tallies

    def _client(self, requests: Sequence[Request], tally: Tally) -> Client:
        return Client(requests, Watch(self._bulletin, self._weather_now, tally))

    def _weather_now(self, country: str) -> int:
        return int(self._shared.weather[self._numbers[country]])

    def counts(self) -> Counter[str]:
        """Return all that is counted in this process, so far."""
        counts = self.database.counts + self.spans.counts()
        if self._has_cache:
            stats = self.caching.cache.stats()
            counts.update({name: getattr(stats, name) for name in _COUNTED})
            counts["saved"] = self.caching.guard.stats().saved
        return counts

    def do(self, job: Job) -> Outcome:
        """Do a job."""
        counts, pages = self.counts(), self.database.pages.copy()
        value = job.run(self)
        log, self._log.lines = self._log.lines, []
        return Outcome(value, self.counts() - counts, self.database.pages - pages, log)

    def close(self) -> None:
        """Release everything."""
        if self._has_cache:
            cache = self.caching.cache
            self.crew.call(cache.aclose if self.plan.is_async else cache.close)
        self.crew.close()
        self._threads.shutdown()
        self.database.close()


def main(plan: Plan, shared: Shared, pipe: Connection) -> None:
    """Do each job that comes through the pipe; end when None comes, or the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent ends, and we with it
    threading.Thread(target=_die_with_parent, daemon=True).start()
    worker = Worker(plan, shared)
    try:
        while (job := _next(pipe)) is not None:
            pipe.send(worker.do(job))
    finally:
        worker.close()


def _die_with_parent() -> None:
    """Be gone as soon as the parent is, should it be killed in the middle of a job."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _next(pipe: Connection) -> Job | None:
    try:
        job: Job | None = pipe.recv()
    except EOFError:  # the parent is gone
        return None
    return job


def until(happened: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until something has happened; say whether it has."""
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.005)
    return happened()
