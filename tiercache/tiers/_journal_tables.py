"""A journal in SQLite tables; see journal.py for what it promises.

Every function runs inside a transaction of its caller. A key's *ticket* is a row; ``worker`` is who
holds it, until ``until_ms``; without a worker it is free from ``until_ms`` on. Those are times of
the machine's monotonic clock, so they mean something only while the machine is up: a ticket that
was given out, or put off, under another boot is free.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Final

from tiercache.tiers._sqlite_base import encode, life_ms, now_ms
from tiercache.tiers.journal import (
    FORMAT,
    Accepted,
    Burial,
    Buried,
    Draft,
    JournalMismatch,
    Level,
    OpKind,
    Record,
    Retry,
    Taken,
    Ticket,
)

#: Tables that no change of the store's own format, and no restart of the machine, may drop.
JOURNAL_TABLES: Final = ("journal", "journal_op", "journal_ticket", "journal_dead")

STATEMENTS: Final = (
    """
    CREATE TABLE IF NOT EXISTS journal (
        id INTEGER PRIMARY KEY,
        cache BLOB NOT NULL,
        name BLOB NOT NULL,
        format TEXT NOT NULL,
        last INTEGER NOT NULL DEFAULT 0,
        UNIQUE (cache, name)
    )""",
    """
    CREATE TABLE IF NOT EXISTS journal_op (
        journal INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        kind TEXT NOT NULL,
        existed INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (journal, key, version)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE IF NOT EXISTS journal_ticket (
        journal INTEGER NOT NULL,
        key BLOB NOT NULL,
        first INTEGER NOT NULL,
        id INTEGER NOT NULL,
        worker TEXT,
        until_ms INTEGER NOT NULL DEFAULT 0,
        boot TEXT NOT NULL,
        tried INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (journal, key)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS journal_queue ON journal_ticket (journal, id)",
    "CREATE INDEX IF NOT EXISTS journal_first ON journal_ticket (journal, first)",
    """
    CREATE TABLE IF NOT EXISTS journal_dead (
        journal INTEGER NOT NULL,
        version INTEGER NOT NULL,
        key BLOB NOT NULL,
        kind TEXT NOT NULL,
        existed INTEGER NOT NULL,
        body BLOB NOT NULL,
        attempts INTEGER NOT NULL,
        error TEXT NOT NULL,
        is_newest INTEGER NOT NULL,
        PRIMARY KEY (journal, version)
    ) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS journal_grave ON journal_dead (journal, key)",
)

_PER_KEY: Final = 100  # records that a ticket comes with, where all are kept
_NEWEST: Final = (
    "SELECT version, kind, body, existed FROM journal_op WHERE journal = ? AND key = ?"
    " ORDER BY version DESC LIMIT 1"
)
_RECORDS: Final = (
    "SELECT version, kind, body, existed FROM journal_op WHERE journal = ? AND key = ?"
    " ORDER BY version LIMIT ?"
)
_ADD: Final = "INSERT INTO journal_op VALUES (?, ?, ?, ?, ?, ?)"
_DROP: Final = "DELETE FROM journal_op WHERE journal = ? AND key = ? AND version <= ?"
_GIVE: Final = "INSERT INTO journal_ticket (journal, key, first, id, boot) VALUES (?, ?, ?, ?, ?)"
_FREE: Final = (
    "SELECT key, worker, tried, attempts FROM journal_ticket"
    " WHERE journal = :journal AND (until_ms <= :now OR boot <> :boot)"
    " AND (:may OR worker IS NOT NULL) ORDER BY worker IS NULL, id LIMIT :most"
)
_WAITING: Final = (
    "SELECT count(*), min(id), coalesce(max(until_ms), 0) FROM journal_ticket"
    " WHERE journal = :journal AND worker IS NULL AND (until_ms <= :now OR boot <> :boot)"
)
_HOLD: Final = (
    "UPDATE journal_ticket SET worker = ?, until_ms = ?, boot = ?, id = ?, tried = ?, attempts = ?"
    " WHERE journal = ? AND key = ?"
)
_IS_HELD: Final = (
    "SELECT 1 FROM journal_ticket WHERE journal = ? AND key = ? AND worker = ? AND id = ?"
)
_FREE_AGAIN: Final = (
    "UPDATE journal_ticket SET worker = NULL, until_ms = 0, first = ?, id = ?, attempts = 0"
    " WHERE journal = ? AND key = ?"
)
_PUT_OFF: Final = (
    "UPDATE journal_ticket SET worker = NULL, until_ms = ?, boot = ?, tried = ?, attempts = ?"
    " WHERE journal = ? AND key = ?"
)
_GIVE_BACK: Final = (
    "UPDATE journal_ticket SET worker = NULL, until_ms = ?, boot = ?"
    " WHERE journal = ? AND worker = ?"
)
_END: Final = "DELETE FROM journal_ticket WHERE journal = ? AND key = ?"
_OUTDATE: Final = "UPDATE journal_dead SET is_newest = 0 WHERE journal = ? AND key = ?"
_BURY: Final = "INSERT INTO journal_dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DEAD: Final = (
    "SELECT version, key, kind, body, attempts, error FROM journal_dead WHERE journal = ?"
    " ORDER BY version LIMIT ?"
)
_REVIVE: Final = (
    "DELETE FROM journal_dead WHERE journal = ? AND version = ? AND is_newest"
    " RETURNING key, kind, existed, body"
)
_LEVEL: Final = (
    "SELECT count(*), min(first), coalesce(sum(worker IS NOT NULL), 0),"
    " coalesce(sum(worker IS NULL AND until_ms > :now AND boot = :boot), 0),"
    " min(CASE WHEN worker IS NULL AND until_ms > :now AND boot = :boot THEN until_ms END)"
    " FROM journal_ticket WHERE journal = :journal"
)


class JournalTables:
    """The operations of one journal on an open connection, each inside a transaction."""

    def __init__(self, cache: str, name: str, *, keeps_all: bool, boot: str = "") -> None:
        self._cache = encode(cache)
        self._name = encode(name)
        self._keeps_all = keeps_all
        self._boot = boot
        self.label = f"the journal {name!r}"

    # Accepting

    def put(self, db: sqlite3.Connection, draft: Draft, most: int) -> Accepted:
        """Accept an operation, if there is room."""
        journal, version = self._next(db)
        key = encode(draft.key)
        old = db.execute(_NEWEST, (journal, key)).fetchone()
        if self._keeps_all or old is None:
            depth = self._depth(db, journal)
            if depth >= most:
                return Accepted(None, depth)
        existed = self._existed(old, draft)
        kind = OpKind.UPDATE if existed else OpKind.CREATE
        kind = OpKind.DELETE if draft.deletes else kind
        db.execute("UPDATE journal SET last = ? WHERE id = ?", (version, journal))
        if not self._keeps_all:
            db.execute(_DROP, (journal, key, version))
        db.execute(_ADD, (journal, key, version, kind, existed, draft.body))
        if old is None:
            db.execute(_GIVE, (journal, key, version, version, self._boot))
        db.execute(_OUTDATE, (journal, key))
        return Accepted(version)

    def _existed(self, old: tuple[int, str, bytes, int] | None, draft: Draft) -> bool:
        if old is None:
            return draft.exists
        return old[1] != OpKind.DELETE if self._keeps_all else bool(old[3])

    def _depth(self, db: sqlite3.Connection, journal: int) -> int:
        table = "journal_op" if self._keeps_all else "journal_ticket"
        count = f"SELECT count(*) FROM {table} WHERE journal = ?"  # noqa: S608 - one of two names
        return int(db.execute(count, (journal,)).fetchone()[0])

    def pending(self, db: sqlite3.Connection, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""
        journal = self._known(db)
        found = (db.execute(_NEWEST, (journal, encode(key))).fetchone() for key in keys)
        return [None if row is None else _record(row) for row in found]

    def level(self, db: sqlite3.Connection) -> Level:
        """Return how full it is."""
        journal = self._known(db)
        row = db.execute("SELECT last FROM journal WHERE id = ?", (journal,)).fetchone()
        _, oldest, held, put_off, _ = self._tickets(db, journal)
        dead = db.execute("SELECT count(*) FROM journal_dead WHERE journal = ?", (journal,))
        lag = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1e6)
        last = 0 if row is None else row[0]
        depth = self._depth(db, journal)
        return Level(depth, oldest, last, held, put_off, dead.fetchone()[0], lag)

    def _tickets(
        self, db: sqlite3.Connection, journal: int
    ) -> tuple[int, int | None, int, int, int]:
        named = {"journal": journal, "now": now_ms(), "boot": self._boot}
        row: tuple[int, int | None, int, int, int] = db.execute(_LEVEL, named).fetchone()
        return row

    # For workers

    def take(
        self,
        db: sqlite3.Connection,
        worker: str,
        most: int,
        claim_seconds: float,
        patience: float,
    ) -> Taken:
        """Give a worker tickets, abandoned ones first."""
        journal, version = self._next(db)
        now = now_ms()
        may = self._wait(db, journal, most, patience) == 0
        named = {"journal": journal, "now": now, "boot": self._boot, "most": most, "may": may}
        tickets = []
        for number, row in enumerate(db.execute(_FREE, named).fetchall()):
            ticket = self._given(db, journal, row, version + number)
            held = worker, now + life_ms(claim_seconds), self._boot, int(ticket.id)
            tried = ticket.records[0].version, ticket.attempts
            db.execute(_HOLD, (*held, *tried, journal, row[0]))
            tickets.append(ticket)
        if tickets:
            last = version + len(tickets)
            db.execute("UPDATE journal SET last = ? WHERE id = ?", (last, journal))
        return Taken(tickets, self._next_wait(db, journal, most, patience))

    def _wait(
        self, db: sqlite3.Connection, journal: int, most: int, patience: float
    ) -> float | None:
        """Return how many seconds the free tickets still have to wait; None: there are none."""
        named = {"journal": journal, "now": now_ms(), "boot": self._boot}
        count, first, was_put_off = db.execute(_WAITING, named).fetchone()
        if not count:
            return None
        if count >= most or was_put_off:
            return 0.0
        if self._keeps_all and self._depth(db, journal) >= most:
            return 0.0
        age: float = (time.time_ns() // 1000 - first) / 1e6
        return max(0.0, patience - age)

    def _next_wait(
        self, db: sqlite3.Connection, journal: int, most: int, patience: float
    ) -> float | None:
        free, due = self._wait(db, journal, most, patience), self._tickets(db, journal)[4]
        put_off = None if due is None else max(0, due - now_ms()) / 1000
        return min((each for each in (free, put_off) if each is not None), default=None)

    def _given(
        self,
        db: sqlite3.Connection,
        journal: int,
        row: tuple[bytes, str | None, int, int],
        number: int,
    ) -> Ticket:
        key, holder, tried, attempts = row
        found = db.execute(_RECORDS, (journal, key, _PER_KEY)).fetchall()
        records = tuple(map(_record, found if self._keeps_all else found[-1:]))
        is_suspect = holder is not None
        attempts = (attempts if tried == records[0].version else 0) + is_suspect
        return Ticket(str(number), _text(key), records, attempts, is_suspect)

    def done(
        self, db: sqlite3.Connection, worker: str, tickets: Sequence[Ticket]
    ) -> tuple[set[str], list[str]]:
        """Take out what was written.

        Return the keys of which nothing newer is pending, and ids that were not the worker's.
        """
        journal = self._known(db)
        over: set[str] = set()
        lost: list[str] = []
        for ticket in tickets:
            last = ticket.records[-1]
            exists = last.kind is not OpKind.DELETE
            if not self._holds(db, journal, worker, ticket):
                lost.append(ticket.id)
            elif self._settle(db, journal, ticket.key, last.version, exists):
                over.add(ticket.key)
        return over, lost

    def retry(self, db: sqlite3.Connection, worker: str, retries: Sequence[Retry]) -> int:
        """Put tickets off; say how many were not the worker's."""
        journal, lost = self._known(db), 0
        for ticket, seconds, attempts in retries:
            if self._holds(db, journal, worker, ticket):
                until, tried = now_ms() + life_ms(seconds), ticket.records[0].version
                put_off = until, self._boot, tried, attempts
                db.execute(_PUT_OFF, (*put_off, journal, encode(ticket.key)))
            else:
                lost += 1
        return lost

    def leave(self, db: sqlite3.Connection, worker: str) -> None:
        """Give back what a worker holds, due at once."""
        db.execute(_GIVE_BACK, (now_ms(), self._boot, self._known(db), worker))

    def bury(
        self, db: sqlite3.Connection, worker: str, burials: Sequence[Burial], most: int
    ) -> list[bool | None]:
        """Move operations to the dead letters."""
        journal = self._known(db)
        return [self._bury(db, journal, worker, burial, most) for burial in burials]

    def _bury(
        self, db: sqlite3.Connection, journal: int, worker: str, burial: Burial, most: int
    ) -> bool | None:
        ticket, record = burial.ticket, burial.ticket.records[0]
        count = db.execute("SELECT count(*) FROM journal_dead WHERE journal = ?", (journal,))
        if count.fetchone()[0] >= most or not self._holds(db, journal, worker, ticket):
            return None
        key, existed = encode(ticket.key), record.head == b"1"
        row = db.execute(_NEWEST, (journal, key)).fetchone()
        is_newest = row is None or row[0] <= record.version
        if self._keeps_all or is_newest:  # else it is merged into what came after
            db.execute(_OUTDATE, (journal, key))
            about = record.version, key, record.kind, existed, record.body
            how = ticket.attempts + 1, burial.error, is_newest
            db.execute(_BURY, (journal, *about, *how))
        return self._settle(db, journal, ticket.key, record.version, existed)

    def _holds(self, db: sqlite3.Connection, journal: int, worker: str, ticket: Ticket) -> bool:
        held = journal, encode(ticket.key), worker, int(ticket.id)
        return db.execute(_IS_HELD, held).fetchone() is not None

    def _settle(
        self, db: sqlite3.Connection, journal: int, name: str, version: int, exists: bool
    ) -> bool:
        """Take out a key's operations up to a version; say whether there is no newer one."""
        key = encode(name)
        db.execute(_DROP, (journal, key, version))
        row = db.execute(_NEWEST, (journal, key)).fetchone()
        if row is None:
            db.execute(_END, (journal, key))
            return True
        if not self._keeps_all:
            kind = OpKind.UPDATE if exists else OpKind.CREATE
            db.execute(
                "UPDATE journal_op SET existed = ?, kind = iif(kind = 'delete', kind, ?)"
                " WHERE journal = ? AND key = ?",
                (exists, kind, journal, key),
            )
        _, number = self._next(db)
        db.execute("UPDATE journal SET last = ? WHERE id = ?", (number, journal))
        db.execute(_FREE_AGAIN, (version + 1, number, journal, key))
        return False

    # Dead letters

    def dead(self, db: sqlite3.Connection, most: int) -> list[Buried]:
        """Return the oldest dead letters."""
        rows = db.execute(_DEAD, (self._known(db), most)).fetchall()
        return [
            Buried(str(row[0]), _text(row[1]), Record(row[0], OpKind(row[2]), row[3]), *row[4:])
            for row in rows
        ]

    def revive(self, db: sqlite3.Connection, ids: Sequence[str]) -> list[str]:
        """Have dead letters written after all; return the ids of those that will be."""
        return [each for each in ids if self._revive(db, int(each))]

    def _revive(self, db: sqlite3.Connection, version: int) -> bool:
        journal, now = self._next(db)
        row = db.execute(_REVIVE, (journal, version)).fetchone()
        if row is None:
            return False
        key, kind, existed, body = row
        db.execute(_ADD, (journal, key, version, kind, existed, body))
        db.execute(_GIVE, (journal, key, now, now, self._boot))
        db.execute("UPDATE journal SET last = ? WHERE id = ?", (now, journal))
        return True

    def discard(self, db: sqlite3.Connection, ids: Sequence[str]) -> int:
        """Remove dead letters."""
        drop = "DELETE FROM journal_dead WHERE journal = ? AND version = ?"
        journal = self._known(db)
        return sum(db.execute(drop, (journal, int(each))).rowcount for each in ids)

    # The journal's own row

    def _known(self, db: sqlite3.Connection) -> int:
        """Return the journal's number; that of none, if it was never written to."""
        return self._row(db)[0]

    def _row(self, db: sqlite3.Connection) -> tuple[int, int]:
        row = db.execute(
            "SELECT id, format, last FROM journal WHERE cache = ? AND name = ?",
            (self._cache, self._name),
        ).fetchone()
        if row is None:
            return -1, 0
        if row[1] != FORMAT:
            raise JournalMismatch(
                f"{self.label} is of format {row[1]!r}, this tiercache keeps {FORMAT!r}: "
                "drain it with the version that wrote it; nothing was changed"
            )
        return row[0], row[2]

    def _next(self, db: sqlite3.Connection) -> tuple[int, int]:
        """Return the journal's number, made if there is none, and its next version."""
        journal, last = self._row(db)
        if journal < 0:
            made = "INSERT INTO journal (cache, name, format) VALUES (?, ?, ?) RETURNING id"
            (journal,) = db.execute(made, (self._cache, self._name, FORMAT)).fetchone()
        return journal, max(time.time_ns() // 1000, last + 1)


def _record(row: tuple[int, str, bytes, int]) -> Record:
    version, kind, body, existed = row
    return Record(version, OpKind(kind), body, b"1" if existed else b"0")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
