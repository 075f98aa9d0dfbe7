"""What is written down about a round of chaos, by all who took part in it.

Times are of CLOCK_MONOTONIC, which the processes of one machine share. A record is made once what
it tells of is over.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ALL = -1  # as the victim of a fault: everybody


class Read(NamedTuple):
    """A value that a caller was given."""

    key: str  # that was asked for
    value_key: str  # whose value it is
    version: int
    began: float
    ended: float
    how: str


class Load(NamedTuple):
    """A run of a loader."""

    key: str
    began: float
    ended: float
    succeeded: bool


class Change(NamedTuple):
    """An invalidation or write that has returned."""

    how: str
    floors: dict[str, int]  # of the keys it is about: versions in the database as it began
    began: float
    ended: float
    delivered: bool  # nothing was owed to L2 after it
    is_local: bool = False  # other processes are promised nothing


class Lag(NamedTuple):
    """A moment at which a process had not run for so many seconds."""

    at: float
    seconds: float


class Debt(NamedTuple):
    """From when on a process owed something to L2, or nothing."""

    at: float
    owes: bool


class Fault(NamedTuple):
    """Something that was done to a server, a line or a process."""

    kind: str
    victim: int  # number of a process, or ALL
    began: float
    ended: float
    loses: bool = False  # what was acknowledged about that time, since another server took over


@dataclass
class Process:
    """What one process has written down."""

    number: int
    has_l1: bool = True
    reads: list[Read] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    lags: list[Lag] = field(default_factory=list)
    debts: list[Debt] = field(default_factory=list)
    cuts: list[tuple[float, float]] = field(default_factory=list)  # when its bus was not up
    lapses: list[float] = field(default_factory=list)  # when an update was cancelled: it is owed
    troubles: list[str] = field(default_factory=list)  # what no caller should see
    converged: float = 0.0  # seconds after the healing, when the last stale read began
    left_behind: list[str] = field(default_factory=list)  # threads, sockets, debts after close()
    stats: dict[str, int] = field(default_factory=dict)


@dataclass
class Round:
    """All of a round, and what its promises depend on."""

    seed: int
    processes: list[Process]
    faults: list[Fault]
    blind_ttl: float
    timeout: float  # of the store
    lags: list[Lag] = field(default_factory=list)  # of the process that held the lines

    def save(self, path: Path) -> None:
        """Write it to a file."""
        path.write_bytes(pickle.dumps(self))


def read_from(path: Path) -> Any:
    """Return what was written to a file: a Round, or a Process."""
    return pickle.loads(path.read_bytes())
