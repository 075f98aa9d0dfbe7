"""The journal port: writes that were accepted and are still to be made, kept by a store.

A journal belongs to one cache and one writer. It holds for each *dirty* key what is to be written,
and exactly one *ticket*. Whoever has the ticket of a key may write it, so no two workers ever hold
operations of the same key, and operations of one key are written in their order. A ticket is

- *free*: in the queue, oldest first, for the next worker that takes;
- *held* by a worker, for at most ``claim_seconds``: then the next one that takes gets it; or
- *put off* until a moment, after a failure.

Whatever a worker does with a ticket is refused once it does not hold it any more: one that was
frozen, and thaws, acknowledges nothing that is another's by now.

Operations are numbered: a *version* is greater than all those before it in the journal. Numbers
begin with the clock's microseconds, so that a journal which was lost, or restored from yesterday,
does not give numbers that a database has seen already; from there on they are counted, and no
clock can make them go back.

Where operations are *merged* only the newest of a key is kept, else all of them. A journal bears
the mark of its format, and refuses to touch one of another format (JournalMismatch).

Methods that a cache's callers need come in pairs, as in ``store.py``; a worker has a thread of its
own and needs only those that block.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

from tiercache.errors import ConfigurationError
from tiercache.tiers.store import Item, Kind

__all__ = [
    "FORMAT",
    "Accepted",
    "Burial",
    "Buried",
    "Change",
    "Draft",
    "Journal",
    "JournalMismatch",
    "Level",
    "OpKind",
    "Record",
    "Retry",
    "Taken",
    "Ticket",
]

#: Bump when what a journal holds is to be read otherwise.
FORMAT = "1"


class JournalMismatch(ConfigurationError):
    """A journal was written by a version of tiercache that keeps it in another way.

    Nothing was read from it or written to it.
    """


class OpKind(StrEnum):
    """What an operation does to its row, as far as the cache knows."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class Draft(NamedTuple):
    """An operation to be accepted."""

    key: str
    deletes: bool
    body: bytes  # the journal does not look into it
    exists: bool  # whether the caller knows of a row; the journal may know better


class Change(NamedTuple):
    """What becomes of the key's entry in the same step, and what peers are told."""

    kind: Kind  # SET or DELETE
    item: Item | None = None  # what to store; its payload is the end of the draft's body


class Accepted(NamedTuple):
    """What came of offering a draft."""

    version: int | None  # None: the journal is full
    depth: int = 0  # if it is full: how many dirty keys, or operations where all are kept


class Record(NamedTuple):
    """An operation that was accepted."""

    version: int
    kind: OpKind
    body: bytes
    head: bytes = b""  # the store's own


class Ticket(NamedTuple):
    """The right to write what is pending for one key."""

    id: str
    key: str
    records: tuple[Record, ...]  # in their order; one, where they are merged
    attempts: int  # how often the first of them has been tried, alone, in vain
    is_suspect: bool = False  # whoever held it last did not say what became of it


class Taken(NamedTuple):
    """What a worker got."""

    tickets: Sequence[Ticket]
    wait: float | None  # seconds after which it is worth while to ask again; None: nothing is there


class Retry(NamedTuple):
    """A ticket to be put off."""

    ticket: Ticket
    seconds: float
    attempts: int


class Burial(NamedTuple):
    """An operation to be moved to the dead letters."""

    ticket: Ticket  # of its first record
    error: str


class Buried(NamedTuple):
    """A dead letter."""

    id: str
    key: str
    record: Record
    attempts: int
    error: str


class Level(NamedTuple):
    """How full a journal is."""

    depth: int
    oldest: int | None  # version of the first operation that is not written; None: all are
    newest: int  # the last version given
    held: int
    put_off: int
    dead: int
    lag_seconds: float  # age of the oldest operation, put-off ones included


class Journal(Protocol):
    """Where operations wait to be written. See the module's docstring."""

    label: str
    writes_entries: bool  # whether ``put`` makes the Change as well, in the same step

    def put(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Accept an operation, unless there are ``most`` already.

        It is as safe as the store is when this returns.

        Raises:
            JournalMismatch: If the journal is of another format.
            StoreError: If nobody knows whether it was accepted.
        """

    async def aput(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Await what put does."""

    def pending(self, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""

    async def apending(self, keys: Sequence[str]) -> list[Record | None]:
        """Await what pending does."""

    def level(self) -> Level:
        """Return how full it is."""

    async def alevel(self) -> Level:
        """Await what level does."""

    # For workers

    def take(self, worker: str, most: int, claim_seconds: float, patience: float) -> Taken:
        """Give a worker up to ``most`` tickets, abandoned ones first.

        Free ones only if there are as many (operations, where all are kept), or the first has
        waited for ``patience`` seconds.
        """

    def done(
        self, worker: str, tickets: Sequence[Ticket], payloads: Sequence[bytes] = ()
    ) -> Sequence[str]:
        """Take out what was written: all records of tickets. Return ids that were not the worker's.

        Args:
            worker: Who has written.
            tickets: What it has written.
            payloads: For each ticket, what the entry of its key may hold, b"" for a delete: where
                nothing newer is pending, and the journal ``writes_entries``, any other is removed
                in the same step, the lease ended, and peers are told. None given: entries stay.
        """

    def retry(self, worker: str, retries: Sequence[Retry]) -> int:
        """Put tickets off. Say how many were not the worker's."""

    def bury(self, worker: str, burials: Sequence[Burial], most: int) -> Sequence[bool | None]:
        """Move the first record of each ticket to the dead letters, if they are not ``most`` yet.

        Say for each whether nothing newer is pending for its key; None: it was not moved.
        """

    def leave(self, worker: str) -> None:
        """Give back what a worker holds, and forget it.

        So are others forgotten that have held nothing for an hour.
        """

    # Dead letters

    def dead(self, most: int) -> Sequence[Buried]:
        """Return the oldest dead letters."""

    def revive(self, ids: Sequence[str]) -> Sequence[str]:
        """Have dead letters written after all; return the ids of those that will be.

        Not where something newer of the key has been accepted since: it is out of date, and stays
        where it is.
        """

    def discard(self, ids: Sequence[str]) -> int:
        """Remove dead letters for good; return how many there were."""
