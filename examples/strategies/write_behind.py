"""Write-behind: a write returns when it is in the journal; the database gets batches, later.

Readers see it at once. Many writes of one item between two batches cost the database one row. The
journal is in L2, so what was accepted outlives this process; a batch may be handed over twice, so
``Stock.write_batch`` has a row give way to newer versions only.
"""

from __future__ import annotations

from examples.strategies.database import Stock
from examples.strategies.strategy import Strategy
from tiercache import Cache


class WriteBehind(Strategy):
    """Writes go to the journal, reads through the cache, which sees what is pending."""

    name = "write-behind"

    def __init__(self, cache: Cache, stock: Stock) -> None:
        self._amounts = cache.read_through(stock.read, key="stock:{}")
        self._behind = cache.write_behind(stock.write_batch, key="stock:{}", max_delay="50ms")

    def read(self, item: int) -> int | None:
        return self._amounts.get(item)

    def write(self, item: int, amount: int) -> None:
        self._behind.put(item, amount)

    def settle(self) -> None:
        """Have the batch written that is waiting."""
        left = self._behind.flush()
        assert left == 0, f"{left} writes are still in the journal"
