"""What one client looks at: how long an answer took, and whether it is as new as it has to be."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from examples.city_service.bulletin import Bulletin, Floor
from examples.city_service.database import WORLD
from examples.city_service.tally import Tally
from examples.city_service.traffic import Request

_UPDATES = {"set_population", "found"}


class Glance(NamedTuple):
    """What was known when a call began."""

    request: Request
    floor: Floor | int | None
    began: int  # ns


class Watch:
    """One client's.

    Args:
        bulletin: The updates of cities that were announced.
        weather: Returns the version that the weather of a country has now.
        tally: Where to count.
    """

    def __init__(self, bulletin: Bulletin, weather: Callable[[str], int], tally: Tally) -> None:
        self._bulletin = bulletin
        self._weather = weather
        self.tally = tally

    def before(self, request: Request) -> Glance:
        """Look at what an answer to this will have to be compared with."""
        floor: Floor | int | None = None
        if request.what == "weather":
            floor = self._weather(request.args[0])
        elif request.what not in _UPDATES:
            floor = self._bulletin.floor(request.place)
        return Glance(request, floor, time.monotonic_ns())

    def after(self, glance: Glance, answer: Any) -> None:
        """Count an answer, and check it."""
        took = time.monotonic_ns() - glance.began
        request, tally = glance.request, self.tally
        if request.what in _UPDATES:
            tally.founded += request.what == "found"
            tally.updates += request.what == "set_population"
            tally.announced += self._bulletin.announce((*request.args[:2], WORLD), answer)
            return
        tally.read(took)
        if answer is None:
            tally.absent += 1
            tally.lost += request.is_new
        elif isinstance(glance.floor, Floor):
            tally.check(request.place, answer.version, glance.floor, glance.began / 1e9)
        else:
            assert glance.floor is not None
            tally.check_weather(answer.version, glance.floor)

    def failed(self, glance: Glance, error: Exception) -> None:
        """Count an error."""
        self.tally.failed(error, time.monotonic_ns() - glance.began)
