"""What a guard knows: the filter it answers from, and the one that is being built beside it.

No add is lost between the two. Who adds notes the key as *recent* and looks, in one step, which
filters there are, and then adds it to these. A build that begins afterwards takes the recent ones
over; one that had begun was among them. The window of what is recent is wide, so that it also
covers what was added in a transaction whose commit the ids, read meanwhile, did not see yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from ._bloom_series import Series

RECENT_SECONDS = 60.0
RECENT_MOST = 100_000  # keys


class Added(NamedTuple):
    """What a filter made of keys that were added."""

    new: list[str]  # that it did not have
    known: list[str]
    publication: str  # that the filter is of: of the one that was asked, whichever is next


class Build:
    """A filter that is being made; what is added meanwhile waits until it is there."""

    def __init__(self, era: int, recent: Sequence[str]) -> None:
        self.era = era
        self.series: Series | None = None
        self._waiting = list(recent)
        self._lock = threading.Lock()

    def add(self, key: str) -> None:
        """Add a key."""
        with self._lock:
            if self.series is None:
                self._waiting.append(key)
                return
        self.series.add(key)

    def use(self, series: Series) -> list[str]:
        """Begin to fill a series, with what has been added so far; return that."""
        with self._lock:
            added, self._waiting = self._waiting, []
            for key in added:
                series.add(key)
            self.series = series
            return added


class Members:
    """The filter, the build, and what was added lately."""

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        """Know nothing: the parent heard of adds that this process did not."""
        self._lock = threading.Lock()
        self.live: Series | None = None  # None: unknown. Written under _lock, read without
        self.era = 0  # advances when adds were missed: what was begun before is not complete
        self._build: Build | None = None  # guarded by _lock
        self._recent: dict[str, float] = {}  # when, in order; guarded by _lock

    def add(self, keys: Sequence[str]) -> Added:
        """Add keys to every filter there is; return what the live one made of them."""
        now = time.monotonic()
        with self._lock:
            live, build = self.live, self._build
            for key in keys:
                self._recent.pop(key, None)
                self._recent[key] = now
            self._forget_old(now)
        for key in keys if build is not None else ():
            build.add(key)  # type: ignore[union-attr]
        if live is None:
            return Added(list(keys), [], "")
        added: Added = Added([], [], live.publication)
        for key in keys:
            (added.known if live.add(key) else added.new).append(key)
        return added

    def _forget_old(self, now: float) -> None:
        recent = self._recent
        while recent:
            oldest = next(iter(recent))
            if len(recent) <= RECENT_MOST and recent[oldest] >= now - RECENT_SECONDS:
                return
            del recent[oldest]

    def begin(self, era: int) -> Build:
        """Begin a build, in place of another."""
        with self._lock:
            self._forget_old(time.monotonic())
            self._build = Build(era, list(self._recent))
            return self._build

    def land(self, build: Build) -> bool:
        """Answer from a build from now on; False if it has missed something."""
        with self._lock:
            if self._build is not build or self.era != build.era:
                return False
            self.live, self._build = build.series, None
            return True

    def drop(self, build: Build) -> None:
        """Give a build up."""
        with self._lock:
            if self._build is build:
                self._build = None

    def forget(self) -> None:
        """Know nothing any more, since adds were missed."""
        with self._lock:
            self.era += 1
            self.live = self._build = None
