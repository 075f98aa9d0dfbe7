"""A process that reads an item by a strategy and writes it, and dies in the middle of that.

By ``python -m tests.examples.dying NAME MOMENT DATABASE L2``; the moment is ``before`` the database
commits, ``after`` that, or ``returned``: when the write has. Or ``loading``: in its first read.
"""

from __future__ import annotations

import os
import signal
import sys

from examples.strategies.__main__ import STRATEGIES
from examples.strategies.database import Stock
from examples.strategies.meter import Meter
from tiercache import Cache, SQLite


class DyingStock(Stock):
    """A table that is the end of whoever writes it."""

    moment = ""

    def read(self, item: int) -> int | None:
        if self.moment == "loading":
            die()
        return super().read(item)

    def write(self, item: int, amount: int) -> None:
        if self.moment == "before":
            die()
        super().write(item, amount)
        if self.moment == "after":
            die()


def die() -> None:
    """Be gone, as by kill -9 from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Read, write, die."""
    name, moment, database, l2 = sys.argv[1:]
    stock = DyingStock(database, Meter(), 10)
    stock.moment = moment
    strategy = STRATEGIES[name](Cache("stock", l2=SQLite(l2, timeout=5), ttl="1h"), stock)
    assert strategy.read(1) == 0
    strategy.write(1, 7)
    die()


if __name__ == "__main__":
    main()
