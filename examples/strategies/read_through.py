"""Read-through: the cache knows how to load, and readers know nothing but the cache.

``@cache.cached`` over a function is the same. Writes are as of cache-aside: the database, then the
invalidation, which ``@cache.invalidates`` does when the function that writes has returned.
"""

from __future__ import annotations

from examples.strategies.database import Stock
from examples.strategies.strategy import Strategy
from tiercache import Cache


class ReadThrough(Strategy):
    """One object stands for the table."""

    name = "read-through"

    def __init__(self, cache: Cache, stock: Stock) -> None:
        self._amounts = cache.read_through(stock.read, key="stock:{}")
        self._write = cache.invalidates("stock:{item}")(stock.write)

    def read(self, item: int) -> int | None:
        return self._amounts.get(item)

    def write(self, item: int, amount: int) -> None:
        self._write(item, amount)
