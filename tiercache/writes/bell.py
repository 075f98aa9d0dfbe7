"""When a worker is to take: at ``max_batch`` keys, after ``max_delay``, or because somebody waits.

Puts of this process ring. Those of other processes, and tickets that were put off or abandoned,
are found by looking: every ``POLL_SECONDS`` where nothing else wakes a worker. Whether what is
there is due the journal decides, for all processes alike.
"""

from __future__ import annotations

import threading
import time

POLL_SECONDS = 0.5
HURRY_SECONDS = 0.02  # between two looks while somebody waits for a flush, and others hold tickets


class Bell:
    """What the workers of one process wait for. Safe for threads.

    Keys that were put before the last take as well are *hot*, and do not count towards a full
    batch: another put of them within ``max_delay`` is likely, and will be merged.

    Args:
        max_batch: Cold keys that make a batch full; without merging, operations.
        max_delay: Seconds that fewer wait for more.
        merges: Whether operations of one key are merged.
    """

    def __init__(self, max_batch: int, max_delay: float, *, merges: bool) -> None:
        self._merges = merges
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._rung = threading.Condition(threading.RLock())
        self._due = 0.0  # monotonic time of the next take; guarded by _rung, as is all below
        self._put: set[str] = set()  # keys put since the last take
        self._cold = 0  # how many of them are not hot
        self._hot: set[str] = set()
        self._is_rung = False  # since the last take
        self._hurries = 0  # how many wait for a flush
        self._is_stopped = False

    @property
    def patience(self) -> float:
        """How long operations may wait for more of them, in seconds."""
        return 0.0 if self._hurries else self._max_delay

    def ring(self, key: str) -> None:
        """Note that an operation was accepted.

        The first since the last take says when the next one is due; of the others only that which
        fills the batch.
        """
        with self._rung:
            is_first = not self._is_rung
            self._is_rung = True
            if not self._merges:
                self._cold += 1
            elif key not in self._put:
                self._put.add(key)
                self._cold += key not in self._hot
            if self._cold >= self._max_batch:
                self._set(0.0)
            elif is_first:
                self._set(self._max_delay)

    def force(self) -> None:
        """Have a worker look now."""
        self._set(0.0)

    def took(self, wait: float | None) -> None:
        """Note after how many seconds a journal is worth another look."""
        if wait is not None:
            self._set(wait)

    def _set(self, delay: float) -> None:
        due = time.monotonic() + delay
        with self._rung:
            if due < self._due:
                self._due = due
                self._rung.notify()

    def wait(self, pause: float = 0.0) -> bool:
        """Wait until it is time to take, but at least ``pause`` seconds; False: to stop."""
        ready = time.monotonic() + pause
        with self._rung:
            while not self._is_stopped:
                due = min(self._due, ready + HURRY_SECONDS) if self._hurries else self._due
                left = max(due, ready) - time.monotonic()
                if left <= 0:
                    self._due = time.monotonic() + POLL_SECONDS
                    self._hot, self._put, self._cold = self._put, set(), 0
                    self._is_rung = False
                    return True
                self._rung.wait(left)
            return False

    def hurry(self) -> None:
        """Have workers take all the time, until ``calm``."""
        with self._rung:
            self._hurries += 1
            self._due = 0.0
            self._rung.notify_all()

    def calm(self) -> None:
        """Take back ``hurry``."""
        with self._rung:
            self._hurries -= 1

    def stop(self) -> None:
        """Have every ``wait`` return False from now on."""
        with self._rung:
            self._is_stopped = True
            self._rung.notify_all()
