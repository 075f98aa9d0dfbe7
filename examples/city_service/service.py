"""The service: what a city is asked for, cached, and kept right when it changes.

It is the same for threads and for asyncio: what is decorated tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from examples.city_service.database import AsyncCityDatabase, CityDatabase
from tiercache import Cache

CITY, COUNTRY, WORLD = "city:{city_id}", "country:{country}", "world"
WEATHER, CROWDED = "weather:{country}", "crowded:{country}"
WARMED_CITIES = 500  # the largest


class CityService:
    """Cached questions to a database, and updates after which every process forgets."""

    def __init__(self, database: CityDatabase | AsyncCityDatabase, cache: Cache) -> None:
        # Changed through this service alone: the cache is told, so values may be kept long.
        self.city = cache.cached(CITY, ttl="1m")(database.city)
        self.country = cache.cached(COUNTRY, ttl="1m")(database.country)
        self.world = cache.cached(WORLD, ttl="1m")(database.world)
        # Changed by somebody else: AdaptiveTTL finds out how often. While a value is hot, it is
        # loaded again before it goes stale, so that nobody waits.
        self.weather = cache.cached(WEATHER, ttl="200ms", refresh_ahead=0.8)(database.weather)
        # Slow: an old answer is served at once, and a new one is made behind.
        self.crowded = cache.cached(CROWDED, ttl="10s", stale_while_revalidate="1m")(
            database.crowded
        )
        pages = (CITY, COUNTRY, WORLD)  # that an update outdates, in all processes
        self.set_population = cache.invalidates(pages)(database.set_population)
        self.found = cache.invalidates(pages, creates=True)(database.found)


def register_warmers(service: CityService, database: CityDatabase, cache: Cache) -> None:
    """Say what a new process should know before it is asked."""

    @cache.warmer(service.city)
    def largest_cities() -> Iterator[int]:
        yield from database.largest(WARMED_CITIES)

    @cache.warmer(service.country)
    def countries() -> Iterator[str]:
        yield from database.countries()

    @cache.warmer(service.weather)
    def weather() -> Iterator[str]:
        yield from database.reported()
