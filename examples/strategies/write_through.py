"""Write-through: when a write returns, the database has it and the cache has it.

So nobody loads what has just been written. Two writes of one key that overlap leave nothing in the
cache, since only the database knows which of them came last; the next read asks it.
"""

from __future__ import annotations

from examples.strategies.database import Stock
from examples.strategies.strategy import Strategy
from tiercache import Cache


class WriteThrough(Strategy):
    """The function that writes the table leaves its value in both tiers."""

    name = "write-through"

    def __init__(self, cache: Cache, stock: Stock) -> None:
        self._amounts = cache.read_through(stock.read, key="stock:{}")

        @cache.write_through("stock:{item}")
        def write(item: int, amount: int) -> int:
            stock.write(item, amount)
            return amount

        self._write = write

    def read(self, item: int) -> int | None:
        return self._amounts.get(item)

    def write(self, item: int, amount: int) -> None:
        self._write(item, amount)
