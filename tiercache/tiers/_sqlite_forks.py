"""No fork in the midst of an operation on a SQLite file.

SQLite keeps books, per process and file, of who holds which lock. A child inherits them: had a
thread of the parent been in a transaction, the child's would say for ever that the file is locked,
by a connection that nobody has. So a fork waits for what is under way, which is short, and what
comes then waits for the fork.
"""

from __future__ import annotations

import os
import threading
import time

__all__ = ["fork_gate"]

LONGEST_SECONDS = 1.0  # that either waits for the other: code of a finalizer may be on both sides


class ForkGate:
    """What every operation on a SQLite file is inside of, and no fork."""

    def __init__(self) -> None:
        self._condition = threading.Condition()  # reentrant: a finalizer may come in between
        self._inside = 0  # operations; guarded by _condition, as is
        self._forks = 0  # that wait, or are under way

    def __enter__(self) -> None:
        with self._condition:
            if self._forks:
                self._condition.wait_for(lambda: not self._forks, LONGEST_SECONDS)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._condition:
            self._inside -= 1
            if self._forks:
                self._condition.notify_all()

    def close(self) -> None:
        """Before a fork: wait until nobody is inside, and let nobody in."""
        self._condition.acquire()
        self._forks += 1
        until = time.monotonic() + LONGEST_SECONDS
        while self._inside and (left := until - time.monotonic()) > 0:
            self._condition.wait(left)

    def open(self) -> None:
        """After it, in the parent."""
        self._forks -= 1
        self._condition.notify_all()
        self._condition.release()

    def reset(self) -> None:
        """After it, in the child, where there is but this thread."""
        self.__init__()  # type: ignore[misc]


fork_gate = ForkGate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=fork_gate.close,
        after_in_parent=fork_gate.open,
        after_in_child=fork_gate.reset,
    )
