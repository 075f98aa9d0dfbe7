"""One script of reads and writes, played over a strategy in two places; and what came of it.

The places are two caches on one L2, each with an L1, a bus and loads of its own, as two processes
have them. One thread plays, so at each read it is known what was written last: whatever else the
reader sees is older.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from examples.strategies.database import Commit, Stock
from examples.strategies.meter import READER, WRITER, Meter
from examples.strategies.strategy import Strategy
from tiercache import Cache


class Step(NamedTuple):
    """A read, or a write of an amount."""

    at: float  # seconds since the beginning
    place: int
    item: int
    amount: int | None  # None: a read


@dataclass(frozen=True)
class Script:
    """Reads and writes of items of which few are popular, by Zipf's law; a seed repeats them.

    Attributes:
        writes: Share of the steps that write, in [0, 1].
    """

    steps: int = 4000
    seconds: float = 2.0
    items: int = 20
    writes: float = 0.1
    seed: int = 1

    def __iter__(self) -> Iterator[Step]:
        draw = random.Random(self.seed)
        weights = list(accumulate(1 / (rank + 1) for rank in range(self.items)))
        for number in range(self.steps):
            (item,) = draw.choices(range(self.items), cum_weights=weights)
            amount = number + 1 if draw.random() < self.writes else None
            yield Step(number * self.seconds / self.steps, draw.randrange(2), item, amount)


class _Written(NamedTuple):
    """The last write of an item that has returned."""

    amount: int
    place: int
    at: float


@dataclass
class Tally:
    """What was seen while a strategy was played."""

    name: str
    meter: Meter
    reads: list[float] = field(default_factory=list)  # how long each took, in seconds
    writes: list[float] = field(default_factory=list)
    waited: int = 0  # reads that asked the database
    older_here: int = 0  # reads of something older than the last write of the same place
    older_elsewhere: int = 0  # than that of the other place
    oldest: float = 0.0  # for how many seconds it had been older, at most
    ahead: int = 0  # reads of what the database did not have yet
    behind: float = 0.0  # for how many seconds the database was behind a write, at most
    is_right: bool = False  # whether the table has the last write of every item, in the end


class Play:
    """A strategy in two places, over one table."""

    def __init__(
        self, make: Callable[[Cache, Stock], Strategy], caches: Sequence[Cache], stock: Stock
    ) -> None:
        self._places = [make(cache, stock) for cache in caches]
        self._stock = stock
        self._last: dict[int, _Written] = {}
        self._acknowledged: list[Commit] = []
        self.tally = Tally(self._places[0].name, stock.meter)

    def run(self, script: Script) -> Tally:
        """Play a script to its end, and until everything is in the database."""
        began = time.monotonic()
        for step in script:
            time.sleep(max(0.0, began + step.at - time.monotonic()))
            if step.amount is None:
                self._read(step.place, step.item)
            else:
                self._write(step.place, step.item, step.amount)
        for place in self._places:
            place.settle()
        self._look_back(script)
        return self.tally

    def _write(self, place: int, item: int, amount: int) -> None:
        began = time.monotonic()
        with self._stock.meter.asked_by(WRITER):
            self._places[place].write(item, amount)
        now = time.monotonic()
        self.tally.writes.append(now - began)
        self._last[item] = _Written(amount, place, now)
        self._acknowledged.append(Commit(item, amount, now))

    def _read(self, place: int, item: int) -> None:
        meter, tally = self._stock.meter, self.tally
        asked = meter.of("database reads", READER)
        began = time.monotonic()
        with meter.asked_by(READER):
            amount = self._places[place].read(item)
        tally.reads.append(time.monotonic() - began)
        tally.waited += meter.of("database reads", READER) > asked
        assert amount is not None
        self._judge(place, item, amount, began)

    def _judge(self, place: int, item: int, amount: int, began: float) -> None:
        tally, last = self.tally, self._last.get(item)
        tally.ahead += not self._stock.has(item, amount)
        if last is None or amount == last.amount:
            return
        tally.oldest = max(tally.oldest, began - last.at)
        if last.place == place:
            tally.older_here += 1
        else:
            tally.older_elsewhere += 1

    def _look_back(self, script: Script) -> None:
        expected = dict.fromkeys(range(script.items), 0)
        expected |= {item: written.amount for item, written in self._last.items()}
        self.tally.is_right = self._stock.rows() == expected
        self.tally.behind = lag(self._acknowledged, self._stock.commits)


def lag(acknowledged: Sequence[Commit], commits: Sequence[Commit]) -> float:
    """Return for how many seconds the database was behind a write at most.

    A write has arrived with the first row of its item that is as new.
    """
    worst = 0.0
    for write in acknowledged:
        arrived = min(c.at for c in commits if c.item == write.item and c.amount >= write.amount)
        worst = max(worst, arrived - write.at)
    return worst
