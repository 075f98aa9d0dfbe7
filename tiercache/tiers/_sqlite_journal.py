"""A journal in the SQLite store's file: an operation and its entry in one transaction.

A cache may lose its last transactions with the machine's power; a journal must not. So a put waits
until the disk has it (``synchronous = FULL``), which costs one fsync; nothing else here does.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tiercache.tiers._journal_tables import JournalTables
from tiercache.tiers._sqlite_base import snapshot, transaction
from tiercache.tiers._sqlite_files import boot_of
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

if TYPE_CHECKING:
    from tiercache.tiers._sqlite_sessions import Sessions
    from tiercache.tiers._sqlite_space import Space

T = TypeVar("T")


class SQLiteJournal:
    """A journal in the store's file."""

    writes_entries = True

    def __init__(
        self,
        sessions: Sessions,
        space: Callable[[sqlite3.Connection], Space],
        cache: str,
        name: str,
        *,
        keeps_all: bool,
    ) -> None:
        self._sessions = sessions
        # Puts of one process take turns: who waits for SQLite's lock polls, and may starve.
        self._turn = threading.Lock()
        self._space = space
        self._tables_of = partial(JournalTables, cache, name, keeps_all=keeps_all)
        self.label = f"the journal {name!r} in sqlite:{sessions.path}"

    def put(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Accept an operation."""
        return self._sessions.run("put", partial(self._put, draft, change, most))

    async def aput(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Accept an operation."""
        do = partial(self._put, draft, change, most)
        return await self._sessions.arun("put", do, is_bounded=True)

    def _put(
        self, draft: Draft, change: Change | None, most: int, db: sqlite3.Connection
    ) -> Accepted:
        tables = self._tables(db)

        def accept(db: sqlite3.Connection, has_entry: bool) -> Accepted:
            return tables.put(db, draft._replace(exists=draft.exists or has_entry), most)

        has_turn = self._turn.acquire(timeout=self._sessions.timeout)
        try:
            db.execute("PRAGMA synchronous = FULL")
            return self._space(db).accept(draft.key, change, accept)
        finally:
            if has_turn:
                self._turn.release()
            db.execute("PRAGMA synchronous = NORMAL")

    def pending(self, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""
        return self._look("pending", lambda tables, db: tables.pending(db, keys))

    async def apending(self, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""
        return await self._alook("pending", lambda tables, db: tables.pending(db, keys))

    def level(self) -> Level:
        """Return how full it is."""
        return self._look("level", lambda tables, db: tables.level(db))

    async def alevel(self) -> Level:
        """Return how full it is."""
        return await self._alook("level", lambda tables, db: tables.level(db))

    def take(self, worker: str, most: int, claim_seconds: float, patience: float) -> Taken:
        """Give a worker tickets."""
        how = most, claim_seconds, patience
        return self._do("take", lambda tables, db: tables.take(db, worker, *how))

    def done(
        self, worker: str, tickets: Sequence[Ticket], payloads: Sequence[bytes] = ()
    ) -> Sequence[str]:
        """Take out what was written, and mend its entries."""
        own = dict(zip((ticket.key for ticket in tickets), payloads, strict=False))

        def change(db: sqlite3.Connection) -> Sequence[str]:
            tables = self._tables(db)
            lost: list[str] = []

            def settle(db: sqlite3.Connection) -> dict[str, bytes]:
                over, lost[:] = tables.done(db, worker, tickets)
                return {key: payload for key, payload in own.items() if key in over}

            self._space(db).mend(len(tickets), settle)
            return lost

        return self._sessions.run("done", change)

    def retry(self, worker: str, retries: Sequence[Retry]) -> int:
        """Put tickets off."""
        return self._do("retry", lambda tables, db: tables.retry(db, worker, retries))

    def bury(self, worker: str, burials: Sequence[Burial], most: int) -> Sequence[bool | None]:
        """Move operations to the dead letters."""
        return self._do("bury", lambda tables, db: tables.bury(db, worker, burials, most))

    def leave(self, worker: str) -> None:
        """Give back what a worker holds; that is all that the tables know of it."""
        self._do("leave", lambda tables, db: tables.leave(db, worker))

    def dead(self, most: int) -> Sequence[Buried]:
        """Return the oldest dead letters."""
        return self._look("dead", lambda tables, db: tables.dead(db, most))

    def revive(self, ids: Sequence[str]) -> Sequence[str]:
        """Have dead letters written after all."""
        return self._do("revive", lambda tables, db: tables.revive(db, ids))

    def discard(self, ids: Sequence[str]) -> int:
        """Remove dead letters."""
        return self._do("discard", lambda tables, db: tables.discard(db, ids))

    # How anything is done

    def _tables(self, db: sqlite3.Connection) -> JournalTables:
        tables = self._tables_of(boot=boot_of(db))
        tables.label = self.label
        return tables

    def _do(self, operation: str, do: Callable[[JournalTables, sqlite3.Connection], T]) -> T:
        def change(db: sqlite3.Connection) -> T:
            with transaction(db):
                return do(self._tables(db), db)

        return self._sessions.run(operation, change)

    def _look(self, operation: str, do: Callable[[JournalTables, sqlite3.Connection], T]) -> T:
        return self._sessions.run(operation, partial(self._seen, do))

    async def _alook(
        self, operation: str, do: Callable[[JournalTables, sqlite3.Connection], T]
    ) -> T:
        return await self._sessions.arun(operation, partial(self._seen, do), is_bounded=True)

    def _seen(
        self, do: Callable[[JournalTables, sqlite3.Connection], T], db: sqlite3.Connection
    ) -> T:
        with snapshot(db):
            return do(self._tables(db), db)
