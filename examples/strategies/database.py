"""The table behind the strategies, in SQLite or PostgreSQL. It knows of no cache.

Amounts only grow in these examples, so of two of them the greater is the newer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Engine, create_engine, event, text

from examples.strategies.meter import Meter

if TYPE_CHECKING:
    from tiercache import Operation

_DROP = "DROP TABLE IF EXISTS strategies_stock"
_CREATE = (
    "CREATE TABLE strategies_stock"
    " (item INTEGER PRIMARY KEY, amount INTEGER, version BIGINT NOT NULL)"
)
_INSERT = text("INSERT INTO strategies_stock (item, amount, version) VALUES (:item, :amount, 0)")
_SELECT = text("SELECT amount FROM strategies_stock WHERE item = :item")
_UPDATE = text("UPDATE strategies_stock SET amount = :amount WHERE item = :item")
# A batch may come twice, and late: a row gives way to newer versions only.
_UPSERT = text(
    "INSERT INTO strategies_stock (item, amount, version) VALUES (:item, :amount, :version)"
    " ON CONFLICT (item) DO UPDATE SET amount = excluded.amount, version = excluded.version"
    " WHERE strategies_stock.version < excluded.version"
)


class Commit(NamedTuple):
    """A row that the database has."""

    item: int
    amount: int
    at: float  # by time.monotonic


class Stock:
    """How many of each item are in stock. Safe for threads.

    Args:
        url: Of the database, as SQLAlchemy spells it.
        meter: Counts what is asked of it.
        items: How many there are in a new table, numbered from 0, and of each 0.
        create: Whether to make a new table.
    """

    def __init__(self, url: str, meter: Meter, items: int = 0, *, create: bool = True) -> None:
        self.meter = meter
        self.commits: list[Commit] = []  # guarded by _lock
        self._newest: dict[int, int] = {}  # guarded by _lock
        self._lock = threading.Lock()
        self._engine = create_engine(url)
        _prepare(self._engine)
        if create:
            self._create(items)
        self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        _count(self._engine, meter)

    def _create(self, items: int) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(_DROP)
            connection.exec_driver_sql(_CREATE)
            if items:
                connection.execute(_INSERT, [{"item": n, "amount": 0} for n in range(items)])

    def read(self, item: int) -> int | None:
        """Return how many there are."""
        self.meter.count("database reads")
        with self._reading.connect() as connection:
            amount: int | None = connection.execute(_SELECT, {"item": item}).scalar()
        return amount

    def write(self, item: int, amount: int) -> None:
        """Change how many there are, in a transaction."""
        with self._engine.begin() as connection:
            connection.execute(_UPDATE, {"item": item, "amount": amount})
        self._note([(item, amount)])

    def write_batch(self, operations: Sequence[Operation]) -> None:
        """Make many changes in one transaction; what is no newer than its row changes nothing."""
        rows = [{"item": o.item, "amount": o.value, "version": o.version} for o in operations]
        with self._engine.begin() as connection:
            connection.execute(_UPSERT, rows)
        self._note([(o.item, o.value) for o in operations])

    def _note(self, rows: Sequence[tuple[int, int]]) -> None:
        self.meter.count("transactions")
        self.meter.count("rows written", len(rows))
        now = time.monotonic()
        with self._lock:
            self.commits += [Commit(item, amount, now) for item, amount in rows]
            self._newest.update(rows)

    def has(self, item: int, amount: int) -> bool:
        """Say whether the database has this amount, or a newer one."""
        with self._lock:
            return self._newest.get(item, 0) >= amount

    def rows(self) -> dict[int, int]:
        """Return the table."""
        with self._reading.connect() as connection:
            return {
                row.item: row.amount
                for row in connection.execute(text("SELECT * FROM strategies_stock"))
            }

    def drop(self) -> None:
        """Drop the table."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql(_DROP)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _prepare(engine: Engine) -> None:
    """Have SQLite write ahead: its commits are one fsync then, and readers do not wait for them."""
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def connected(connection: Any, _: object) -> None:
            connection.execute("PRAGMA journal_mode = WAL")


def _count(engine: Engine, meter: Meter) -> None:
    """Count what costs a round trip: statements, and COMMIT."""

    @event.listens_for(engine, "before_cursor_execute")
    def executing(*_: object) -> None:
        meter.count("round trips to the database")

    @event.listens_for(engine, "commit")
    def committing(*_: object) -> None:
        meter.count("round trips to the database")
