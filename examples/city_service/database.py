"""The database behind the service: real cities in SQLite, asked real questions.

Nothing here knows of a cache. A page looks at thousands of cities, or at all of them, which takes
SQLite some milliseconds, for a country's most crowded place a tenth of a second: that is what there
is to save. It may be switched off, as databases are, and each question has a span of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from opentelemetry import trace

P = ParamSpec("P")
R = TypeVar("R")

NEW_IDS = 20_000_000  # and up: of cities that are founded here, higher than any real one
WORLD = "world"  # the place that the front page is about
EARTH_KM = 6371.0
AROUND_KM = 150.0

_CITY = "SELECT name, country, population, version, x, y, z FROM city WHERE id = ?"
_AROUND = """
SELECT name, count(*) OVER () AS around,
       (x - :x) * (x - :x) + (y - :y) * (y - :y) + (z - :z) * (z - :z) AS apart
FROM city WHERE z BETWEEN :z - :radius AND :z + :radius AND id <> :id AND apart < :radius * :radius
ORDER BY apart LIMIT 5
"""
_COUNTRY = """
WITH totals AS (
    SELECT country, count(*) AS cities, sum(population) AS people, max(version) AS version
    FROM city GROUP BY country)
SELECT country.name, mine.cities, mine.people, mine.version,
       (SELECT count(*) + 1 FROM totals AS other WHERE other.people > mine.people) AS place
FROM totals AS mine JOIN country ON country.code = mine.country WHERE mine.country = ?
"""
_WORLD = """
SELECT country.name, sum(population), max(version)
FROM city JOIN country ON country.code = city.country GROUP BY country ORDER BY 2 DESC
"""
_CROWDED = """
WITH large AS (
    SELECT name, x, y, z FROM city WHERE country = :country ORDER BY population DESC LIMIT 100)
SELECT name, (
    SELECT count(*) - 1 FROM city
    WHERE z BETWEEN large.z - :radius AND large.z + :radius
      AND (x - large.x) * (x - large.x) + (y - large.y) * (y - large.y)
        + (z - large.z) * (z - large.z) < :radius * :radius) AS around
FROM large ORDER BY around DESC LIMIT 1
"""
_FOUND = """
INSERT INTO city SELECT ?, ?, country, ?, x, y, z, ? FROM city WHERE country = ? LIMIT 1
"""


class DatabaseDown(ConnectionError):
    """The database cannot be reached."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A city near another."""

    name: str
    km: float


@dataclass(frozen=True, slots=True)
class CityPage:
    """What the service shows of a city."""

    name: str
    country: str
    population: int
    around: int  # how many cities lie within 150 km
    nearest: tuple[Neighbour, ...]
    version: int


@dataclass(frozen=True, slots=True)
class CountryPage:
    """What the service shows of a country."""

    name: str
    cities: int
    people: int  # in these cities
    place: int  # among all countries, by people
    version: int  # the newest of its cities'


@dataclass(frozen=True, slots=True)
class WorldPage:
    """The front page."""

    largest: tuple[str, ...]  # countries
    people: int  # in all cities
    version: int  # the newest of any city


@dataclass(frozen=True, slots=True)
class Weather:
    """The weather of a country."""

    celsius: int
    version: int


@dataclass(frozen=True, slots=True)
class Crowded:
    """Of a country's hundred largest cities the one with most others within 150 km."""

    city: str
    around: int


