"""Reading a namespace's log from a SQLite file as others append to it.

SQLite wakes nobody, so a reader looks every 15 ms. ``PRAGMA data_version`` says whether anybody
else has committed anything since: only then is the log itself read. Between two looks no lock and
no snapshot is held, and each look is a few microseconds.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from typing import Final

from tiercache.errors import StoreError
from tiercache.tiers._sqlite_log import Position
from tiercache.tiers._sqlite_sessions import Session, Sessions
from tiercache.tiers._sqlite_space import Space
from tiercache.tiers.store import LogGap, Message

_LOOK_SECONDS: Final = 0.015
_IDLE_LOOK_SECONDS: Final = 0.035  # where nothing has been said for a while
_QUIET_SECONDS: Final = 2.0

# Held during a look, and across a fork: SQLite's own locks stay taken in a child that was forked
# while another thread held them, and whoever forks cannot know of the thread that looks.
_looking: Final = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_looking.acquire, after_in_parent=_looking.release, after_in_child=_looking.release
    )


class SQLiteTail:
    """A reader of a log, on a connection of its own."""

    def __init__(self, sessions: Sessions, name: str, position: str | None) -> None:
        self._sessions = sessions
        self._name = name
        self._position = None if position is None else Position.parse(position)
        self._session: Session | None = None  # closed by others, too: by the store, after a fork
        self._seen: int | None = None  # data_version when everything had been read
        self._is_interrupted = False
        self._heard_at = time.monotonic()

    def read(self, wait: float) -> list[Message]:
        """Return the next messages, waiting for them if there are none."""
        deadline = time.monotonic() + wait
        while True:
            messages = self._try_look()
            left = deadline - time.monotonic()
            if messages:
                self._heard_at = time.monotonic()
            if messages or left <= 0 or self._is_interrupted:
                self._is_interrupted = False
                return messages
            is_quiet = time.monotonic() - self._heard_at > _QUIET_SECONDS
            time.sleep(min(left, _IDLE_LOOK_SECONDS if is_quiet else _LOOK_SECONDS))

    def _try_look(self) -> list[Message]:
        try:
            with _looking:
                return self._sessions.run_on(self._own, "tail", self._look)
        except StoreError:
            self.close()  # whatever is wrong with it, the next read has another
            raise

    def _own(self) -> Session:
        if self._session is None or self._session.is_closed:
            self._session, self._seen = self._sessions.open(), None
        return self._session

    def _look(self, db: sqlite3.Connection) -> list[Message]:
        # Asked before reading: what is committed between the two is read at the next look.
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version == self._seen:
            return []
        space = Space(db, self._name, "", self._sessions.tidying)
        try:
            messages = self._next(space)
        except LogGap:
            self._position = space.log_end()
            raise
        self._seen = None if messages else version
        return messages

    def _next(self, space: Space) -> list[Message]:
        if self._position is None:
            raise LogGap(f"nobody knows what was said in {self._name!r} before")
        messages, self._position = space.news(self._position)
        return messages

    def interrupt(self) -> None:
        """Have a read that waits return at its next look."""
        self._is_interrupted = True

    def close(self) -> None:
        """Close the connection; the next read opens another."""
        session, self._session = self._session, None
        if session is not None and not session.is_closed:
            with suppress(sqlite3.Error):
                session.close()
