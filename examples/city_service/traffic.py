"""Who asks for what: cities by their real population, and now and then an update."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from examples.city_service.database import City

UPDATE_SHARE = 0.01  # of the requests
_DRAWN_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Request:
    """A look at a city and at its country; or, with a population, an update of the city."""

    city: City
    population: int | None = None


class Traffic:
    """An endless stream of requests, the same for the same seed.

    Args:
        cities: What can be asked for, and changed: two processes may change one at once.
        seed: Of the draws.
    """

    def __init__(self, cities: Sequence[City], seed: int) -> None:
        self._cities = cities
        self._until = list(accumulate(city.population for city in cities))
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[Request]:
        draw = self._random
        while True:
            for city in draw.choices(self._cities, cum_weights=self._until, k=_DRAWN_AT_ONCE):
                if draw.random() < UPDATE_SHARE:
                    yield Request(city, round(city.population * draw.uniform(0.99, 1.01)))
                else:
                    yield Request(city)