class CityDatabase:
    """Questions and updates, from any thread.

    Attributes:
        counts: ``queries``, those of them that were ``refused``, and the ``ids`` that were read.
        pages: How many times each page was made, by city, by country, and of the world.
    """

    def __init__(self, path: Path, is_down: Callable[[], bool] = lambda: False) -> None:
        self.counts = Counter(queries=0, refused=0, ids=0)  # guarded by _lock
        self.pages: Counter[int | str] = Counter()  # guarded by _lock
        self._path = path
        self._is_down = is_down
        self._tracer = trace.get_tracer("database")
        self._lock = threading.Lock()
        self._local = threading.local()  # .connection: the thread's own
        self._connections: list[sqlite3.Connection] = []  # all of them; guarded by _lock

    def city(self, city_id: int) -> CityPage | None:
        """Return a city with what lies around it, and the five that are nearest; None: no such."""
        with self._asked("SELECT city", page=city_id) as connection:
            found = connection.execute(_CITY, (city_id,)).fetchone()
            if found is None:
                return None
            name, country, population, version, x, y, z = found
            place = {"id": city_id, "x": x, "y": y, "z": z, "radius": AROUND_KM / EARTH_KM}
            near = connection.execute(_AROUND, place).fetchall()
        around = near[0][1] if near else 0
        nearest = tuple(Neighbour(other, _km(apart)) for other, _, apart in near)
        return CityPage(name, country, population, around, nearest, version)

    def country(self, country: str) -> CountryPage:
        """Return a country's numbers, and its place among all."""
        with self._asked("SELECT country", page=country) as connection:
            row = connection.execute(_COUNTRY, (country,)).fetchone()
        name, cities, people, version, place = row
        return CountryPage(name, cities, people, place, version)

    def world(self) -> WorldPage:
        """Return the front page."""
        with self._asked("SELECT world", page=WORLD) as connection:
            names, people, versions = zip(*connection.execute(_WORLD), strict=True)
        return WorldPage(names[:10], sum(people), max(versions))

    def weather(self, country: str) -> Weather:
        """Return a country's weather."""
        with self._asked("SELECT weather") as connection:
            query = "SELECT celsius, version FROM weather WHERE country = ?"
            return Weather(*connection.execute(query, (country,)).fetchone())

    def crowded(self, country: str) -> Crowded:
        """Return a country's most crowded place."""
        with self._asked("SELECT crowded") as connection:
            place = {"country": country, "radius": AROUND_KM / EARTH_KM}
            return Crowded(*connection.execute(_CROWDED, place).fetchone())

    def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city; return the version that this is."""
        with self._changing("UPDATE city") as (connection, version):
            connection.execute(
                "UPDATE city SET population = ?, version = ? WHERE id = ? AND country = ?",
                (population, version, city_id, country),
            )
        return version

    def found(self, city_id: int, country: str, name: str, population: int) -> int:
        """Add a city, somewhere in a country; return the version that this is."""
        with self._changing("INSERT city") as (connection, version):
            connection.execute(_FOUND, (city_id, name, population, version, country))
        return version

    def ids(self) -> Iterator[int]:
        """Iterate over the ids of all cities."""
        with self._asked("SELECT ids") as connection:
            for (city_id,) in connection.execute("SELECT id FROM city"):
                with self._lock:
                    self.counts["ids"] += 1
                yield city_id

    def largest(self, most: int) -> list[int]:
        """Return the ids of the largest cities."""
        with self._asked("SELECT largest") as connection:
            query = "SELECT id FROM city ORDER BY population DESC, id LIMIT ?"
            return [city_id for (city_id,) in connection.execute(query, (most,))]

    def countries(self) -> list[str]:
        """Return the codes of all countries that have a city, in order."""
        query = "SELECT code FROM country WHERE code IN (SELECT country FROM city) ORDER BY code"
        return self._codes(query)

    def reported(self) -> list[str]:
        """Return the codes of all countries that have a weather, in order."""
        return self._codes("SELECT country FROM weather ORDER BY country")

    def _codes(self, query: str) -> list[str]:
        with self._asked("SELECT countries") as connection:
            return [code for (code,) in connection.execute(query)]

    def close(self) -> None:
        """Close the connections of all threads, once they ask no more."""
        for connection in self._connections:
            connection.close()

    @contextmanager
    def _changing(self, what: str) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Give a connection in a transaction, and the version that the change is."""
        with self._asked(what) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE updates SET version = version + 1")
            (version,) = connection.execute("SELECT version FROM updates").fetchone()
            yield connection, int(version)

    @contextmanager
    def _asked(self, what: str, page: int | str | None = None) -> Iterator[sqlite3.Connection]:
        """Count a query, and the page it is for; give this thread's connection."""
        with self._tracer.start_as_current_span(what):
            is_down = self._is_down()
            with self._lock:
                self.counts.update(queries=1, refused=int(is_down))
                if page is not None:
                    self.pages[page] += 1
            if is_down:
                raise DatabaseDown("the database is down")
            yield self._connection()

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self._path)
            with self._lock:
                self._connections.append(connection)
        return connection


def _in_thread(
    blocking: Callable[Concatenate[CityDatabase, P], R],
) -> Callable[Concatenate[AsyncCityDatabase, P], Awaitable[R]]:
    """Make an async method of a blocking one: of the same name, with the current span."""

    @wraps(blocking)
    async def method(self: AsyncCityDatabase, *args: Any, **kwargs: Any) -> R:
        def ask() -> R:
            return context.run(blocking, self.database, *args, **kwargs)

        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self.threads, ask)

    return method  # type: ignore[return-value]  # wraps() hides what it is a method of


class AsyncCityDatabase:
    """The same questions for asyncio, asked from a few threads."""

    def __init__(self, database: CityDatabase, threads: Executor) -> None:
        self.database = database
        self.threads = threads

    city = _in_thread(CityDatabase.city)
    country = _in_thread(CityDatabase.country)
    world = _in_thread(CityDatabase.world)
    weather = _in_thread(CityDatabase.weather)
    crowded = _in_thread(CityDatabase.crowded)
    set_population = _in_thread(CityDatabase.set_population)
    found = _in_thread(CityDatabase.found)


@dataclass(frozen=True, slots=True)
class City:
    """What a request needs to know of a city."""

    id: int
    country: str
    population: int


def cities(path: Path) -> list[City]:
    """Return all real cities that are in a country."""
    query = (
        "SELECT city.id, country.code, population FROM city"
        " JOIN country ON country.code = city.country WHERE city.id < ? ORDER BY city.id"
    )
    with closing(connect(path)) as connection:
        return [City(*row) for row in connection.execute(query, (NEW_IDS,))]


def connect(path: Path) -> sqlite3.Connection:
    """Open the database for one thread."""
    # Each thread keeps its own; that is not checked, so that any thread may close it.
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # the file does not outlive the demo
    return connection


def _km(apart: float) -> float:
    # apart: squared length of the chord between two points of the unit sphere
    return round(2 * EARTH_KM * math.asin(min(1.0, math.sqrt(apart) / 2)), 1)
