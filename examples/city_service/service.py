"""The service: what a city is asked for, cached, and kept right when it changes."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from functools import partial

from examples.city_service.database import CityDatabase, CityPage, CountryPage
from tiercache import Cache

CITY, COUNTRY = "city:{city_id}", "country:{country}"


class CityService:
    """For threads."""

    def __init__(self, database: CityDatabase, cache: Cache) -> None:
        uncached = UncachedService(database)
        self.city = cache.cached(CITY)(uncached.city)
        self.country = cache.cached(COUNTRY)(uncached.country)
        # When it has succeeded, every process forgets both pages.
        self.set_population = cache.invalidates((CITY, COUNTRY))(uncached.set_population)


class AsyncCityService:
    """For asyncio: the same, with the database asked from a few threads."""

    def __init__(self, database: CityDatabase, cache: Cache, threads: Executor) -> None:
        uncached = AsyncUncachedService(database, threads)
        self.city = cache.cached(CITY)(uncached.city)
        self.country = cache.cached(COUNTRY)(uncached.country)
        self.set_population = cache.invalidates((CITY, COUNTRY))(uncached.set_population)


class UncachedService:
    """The same answers from the database alone, to compare with."""

    def __init__(self, database: CityDatabase) -> None:
        self.database = database

    def city(self, city_id: int) -> CityPage:
        """Return a city's page."""
        return self.database.city_page(city_id)

    def country(self, country: str) -> CountryPage:
        """Return a country's page."""
        return self.database.country_page(country)

    def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city; return the new version."""
        return self.database.set_population(city_id, population)


class AsyncUncachedService:
    """The same for asyncio."""

    def __init__(self, database: CityDatabase, threads: Executor) -> None:
        self.database = database
        self._in_thread = partial(asyncio.get_running_loop().run_in_executor, threads)

    async def city(self, city_id: int) -> CityPage:
        """Return a city's page."""
        return await self._in_thread(self.database.city_page, city_id)

    async def country(self, country: str) -> CountryPage:
        """Return a country's page."""
        return await self._in_thread(self.database.country_page, country)

    async def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city; return the new version."""
        return await self._in_thread(self.database.set_population, city_id, population)
