"""What the clients of all processes know of one another's updates, to check what they read by it.

Once the invalidation of an update has returned, the process that made it must not serve an older
version any more, and the others not for long. So each process announces the version it has just
written, in shared memory; and whoever reads looks there, before it reads, what it may expect.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from multiprocessing.sharedctypes import RawArray
from typing import Any, NamedTuple

from examples.city_service.database import WORLD, City

Place = int | str  # a city, a country or the world
Columns = Sequence[Any]  # of versions by place: one for each process, which alone writes it


class Floor(NamedTuple):
    """The newest versions announced of a place when a read begins."""

    own: int  # by this process: the read must not be older
    newest: int  # by any: the read may be older only for a moment


class Announced(NamedTuple):
    """An update whose invalidation has returned; the time is CLOCK_MONOTONIC."""

    place: Place
    version: int
    at: float


class Older(NamedTuple):
    """A read that was older than what another process had announced when it began."""

    place: Place
    version: int
    began: float


def columns(known: Sequence[City], workers: int) -> Columns:
    """Make the shared memory."""
    return [RawArray("q", len(_places(known))) for _ in range(workers)]


def _places(known: Sequence[City]) -> dict[Place, int]:
    names: dict[Place, None] = dict.fromkeys(city.id for city in known)
    names |= dict.fromkeys(city.country for city in known)
    names[WORLD] = None
    return {place: number for number, place in enumerate(names)}


class Bulletin:
    """The announcements, as one process sees them."""

    def __init__(self, known: Sequence[City], shared: Columns, worker: int) -> None:
        self._places = _places(known)
        self._columns = shared
        self._own = shared[worker]  # written under _lock
        self._lock = threading.Lock()

    def announce(self, places: Sequence[Place], version: int) -> list[Announced]:
        """Tell all that the pages of these are outdated since now."""
        known = [place for place in places if place in self._places]  # not what is new
        announced = [Announced(place, version, time.monotonic()) for place in known]
        with self._lock:
            for place in known:
                number = self._places[place]
                self._own[number] = max(version, self._own[number])
        return announced

    def floor(self, place: Place) -> Floor:
        """Return what a read that begins now has to be compared with; zeros: nothing."""
        number = self._places.get(place)
        if number is None:
            return Floor(0, 0)
        return Floor(self._own[number], max(column[number] for column in self._columns))


def lateness(older: Sequence[Older], announced: Sequence[Announced]) -> list[float]:
    """Return for how many seconds each older read's version had been outdated when it began."""
    updates: dict[Place, list[Announced]] = {}
    for each in announced:
        updates.setdefault(each.place, []).append(each)
    return [read.began - _outdated_at(read, updates.get(read.place, ())) for read in older]


def _outdated_at(read: Older, updates: Sequence[Announced]) -> float:
    return min((each.at for each in updates if each.version > read.version), default=0.0)
