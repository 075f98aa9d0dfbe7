"""Reading a namespace's log from a SQLite file as others append to it.

SQLite wakes nobody, so a reader looks: every 15 ms, more often where something was said just now,
and less where nothing was for a while. A look is one statement of a few microseconds, whether there
is anything or not: each further one is time in which a thread that computes has the interpreter.
Between two looks no lock and no snapshot is held.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from math import inf
from typing import Final

from tiercache.errors import StoreError
from tiercache.tiers._sqlite_log import Position
from tiercache.tiers._sqlite_sessions import Session, Sessions
from tiercache.tiers._sqlite_space import Space
from tiercache.tiers.store import LogGap, Message

#: Seconds since something was said, and then those between two looks.
_PAUSES: Final = ((0.25, 0.006), (2.0, 0.015), (inf, 0.035))

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
            time.sleep(min(left, _pause(time.monotonic() - self._heard_at)))

    def _try_look(self) -> list[Message]:
        try:
            with _looking:
                return self._sessions.run_on(self._own, "tail", self._look)
        except StoreError:
            self.close()  # whatever is wrong with it, the next read has another
            raise

    def _own(self) -> Session:
        if self._session is None or self._session.is_closed:
            self._session = self._sessions.open()
        return self._session

    def _look(self, db: sqlite3.Connection) -> list[Message]:
        space = Space(db, self._name, "", self._sessions.tidying)
        try:
            return self._next(space)
        except LogGap:
            self._position = space.log_end()
            raise

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


def _pause(silence: float) -> float:
    """Return the seconds until the next look after so many of silence."""
    return next(pause for longest, pause in _PAUSES if silence < longest)
