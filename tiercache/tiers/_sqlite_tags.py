"""Tags in a table: the tokens that entries are valid under. The theory is in _sqlite_schema.py."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from tiercache.tiers._sqlite_base import encode, life_ms, new_token

#: How long an invalidated tag that no entry carries is remembered. Loads that take longer than
#: this, and learn their tags only from the value, may be refused for want of knowing better.
_KEPT_SECONDS: Final = 600.0

_FIND: Final = "SELECT token, since FROM tag WHERE space = ? AND name = ?"
_MAKE: Final = (
    "INSERT INTO tag (token, space, name, since)"
    " VALUES (?, ?, ?, (SELECT forgotten FROM space WHERE id = ?))"
)
_INVALIDATE: Final = (
    "INSERT INTO tag (token, space, name, since, kept_until) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (space, name) DO UPDATE SET token = excluded.token, uses = 0,"
    " since = excluded.since, kept_until = excluded.kept_until"
)
_FORGOTTEN: Final = "SELECT forgotten FROM space WHERE id = ?"
_TIDY: Final = (
    "DELETE FROM tag WHERE token IN"
    " (SELECT token FROM tag WHERE uses = 0 AND kept_until <= ? ORDER BY kept_until LIMIT ?)"
    " RETURNING space, since"
)
_FORGET: Final = "UPDATE space SET forgotten = max(forgotten, ?) WHERE id = ?"


def seal(db: sqlite3.Connection, space: int, tags: Sequence[str]) -> str | None:
    """Return what an entry stores of its tags: each with its token, made if there is none."""
    return json.dumps({tag: _token(db, space, tag) for tag in tags}) if tags else None


def names(sealed: str | None) -> tuple[str, ...]:
    """Return the tags that an entry carries."""
    return tuple(json.loads(sealed)) if sealed else ()


def _token(db: sqlite3.Connection, space: int, tag: str) -> int:
    name = encode(tag)
    row = db.execute(_FIND, (space, name)).fetchone()
    if row is not None:
        return int(row[0])
    token = new_token()
    db.execute(_MAKE, (token, space, name, space))
    return token


def was_invalidated(db: sqlite3.Connection, space: int, tags: Sequence[str], since: int) -> bool:
    """Tell whether one of the tags was invalidated after a message, or may have been."""
    for tag in tags:
        row = db.execute(_FIND, (space, encode(tag))).fetchone()
        latest = db.execute(_FORGOTTEN, (space,)).fetchone()[0] if row is None else row[1]
        if latest > since:
            return True
    return False


def invalidate(
    db: sqlite3.Connection, space: int, tags: Sequence[str], number: int, now: int
) -> None:
    """Give tags other tokens; the number is that of the message that tells of it."""
    kept_until = now + life_ms(_KEPT_SECONDS)
    rows = ((new_token(), space, encode(tag), number, kept_until) for tag in tags)
    db.executemany(_INVALIDATE, rows)


def tidy(db: sqlite3.Connection, now: int, limit: int) -> None:
    """Forget tags that no entry carries and that were not invalidated lately."""
    for space, since in db.execute(_TIDY, (now, limit)).fetchall():
        if since:
            db.execute(_FORGET, (since, space))
