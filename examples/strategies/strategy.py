"""What the five have in common: reads and writes of one table, through one cache."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from examples.strategies.database import Stock
from tiercache import Cache


class Strategy(ABC):
    """How one process reads and writes how many of each item are in stock."""

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, cache: Cache, stock: Stock) -> None: ...

    @abstractmethod
    def read(self, item: int) -> int | None:
        """Return how many there are; None if there is no such item."""

    @abstractmethod
    def write(self, item: int, amount: int) -> None:
        """Change it."""

    def settle(self) -> None:  # noqa: B027 - most have nothing to wait for
        """Wait until the database has all that was written."""
