"""Leases and locks in a table: who holds what, until when, and whether somebody waits for it.

Each function runs inside a transaction of its caller. A row whose deadline has passed holds
nothing; it is overwritten by the next who asks, or removed with what else has expired.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from tiercache.tiers._sqlite_base import chunks, life_ms, marks

_FIND: Final = (
    "SELECT nonce, deadline, is_shared, has_waiters FROM held"
    " WHERE scope = ? AND name = ? AND deadline > ?"
)
_HOLD: Final = "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?)"
_PROLONG: Final = "UPDATE held SET deadline = ? WHERE scope = ? AND name = ?"
_EXPECT: Final = "UPDATE held SET has_waiters = 1 WHERE scope = ? AND name = ?"
_END: Final = "DELETE FROM held WHERE scope = ? AND name = ?"
_END_MANY: Final = "DELETE FROM held WHERE scope = ? AND name IN "
_END_RANGE: Final = "DELETE FROM held WHERE scope = ? AND name >= ? AND name < ?"
_NEXT_FENCE: Final = (
    "INSERT INTO fence (id, last) VALUES (1, ?)"
    " ON CONFLICT (id) DO UPDATE SET last = max(last + 1, excluded.last) RETURNING last"
)


class Held(NamedTuple):
    """A lease or lock that has not ended."""

    nonce: bytes
    deadline: int  # ms
    is_shared: bool
    has_waiters: bool


def find(db: sqlite3.Connection, scope: int, name: bytes, now: int) -> Held | None:
    """Return who holds a name now."""
    row = db.execute(_FIND, (scope, name, now)).fetchone()
    return None if row is None else Held(row[0], row[1], bool(row[2]), bool(row[3]))


def find_own(
    db: sqlite3.Connection, scope: int, name: bytes, nonce: bytes, now: int
) -> Held | None:
    """Return what is held by a nonce, if it is."""
    held = find(db, scope, name, now)
    return held if held is not None and held.nonce == nonce else None


def hold(db: sqlite3.Connection, scope: int, name: bytes, held: Held) -> None:
    """Have a name held, whoever held it before."""
    db.execute(_HOLD, (scope, name, *held))


def share(db: sqlite3.Connection, scope: int, name: bytes, held: Held, deadline: int) -> None:
    """Have what is held last until a deadline at least."""
    if held.deadline < deadline:
        db.execute(_PROLONG, (deadline, scope, name))


def expect(db: sqlite3.Connection, scope: int, name: bytes, held: Held) -> None:
    """Note that somebody waits for the end of what is held."""
    if not held.has_waiters:
        db.execute(_EXPECT, (scope, name))


def prolong(
    db: sqlite3.Connection, scope: int, name: bytes, nonce: bytes, seconds: float, now: int
) -> bool:
    """Have what is held by a nonce last so long from now; False if it is not held by it."""
    if find_own(db, scope, name, nonce, now) is None:
        return False
    db.execute(_PROLONG, (now + life_ms(seconds), scope, name))
    return True


def end(db: sqlite3.Connection, scope: int, name: bytes) -> None:
    """End what is held."""
    db.execute(_END, (scope, name))


def end_many(db: sqlite3.Connection, scope: int, names: Sequence[bytes]) -> None:
    """End whatever of many names is held."""
    for some in chunks(names):
        db.execute(_END_MANY + marks(some), (scope, *some))


def end_range(db: sqlite3.Connection, scope: int, first: bytes, beyond: bytes) -> None:
    """End whatever is held of the names from one up to another."""
    db.execute(_END_RANGE, (scope, first, beyond))


def next_fence(db: sqlite3.Connection) -> int:
    """Return a number greater than every one before.

    Should the count be lost with the file, it goes on from the clock in microseconds, which no
    count of grants overtakes.
    """
    (fence,) = db.execute(_NEXT_FENCE, (time.time_ns() // 1000,)).fetchone()
    return int(fence)
