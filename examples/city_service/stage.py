"""What an act is played on, and what it tells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from examples.city_service.database import City
from examples.city_service.fleet import Fleet
from examples.city_service.shared import Shared
from examples.city_service.worker import Plan


@dataclass(slots=True)
class Stage:
    """The processes, and what they share."""

    plans: Sequence[Plan]
    shared: Shared
    known: Sequence[City]
    countries: Sequence[str]
    reported: Sequence[str]  # those of them that have a weather
    seconds: float  # of traffic, in all acts together
    fleet: Fleet
    told: dict[str, Told] = field(default_factory=dict)  # by the acts before, by name

    def new_processes(self) -> None:
        """End all processes in order, and start others in their place, as a deploy does."""
        self.fleet.close()
        self.fleet = Fleet(self.plans, self.shared)

    def close(self) -> None:
        """End the processes that there are."""
        self.fleet.close()

    @contextmanager
    def database_down(self) -> Iterator[None]:
        """Switch the database off for the length of a block."""
        self.shared.switch.value = 1
        try:
            yield
        finally:
            self.shared.switch.value = 0

    def down_for(self, seconds: float) -> float:
        """Have the database down for so many seconds; return the time of its return."""
        with self.database_down():
            time.sleep(seconds)
        return time.monotonic()  # the same clock in all processes


@dataclass(frozen=True, slots=True)
class Told:
    """What an act has to tell."""

    lines: Sequence[str]  # for people
    facts: Mapping[str, Any]  # the same for programs
    promises: Mapping[str, bool]  # what must be, and whether it is
    traces: Sequence[tuple[str, Sequence[str]]] = ()  # titles, and lines of trees
    table: Sequence[tuple[str, str, str]] = ()  # without the cache, and with it
