"""A namespace's log in a table: messages by number, appended by whoever changed something.

Numbers are given inside the transaction of the change, so a reader who has seen one has seen all
before it. The log is cut to its length in steps, every 64 messages or so; and halved, the largest
of the file, where the logs need too much of a file that is full.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final, NamedTuple

from tiercache.tiers._sqlite_base import encode
from tiercache.tiers.store import Kind, LogGap, Message

NAMES_PER_MESSAGE: Final = 500
_MOST_AT_ONCE: Final = 1000  # messages given to a reader
_MOST_PER_STEP: Final = 64  # messages above a log's length, before it is cut

_ADVANCE: Final = (
    "UPDATE space SET last = last + ?, log_bytes = log_bytes + ? WHERE id = ? RETURNING last"
)
_TRIM: Final = "DELETE FROM log WHERE space = ? AND id <= ? RETURNING length(message)"
_TRIMMED: Final = "UPDATE space SET trimmed = ?, log_bytes = log_bytes - ? WHERE id = ?"
_LARGEST: Final = "SELECT id, trimmed, last FROM space ORDER BY log_bytes DESC LIMIT 1"
#: One statement, which SQLite answers as of one moment. Between statements Python lets go of its
#: lock and may wait for milliseconds to have it back, in each of many steps.
_NEWS: Final = """
    SELECT id, last, trimmed, (
        SELECT group_concat(message) FROM (
            SELECT message FROM log WHERE log.space = space.id AND log.id > ? ORDER BY id LIMIT ?
        )
    ) FROM space WHERE name = ?"""


class Position(NamedTuple):
    """A place in a log: all messages up to ``number`` have been seen."""

    space: int
    number: int

    def __str__(self) -> str:
        return f"{self.space}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return a position from its text; one that is not ours is before every log."""
        space, _, number = text.partition("-")
        is_ours = space.isdecimal() and number.isdecimal()
        return cls(int(space), int(number)) if is_ours else cls(0, 0)


def append(db: sqlite3.Connection, space: int, messages: Sequence[Message], length: int) -> int:
    """Append messages, inside the transaction of what they tell; return the last one's number."""
    texts = [json.dumps([message.kind, message.origin, *message.names]) for message in messages]
    count, size = len(texts), sum(map(len, texts))
    (last,) = db.execute(_ADVANCE, (count, size, space)).fetchone()
    rows = ((space, last - count + 1 + index, text) for index, text in enumerate(texts))
    db.executemany("INSERT INTO log (space, id, message) VALUES (?, ?, ?)", rows)
    step = max(1, min(length, _MOST_PER_STEP))
    if last // step != (last - count) // step:
        trim(db, space, last - length)
    return int(last)


def messages_of(kind: Kind, origin: str, names: Sequence[str]) -> list[Message]:
    """Return one message, or several where the names are many."""
    return [
        Message(kind, origin, tuple(names[start : start + NAMES_PER_MESSAGE]))
        for start in range(0, len(names) or 1, NAMES_PER_MESSAGE)
    ]


def trim(db: sqlite3.Connection, space: int, number: int) -> None:
    """Remove messages up to a number."""
    sizes = db.execute(_TRIM, (space, number)).fetchall()
    if sizes:
        db.execute(_TRIMMED, (number, sum(size for (size,) in sizes), space))


def trim_largest(db: sqlite3.Connection, most_bytes: float) -> None:
    """Halve the largest log if all logs together are above a bound."""
    (total,) = db.execute("SELECT coalesce(sum(log_bytes), 0) FROM space").fetchone()
    if total > most_bytes:
        space, trimmed, last = db.execute(_LARGEST).fetchone()
        trim(db, space, (trimmed + last + 1) // 2)


def read(db: sqlite3.Connection, name: str, position: Position) -> tuple[list[Message], Position]:
    """Return the next messages after a position, and the position after them.

    Raises:
        LogGap: If the log does not reach back to the position.
    """
    row = db.execute(_NEWS, (position.number, _MOST_AT_ONCE, encode(name))).fetchone()
    space, last, trimmed, texts = row or (None, 0, 0, None)
    if space != position.space or trimmed > position.number:
        raise LogGap(f"the log of {name!r} goes back to {space}-{trimmed}, not to {position}")
    if last == position.number:
        return [], position
    messages = [_message(*each) for each in json.loads(f"[{texts}]")]
    return messages, position._replace(number=position.number + len(messages))


def _message(kind: str, origin: str, *names: str) -> Message:
    return Message(Kind(kind), origin, names)
