"""What the writer has in hand in this process: so that a slow writer is not taken for a dead one.

A ticket that is held past ``claim_timeout`` is given to another worker, and the journal counts an
attempt: whoever held it may have died of it. Where that was a worker of this process, which is
still in the writer, it has not. Such attempts are taken off again; and what it has written in the
end, its claim being lost, is acknowledged by whoever has the ticket then, not written once more.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from tiercache.tiers.journal import Ticket

_MOST: Final = 10_000  # names that are kept in mind: what another process settles is not told
_ENOUGH: Final = 2  # workers that may be in the writer with one operation: it may hang for ever
_Name = tuple[str, int]  # of an operation: its key and its version
T = TypeVar("T")


class InHand:
    """The operations that workers of one writer have in hand. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all that follows
        self._held: Counter[_Name] = Counter()  # workers that have it in the writer
        self._slow: dict[_Name, int] = {}  # attempts counted that were none
        self._late: dict[_Name, None] = {}  # written by one who had lost the claim

    @contextmanager
    def holding(self, tickets: Sequence[Ticket]) -> Iterator[None]:
        """Have operations in hand, until what became of them is in the journal."""
        names = _names(tickets)
        with self._lock:
            self._held.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(names)
                self._held = +self._held

    def seen(self, ticket: Ticket) -> Ticket:
        """Return a ticket that was taken, without attempts that were only slow."""
        first = ticket.key, ticket.records[0].version
        with self._lock:
            if ticket.is_suspect and self._held[first]:
                _keep(self._slow, first, self._slow.get(first, 0) + 1)
            slow = self._slow.get(first, 0)
        return ticket._replace(attempts=max(0, ticket.attempts - slow)) if slow else ticket

    def is_enough(self, ticket: Ticket) -> bool:
        """Whether no more workers should go into the writer with a ticket's first operation."""
        return self._held[ticket.key, ticket.records[0].version] >= _ENOUGH

    def wrote_late(self, tickets: Sequence[Ticket]) -> None:
        """Note what was written by one who had lost the claim."""
        with self._lock:
            for name in _names(tickets):
                _keep(self._late, name, None)

    def written(self, ticket: Ticket) -> Ticket | None:
        """Return the part of a ticket that is in the database already; None if that is nothing."""
        count = 0
        with self._lock:
            for record in ticket.records:
                if (ticket.key, record.version) not in self._late:
                    break
                count += 1
        return ticket._replace(records=ticket.records[:count]) if count else None

    def recorded(self, tickets: Sequence[Ticket]) -> None:
        """Say that the journal has the attempts of tickets as ``seen`` returned them."""
        with self._lock:
            for name in _names(tickets):
                self._slow.pop(name, None)

    def settled(self, tickets: Sequence[Ticket]) -> None:
        """Say that the operations of tickets are out of the journal."""
        with self._lock:
            for name in _names(tickets):
                self._slow.pop(name, None)
                self._late.pop(name, None)


def _names(tickets: Sequence[Ticket]) -> list[_Name]:
    return [(ticket.key, record.version) for ticket in tickets for record in ticket.records]


def _keep(notes: dict[_Name, T], name: _Name, value: T) -> None:
    """Note something of an operation, and forget the oldest note where there are too many."""
    notes[name] = value
    if len(notes) > _MOST:
        notes.pop(next(iter(notes)))
