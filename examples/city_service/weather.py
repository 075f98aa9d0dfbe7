"""The weather station: it writes into the database, and no cache is told.

Countries differ in how often their weather changes. That is what AdaptiveTTL has to find out.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from examples.city_service.database import connect
from examples.city_service.shared import Shared

TICK = 0.25  # seconds
#: Seconds between changes, of each pace; a third of the countries has each.
PACES = {"stormy": 4 * TICK, "changeable": 20 * TICK, "settled": float("inf")}
_CHANGE = """
UPDATE weather SET celsius = celsius + ?, version = version + 1 WHERE country = ?
"""


def pace_of(number: int) -> str:
    """Return how fast the weather changes in a country, by its place in the order of codes."""
    return list(PACES)[number % len(PACES)]


class WeatherStation:
    """Changes the weather in a thread, from the beginning to the end of a ``with`` block."""

    def __init__(self, path: Path, reported: Sequence[str], shared: Shared) -> None:
        self._path = path
        self._reported = reported
        self._shared = shared
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="weather station")

    def __enter__(self) -> WeatherStation:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        with closing(connect(self._path)) as connection:
            tick = 0
            while not self._stopping.wait(TICK):
                tick += 1
                self._change(connection, tick)

    def _change(self, connection: sqlite3.Connection, tick: int) -> None:
        """Change what is due, and announce it: who reads from now on may be expected to see it."""
        due = [
            number
            for number in range(len(self._reported))
            if tick * TICK % PACES[pace_of(number)] == 0
        ]
        step = 1 if tick % 2 else -1
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(_CHANGE, [(step, self._reported[number]) for number in due])
        connection.execute("COMMIT")
        for number in due:
            self._shared.weather[number] += 1
