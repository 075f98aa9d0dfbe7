"""What every part of the SQLite store says to SQLite: transactions, time, tokens, text, lists."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_MAX_PARAMETERS: Final = 32_000  # per statement; SQLite takes 32,766
_MAX_LIFE_MS: Final = 100 * 365 * 86_400 * 1000


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Take the write lock at once; commit at the end, or roll back."""
    with _ended(db, "BEGIN IMMEDIATE"):
        yield


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """See the file as it is now, whatever others write meanwhile; locks nobody out."""
    with _ended(db, "BEGIN"):
        yield


@contextmanager
def _ended(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def is_busy(error: Exception) -> bool:
    """Tell whether somebody else's lock was the trouble."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_full(error: Exception) -> bool:
    """Tell whether the file has reached its bound, or the disk its end."""
    return _code(error) == sqlite3.SQLITE_FULL


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def now_ms() -> int:
    """Return the machine's monotonic time, the same in all of its processes."""
    return time.monotonic_ns() // 1_000_000


def life_ms(seconds: float) -> int:
    """Return a duration in whole milliseconds: at least 1, and no more than SQLite can add up."""
    return max(1, int(min(seconds * 1000 + 0.5, _MAX_LIFE_MS)))


def new_token() -> int:
    """Return a number that nobody has given before: random, and as long as SQLite takes."""
    return secrets.randbits(63)


def encode(text: str) -> bytes:
    """Return a name as stored: SQLite's own text would not take every str."""
    return text.encode("utf-8", "surrogatepass")


def chunks(names: Sequence[bytes]) -> Iterator[list[bytes | None]]:
    """Yield names in lists of few different lengths, so that sqlite3 can reuse statements."""
    for start in range(0, len(names), _MAX_PARAMETERS):
        some: list[bytes | None] = list(names[start : start + _MAX_PARAMETERS])
        length = min(1 << (len(some) - 1).bit_length(), _MAX_PARAMETERS)
        yield some + [None] * (length - len(some))  # NULL is in nothing


def marks(parameters: Sequence[object]) -> str:
    """Return as many question marks, in brackets."""
    return f"({','.join('?' * len(parameters))})"
