"""Invalidations that L2 did not take: kept, and delivered before L2 is believed again.

A delete that does not reach L2 leaves the old value there, and the other processes unaware. So it
is *owed*: newest per key, in order. Nothing is read from L2 while something is owed. Past
MOST_DEBTS a clear of the whole cache is owed instead, which says all of them and more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tiercache.tiers.store import Kind

__all__ = ["Debts", "Owed"]

MOST_DEBTS = 10_000
AT_ONCE = 500  # names delivered by one command


class Owed(NamedTuple):
    """Some debts of one kind that are due next."""

    kind: Kind  # DELETE, TAGS, or CLEAR with one prefix
    names: tuple[str, ...]
    until: int  # number of the last of them


class Debts:
    """What one cache owes its L2. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owed: OrderedDict[tuple[Kind, str], int] = OrderedDict()  # numbered; guarded by _lock
        self._last = 0  # number of the newest

    def __len__(self) -> int:
        return len(self._owed)

    @property
    def last(self) -> int:
        """The number of the newest debt so far."""
        return self._last

    def owe(self, kind: Kind, names: Iterable[str]) -> None:
        """Note invalidations that were not delivered."""
        with self._lock:
            for name in names:
                if kind is Kind.CLEAR and not name:
                    self._owed.clear()
                self._last += 1
                self._owed[kind, name] = self._last
                self._owed.move_to_end((kind, name))
            if len(self._owed) > MOST_DEBTS:
                self.owe(Kind.CLEAR, [""])

    def next(self) -> Owed | None:
        """Return the oldest debts, of one kind; None if nothing is owed."""
        with self._lock:
            if not self._owed:
                return None
            kind = next(iter(self._owed))[0]
            most = 1 if kind is Kind.CLEAR else AT_ONCE
            names: list[str] = []
            until = 0
            for (other, name), number in self._owed.items():
                if other is not kind or len(names) == most:
                    break
                names.append(name)
                until = number
            return Owed(kind, tuple(names), until)

    def paid(self, owed: Owed) -> None:
        """Strike what was delivered, unless it has come to be owed again meanwhile."""
        self.settled(owed.kind, owed.names, owed.until)

    def settled(self, kind: Kind, names: Sequence[str], until: int) -> None:
        """Strike debts up to a number: a later command has done what they ask for."""
        if not self._owed:
            return
        with self._lock:
            for name in names:
                if self._owed.get((kind, name), until + 1) <= until:
                    del self._owed[kind, name]

    def after_fork(self) -> None:
        """Take a new lock in a forked child, and leave the parent its debts."""
        self.__init__()  # type: ignore[misc]
