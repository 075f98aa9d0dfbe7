"""L1 as warming sees it: it takes what there is room for, evicts nothing, and counts no hit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiercache.entry import Entry
    from tiercache.tiers.memory import Memory, Removed

REFUSALS = 64  # in a row, after which an L1 of weighed values counts as full


class Room:
    """An L1, but for what would evict or count."""

    def __init__(self, memory: Memory, refused: Callable[[int], None]) -> None:
        self._memory = memory
        self._refused = refused
        self.weigh = memory.weigh
        self._in_a_row = 0  # refusals; about right is enough

    def place(self, entry: Entry, weight: float) -> list[Removed]:
        """Store an entry if there is room for it."""
        removed = self._memory.place_in_room(entry, weight)
        if removed is None:
            self._in_a_row += 1
            self._refused(1)
            return []
        self._in_a_row = 0
        return removed

    def place_all(self, entries: Sequence[tuple[Entry, float]]) -> list[Removed]:
        """Store entries, each with its weight, as far as there is room."""
        removed, refused = self._memory.place_all_in_room(entries)
        if refused:
            self._in_a_row += refused
            self._refused(refused)
        else:
            self._in_a_row = 0
        return removed

    def touch(self, entry: Entry) -> None:
        """Count nothing: nobody has asked for the value."""

    @property
    def table(self) -> dict[str, Entry]:
        """The entries, by key."""
        return self._memory.table

    @property
    def is_full(self) -> bool:
        """Whether it is not worth trying any more."""
        memory = self._memory
        return memory.weight >= memory.maxsize or self._in_a_row >= REFUSALS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)
