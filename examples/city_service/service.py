"""The service: what a city is asked for, cached, and kept right when it changes."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from functools import partial

from examples.city_service.database import CityDatabase, CityPage, CountryPage
from tiercache import Cache


class CityService:
    """For threads. Without a cache every call goes to the database."""

    def __init__(self, database: CityDatabase, cache: Cache | None) -> None:
        self.database = database
        self.city = database.city_page
        self.country = database.country_page
        self.is_cached = cache is not None
        if cache is not None:
            self.city = cache.cached("city:{city_id}")(database.city_page)
            self.country = cache.cached("country:{code}")(database.country_page)

    def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city and forget what was known of it; return the new version."""
        version = self.database.set_population(city_id, population)
        if self.is_cached:
            self.city.invalidate(city_id)
            self.country.invalidate(country)
        return version


class AsyncCityService:
    """For asyncio: the same, with the database asked from a few threads."""

    def __init__(self, database: CityDatabase, cache: Cache | None, threads: Executor) -> None:
        self.database = database
        self.is_cached = cache is not None
        in_thread = partial(asyncio.get_running_loop().run_in_executor, threads)

        async def city(city_id: int) -> CityPage:
            return await in_thread(database.city_page, city_id)

        async def country(code: str) -> CountryPage:
            return await in_thread(database.country_page, code)

        self._in_thread = in_thread
        self.city, self.country = city, country
        if cache is not None:
            self.city = cache.cached("city:{city_id}")(city)
            self.country = cache.cached("country:{code}")(country)

    async def set_population(self, city_id: int, country: str, population: int) -> int:
        """Change a city and forget what was known of it; return the new version."""
        version = await self._in_thread(self.database.set_population, city_id, population)
        if self.is_cached:
            await self.city.invalidate(city_id)
            await self.country.invalidate(country)
        return version
