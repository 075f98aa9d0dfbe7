"""A SQLite store's connections: one for each thread, and a few threads for asyncio callers.

SQLite forbids a forked child to use, and even to close, a connection of its parent; the child
leaves them alone and opens its own.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar
from weakref import WeakSet

from tiercache.errors import ConfigurationError, StoreError, StoreTimeout
from tiercache.tiers import _sqlite_files as files
from tiercache.tiers._sqlite_base import is_busy, is_full
from tiercache.tiers._sqlite_forks import fork_gate
from tiercache.tiers._sqlite_tidying import Tidying
from tiercache.tiers.journal import JournalMismatch
from tiercache.tiers.store import StoreRefused

T = TypeVar("T")

_THREADS: Final = 4  # for asyncio; SQLite lets one write at a time anyway
_ASYNC_SHARE: Final = 1.25  # of the timeout: SQLite's own waiting, and the queue before our threads

_inherited: list[object] = []  # connections of the parent process, in a forked child


class Session:
    """A connection. ``with`` holds its lock, so that closing waits for a call's end.

    What it gives is None if it was closed before the lock was had.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.is_closed = False
        self._db = db
        self._lock = threading.Lock()

    def __enter__(self) -> sqlite3.Connection | None:
        self._lock.acquire()
        return None if self.is_closed else self._db

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def close(self) -> None:
        with self._lock:
            self.is_closed = True
            self._db.close()

    def leave_to_parent(self) -> None:
        """Never use it in this process, nor close it: keep it as long as the process lives."""
        self.is_closed = True
        _inherited.append(self._db)

    def __del__(self) -> None:
        if not self.is_closed:
            self._db.close()


class Sessions:
    """The connections of one store, and how its operations run on them."""

    def __init__(self, path: str, timeout: float, tidying: Tidying) -> None:
        self.path = path
        self.timeout = timeout
        self.tidying = tidying
        self._start_afresh()
        _all.add(self)

    def _start_afresh(self) -> None:
        """Set up the state that a forked child must not share with its parent."""
        self._lock = threading.Lock()
        self._local = threading.local()  # .session: the thread's own
        self._open: WeakSet[Session] = WeakSet()  # guarded by _lock
        self._executor: ThreadPoolExecutor | None = None  # guarded by _lock

    def leave_to_parent(self) -> None:
        """Forget, in a forked child, what the parent has open."""
        for session in list(self._open):
            session.leave_to_parent()
        _inherited.append((self._local, self._executor))
        self._start_afresh()

    def __len__(self) -> int:
        """Count the open connections."""
        with self._lock:
            return len(self._open)

    def check(self) -> None:
        """Create the file, or see that it is ours.

        Raises:
            ConfigurationError: If it cannot be used.
        """
        try:
            files.prepare(self.path, self.timeout, self.tidying.max_bytes)
        except sqlite3.Error as error:
            if not is_busy(error):  # a busy file is a sound one; the first call prepares it
                raise ConfigurationError(
                    f"SQLite path {self.path!r} cannot be used: {error};"
                    " name a writable file of tiercache's own"
                ) from error

    def run(self, operation: str, do: Callable[[sqlite3.Connection], T]) -> T:
        """Do something on this thread's connection.

        Raises:
            StoreError: If it fails; the operation's name is for the message.
        """
        return self.run_on(self._of_this_thread, operation, do)

    def run_on(
        self,
        session: Callable[[], Session],
        operation: str,
        do: Callable[[sqlite3.Connection], T],
    ) -> T:
        """Do what run does, on a connection of the caller's choice."""
        try:
            while True:
                with fork_gate, session() as db:
                    if db is not None:
                        return do(db)
        except JournalMismatch:
            raise
        except (sqlite3.Error, ConfigurationError, OverflowError) as error:
            raise self._translate(error, operation) from error

    async def arun(
        self, operation: str, do: Callable[[sqlite3.Connection], T], *, is_bounded: bool
    ) -> T:
        """Await what run does, in one of our threads."""
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads(), self.run, operation, do)
        try:
            async with asyncio.timeout(self.timeout * _ASYNC_SHARE if is_bounded else None):
                return await running
        except StoreTimeout:
            raise
        except TimeoutError as error:
            raise self._late(operation) from error

    def _of_this_thread(self) -> Session:
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.is_closed:
            session = self.open()
            self._local.session = session  # the thread's end drops it, which closes it
        return session

    def open(self) -> Session:
        """Return a new connection; ``close`` closes it, too."""
        db = files.connect(self.path, self.timeout, self.tidying.max_bytes)
        session = Session(db)
        if not files.is_ours(db):  # removed or replaced since the store was constructed
            files.prepare(self.path, self.timeout, self.tidying.max_bytes)
        with self._lock:
            self._open.add(session)
        return session

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_THREADS, "tiercache-sqlite")
            return self._executor

    def _translate(self, error: Exception, operation: str) -> StoreError:
        if is_busy(error):
            return self._late(operation)
        kind = StoreRefused if is_full(error) else StoreError
        return kind(f"sqlite:{self.path} failed {operation}: {error}")

    def _late(self, operation: str) -> StoreTimeout:
        return StoreTimeout(
            f"sqlite:{self.path} did not get to {operation} within {self.timeout:g} s"
        )

    def close(self) -> None:
        """Close all connections and end our threads; wait for calls under way."""
        with self._lock:
            executor, self._executor = self._executor, None
            sessions = list(self._open)
            self._open.clear()
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        for session in sessions:
            session.close()


_all: WeakSet[Sessions] = WeakSet()


def _after_fork_in_child() -> None:
    for sessions in list(_all):
        sessions.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
