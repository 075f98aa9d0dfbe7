"""A journal in this process's memory, for ``durable=False``: what it holds dies with the process.

It keeps the same tables as SQLite's, in a database without a file, behind one lock.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from tiercache.tiers._journal_tables import STATEMENTS, JournalTables
from tiercache.tiers._sqlite_base import transaction
from tiercache.tiers.journal import (
    Accepted,
    Burial,
    Buried,
    Change,
    Draft,
    Level,
    Record,
    Retry,
    Taken,
    Ticket,
)

T = TypeVar("T")


class MemoryJournal:
    """A journal that nobody else sees. Safe for threads."""

    writes_entries = False

    def __init__(self, name: str, *, keeps_all: bool) -> None:
        self._tables = JournalTables("", name, keeps_all=keeps_all)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for statement in STATEMENTS:
            self._db.execute(statement)
        self.label = f"the journal {name!r} in memory"

    def __del__(self) -> None:
        self._db.close()

    def put(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Accept an operation; its entry is the caller's to write."""
        return self._do(lambda tables, db: tables.put(db, draft, most))

    async def aput(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Accept an operation."""
        return self.put(draft, change, most)

    def pending(self, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""
        return self._do(lambda tables, db: tables.pending(db, keys))

    async def apending(self, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""
        return self.pending(keys)

    def level(self) -> Level:
        """Return how full it is."""
        return self._do(lambda tables, db: tables.level(db))

    async def alevel(self) -> Level:
        """Return how full it is."""
        return self.level()

    def take(self, worker: str, most: int, claim_seconds: float, patience: float) -> Taken:
        """Give a worker tickets."""
        return self._do(lambda tables, db: tables.take(db, worker, most, claim_seconds, patience))

    def done(
        self, worker: str, tickets: Sequence[Ticket], payloads: Sequence[bytes] = ()
    ) -> Sequence[str]:
        """Take out what was written; entries are the caller's to mend."""
        return self._do(lambda tables, db: tables.done(db, worker, tickets)[1])

    def retry(self, worker: str, retries: Sequence[Retry]) -> int:
        """Put tickets off."""
        return self._do(lambda tables, db: tables.retry(db, worker, retries))

    def bury(self, worker: str, burials: Sequence[Burial], most: int) -> Sequence[bool | None]:
        """Move operations to the dead letters."""
        return self._do(lambda tables, db: tables.bury(db, worker, burials, most))

    def leave(self, worker: str) -> None:
        """Do nothing: what a worker holds is all that the tables know of it."""

    def dead(self, most: int) -> Sequence[Buried]:
        """Return the oldest dead letters."""
        return self._do(lambda tables, db: tables.dead(db, most))

    def revive(self, ids: Sequence[str]) -> Sequence[str]:
        """Have dead letters written after all."""
        return self._do(lambda tables, db: tables.revive(db, ids))

    def discard(self, ids: Sequence[str]) -> int:
        """Remove dead letters."""
        return self._do(lambda tables, db: tables.discard(db, ids))

    def _do(self, do: Callable[[JournalTables, sqlite3.Connection], T]) -> T:
        with self._lock, transaction(self._db):
            return do(self._tables, self._db)
