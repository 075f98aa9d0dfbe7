"""What ``WriteBehind.stats()`` shows."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiercache.tiers.journal import Level


class Counts:
    """What was done for one writer in one process."""

    __slots__ = ("batches", "buried", "failures", "lock", "lost", "puts", "retries", "written")

    def __init__(self) -> None:
        self.lock = threading.Lock()  # guards all that follows
        self.puts = 0  # operations accepted
        self.batches = 0  # calls of the writer that succeeded, and were acknowledged
        self.written = 0  # operations
        self.failures = 0  # calls that raised
        self.retries = 0  # operations put off
        self.buried = 0
        self.lost = 0  # operations whose claim had ended by the time they were written

    def add(self, name: str, number: int = 1) -> None:
        """Count."""
        with self.lock:
            setattr(self, name, getattr(self, name) + number)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBehindStats:
    """A snapshot of a writer: of its journal, and of what this process has done."""

    # Of the journal, whoever filled it; None where it is out of reach
    depth: int | None  # keys with pending writes; with merge=False: operations
    lag_seconds: float | None  # age of the oldest of them
    held: int | None  # keys that workers are at
    put_off: int | None  # keys that wait for another attempt
    dead: int | None  # dead letters

    # Of this process, since it began
    puts: int  # operations accepted
    written: int  # operations acknowledged
    batches: int  # calls of the writer that succeeded, and were acknowledged
    failures: int  # calls that raised
    retries: int  # operations put off
    buried: int  # operations given up
    lost_claims: int  # keys that were written when their claim had ended
    stuck: int  # threads that hang in the writer


def figures(level: Level | None, counts: Counts, stuck: int) -> WriteBehindStats:
    """Return a snapshot."""
    with counts.lock:
        return WriteBehindStats(
            depth=None if level is None else level.depth,
            lag_seconds=None if level is None else level.lag_seconds,
            held=None if level is None else level.held,
            put_off=None if level is None else level.put_off,
            dead=None if level is None else level.dead,
            puts=counts.puts,
            written=counts.written,
            batches=counts.batches,
            failures=counts.failures,
            retries=counts.retries,
            buried=counts.buried,
            lost_claims=counts.lost,
            stuck=stuck,
        )
