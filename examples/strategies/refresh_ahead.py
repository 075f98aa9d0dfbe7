"""Refresh-ahead: popular values are loaded again before they go stale, behind their readers' backs.

For values that others change and say nothing of it: here the writer does not tell the cache. What
readers see is as old as the TTL at most, and those of popular items never wait for the database.
"""

from __future__ import annotations

from examples.strategies.database import Stock
from examples.strategies.strategy import Strategy
from tiercache import Cache


class RefreshAhead(Strategy):
    """In the second half of its TTL a value that is read is loaded again, by one process."""

    name = "refresh-ahead"
    ttl = 0.5  # seconds; minutes, where nobody changes a table a hundred times a second

    def __init__(self, cache: Cache, stock: Stock) -> None:
        self._stock = stock
        self._amounts = cache.read_through(
            stock.read, key="stock:{}", ttl=self.ttl, refresh_ahead=0.5
        )

    def read(self, item: int) -> int | None:
        return self._amounts.get(item)

    def write(self, item: int, amount: int) -> None:
        self._stock.write(item, amount)
