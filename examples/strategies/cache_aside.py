"""Cache-aside: the code keeps the cache and the database in step by itself.

A read asks the cache, with the loader of the moment at hand; a write goes to the database, and then
the cache is told to forget. Not ``get`` and then ``set``: a ``set`` that comes late puts back what
a write has replaced meanwhile, while what ``get_or_load`` has read before a ``delete`` is not kept.
"""

from __future__ import annotations

from examples.strategies.database import Stock
from examples.strategies.strategy import Strategy
from tiercache import Cache


class CacheAside(Strategy):
    """Keys, loads and invalidations are spelled out where they are needed."""

    name = "cache-aside"

    def __init__(self, cache: Cache, stock: Stock) -> None:
        self._cache = cache
        self._stock = stock

    def read(self, item: int) -> int | None:
        return self._cache.get_or_load(f"stock:{item}", lambda: self._stock.read(item))

    def write(self, item: int, amount: int) -> None:
        self._stock.write(item, amount)
        self._cache.delete(f"stock:{item}")  # after the commit: before it, others load the old row
