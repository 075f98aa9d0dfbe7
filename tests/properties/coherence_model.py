"""The sequential model that a World is checked against: a database, and floors.

The *database* has a version for each row, which updates raise. *Floors* are what may not be seen
any more, as versions by row, and by row for values that carry a tag:

- An invalidation that took effect in L2 when the row was at version v: nothing below v may be
  written to L2 from then on. Once its message has been applied in another process, no read that
  begins there later returns less than v.
- An invalidation that has returned, whether L2 took it or it is owed: no read that begins later in
  its own process returns less than the version that the row had when it began.
- Of a tag: the same, for values that carry it.
- A write of a value is an invalidation of what is older than that value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PLAIN, SHARED, STATIC, VALUED = "plain", "shared", "static", "valued"  # functions that read rows
ROWS = (
    *(f"{PLAIN}:0", f"{PLAIN}:1"),
    f"{SHARED}:0",  # loaded without an exclusive lease
    *(f"{STATIC}:0", f"{STATIC}:1"),  # tagged "all"
    *(f"{VALUED}:0", f"{VALUED}:1"),  # tagged by what they are just now
)
WRITTEN = frozenset({f"{PLAIN}:1", f"{VALUED}:1"})  # by ``set``, too
TAGS = (("all",), ("v0",), ("v1",), ("v0", "all"))
PREFIXES = ("", f"{PLAIN}:", f"{VALUED}:")

Value = tuple[str, int, tuple[str, ...]]  # row, version, tags


class DatabaseError(Exception):
    """A load failed; a caller may see this."""


class Violation(AssertionError):
    """Something that was promised has not been kept."""

    moves: list[tuple[Any, ...]]  # that led to it, where a driver knows them


class Floors:
    """Versions below which nothing may be seen any more."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.tags: dict[tuple[str, str], int] = {}  # by tag and row

    @classmethod
    def of_rows(cls, rows: Iterable[str], versions: Mapping[str, int]) -> Floors:
        """Return those that an invalidation of rows sets."""
        floors = cls()
        floors.rows = {row: versions[row] for row in rows}
        return floors

    @classmethod
    def of_tags(cls, tags: Iterable[str], versions: Mapping[str, int]) -> Floors:
        """Return those that an invalidation of tags sets, for values that carry them."""
        floors = cls()
        floors.tags = {(tag, row): versions[row] for tag in tags for row in versions}
        return floors

    def copy(self) -> Floors:
        """Return the same ones."""
        twin = Floors()
        twin.rows, twin.tags = self.rows.copy(), self.tags.copy()
        return twin

    def lift(self, other: Floors) -> None:
        """Take on what others set, where that is higher."""
        for mine, others in ((self.rows, other.rows), (self.tags, other.tags)):
            for name, version in others.items():
                if mine.get(name, 0) < version:
                    mine[name] = version

    def of(self, row: str, tags: Iterable[str]) -> int:
        """Return the version below which no value of a row with these tags may be."""
        return max(self.rows.get(row, 0), *(self.tags.get((tag, row), 0) for tag in tags), 0)


def covered(prefix: str) -> list[str]:
    """Return the rows that begin with a prefix."""
    return [row for row in ROWS if row.startswith(prefix)]


def tags_of(row: str, version: int) -> tuple[str, ...]:
    """Return the tags that the value of a row has at some version."""
    function = row.partition(":")[0]
    if function == STATIC:
        return ("all",)
    return (f"v{version % 2}",) if function == VALUED else ()


def value_of(row: str, versions: Mapping[str, int]) -> Value:
    """Return the value of a row as it is now."""
    version = versions[row]
    return row, version, tags_of(row, version)


def changed_by(how: str, what: str, versions: Mapping[str, int]) -> list[str]:
    """Return the rows that an update is about."""
    if how == "clear":
        return covered(what)
    if how == "tags":
        tags = set(what.split())
        return [row for row in ROWS if not tags.isdisjoint(tags_of(row, versions[row]))]
    return [what]
