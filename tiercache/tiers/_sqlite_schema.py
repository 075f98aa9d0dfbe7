"""The tables of the SQLite store, and how they keep its promises.

A *space* is a namespace. Its entries and leases are found by its *generation*, a random number;
``clear`` gives it another, and everything written or claimed under the old one is out of reach at
once. What that leaves behind is garbage, removed bit by bit.

A *tag*'s token is its row's id. An entry names the tokens it was written under, and is valid while
all of those rows exist; invalidating a tag gives its row another id. ``since`` is the number of
the message that told of it: a load that began before is too old for the tag. A row may go when no
entry names it (``uses``, kept by triggers) and its invalidation is some time ago
(``kept_until``); what it knew goes into the space's ``forgotten``, which rows made later begin
with. So a forgotten tag can refuse a value, and never let one through.

A lease or a lock is a row of *held*. The *scope* of a lease is the generation, of a lock the space.

A *log* has messages numbered without holes. ``last`` is the latest, ``trimmed`` the latest that is
gone. The id of a space is random, so that a file made anew is not taken for the one before.

The *fence* of locks is one number for the whole file; it outlives the other tables. So do those of
journals (_journal_tables), whatever becomes of the cache: they hold what nobody else has.
"""

from __future__ import annotations

from typing import Final

from tiercache.tiers._journal_tables import JOURNAL_TABLES, STATEMENTS

__all__ = ["JOURNAL_TABLES", "KEPT", "TABLES", "VERSION"]

#: Bump when a table, or what a row of it means, changes.
VERSION: Final = 3

#: What is kept when the machine has restarted: a fence must never go back.
KEPT: Final = ("fence", *JOURNAL_TABLES)

TABLES: Final = (
    """
    CREATE TABLE space (
        id INTEGER PRIMARY KEY,
        name BLOB NOT NULL UNIQUE,
        generation INTEGER NOT NULL,
        last INTEGER NOT NULL DEFAULT 0,
        trimmed INTEGER NOT NULL DEFAULT 0,
        log_bytes INTEGER NOT NULL DEFAULT 0,
        forgotten INTEGER NOT NULL DEFAULT 0
    )""",
    """
    CREATE TABLE entry (
        id INTEGER PRIMARY KEY,
        generation INTEGER NOT NULL,
        key BLOB NOT NULL,
        deadline INTEGER,
        tags TEXT,
        payload BLOB NOT NULL,
        UNIQUE (generation, key)
    )""",
    "CREATE INDEX entry_deadline ON entry (deadline) WHERE deadline IS NOT NULL",
    "CREATE TABLE garbage (generation INTEGER PRIMARY KEY)",
    """
    CREATE TABLE tag (
        token INTEGER PRIMARY KEY,
        space INTEGER NOT NULL,
        name BLOB NOT NULL,
        uses INTEGER NOT NULL DEFAULT 0,
        since INTEGER NOT NULL,
        kept_until INTEGER NOT NULL DEFAULT 0,
        UNIQUE (space, name)
    )""",
    "CREATE INDEX tag_unused ON tag (kept_until) WHERE uses = 0",
    """
    CREATE TRIGGER entry_made AFTER INSERT ON entry WHEN NEW.tags IS NOT NULL BEGIN
        UPDATE tag SET uses = uses + 1 WHERE token IN (SELECT value FROM json_each(NEW.tags));
    END""",
    """
    CREATE TRIGGER entry_changed AFTER UPDATE OF tags ON entry WHEN OLD.tags IS NOT NEW.tags BEGIN
        UPDATE tag SET uses = uses - 1 WHERE token IN (SELECT value FROM json_each(OLD.tags));
        UPDATE tag SET uses = uses + 1 WHERE token IN (SELECT value FROM json_each(NEW.tags));
    END""",
    """
    CREATE TRIGGER entry_gone AFTER DELETE ON entry WHEN OLD.tags IS NOT NULL BEGIN
        UPDATE tag SET uses = uses - 1 WHERE token IN (SELECT value FROM json_each(OLD.tags));
    END""",
    """
    CREATE TABLE held (
        scope INTEGER NOT NULL,
        name BLOB NOT NULL,
        nonce BLOB NOT NULL,
        deadline INTEGER NOT NULL,
        is_shared INTEGER NOT NULL,
        has_waiters INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (scope, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX held_deadline ON held (deadline)",
    """
    CREATE TABLE log (
        space INTEGER NOT NULL,
        id INTEGER NOT NULL,
        message TEXT NOT NULL,
        PRIMARY KEY (space, id)
    ) WITHOUT ROWID""",
    "CREATE TABLE IF NOT EXISTS fence (id INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    *STATEMENTS,
)
