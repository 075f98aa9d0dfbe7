"""The service: what a city is asked for, cached, and kept right when it changes."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from functools import partial

from examples.city_service.database import CityDatabase, CityPage, CountryPage
from tiercache import Cache


class CityService:
    """For threads."""

    def __init__(self, database: CityDatabase, cache: Cache) -> None:
        self.database = database
        self.city = cache.cached("city:{city_id}")(database.city_page)
        self.country = cache.cached("country:{code}")(database.country_page)

    def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city and forget what was known of it; return the new version."""
        version = self.database.set_population(city_id, population)
        self.city.invalidate(city_id)
        self.country.invalidate(country)
        return version


class AsyncCityService:
    """For asyncio: the same, with the database asked from a few threads."""

    def __init__(self, database: CityDatabase, cache: Cache, threads: Executor) -> None:
        self._uncached = AsyncUncachedService(database, threads)
        self.city = cache.cached("city:{city_id}")(self._uncached.city)
        self.country = cache.cached("country:{code}")(self._uncached.country)

    async def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city and forget what was known of it; return the new version."""
        version = await self._uncached.set_population(city_id, country, population)
        await self.city.invalidate(city_id)
        await self.country.invalidate(country)
        return version


class UncachedService:
    """The same answers from the database alone, to compare with."""

    def __init__(self, database: CityDatabase) -> None:
        self.database = database
        self.city = database.city_page
        self.country = database.country_page

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

    async def country(self, code: str) -> CountryPage:
        """Return a country's page."""
        return await self._in_thread(self.database.country_page, code)

    async def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city; return the new version."""
        return await self._in_thread(self.database.set_population, city_id, population)
