"""The SQLite store's entries: reading, writing and removing rows of one generation.

An entry is valid while it has not expired and every token it was written under is still a tag's.
That is one expression of SQL, so that it is judged in the same step in which a row is read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from tiercache.tiers import _sqlite_tags as tags
from tiercache.tiers._sqlite_base import chunks, encode, marks
from tiercache.tiers.store import Stored

# One parameter: now, in ms.
_IS_VALID: Final = (
    "(deadline IS NULL OR deadline > ?) AND (tags IS NULL OR NOT EXISTS"
    " (SELECT 1 FROM json_each(entry.tags) AS each"
    " WHERE NOT EXISTS (SELECT 1 FROM tag WHERE token = each.value)))"
)
_IN_SPACE: Final = "generation = (SELECT generation FROM space WHERE name = ?)"
_FIELDS: Final = "SELECT key, deadline, tags, payload FROM entry WHERE "

_READ: Final = f"{_FIELDS}{_IN_SPACE} AND key = ? AND {_IS_VALID}"
_READ_MANY: Final = f"{_FIELDS}{_IN_SPACE} AND key IN {{}} AND {_IS_VALID}"
_FIND: Final = f"{_FIELDS} generation = ? AND key = ? AND {_IS_VALID}"
_WRITE: Final = (
    "INSERT INTO entry (generation, key, deadline, tags, payload) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (generation, key) DO UPDATE"
    " SET deadline = excluded.deadline, tags = excluded.tags, payload = excluded.payload"
)
_REMOVE: Final = f"DELETE FROM entry WHERE generation = ? AND key IN {{}} RETURNING {_IS_VALID}"  # noqa: S608
_SHORTEN: Final = (  # what SQLite returns is judged as changed: who has expired stays so
    "UPDATE entry SET deadline = MIN(IFNULL(deadline, ?), ?) WHERE generation = ? AND key = ?"  # noqa: S608
    f" RETURNING {_IS_VALID}"
)
_REMOVE_RANGE: Final = (
    "DELETE FROM entry WHERE id IN"
    " (SELECT id FROM entry WHERE generation = ? AND key >= ? AND key < ? LIMIT ?)"
)


class Row(NamedTuple):
    """An entry as it is written."""

    generation: int
    key: bytes
    deadline: int | None  # ms
    tags: str | None  # sealed: see _sqlite_tags
    payload: bytes


def read(db: sqlite3.Connection, space: str, key: str, now: int) -> Stored | None:
    """Return the valid entry of a key."""
    row = db.execute(_READ, (encode(space), encode(key), now)).fetchone()
    return None if row is None else _stored(row, now)


def read_many(
    db: sqlite3.Connection, space: str, keys: Sequence[str], now: int
) -> list[Stored | None]:
    """Return the valid entry of each key, in order."""
    wanted = [encode(key) for key in keys]
    found: dict[bytes, Stored] = {}
    for some in chunks(wanted):
        rows = db.execute(_READ_MANY.format(marks(some)), (encode(space), *some, now))
        found.update((row[0], _stored(row, now)) for row in rows)
    return [found.get(key) for key in wanted]


def find(db: sqlite3.Connection, generation: int, key: bytes, now: int) -> Stored | None:
    """Return the valid entry of a key, inside a transaction that knows the generation."""
    row = db.execute(_FIND, (generation, key, now)).fetchone()
    return None if row is None else _stored(row, now)


def _stored(row: tuple[bytes, int | None, str | None, bytes], now: int) -> Stored:
    _, deadline, sealed, payload = row
    remaining = None if deadline is None else (deadline - now) / 1000
    return Stored(payload, remaining, tags.names(sealed))


def write(db: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Store entries in place of what stood there."""
    if len(rows) == 1:
        db.execute(_WRITE, rows[0])
    else:
        db.executemany(_WRITE, rows)


def remove(db: sqlite3.Connection, generation: int, keys: Sequence[bytes], now: int) -> int:
    """Remove entries; return how many of them were valid."""
    valid = 0
    for some in chunks(keys):
        gone = db.execute(_REMOVE.format(marks(some)), (generation, *some, now)).fetchall()
        valid += sum(is_valid for (is_valid,) in gone)
    return valid


def shorten(
    db: sqlite3.Connection, generation: int, deadlines: Sequence[tuple[bytes, int]], now: int
) -> int:
    """Have entries end by a deadline in ms, or earlier; return how many of them were valid."""
    valid = 0
    for key, deadline in deadlines:
        found = db.execute(_SHORTEN, (deadline, deadline, generation, key, now)).fetchall()
        valid += sum(is_valid for (is_valid,) in found)
    return valid


def remove_range(
    db: sqlite3.Connection, generation: int, first: bytes, beyond: bytes, limit: int
) -> int:
    """Remove some entries whose keys are from one up to another; return how many."""
    return db.execute(_REMOVE_RANGE, (generation, first, beyond, limit)).rowcount
