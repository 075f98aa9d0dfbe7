"""L2 in a SQLite file, shared by the processes of one machine.

Readers and one writer work side by side (WAL). Each thread has a connection of its own; asyncio
callers go through a few private threads. Work per write is bounded: every 16th removes a batch of
expired rows, and of live ones when the file comes near its limit. SQLite itself keeps the file
within ``max_bytes`` (``max_page_count``); the -wal file beside it adds up to 16 MiB.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakSet

from tiercache.errors import ConfigurationError, StoreError, StoreTimeout
from tiercache.tiers import _sqlite_files as files
from tiercache.tiers._sqlite_rows import Rows
from tiercache.tiers.store import Item, Stored

T = TypeVar("T")

_inherited: list[object] = []  # connections of the parent process, in a forked child

_LEAST_BYTES: Final = 2**18
_THREADS: Final = 4  # for asyncio; SQLite lets one write at a time anyway
_ASYNC_SHARE: Final = 1.25  # of the timeout: SQLite's own waiting, and the queue before our threads


class SQLite:
    """Keep L2 in a SQLite file.

    Args:
        path: A file of tiercache's own; created if missing. On a local disk, not a network one.
        max_bytes: Bound of the file. A payload above a quarter of it is not stored.
        timeout: Seconds to wait for another process's write.

    Raises:
        ConfigurationError: If path cannot be written, or is the file of something else.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_bytes: int = 256 * 2**20, timeout: float = 0.5
    ) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"timeout must be positive, got {timeout!r}; it is in seconds")
        if max_bytes < _LEAST_BYTES:
            raise ConfigurationError(f"max_bytes must be at least {_LEAST_BYTES}, got {max_bytes}")
        self.timeout = timeout
        self._max_bytes = max_bytes
        self._path = _file_path(path)
        self._start_afresh()
        self._check_file()
        _stores.add(self)

    def _start_afresh(self) -> None:
        """Set up the state that a forked child must not share with its parent."""
        self._lock = threading.Lock()
        self._local = threading.local()  # .session: the thread's own
        self._sessions: WeakSet[_Session] = WeakSet()  # guarded by _lock
        self._executor: ThreadPoolExecutor | None = None  # guarded by _lock

    def _leave_to_parent(self) -> None:
        # Kept, unused, as long as the process lives: collecting them would close them.
        _inherited.append((self._local, list(self._sessions), self._executor))
        self._start_afresh()

    def _check_file(self) -> None:
        try:
            files.prepare(self._path, self.timeout, self._max_bytes)
        except sqlite3.Error as error:
            if not files.is_busy(error):  # a busy file is a sound one; the first call prepares it
                raise ConfigurationError(
                    f"SQLite path {self._path!r} cannot be used: {error};"
                    " name a writable file of tiercache's own"
                ) from error

    @property
    def label(self) -> str:
        """The file, for logs and errors."""
        return f"sqlite:{self._path}"

    def __repr__(self) -> str:
        return f"SQLite({self._path!r})"

    def read(self, key: str) -> Stored | None:
        """Return what is stored under key."""
        return self._run("read", lambda rows: rows.read(key))

    async def aread(self, key: str) -> Stored | None:
        """Return what is stored under key."""
        return await self._arun("read", lambda rows: rows.read(key))

    def read_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key; one SELECT."""
        return self._run("read", lambda rows: rows.read_many(keys)) if keys else []

    async def aread_many(self, keys: Sequence[str]) -> list[Stored | None]:
        """Return what is stored under each key; one SELECT."""
        return await self._arun("read", lambda rows: rows.read_many(keys)) if keys else []

    def write(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds."""
        self._run("write", lambda rows: rows.write(((key, payload, ttl),)))

    async def awrite(self, key: str, payload: bytes, ttl: float | None) -> None:
        """Store payload for ttl seconds."""
        await self._arun("write", lambda rows: rows.write(((key, payload, ttl),)))

    def write_many(self, items: Sequence[Item]) -> None:
        """Store all items in one transaction."""
        if items:
            self._run("write", lambda rows: rows.write(items))

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Store all items in one transaction."""
        if items:
            await self._arun("write", lambda rows: rows.write(items))

    def delete(self, keys: Sequence[str]) -> int:
        """Remove the keys; return how many had not expired."""
        return self._run("delete", lambda rows: rows.delete(keys)) if keys else 0

    async def adelete(self, keys: Sequence[str]) -> int:
        """Remove the keys; return how many had not expired."""
        return await self._arun("delete", lambda rows: rows.delete(keys)) if keys else 0

    def clear(self, prefix: str) -> None:
        """Remove the keys of a prefix, 5,000 per transaction."""
        self._run("clear", lambda rows: rows.clear(prefix))

    async def aclear(self, prefix: str) -> None:
        """Remove the keys of a prefix, 5,000 per transaction."""
        await self._arun("clear", lambda rows: rows.clear(prefix), is_bounded=False)

    def _run(self, operation: str, do: Callable[[Rows], T]) -> T:
        try:
            with self._session() as rows:
                return do(rows)
        except (sqlite3.Error, ConfigurationError, OverflowError) as error:
            raise self._translate(error, operation) from error

    async def _arun(self, operation: str, do: Callable[[Rows], T], *, is_bounded: bool = True) -> T:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads(), self._run, operation, do)
        try:
            async with asyncio.timeout(self.timeout * _ASYNC_SHARE if is_bounded else None):
                return await running
        except StoreTimeout:
            raise
        except TimeoutError as error:
            raise self._late(operation) from error

    def _session(self) -> _Session:
        session: _Session | None = getattr(self._local, "session", None)
        if session is None or session.is_closed:
            session = self._open_session()
            self._local.session = session  # the thread's end drops it, which closes it
        return session

    def _open_session(self) -> _Session:
        db = files.connect(self._path, self.timeout, self._max_bytes)
        session = _Session(db, Rows(db, self._max_bytes))
        if not files.is_ours(db):  # removed or replaced since the store was constructed
            files.prepare(self._path, self.timeout, self._max_bytes)
        with self._lock:
            self._sessions.add(session)
        return session

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_THREADS, "tiercache-sqlite")
            return self._executor

    def _translate(self, error: Exception, operation: str) -> StoreError:
        if files.is_busy(error):
            return self._late(operation)
        return StoreError(f"{self.label} failed {operation}: {error}")

    def _late(self, operation: str) -> StoreTimeout:
        return StoreTimeout(f"{self.label} did not get to {operation} within {self.timeout:g} s")

    def close(self) -> None:
        """Close all threads' connections and end our threads; waits for calls under way."""
        with self._lock:
            executor, self._executor = self._executor, None
            sessions = list(self._sessions)
            self._sessions.clear()
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
        for session in sessions:
            session.close()

    async def aclose(self) -> None:
        """Do what close does, without blocking the loop."""
        with ThreadPoolExecutor(1, "tiercache-sqlite-close") as one_off:
            await asyncio.get_running_loop().run_in_executor(one_off, self.close)


class _Session:
    """A thread's connection. ``with`` holds its lock, so that close waits for a call's end."""

    def __init__(self, db: sqlite3.Connection, rows: Rows) -> None:
        self.is_closed = False
        self._db = db
        self._rows = rows
        self._lock = threading.Lock()

    def __enter__(self) -> Rows:
        self._lock.acquire()
        return self._rows

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def close(self) -> None:
        with self._lock:
            self.is_closed = True
            self._db.close()

    def __del__(self) -> None:
        if not self.is_closed:
            self._db.close()


def _file_path(path: str | os.PathLike[str]) -> str:
    name: object = os.fspath(path)
    if not isinstance(name, str) or not name or name == ":memory:" or "\0" in name:
        raise ConfigurationError(
            f"SQLite path must name a file, got {name!r}; without a shared file use l2=None"
        )
    return str(Path(name).absolute())


# Forked children: SQLite forbids to use, and even to close, a connection of the parent.
_stores: WeakSet[SQLite] = WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._leave_to_parent()  # noqa: SLF001 - part of the class, by os.register_at_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
