"""When the snapshot file is read, written, and not believed any longer.

It is written after each build and on stop. What was added since is not in it, so it is complete
only until the next new key, and says so itself from then on. Where other processes create keys,
too, it is complete only on stop, and only until it is used: who is killed cannot say what it has
not heard. What was created while nobody was there to hear it is not in it either: only its user can
know that there was nothing, and says so by ``trust_snapshot=True``. Otherwise it tells how large
the filter has to be, no more.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import NamedTuple

from ._bloom_series import Series
from ._bloom_snapshot import NotASnapshot, SnapshotFile

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """What a file gives."""

    trusted: Series | None = None  # to answer from at once
    keys: int = 0  # how many there were


class Files:
    """The snapshot of one guard; does nothing without a path.

    Args:
        path: Where it is, or None.
        error_rate: Of the filter.
        is_trusted: Whether one that is complete says all.
    """

    def __init__(self, path: Path | None, error_rate: float, *, is_trusted: bool) -> None:
        self._path = path
        self._error_rate = error_rate
        self._is_trusted = is_trusted
        self._is_read = False
        self.after_fork()

    def after_fork(self) -> None:
        """Have a lock that nobody holds."""
        self._lock = threading.Lock()  # a write and what outdates it do not overlap

    def read(self, keys: str) -> Found:
        """Return what the file gives; once, since it is of the past then."""
        if self._path is None or self._is_read:
            return Found()
        self._is_read = True
        try:
            with self._lock:
                snapshot = SnapshotFile(self._path, keys, self._error_rate).read()
        except (OSError, NotASnapshot) as error:
            log.warning("BloomGuard: snapshot %s is ignored: %s", self._path, error)
            return Found()
        if snapshot is None:
            return Found()
        # If a key was added since this began, the file has been told, before it was read.
        is_trusted = self._is_trusted and snapshot.is_complete
        return Found(snapshot.series if is_trusted else None, snapshot.series.count)

    def write(self, series: Series, keys: str, *, is_complete: bool) -> None:
        """Write the file; that it cannot be written is logged."""
        if self._path is None:
            return
        try:
            with self._lock:
                SnapshotFile(self._path, keys, self._error_rate).write(
                    series, is_complete=is_complete
                )
        except OSError as error:
            log.warning("BloomGuard: snapshot %s cannot be written: %s", self._path, error)

    def outdate(self) -> None:
        """Have the file say that it lacks something; at once where it does already."""
        if self._path is None:
            return
        try:
            with self._lock:
                SnapshotFile(self._path, "", self._error_rate).outdate()
        except OSError as error:
            log.error(  # noqa: TRY400 - the disk, no bug
                "BloomGuard: snapshot %s lacks a key and can be neither marked nor removed (%s); "
                "remove it before the next start",
                *(self._path, error),
            )
