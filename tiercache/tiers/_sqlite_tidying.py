"""What keeps the SQLite store within its bounds: a little tidying with every 16th change.

Each time removes at most four rows per change of what has expired, what a clear has left behind
and what no entry needs any more; and live entries, too, where the file comes near ``max_bytes``:
the soonest to expire first, then the oldest of those that never do.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from tiercache.tiers import _sqlite_log as log
from tiercache.tiers import _sqlite_tags as tags
from tiercache.tiers._sqlite_base import now_ms, transaction

_EVERY: Final = 16  # changes
_FACTOR: Final = 4  # rows removed per change since the last time, at most
_MAKE_ROOM_ROWS: Final = 1024  # when a change finds the file full
_FULL_SHARE: Final = 0.9  # of max_bytes, above which entries are evicted
_LOG_SHARE: Final = 0.125  # of max_bytes, above which logs must give way in a full file
_BIGGEST_SHARE: Final = 0.25  # of max_bytes, above which a payload is not stored

_EXPIRE: Final = (
    "DELETE FROM entry WHERE id IN"
    " (SELECT id FROM entry WHERE deadline <= ? ORDER BY deadline LIMIT ?)"
)
_EVICT: Final = (
    "DELETE FROM entry WHERE id IN"
    " (SELECT id FROM entry WHERE deadline IS NOT NULL ORDER BY deadline LIMIT ?)"
)
_EVICT_ENDLESS: Final = (
    "DELETE FROM entry WHERE id IN"
    " (SELECT id FROM entry WHERE deadline IS NULL ORDER BY id LIMIT ?)"
)
_END: Final = (
    "DELETE FROM held WHERE (scope, name) IN"
    " (SELECT scope, name FROM held WHERE deadline <= ? ORDER BY deadline LIMIT ?)"
)
_SWEEP: Final = "DELETE FROM entry WHERE id IN (SELECT id FROM entry WHERE generation = ? LIMIT ?)"
_FOREVER_MS: Final = 2**62


class Tidying:
    """The bounds of one store, and how many changes it has made since it last tidied.

    The count is not guarded: a change that two threads count as one only delays the next time.
    """

    def __init__(self, max_bytes: int, log_length: int) -> None:
        self.max_bytes = max_bytes
        self.log_length = log_length
        self._changes = 0

    def fits(self, payload: bytes) -> bool:
        """Tell whether a payload is small enough to be stored."""
        return len(payload) <= self.max_bytes * _BIGGEST_SHARE

    def note(self, db: sqlite3.Connection, changes: int) -> None:
        """Count changes and tidy when it is time; inside a transaction."""
        self._changes += changes
        if self._changes >= _EVERY:
            limit, self._changes = self._changes * _FACTOR, 0
            self._tidy(db, limit)

    def _tidy(self, db: sqlite3.Connection, limit: int) -> None:
        now = now_ms()
        db.execute(_EXPIRE, (now, limit))
        db.execute(_END, (now, limit))
        _sweep(db, limit)
        tags.tidy(db, now, limit)
        if _used_bytes(db) > self.max_bytes * _FULL_SHARE:
            self._evict(db, limit)

    def make_room(self, db: sqlite3.Connection) -> None:
        """Remove what can be missed from a file that is full."""
        with transaction(db):
            self._evict(db, _MAKE_ROOM_ROWS)

    def _evict(self, db: sqlite3.Connection, limit: int) -> None:
        gone = db.execute(_EVICT, (limit,)).rowcount
        if gone < limit:
            db.execute(_EVICT_ENDLESS, (limit - gone,))
        tags.tidy(db, _FOREVER_MS, limit)
        log.trim_largest(db, self.max_bytes * _LOG_SHARE)


def _sweep(db: sqlite3.Connection, limit: int) -> None:
    """Remove entries of generations that are over, and each such generation once it is empty."""
    while limit > 0:
        row = db.execute("SELECT generation FROM garbage LIMIT 1").fetchone()
        if row is None:
            return
        gone = db.execute(_SWEEP, (row[0], limit)).rowcount
        if gone < limit:
            db.execute("DELETE FROM garbage WHERE generation = ?", row)
        limit -= gone + 1


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, page_bytes = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * page_bytes
