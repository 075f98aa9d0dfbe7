"""Many entries by column: their payloads, and their lives.

A store may return `Columns` for a list of `Stored`, which is made when it is asked for. Who takes
the columns does without: to make and to take apart a tuple for each key costs as much as to check
all of them in columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import compress, repeat
from typing import overload

from tiercache.tiers.store import Stored


class Columns(Sequence[Stored | None]):
    """What a store holds under many keys, where no entry has tags: a list of `Stored`, or None."""

    __slots__ = ("_rows", "is_there", "lives", "payloads")

    def __init__(
        self,
        payloads: Sequence[bytes],
        lives: Sequence[float],
        is_there: Sequence[bool] | None = None,
    ) -> None:
        self.payloads = payloads  # of the entries there are; never empty
        self.lives = lives  # seconds that the store will still hold each; > 0
        self.is_there = is_there  # for each key asked for; None: all are
        self._rows: list[Stored | None] | None = None

    def held(self, keys: Sequence[str]) -> Sequence[str]:
        """Return those of the keys asked for whose entries are there."""
        return keys if self.is_there is None else list(compress(keys, self.is_there))

    def rows(self) -> list[Stored | None]:
        """Return what is held for each key."""
        if self._rows is None:
            triples = zip(self.payloads, self.lives, repeat(()))
            made = map(tuple.__new__, repeat(Stored), triples)
            if self.is_there is None:
                self._rows = list(made)
            else:
                self._rows = [next(made) if one else None for one in self.is_there]
        return self._rows

    def __len__(self) -> int:
        return len(self.payloads if self.is_there is None else self.is_there)

    def __iter__(self) -> Iterator[Stored | None]:
        return iter(self.rows())

    @overload
    def __getitem__(self, index: int) -> Stored | None: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Stored | None]: ...

    def __getitem__(self, index: int | slice) -> Stored | Sequence[Stored | None] | None:
        return self.rows()[index]

    def __eq__(self, other: object) -> bool:
        return self.rows() == (other.rows() if isinstance(other, Columns) else other)

    __hash__ = None  # type: ignore[assignment]
