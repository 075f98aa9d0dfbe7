"""A real table, written as the docs say: a row gives way to newer versions only.

``seen`` records every operation in the order in which it was committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, value INTEGER, version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS seen (id INTEGER, value INTEGER, version INTEGER, process INTEGER);
"""
UPSERT = """
INSERT INTO users (id, value, version) VALUES (?, ?, ?)
ON CONFLICT (id) DO UPDATE SET value = excluded.value, version = excluded.version
WHERE excluded.version > users.version
"""


class Database:
    """The table in a file; a connection for each call, as threads and processes come and go."""

    def __init__(self, path: str, process: int = 0) -> None:
        self.path = path
        self.process = process
        with closing(self._connect()) as db:
            db.executescript(TABLES)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)

    def write(self, operations: Sequence) -> None:
        """Write a batch in one transaction; a delete leaves a row without a value."""
        rows = [(each.item, each.value, each.version) for each in operations]
        with closing(self._connect()) as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(UPSERT, rows)
            db.executemany(
                "INSERT INTO seen VALUES (?, ?, ?, ?)", [(*row, self.process) for row in rows]
            )

    def rows(self) -> dict[int, int | None]:
        """Return the table."""
        with closing(self._connect()) as db:
            return dict(db.execute("SELECT id, value FROM users"))

    def seen(self) -> list[tuple[int, int | None, int]]:
        """Return what was committed, in order: item, value, version."""
        with closing(self._connect()) as db:
            return list(db.execute("SELECT id, value, version FROM seen ORDER BY rowid"))


def check(database: Database, acked: dict[int, int], tried: dict[int, int]) -> None:
    """Raise unless nothing acknowledged is lost and each key's operations are in order.

    Values count up. A put that was begun and not acknowledged may have been accepted.
    """
    rows = database.rows()
    for item, value in acked.items():
        assert item in rows, f"{item} is lost: {value} was acknowledged"
        assert value <= rows[item] <= tried[item], (item, value, rows[item], tried[item])
    newest: dict[int, tuple[int, int]] = {}
    for item, value, version in database.seen():
        before = newest.get(item, (0, -1))
        assert version >= before[0], f"{item}: version {version} was written after {before[0]}"
        assert value >= before[1], f"{item}: {value} was written after {before[1]}"
        newest[item] = version, value
    for item, value in rows.items():
        assert newest[item][1] == value
