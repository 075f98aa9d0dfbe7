"""The workers of one writer in one process: started, replaced where they hang, and ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tiercache.coherence.keeper import keeper
from tiercache.writes.worker import Worker

if TYPE_CHECKING:
    from tiercache.coherence.keeper import Handle
    from tiercache.writes.bell import Bell

log = logging.getLogger(__name__)

MOST_STUCK: Final = 8  # threads that may hang in the writer, each of which was replaced


class Crew:
    """So many workers, whatever becomes of single ones.

    Args:
        name: Of the writer, for the log.
        size: How many there are to be.
        bell: What they wait for.
        claim_seconds: After which a call of the writer counts as hanging.
        make: Returns a new worker.
    """

    def __init__(
        self,
        name: str,
        size: int,
        bell: Bell,
        claim_seconds: float,
        make: Callable[[], Worker],
    ) -> None:
        self.size = size
        self.bell = bell
        self._name = name
        self._claim_seconds = claim_seconds
        self._make = make
        self._lock = threading.Lock()
        self._is_over = False  # guarded by _lock, as is all below
        self._workers: list[Worker] = []
        self._stuck: list[Worker] = []
        self._watch: Handle | None = None

    @property
    def stuck(self) -> int:
        """How many threads hang in the writer, and were replaced."""
        return sum(worker.thread.is_alive() for worker in self._stuck)

    @property
    def is_at_work(self) -> bool:
        """Whether some worker has not ended yet, those that hang apart."""
        return any(worker.thread.is_alive() for worker in self._workers)

    def start(self) -> None:
        """Have all workers run; quick where they do."""
        if len(self._workers) == self.size:
            return
        with self._lock:
            while len(self._workers) < self.size and not self._is_over:
                self._workers.append(self._started())
            if self._watch is None and self._workers and not self._is_over:
                self._watch = keeper.keep(self._claim_seconds / 2, self._replace_stuck)

    def _started(self) -> Worker:
        worker = self._make()
        worker.thread.start()
        return worker

    def _replace_stuck(self) -> None:
        """Have another thread go on where one hangs in the writer: its claim has ended."""
        with self._lock:
            for number, worker in enumerate(self._workers if not self._is_over else ()):
                since = worker.calling_since
                late = 0.0 if since is None else time.monotonic() - since
                if late > self._claim_seconds and self.stuck < MOST_STUCK:
                    log.error(
                        "the writer of %r has not returned for %.1f s, which is longer than "
                        "claim_timeout: its operations are given to another worker",
                        *(self._name, late),
                    )
                    worker.is_abandoned = True
                    self._stuck.append(worker)
                    self._workers[number] = self._started()

    def end(self) -> None:
        """Have every worker end after what it is at."""
        with self._lock:
            self._is_over = True
            watch, self._watch = self._watch, None
        self.bell.stop()
        if watch is not None:
            watch.cancel()
