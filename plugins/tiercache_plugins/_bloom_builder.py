"""The thread that builds a guard's filter, again and again as is due.

One attempt: have the bus open, so that nothing that is added from here on goes unheard; look
whether another process has published a filter; else read all ids into a new one, beside the old,
and put it in its place if no message was missed meanwhile. What fails is tried again, with pauses
that double. An attempt that fails changes nothing: an old filter stays, an unknown stays unknown.

The thread is a daemon, and ends by itself when the cache is gone.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from math import inf

from tiercache import Cache

from ._bloom_files import Files
from ._bloom_ids import Ids, Interrupted
from ._bloom_keys import Ambiguous, Keys
from ._bloom_members import Build, Members
from ._bloom_publishing import begin, publish, turn
from ._bloom_reading import Outdated, Plan, Reading
from ._bloom_shared import SharedFilter
from ._bloom_snapshot import NotASnapshot, decode

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0  # seconds, while waiting for others
LONGEST_RETRY = 300.0  # seconds, after failures
SETTLE_PAUSE = 1.0  # seconds between attempts to note in Redis what is owed
ADOPT_PAUSE = 5.0  # seconds between looks whether another process has published
PATIENCE = 2.0  # seconds that stop() waits for the user's code
CROWDED = 10_000  # adds in the shared filter, or a tenth of it, after which it is made anew


class Builder:
    """The thread, and what it says of its work.

    Args:
        plan: How to build.
        ids: What to build from.
        members: Where the result goes.
        find_keys: What makes keys of ids; None: not known yet. May raise Ambiguous.
        shared: Where filters are published, or None.
        files: The snapshots.
    """

    def __init__(
        self,
        plan: Plan,
        ids: Ids,
        members: Members,
        find_keys: Callable[[Cache], Keys | None],
        shared: SharedFilter | None,
        files: Files,
    ) -> None:
        self._plan = plan
        self._ids = ids
        self._members = members
        self._find_keys = find_keys
        self._shared = shared
        self._files = files
        self._cache: weakref.ref[Cache] | None = None
        self.builds = 0  # that landed
        self.after_fork()

    def after_fork(self) -> None:
        """Have no thread; the next who asks for one starts it."""
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None  # guarded by _starting
        self._is_asked = False  # for an attempt now
        self._due = 0.0  # monotonic time of the next attempt, as are the like
        self._settle_at = 0.0
        self._pause = FIRST_PAUSE
        self._failures = 0
        self._hint = 0  # how many ids there may be
        self._relieved = ""  # the publication that was found crowded
        self._adopt_at = 0.0
        self.is_building = False
        self.reading: Reading | None = None  # the last one
        self.error = ""  # why it is not better than it is

    # From outside

    def start(self, cache: Cache) -> None:
        """Begin to work for a cache; end when it is gone."""
        stopped, wake = self._stopped, self._wake

        def end(_: object) -> None:
            stopped.set()
            wake.set()

        self._cache = weakref.ref(cache, end)
        self.ensure()

    def ensure(self) -> None:
        """Have the thread run, also in a forked child; nothing once it was stopped."""
        if self._thread is not None or self._cache is None or self._stopped.is_set():
            return
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="tiercache-bloom", daemon=True)
                thread.start()
                self._thread = thread

    def hurry(self) -> None:
        """Have an attempt made now."""
        self._is_asked = True
        self._wake.set()

    def attend(self) -> None:
        """Have the shared filter seen to, if there is something to see to."""
        shared = self._shared
        if shared is not None and (shared.has_work or shared.is_behind or shared.count > CROWDED):
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
                log.warning(
                    "BloomGuard: ids go on %g s after stop(); they are left alone", PATIENCE
                )

    # In the thread

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            self._settle()
            if self._is_asked or time.monotonic() >= self._due:
                self._attempt_safely()
            left = self._next() - time.monotonic()
            if left > 0 and not self._is_asked:
                self._wake.wait(None if left == inf else left)

    def _next(self) -> float:
        shared = self._shared
        if shared is None:
            return self._due
        settle_at = self._settle_at if shared.has_work else inf
        adopt_at = self._adopt_at if shared.is_behind and self._members.live is not None else inf
        return min(self._due, settle_at, adopt_at)

    def _again_in(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds

    def _wait_for_others(self, why: str = "") -> None:
        self.error = why
        self._again_in(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _attempt_safely(self) -> None:
        self._is_asked, self._due = False, inf
        try:
            self._attempt()
        except (Outdated, Interrupted):
            if not self._stopped.is_set():
                self._wait_for_others("messages were missed during the build")
        except Ambiguous as error:
            self.error = f"{error}; tell BloomGuard which one its ids are of: key="
            log.error("BloomGuard rules nothing out: %s", self.error)  # noqa: TRY400 - no bug
        except Exception as error:
            self._failed(error)
        finally:
            self.is_building = False

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        done = 0 if self.reading is None else self.reading.done
        what = f"ids failed after {done}: {type(error).__name__}"  # for the log: no ids are in it
        self.error = f"{what}: {error}"
        if self._ids.is_spent:
            hint = "they can be read only once: use a function that returns them afresh"
            self.error += f"; {hint}"
            log.error("BloomGuard: %s; %s", what, hint)
            return
        pause = min(self._plan.retry * 2 ** min(self._failures - 1, 20), LONGEST_RETRY)
        pause *= 0.75 + random.random() / 2  # noqa: S311 - spreads processes, guards nothing
        state = "rules nothing out" if self._members.live is None else "keeps its old filter"
        log.warning("BloomGuard %s: %s; next try in %.3g s", state, what, pause)
        self._again_in(pause)

    def _attempt(self) -> None:
        cache = None if self._cache is None else self._cache()
        if cache is None:
            return
        keys = self._find_keys(cache)
        if keys is None:
            self._wait_for_others("no function is decorated yet")
            return
        if not cache.listen():
            self._wait_for_others("other processes cannot be heard: L2 is out of reach")
            return
        era = self._members.era  # what is missed from here on advances it
        if self._from_file(cache, keys, era):
            return
        with turn(self._shared, cache, keys) as is_ours:
            if self._from_shared(cache, keys, era):
                return
            if is_ours:
                self._build(cache, keys, era)
            else:
                self._wait_for_others("another process is building the shared filter")

    def _build(self, cache: Cache, keys: Keys, era: int) -> None:
        if self._ids.is_spent:
            self.error = "ids can be read only once; use a function that returns them afresh"
            log.error("BloomGuard rules nothing out any more: %s", self.error)
            return
        self.is_building = True
        mark = None if self._shared is None else begin(self._shared)  # before the ids are read
        build = self._members.begin(era)
        self._read(keys, build)
        if mark is not None and self._shared is not None:
            publish(self._shared, keys, build, mark)
        self._land(keys, build)
        self._save(cache, keys, build)

    def _read(self, keys: Keys, build: Build) -> None:
        members = self._members
        live = members.live
        hint = self._hint if live is None else live.count
        self.reading = reading = Reading(
            *(self._plan, build, keys.key, hint, self._stopped),
            is_current=lambda: members.era == build.era,
        )
        try:
            self._ids.read(reading.take, reading.expect)
        except BaseException:
            members.drop(build)
            raise
        reading.tell()

    def _land(self, keys: Keys, build: Build) -> None:
        if self._stopped.is_set() or not self._members.land(build):
            raise Outdated
        assert build.series is not None
        self.builds += 1
        self.error, self._failures, self._pause = "", 0, FIRST_PAUSE
        self._again_in(self._plan.rebuild_every)
        log.info("BloomGuard knows %d keys of %r", build.series.count, keys.label)

    def _save(self, cache: Cache, keys: Keys, build: Build) -> None:
        assert build.series is not None
        self._files.write(build.series, keys.label, is_complete=cache.store is None)

    # What is there already

    def _from_file(self, cache: Cache, keys: Keys, era: int) -> bool:
        """Begin with the snapshot, if it is to be trusted."""
        build = self._members.begin(era)  # what is added from here on is in it
        found = self._files.read(keys.label)
        self._hint = max(self._hint, found.keys)
        if found.trusted is None:
            self._members.drop(build)
            return False
        if cache.store is not None:
            self._files.outdate()
        build.use(found.trusted)
        self._land(keys, build)
        return True

    def _from_shared(self, cache: Cache, keys: Keys, era: int) -> bool:
        """Begin with what another process has published, if there is something new."""
        if self._shared is None or self._shared.owes:
            return False
        build = self._members.begin(era)  # before it is read
        try:
            live = self._members.live
            published = self._shared.load("" if live is None else live.publication)
            if published is not None:
                series = decode(published.bits, keys.label, self._plan.error_rate).series
                for key in published.adds:
                    series.add(key)
                series.publication = published.name
                self._shared.add(build.use(series))  # it has them now, and Redis may lack them
                self._land(keys, build)
                self._save(cache, keys, build)
                return True
        except NotASnapshot as error:
            log.warning("BloomGuard: the shared filter is ignored: %s", error)
        except Outdated:
            raise
        except Exception as error:
            log.warning("BloomGuard: the shared filter cannot be read: %s", type(error).__name__)
        self._members.drop(build)
        return False

    # What is shared

    def _settle(self) -> None:
        """Note in Redis what is owed there, and tell who has started without it."""
        shared = self._shared
        if shared is None:
            return
        if shared.has_work and time.monotonic() >= self._settle_at:
            try:
                self._announce(shared.settle())
            except Exception:
                self._settle_at = time.monotonic() + SETTLE_PAUSE
        live = self._members.live
        if live is None:
            return
        if shared.count > max(CROWDED, live.count // 10):
            self._is_asked = self._is_asked or self._relieved != live.publication
            self._relieved = live.publication
        if shared.is_behind and time.monotonic() >= self._adopt_at:
            shared.is_behind, self._adopt_at = False, time.monotonic() + ADOPT_PAUSE
            self._adopt()

    def _adopt(self) -> None:
        """Take over what another process has published since, if it can be had."""
        cache = None if self._cache is None else self._cache()
        if cache is None or not cache.hears_peers:
            return
        with suppress(Outdated):
            keys = self._find_keys(cache)
            if keys is not None:
                self._from_shared(cache, keys, self._members.era)

    def _announce(self, keys: list[str]) -> None:
        cache = None if self._cache is None else self._cache()
        if keys and cache is not None:
            log.info("BloomGuard: the shared filter has %d keys that it lacked", len(keys))
            cache.delete(*keys)
