"""The thread that builds a guard's filter, again and again as is due.

One attempt: have the bus open, so that nothing that is added from here on goes unheard; look
whether another process has published a filter; else read all ids into a new one, beside the old,
and put it in its place if no message was missed meanwhile. What fails is tried again, with pauses
that double. An attempt that fails changes nothing: an old filter stays, an unknown stays unknown.

The thread is a daemon and holds neither the cache nor, while it waits, anything that would keep it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import Any

from tiercache import Cache

from ._bloom_files import Files
from ._bloom_ids import Ids, Interrupted
from ._bloom_keys import Ambiguous, Keys
from ._bloom_members import Build, Members
from ._bloom_series import Series
from ._bloom_shared import Mark, SharedFilter
from ._bloom_snapshot import NotASnapshot, decode, encode

log = logging.getLogger(__name__)

LOOK = 256  # ids between two looks at whether to go on
TELL = 10_000  # ids between two calls of on_progress
HEADROOM = 1.25  # room for ids to come, where their number is known and above the capacity
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds, while waiting for others
LONGEST_RETRY = 300.0  # seconds, after failures
PATIENCE = 2.0  # seconds that stop() waits for the user's code
ADDS_BEFORE_REBUILD = 10_000  # in the shared filter, or a tenth of it
RESETTLE = 1.0  # seconds between attempts to note in Redis what is owed


class Outdated(Exception):
    """Messages were missed during a build, or it is to end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a guard was told about building."""

    capacity: int
    error_rate: float
    rebuild_every: float  # seconds; inf: only when it has to
    retry: float  # seconds after a failure
    rate_limit: float | None  # ids per second
    on_progress: Callable[[int, int | None], object] | None


class Builder:
    """The thread, and what it says of its work.

    Args:
        plan: How to build.
        ids: What to build from.
        members: Where the result goes.
        find_keys: What makes keys of ids; None: not known yet. May raise Ambiguous.
        shared: Where filters are published, or None.
        store: The snapshots.
    """

    def __init__(
        self,
        plan: Plan,
        ids: Ids,
        members: Members,
        find_keys: Callable[[Cache], Keys | None],
        shared: SharedFilter | None,
        store: Files,
    ) -> None:
        self._plan = plan
        self._ids = ids
        self._members = members
        self._find_keys = find_keys
        self._shared = shared
        self._files = store
        self._cache: weakref.ref[Cache] | None = None
        self.landed = threading.Event()
        self.builds = 0  # that landed
        self.after_fork()

    def after_fork(self) -> None:
        """Have no thread; the next who asks for one starts it."""
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.landed.clear()
        self._due = 0.0  # monotonic time of the next attempt; written by the thread and by rebuild
        self._pause = FIRST_PAUSE
        self._failures = 0
        self._known = ""  # the publication that the live filter is of
        self._settle_at = 0.0
        self.is_building = False
        self.progress = 0  # ids read in this build, or in the last
        self.expected: int | None = None  # of how many
        self.error = ""  # why it is not better than it is

    # From outside

    def start(self, cache: Cache) -> None:
        """Begin to work for a cache."""
        stopped, wake = self._stopped, self._wake

        def end(_: object) -> None:
            stopped.set()
            wake.set()

        self._cache = weakref.ref(cache, end)
        self.ensure()

    def ensure(self) -> None:
        """Have the thread run, also in a forked child; nothing once it was stopped."""
        with self._starting:
            if self._thread is not None or self._cache is None or self._stopped.is_set():
                return
            thread = threading.Thread(target=self._run, name="tiercache-bloom", daemon=True)
            thread.start()
            self._thread = thread

    def hurry(self) -> None:
        """Have the next attempt made now."""
        self._due = 0.0
        self._wake.set()

    def attend(self) -> None:
        """Have what is owed to the shared filter seen to."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; user code that does not return in time is left to end by itself."""
        self._stopped.set()
        self._wake.set()
        self._ids.interrupt()
        with self._starting:
            thread, self._thread, self._cache = self._thread, None, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(PATIENCE)
            if thread.is_alive():
                log.warning("BloomGuard: ids did not come to an end within %g s of stop()", PATIENCE)

    # In the thread

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            self._settle()
            if time.monotonic() >= self._due:
                self._attempt_safely()
            left = self._next() - time.monotonic()
            if left > 0 and not self._stopped.is_set():
                self._wake.wait(None if left == inf else left)

    def _next(self) -> float:
        owes = self._shared is not None and self._shared.owes
        return min(self._due, self._settle_at) if owes else self._due

    def _again_in(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds

    def _wait_for_others(self) -> None:
        self._again_in(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _attempt_safely(self) -> None:
        self._due = inf  # before the attempt: hurry() during it asks for another
        try:
            self._attempt()
        except (Outdated, Interrupted):
            if self._due == inf:
                self._wait_for_others()
        except Ambiguous as error:
            self.error = f"{error}; tell BloomGuard which one its ids are of: key="
            log.error("BloomGuard rules nothing out: %s", self.error)  # noqa: TRY400 - no bug
        except Exception as error:
            self._failed(error)
        finally:
            self.is_building = False

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        pause = min(self._plan.retry * 2 ** (self._failures - 1), LONGEST_RETRY)
        pause *= 0.75 + random.random() / 2  # noqa: S311 - spreads processes, guards nothing
        self.error = f"ids failed after {self.progress}: {type(error).__name__}: {error}"
        state = "is unknown" if self._members.live is None else "is the old one"
        if self._ids.is_spent:
            self.error += "; they can be read only once: give a function that returns them afresh"
            log.error("BloomGuard: %s; the filter %s", self.error, state)  # noqa: TRY400
            return
        log.warning("BloomGuard: %s; the filter %s, next try in %.3g s", self.error, state, pause)
        self._again_in(pause)

    def _attempt(self) -> None:
        cache = self._cache and self._cache()
        if cache is None:
            return
        keys = self._find_keys(cache)
        if keys is None or not cache.listen():
            self.error = "no function is decorated" if keys is None else "L2 is out of reach"
            self._wait_for_others()
            return
        era = self._members.era  # after the bus is open: what is missed from here on ends it
        hint = self._from_file(keys, era)
        if self._members.live is None and self._shared is None and hint.is_trusted:
            return
        with self._turn(cache, keys) as is_ours:
            if self._from_shared(keys, era):
                return
            if not is_ours:
                self.error = "another process is building the shared filter"
                self._wait_for_others()
                return
            self._build(keys, era, hint.count)
