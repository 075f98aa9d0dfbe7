"""What the SQLite store does to its rows: one function per operation, on an open connection."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from tiercache.tiers.store import Item, Stored

_TIDY_EVERY: Final = 16  # writes
_TIDY_FACTOR: Final = 4  # rows removed per write since the last tidying, at most
_MAKE_ROOM_ROWS: Final = 1024  # when a write finds the file full
_CLEAR_ROWS: Final = 5000  # per statement, so that other processes get in between
_FULL_SHARE: Final = 0.9  # of max_bytes, above which tidying evicts
_BIGGEST_SHARE: Final = 0.25  # of max_bytes, above which a payload is not stored
_MAX_PARAMETERS: Final = 32_000  # per statement; SQLite takes 32,766
_MAX_TTL_MS: Final = 100 * 365 * 86_400 * 1000

_READ: Final = "SELECT deadline, payload FROM entry WHERE key = ?"
_READ_MANY: Final = "SELECT key, deadline, payload FROM entry WHERE key IN "
_DELETE: Final = "DELETE FROM entry WHERE key IN {} RETURNING deadline"
_WRITE: Final = (
    "INSERT INTO entry (key, deadline, payload) VALUES (?, ?, ?) ON CONFLICT (key)"
    " DO UPDATE SET deadline = excluded.deadline, payload = excluded.payload"
)
_EXPIRE: Final = (
    "DELETE FROM entry WHERE id IN"
    " (SELECT id FROM entry WHERE deadline <= ? ORDER BY deadline LIMIT ?)"
)
# Soonest to expire first, then the oldest of those that never do.
_EVICT: Final = (
    "DELETE FROM entry WHERE id IN"
    " (SELECT id FROM entry WHERE deadline IS NOT NULL ORDER BY deadline LIMIT ?)"
)
_EVICT_ENDLESS: Final = (
    "DELETE FROM entry WHERE id IN"
    " (SELECT id FROM entry WHERE deadline IS NULL ORDER BY id LIMIT ?)"
)
_CLEAR: Final = (
    "DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE key >= ? AND key < ? LIMIT ?)"
)


class Rows:
    """The store's rows, seen through one connection. Not for two threads at once."""

    def __init__(self, db: sqlite3.Connection, max_bytes: int) -> None:
        self._db = db
        self._max_bytes = max_bytes
        self._since_tidying = 0  # writes

    def read(self, key: str) -> Stored | None:
        row = self._db.execute(_READ, (encode(key),)).fetchone()
        return None if row is None else _stored(row[0], row[1], now_ms())

    def read_many(self, keys: Sequence[str]) -> list[Stored | None]:
        wanted = [encode(key) for key in keys]
        found: dict[bytes, tuple[int | None, bytes]] = {}
        for some in _chunks(wanted):
            rows = self._db.execute(_READ_MANY + _marks(some), some)
            found.update((key, (deadline, payload)) for key, deadline, payload in rows)
        now = now_ms()
        return [_stored(*found[key], now) if key in found else None for key in wanted]

    def write(self, items: Sequence[Item]) -> None:
        self._since_tidying += len(items)
        if self._since_tidying >= _TIDY_EVERY:
            self._tidy()
        rows, refused = self._rows(items)
        if refused:
            self._remove(refused)
        try:
            self._upsert(rows)
        except sqlite3.Error as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            self._upsert_when_full(rows)

    def _rows(
        self, items: Sequence[Item]
    ) -> tuple[list[tuple[bytes, int | None, bytes]], list[bytes]]:
        """Return the rows to store, and the keys of payloads that are too big to be."""
        rows, refused = [], []
        now, biggest = now_ms(), self._max_bytes * _BIGGEST_SHARE
        for key, payload, ttl in items:
            if len(payload) > biggest:
                refused.append(encode(key))
            else:
                rows.append((encode(key), _deadline(now, ttl), payload))
        return rows, refused

    def _upsert(self, rows: Sequence[tuple[bytes, int | None, bytes]]) -> None:
        if len(rows) == 1:
            self._db.execute(_WRITE, rows[0])
        elif rows:
            with transaction(self._db):
                self._db.executemany(_WRITE, rows)

    def _upsert_when_full(self, rows: Sequence[tuple[bytes, int | None, bytes]]) -> None:
        """Make room and try again; what still does not fit must not leave old values behind."""
        self._evict(_MAKE_ROOM_ROWS)
        try:
            self._upsert(rows)
        except sqlite3.Error as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            self._remove([key for key, _, _ in rows])

    def _tidy(self) -> None:
        limit, self._since_tidying = self._since_tidying * _TIDY_FACTOR, 0
        self._db.execute(_EXPIRE, (now_ms(), limit))
        if self._used_bytes() > self._max_bytes * _FULL_SHARE:
            self._evict(limit)

    def _used_bytes(self) -> int:
        pages, free, page_bytes = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * page_bytes

    def _evict(self, limit: int) -> None:
        gone = self._db.execute(_EVICT, (limit,)).rowcount
        if gone < limit:
            self._db.execute(_EVICT_ENDLESS, (limit - gone,))

    def delete(self, keys: Sequence[str]) -> int:
        return self._remove([encode(key) for key in set(keys)])

    def _remove(self, keys: Sequence[bytes]) -> int:
        """Remove the keys; return how many of them had not expired."""
        now, alive = now_ms(), 0
        for some in _chunks(keys):
            deadlines = self._db.execute(_DELETE.format(_marks(some)), some).fetchall()
            alive += sum(deadline is None or deadline > now for (deadline,) in deadlines)
        return alive

    def clear(self, prefix: str) -> None:
        first = encode(prefix)
        beyond = first[:-1] + bytes([first[-1] + 1])  # UTF-8 never has the byte 255
        while self._db.execute(_CLEAR, (first, beyond, _CLEAR_ROWS)).rowcount == _CLEAR_ROWS:
            pass


def encode(text: str) -> bytes:
    """Return a key as stored: SQLite's own text would not take every str."""
    return text.encode("utf-8", "surrogatepass")


def now_ms() -> int:
    """Return the machine's monotonic time, the same in all of its processes."""
    return time.monotonic_ns() // 1_000_000


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Take the write lock at once; commit at the end, or roll back."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _deadline(now: int, ttl: float | None) -> int | None:
    return None if ttl is None else now + max(1, int(min(ttl * 1000 + 0.5, _MAX_TTL_MS)))


def _stored(deadline: int | None, payload: bytes, now: int) -> Stored | None:
    if deadline is None:
        return Stored(payload, None)
    return Stored(payload, (deadline - now) / 1000) if deadline > now else None


def _chunks(keys: Sequence[bytes]) -> Iterator[list[bytes | None]]:
    """Yield the keys in lists of few different lengths, so that sqlite3 can reuse statements."""
    for start in range(0, len(keys), _MAX_PARAMETERS):
        some: list[bytes | None] = list(keys[start : start + _MAX_PARAMETERS])
        length = min(1 << (len(some) - 1).bit_length(), _MAX_PARAMETERS)
        yield some + [None] * (length - len(some))  # NULL is in nothing


def _marks(parameters: Sequence[object]) -> str:
    return f"({','.join('?' * len(parameters))})"
