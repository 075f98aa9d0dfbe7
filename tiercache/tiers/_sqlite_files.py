"""The database file of the SQLite store: whose it is, and which boot wrote it.

Deadlines are milliseconds of ``time.monotonic()``, which all processes of a machine share and no
clock change touches, but which starts anew at each boot. The file therefore remembers the boot
that wrote it, and is emptied when that has changed.

A file that is not SQLite, or holds somebody else's tables, is refused and left as it is. Tables of
another version of tiercache are dropped: it is a cache. A journal's never are.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from tiercache.errors import ConfigurationError
from tiercache.tiers._sqlite_base import is_busy, transaction
from tiercache.tiers._sqlite_schema import JOURNAL_TABLES, KEPT, TABLES, VERSION

_APPLICATION_ID: Final = 0x74636163  # "tcac"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MAX_WAL_BYTES: Final = 16 * 2**20
_BOOT_TOLERANCE: Final = 300  # seconds; clock adjustments since boot move a derived boot time


def connect(path: str, timeout: float, max_bytes: int) -> sqlite3.Connection:
    """Open path with the settings that every connection of the store needs.

    The caller keeps threads apart; closing may happen in another thread than opening.
    """
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {min(max_bytes, _MAX_WAL_BYTES)}")
        db.execute(f"PRAGMA max_page_count = {max_bytes // _page_bytes(db)}")
    except BaseException:
        db.close()
        raise
    return db


def prepare(path: str, timeout: float, max_bytes: int) -> None:
    """Create the file and its tables, or check that they are ours and of this boot.

    Raises:
        ConfigurationError: If the file is something else's.
        sqlite3.Error: If it cannot be written, is no database, or stays locked.
    """
    with closing(connect(path, timeout, max_bytes)) as db:
        with transaction(db):
            _adopt(db, path)
        _use_wal(db, timeout)
        if db.execute("PRAGMA page_count").fetchone()[0] * _page_bytes(db) > max_bytes:
            _shrink(db)


def is_ours(db: sqlite3.Connection) -> bool:
    """Tell whether the tables are there, in this version."""
    return bool(db.execute("PRAGMA user_version").fetchone()[0] == VERSION)


def _page_bytes(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA page_size").fetchone()[0])


def _use_wal(db: sqlite3.Connection, timeout: float) -> None:
    """Switch to WAL. SQLite does not wait for others here, so we do."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _shrink(db: sqlite3.Connection) -> None:
    """Empty a file that a greater max_bytes has let grow; a busy one must wait for next time."""
    with transaction(db):
        db.execute("DELETE FROM entry")
        db.execute("DELETE FROM log")
        db.execute("UPDATE space SET trimmed = last, log_bytes = 0")
    with suppress(sqlite3.OperationalError):
        db.execute("VACUUM")


def _adopt(db: sqlite3.Connection, path: str) -> None:
    owner = db.execute("PRAGMA application_id").fetchone()[0]
    tables = _tables(db)
    if owner != _APPLICATION_ID and tables:
        raise ConfigurationError(
            f"SQLite path {path!r} is another program's database; give the cache its own file"
        )
    if not tables or not is_ours(db):
        _recreate(db, [name for name in tables if name not in JOURNAL_TABLES])
    elif not _is_of_this_boot(db):
        _recreate(db, [name for name in tables if name not in KEPT])


def _tables(db: sqlite3.Connection) -> list[str]:
    rows = db.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    return [name for (name,) in rows]


def _recreate(db: sqlite3.Connection, tables: list[str]) -> None:
    for name in tables:
        db.execute(f'DROP TABLE "{name}"')
    for statement in TABLES:
        db.execute(statement)
    db.execute("INSERT INTO meta VALUES ('boot', ?)", (boot_identity(),))
    db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def boot_of(db: sqlite3.Connection) -> str:
    """Return the boot that the file's times are of: this one, by its name in the file."""
    return str(db.execute("SELECT value FROM meta WHERE name = 'boot'").fetchone()[0])


def _is_of_this_boot(db: sqlite3.Connection) -> bool:
    row = db.execute("SELECT value FROM meta WHERE name = 'boot'").fetchone()
    return row is not None and is_same_boot(row[0], boot_identity())


def boot_identity() -> str:
    """Return what tells this boot of the machine from others.

    Where the system has no name for it, the wall clock's time of the boot: it says only whether
    the monotonic clock started anew, and never takes part in a deadline.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return f"at {time.time() - time.monotonic():.0f}"


def is_same_boot(one: str, other: str) -> bool:
    """Tell whether two identities mean the same boot."""
    if one.startswith("at ") and other.startswith("at "):
        return abs(float(one[3:]) - float(other[3:])) < _BOOT_TOLERANCE
    return one == other
