"""Who asks for what: cities by their real population, and now and then an update."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any

from examples.city_service.database import NEW_IDS, WORLD, City

UPDATE_SHARE = 0.01  # of the visits
FOUNDING_SHARE = 0.002
GUESSING_SHARE = 0.1  # by somebody who tries ids, of which hardly any exists
_DRAWN_AT_ONCE = 500
_NEW_PER_SEED = 1_000


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a method of the service."""

    what: str  # its name
    args: tuple[Any, ...]
    pause: float = 0.0  # seconds after it
    is_new: bool = False  # a look at what was founded just now

    @property
    def place(self) -> int | str:
        """What it asks about."""
        place: int | str = self.args[0] if self.args else WORLD
        return place


class Traffic:
    """An endless stream of requests, the same for the same seed.

    Args:
        cities: What can be asked for, and changed: two processes may change one at once.
        seed: Of the draws; >= 0. What is founded has ids of its own for each seed.
    """

    def __init__(self, cities: Sequence[City], seed: int) -> None:
        self._cities = cities
        self._until = list(accumulate(city.population for city in cities))
        self._ids = {city.id for city in cities}
        self._random = random.Random(seed)
        self._new_ids = count(NEW_IDS + seed * _NEW_PER_SEED)

    def __iter__(self) -> Iterator[Request]:
        while True:
            yield from self._visits()

    def _visits(self) -> Iterator[Request]:
        draw = self._random
        for city in draw.choices(self._cities, cum_weights=self._until, k=_DRAWN_AT_ONCE):
            chance = draw.random()
            if chance < GUESSING_SHARE:
                yield Request("city", (self._guess(),))
                continue
            if chance < GUESSING_SHARE + FOUNDING_SHARE:
                new_id = next(self._new_ids)
                yield Request("found", (new_id, city.country, f"New {new_id}", 1_000))
                yield Request("city", (new_id,), is_new=True)
            elif chance < GUESSING_SHARE + FOUNDING_SHARE + UPDATE_SHARE:
                population = round(city.population * draw.uniform(0.99, 1.01))
                yield Request("set_population", (city.id, city.country, population))
            # After an update these are the next reads, which must see it.
            yield Request("world", ())
            yield Request("city", (city.id,))
            yield Request("country", (city.country,))

    def _guess(self) -> int:
        """Return an id that no city has."""
        while (guess := self._random.randrange(1, NEW_IDS)) in self._ids:
            pass
        return guess


def weather_reports(reported: Sequence[str], seed: int) -> Iterator[Request]:
    """Ask for the weather, some hundred times a second."""
    draw = random.Random(seed)
    while True:
        yield Request("weather", (draw.choice(reported),), pause=0.002)


def known_pages(
    largest: Sequence[int], countries: Sequence[str], reported: Sequence[str], seed: int
) -> Iterator[Request]:
    """Ask for pages that were warmed, some hundred times a second."""
    draw = random.Random(seed)
    while True:
        yield Request("weather", (draw.choice(reported),), pause=0.002)
        yield Request("country", (draw.choice(countries),), pause=0.002)
        yield Request("city", (draw.choice(largest),), pause=0.002)


def cold_pages(cities: Sequence[City], seed: int) -> Iterator[Request]:
    """Ask for cities that hardly anybody has asked for, twenty a second."""
    draw = random.Random(seed)
    small = sorted(cities, key=lambda city: city.population)[: len(cities) // 2]
    while True:
        yield Request("city", (draw.choice(small).id,), pause=0.05)
