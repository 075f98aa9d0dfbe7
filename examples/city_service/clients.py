"""The clients: each asks, takes the answer, and asks the next; threads and tasks alike."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

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
Place = int | str  # a city or a country
IsOver = Callable[[], bool]
Service = CityService | UncachedService
AsyncService = AsyncCityService | AsyncUncachedService


class Written:
    """The newest versions that this process wrote: no later read here may be older."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._versions: dict[Place, int] = {}  # by city and by country; guarded by _lock
        self._lock = threading.Lock()

    def note(self, request: Request, version: int) -> None:
        """Remember an update, once its invalidation is done."""
        with self._lock:
            for place in (request.city.id, request.city.country):
                self._versions[place] = max(version, self._versions.get(place, 0))

    def floor(self, place: Place) -> int:
        """Return the oldest version that a read which begins now may return."""
        return self._versions.get(place, 0)

    def check(self, tally: Tally, page: Page, floor: int) -> None:
        """Count a read of what was updated here."""
        if floor:
            tally.check(page.version, floor, own=page.loaded_by == self._worker)


def ask(
    service: Service,
    requests: Iterable[Request],
    is_over: IsOver,
    written: Written,
    tally: Tally,
) -> None:
    """Be one client of the threaded service."""
    for request in requests:
        if is_over():
            return
        city = request.city
        if request.population is not None:
            version = service.set_population(city.id, city.country, request.population)
            written.note(request, version)
            tally.updates += 1
        # After an update this is the next read, which must see it.
        look(city.id, partial(service.city, city.id), written, tally)
        look(city.country, partial(service.country, city.country), written, tally)
        time.sleep(0)  # the answer goes out, and another thread has its turn


def look(place: Place, read: Callable[[], Page], written: Written, tally: Tally) -> None:
    """Read one page, time it, and check it."""
    floor = written.floor(place)
    began = time.perf_counter_ns()
    page = read()
    tally.read(time.perf_counter_ns() - began)
    written.check(tally, page, floor)


async def aask(
    service: AsyncService,
    requests: Iterable[Request],
    is_over: IsOver,
    written: Written,
    tally: Tally,
) -> None:
    """Be one client of the asyncio service."""
    for request in requests:
        if is_over():
            return
        city = request.city
        if request.population is not None:
            version = await service.set_population(city.id, city.country, request.population)
            written.note(request, version)
            tally.updates += 1
        await alook(city.id, partial(service.city, city.id), written, tally)
        await alook(city.country, partial(service.country, city.country), written, tally)
        await asyncio.sleep(0)  # the answer goes out, and another task has its turn


async def alook(
    place: Place, read: Callable[[], Awaitable[Page]], written: Written, tally: Tally
) -> None:
    """Read one page, time it, and check it."""
    floor = written.floor(place)
    began = time.perf_counter_ns()
    page = await read()
    tally.read(time.perf_counter_ns() - began)
    written.check(tally, page, floor)
