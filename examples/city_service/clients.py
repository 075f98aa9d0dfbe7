"""The clients: each asks, takes the answer, and asks the next; threads and tasks alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from examples.city_service.bulletin import Bulletin, Place
from examples.city_service.database import CityPage, CountryPage
from examples.city_service.service import (
    AsyncCityService,
    AsyncUncachedService,
    CityService,
    UncachedService,
)
from examples.city_service.tally import Tally
from examples.city_service.traffic import Request

Page = CityPage | CountryPage
IsOver = Callable[[], bool]
Service = CityService | UncachedService
AsyncService = AsyncCityService | AsyncUncachedService


def ask(
    service: Service,
    requests: Iterable[Request],
    is_over: IsOver,
    bulletin: Bulletin,
    tally: Tally,
) -> None:
    """Be one client of the threaded service."""
    for request in requests:
        if is_over():
            return
        city = request.city
        if request.population is not None:
            version = service.set_population(city.id, city.country, request.population)
            tally.announced += bulletin.announce(city, version)
        # After an update this is the next read, which must see it.
        look(city.id, partial(service.city, city.id), bulletin, tally)
        look(city.country, partial(service.country, city.country), bulletin, tally)
        time.sleep(0)  # the answer goes out, and another thread has its turn


def look(place: Place, read: Callable[[], Page], bulletin: Bulletin, tally: Tally) -> None:
    """Read one page, time it, and check it."""
    floor = bulletin.floor(place)
    began = time.monotonic_ns()
    page = read()
    tally.read(time.monotonic_ns() - began)
    tally.check(place, page.version, floor, began / 1e9)


async def aask(
    service: AsyncService,
    requests: Iterable[Request],
    is_over: IsOver,
    bulletin: Bulletin,
    tally: Tally,
) -> None:
    """Be one client of the asyncio service."""
    for request in requests:
        if is_over():
            return
        city = request.city
        if request.population is not None:
            version = await service.set_population(city.id, city.country, request.population)
            tally.announced += bulletin.announce(city, version)
        await alook(city.id, partial(service.city, city.id), bulletin, tally)
        await alook(city.country, partial(service.country, city.country), bulletin, tally)
        await asyncio.sleep(0)  # the answer goes out, and another task has its turn


async def alook(
    place: Place, read: Callable[[], Awaitable[Page]], bulletin: Bulletin, tally: Tally
) -> None:
    """Read one page, time it, and check it."""
    floor = bulletin.floor(place)
    began = time.monotonic_ns()
    page = await read()
    tally.read(time.monotonic_ns() - began)
    tally.check(place, page.version, floor, began / 1e9)
