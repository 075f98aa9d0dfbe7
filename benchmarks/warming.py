"""Warming 100,000 keys from SQLite, 32 side by side, beside the loader's own speed.

The loader is called in three ways, each sample with all keys: by hand, as one would without a cache
(``ThreadPoolExecutor(32).map``, the baseline); in bare threads that share one iterator, the least
that Python can do; and by ``cache.warm(concurrency=32)``, which besides makes keys, leads flights,
and keeps what is loaded. For an async loader by hand is a semaphore and a task per key. Each
question has a loader of its own: one row by its key; a few rows of three tables, which is what
services cache; hundreds of keys with one SELECT. The goal, 80 % of the loader's own speed, is a
time of at most 1.25 of the baseline's.

Run as ``python -m benchmarks.warming``; some 3 minutes, ``--quick`` a tenth of that.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import aiosqlite

from benchmarks.measure import Row, circumstances, summarise
from benchmarks.report import OURS, publish
from benchmarks.rivals import rival
from tests.servers import RedisServer
from tiercache import LRU, Cache, Redis, Store

CONCURRENCY = 32
BATCH = 256
GOAL = 1.25  # of the time by hand: 80 % of its speed
BY_HAND, BARE = "by hand", "bare threads"
ASYNC_SHARE = 10  # an async query takes so much longer that a tenth of the keys will do

SCHEMA = """
CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT, mail TEXT);
CREATE TABLE purchase (id INTEGER PRIMARY KEY, user INTEGER, item INTEGER, price REAL);
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);
CREATE INDEX purchase_of ON purchase (user);
"""
ONE = "SELECT id, name, mail FROM user WHERE id = ?"
MANY = "SELECT id, name, mail FROM user WHERE id IN ({})"
PAGE = """
SELECT user.name, item.name, purchase.price FROM user
JOIN purchase ON purchase.user = user.id JOIN item ON item.id = purchase.item
WHERE user.id = ? ORDER BY purchase.price DESC
"""

Sample = Callable[[], float]
"""Load all keys; return the seconds per key."""


class Database:
    """A file of users and what they bought, with a connection for each thread."""

    def __init__(self, path: Path, users: int) -> None:
        self.path = path
        self.users = users
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        chance = random.Random(1)
        with self.open() as db:
            db.executescript(SCHEMA)
            db.executemany(
                "INSERT INTO user VALUES (?, ?, ?)",
                ((i, f"name {i}", f"{i}@example.org") for i in range(users)),
            )
            db.executemany("INSERT INTO item VALUES (?, ?)", ((i, f"item {i}") for i in range(999)))
            db.executemany(
                "INSERT INTO purchase (user, item, price) VALUES (?, ?, ?)",
                (
                    (i, chance.randrange(999), chance.random())
                    for i in range(users)
                    for _ in range(5)
                ),
            )

    def open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, check_same_thread=False)
        self._opened.append(connection)
        return connection

    @property
    def mine(self) -> sqlite3.Connection:
        try:
            return self._local.db  # type: ignore[no-any-return]
        except AttributeError:
            self._local.db = self.open()
            return self._local.db  # type: ignore[no-any-return]

    def forget(self) -> None:
        """Close all connections: the threads that opened them are gone."""
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._local = threading.local()

    # Loaders

    def user(self, i: int) -> dict[str, Any]:
        row = self.mine.execute(ONE, (i,)).fetchone()
        return {"id": row[0], "name": row[1], "mail": row[2]}

    def page(self, i: int) -> dict[str, Any]:
        rows = self.mine.execute(PAGE, (i,)).fetchall()
        return {
            "name": rows[0][0],
            "bought": [{"item": item, "price": price} for _, item, price in rows],
            "spent": sum(price for _, _, price in rows),
        }

    def many(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        found = self.mine.execute(MANY.format(",".join("?" * len(ids))), ids)
        return {row[0]: {"id": row[0], "name": row[1], "mail": row[2]} for row in found}


# --- by hand --------------------------------------------------------------------------------


def executor(database: Database, loader: Callable[[Any], Any], jobs: list[Any]) -> Sample:
    def sample() -> float:
        began = perf_counter()
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            for _ in pool.map(loader, jobs):
                pass
        return _per_key(database, began)

    return sample


def threads(database: Database, loader: Callable[[Any], Any], jobs: list[Any]) -> Sample:
    def sample() -> float:
        taking, todo = threading.Lock(), iter(jobs)

        def work() -> None:
            while True:
                with taking:
                    job = next(todo, None)
                if job is None:
                    return
                loader(job)

        workers = [threading.Thread(target=work) for _ in range(CONCURRENCY)]
        began = perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return _per_key(database, began)

    return sample


def _per_key(database: Database, began: float) -> float:
    seconds = perf_counter() - began
    database.forget()
    return seconds / database.users


# --- by the cache ---------------------------------------------------------------------------


def warmed(
    database: Database,
    loader: Callable[[int], Any],
    batch: Callable[[list[int]], Any] | None = None,
    l2: Callable[[], Store | None] = lambda: None,
) -> Sample:
    def sample() -> float:
        with Cache("bench", l1=LRU(2 * database.users), l2=l2(), ttl=3600) as cache:
            cache.clear()
            function = cache.cached("user:{i}", batch=batch)(lambda i: loader(i))  # noqa: PLW0108 - a new function
            cache.warmer(function)(lambda: range(database.users))
            report = cache.warm(concurrency=CONCURRENCY)
        if report.loaded != database.users:
            raise RuntimeError(f"not all was loaded: {report}")
        database.forget()
        return report.seconds / database.users

    return sample


# --- asyncio --------------------------------------------------------------------------------


class Connections:
    """As many connections of aiosqlite as loads run side by side."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Connections:
        opened = [await aiosqlite.connect(self._path) for _ in range(CONCURRENCY)]
        self._all = opened
        self._free = list(opened)
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._all:
            await connection.close()

    async def user(self, i: int) -> dict[str, Any]:
        connection = self._free.pop()
        try:
            async with connection.execute(ONE, (i,)) as cursor:
                row = await cursor.fetchone()
        finally:
            self._free.append(connection)
        assert row is not None
        return {"id": row[0], "name": row[1], "mail": row[2]}


