"""Memory that all processes of the demo share: what is true just now, to compare answers with.

No service has that. It is here to check, and to switch the database off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray, RawValue
from typing import Any

from examples.city_service.bulletin import Columns, columns
from examples.city_service.database import City


@dataclass(frozen=True, slots=True)
class Shared:
    """What the parent makes and hands to its workers."""

    announced: Columns  # versions of pages: see bulletin.py
    weather: (
        Any  # version of each country's that reports it, in order of codes; written by the station
    )
    switch: Any  # .value: 1 while the database is down

    @classmethod
    def make(cls, known: Sequence[City], reported: Sequence[str], workers: int) -> Shared:
        """Make it, all zeros."""
        switch = RawValue("b", 0)
        return cls(columns(known, workers), RawArray("q", len(reported)), switch)

    def is_down(self) -> bool:
        """Whether the database is down."""
        return bool(self.switch.value)
