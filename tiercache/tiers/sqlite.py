"""L2 in a SQLite file, shared by the processes of one machine.

Readers and one writer work side by side (WAL); what has to compare before it writes does both in
one transaction. Each thread has a connection of its own; asyncio callers go through a few private
threads. Work per change is bounded: every 16th removes a batch of what has expired, and live
entries when the file comes near its limit. SQLite itself keeps the file within ``max_bytes``
(``max_page_count``); the -wal file beside it adds up to 16 MiB.

What is in the file: _sqlite_schema. What is done to it: _sqlite_space, and what that is made of.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tiercache.errors import ConfigurationError
from tiercache.tiers._sqlite_namespace import SQLiteNamespace
from tiercache.tiers._sqlite_sessions import Sessions
from tiercache.tiers._sqlite_tidying import Tidying
from tiercache.tiers.store import Namespace

_LEAST_BYTES: Final = 2**18


class SQLite:
    """Keep L2 in a SQLite file.

    Args:
        path: A file of tiercache's own; created if missing. On a local disk, not a network one.
        max_bytes: Bound of the file. A payload above a quarter of it is not stored.
        timeout: Seconds to wait for another process's write.
        log_length: How many messages of each cache are kept for processes that were cut off;
            one that has missed more drops its L1.

    Raises:
        ConfigurationError: If path cannot be written, or is the file of something else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 256 * 2**20,
        timeout: float = 0.5,
        log_length: int = 10_000,
    ) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"timeout must be positive, got {timeout!r}; it is in seconds")
        if max_bytes < _LEAST_BYTES:
            raise ConfigurationError(f"max_bytes must be at least {_LEAST_BYTES}, got {max_bytes}")
        if log_length < 1:
            raise ConfigurationError(
                f"log_length must be at least 1, got {log_length}; it counts messages"
            )
        self.timeout = timeout
        self._path = _file_path(path)
        self._sessions = Sessions(self._path, timeout, Tidying(max_bytes, log_length))
        self._sessions.check()

    @property
    def label(self) -> str:
        """The file, for logs and errors."""
        return f"sqlite:{self._path}"

    def __repr__(self) -> str:
        return f"SQLite({self._path!r})"

    def namespace(self, name: str, origin: str = "") -> Namespace:
        """Return one cache's part of the file."""
        return SQLiteNamespace(self._sessions, name, origin)

    def close(self) -> None:
        """Close all connections, those of tails too, and end our threads; wait for calls."""
        self._sessions.close()

    async def aclose(self) -> None:
        """Do what close does, without blocking the loop."""
        with ThreadPoolExecutor(1, "tiercache-sqlite-close") as one_off:
            await asyncio.get_running_loop().run_in_executor(one_off, self.close)


def _file_path(path: str | os.PathLike[str]) -> str:
    name: object = os.fspath(path)
    if not isinstance(name, str) or not name or name == ":memory:" or "\0" in name:
        raise ConfigurationError(
            f"SQLite path must name a file, got {name!r}; without a shared file use l2=None"
        )
    return str(Path(name).absolute())