def async_by_hand(path: Path, count: int) -> Sample:
    async def main() -> float:
        async with Connections(path) as connections:
            slots = asyncio.Semaphore(CONCURRENCY)

            async def load(i: int) -> None:
                async with slots:
                    await connections.user(i)

            began = perf_counter()
            await asyncio.gather(*map(load, range(count)))
            return (perf_counter() - began) / count

    return lambda: asyncio.run(main())


def async_warmed(path: Path, count: int) -> Sample:
    async def main() -> float:
        cache = Cache("bench", l1=LRU(2 * count), ttl=3600)
        async with Connections(path) as connections, cache:

            @cache.cached("user:{i}")
            async def user(i: int) -> dict[str, Any]:
                return await connections.user(i)

            cache.warmer(user)(lambda: range(count))
            report = await cache.awarm(concurrency=CONCURRENCY)
        return report.seconds / count

    return lambda: asyncio.run(main())


# --- the questions --------------------------------------------------------------------------


def one(database: Database, rounds: int) -> Row:
    jobs: list[Any] = list(range(database.users))
    return _row(
        "one row",
        "one row by its key: the quickest load there is",
        rounds,
        {
            BY_HAND: executor(database, database.user, jobs),
            BARE: threads(database, database.user, jobs),
            OURS: warmed(database, database.user),
        },
    )


def page(database: Database, rounds: int) -> Row:
    jobs: list[Any] = list(range(database.users))
    return _row(
        "three tables",
        "a user with what he bought: a join of three tables, five rows, sorted",
        rounds,
        {
            BY_HAND: executor(database, database.page, jobs),
            BARE: threads(database, database.page, jobs),
            OURS: warmed(database, database.page),
        },
    )


def batch(database: Database, rounds: int) -> Row:
    ids = iter(range(database.users))
    jobs: list[Any] = [list(some) for some in iter(lambda: [*itertools.islice(ids, BATCH)], [])]
    return _row(
        "batch",
        f"{BATCH} rows with one SELECT, over batch=: what is left is making and keeping entries",
        rounds,
        {
            BY_HAND: executor(database, database.many, jobs),
            BARE: threads(database, database.many, jobs),
            OURS: warmed(database, database.user, database.many),
        },
        goal=None,
    )


def redis(database: Database, rounds: int) -> Row:
    jobs: list[Any] = list(range(database.users))
    with RedisServer() as server:

        def l2() -> Store:
            return Redis(server.url, timeout=5)

        return _row(
            "three tables, into Redis",
            "the same join, filled into L2 as well: leases and fills of many keys in a round trip",
            rounds,
            {
                BY_HAND: executor(database, database.page, jobs),
                OURS: warmed(database, database.page, l2=l2),
            },
            goal=None,
        )


def awaited(database: Database, rounds: int) -> Row:
    count = database.users // ASYNC_SHARE
    return _row(
        "asyncio",
        "one row by its key over aiosqlite",
        rounds,
        {
            BY_HAND: async_by_hand(database.path, count),
            OURS: async_warmed(database.path, count),
        },
    )


def _row(
    name: str,
    question: str,
    rounds: int,
    subjects: Mapping[str, Sample],
    goal: float | None = GOAL,
) -> Row:
    """Time all subjects, one sample of each in every round, in a new order."""
    times: dict[str, list[float]] = {subject: [] for subject in subjects}
    order = list(subjects)
    for _ in range(rounds):
        random.shuffle(order)
        for subject in order:
            times[subject].append(subjects[subject]())
    measured = {subject: summarise(times[subject], times[BY_HAND], 1e6) for subject in subjects}
    return Row(
        name=name,
        question=question,
        unit="us per key",
        baseline=BY_HAND,
        goal=goal,
        subjects=measured,
    )


QUESTIONS = (one, page, batch, redis, awaited)


@contextmanager
def database_of(users: int) -> Iterator[Database]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "users.db", users)
        yield database
        database.forget()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10,000 keys, three rounds")
    parser.add_argument("--only", choices=[ask.__name__ for ask in QUESTIONS], action="append")
    options = parser.parse_args()
    users, rounds = (10_000, 3) if options.quick else (100_000, 5)
    rows: list[Row] = []
    with database_of(users) as database:
        for ask in QUESTIONS:
            if not options.only or ask.__name__ in options.only:
                print(f"measuring {ask.__name__} ...", flush=True)
                rows.append(ask(database, rounds))
    publish("warming", circumstances({OURS: rival(OURS)}, {}) | {"keys": users}, rows)


if __name__ == "__main__":
    main()
