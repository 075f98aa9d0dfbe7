"""``HotKeys``: a process begins with the keys that the last one was asked for most.

Each minute, and when the cache is closed, the hottest keys of L1 are written down: in L2, where all
processes of the cache add to one list, or in a file. A new process reads the list and brings its
keys into L1 in the background, hottest first, as far as there is room: from L2; and what L2 has
lost, by a load, where the arguments of the call are known. They are where the key is made of all
arguments as they are (``"user:{user_id}"`` of ``get_user(user_id)``), since it is hits that tell.
Ratings fade, so that what was hot yesterday makes way. Keys of async functions are only promoted:
their loads belong to the application's event loop, where ``await hot_keys.awarm()`` runs them.

Lists are merged without a lock: the higher rating of a key counts, and whoever is overwritten adds
its own again a minute later.
"""

from __future__ import annotations

import logging
import threading
import time
from os import PathLike
from typing import TYPE_CHECKING

from tiercache import ConfigurationError, Duration, HotKey, Plugin, StoreError, WarmReport

from ._bloom_waiting import await_
from ._forks import heal_after_fork
from ._hot_places import InFile, InStore, Place, from_bytes, to_bytes
from ._hot_ratings import Ratings
from ._options import duration, file, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tiercache import Cache, Warmup

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds in which a function that is remembered is expected to be decorated
POLL_SECONDS = 0.1  # between looks whether it has been
RETRY_SECONDS = 1.0  # between attempts to read what is remembered
STOP_SECONDS = 5.0  # that stop() waits for the thread


class HotKeys(Plugin):
    """Remembers the keys asked for most, and brings them back in the next process.

    Args:
        path: A file of this machine; by default the list is in L2, shared by all processes.
        top: Keys remembered, at most.
        every: How often they are written down.
        half_life: After which a rating counts half: shorter forgets sooner.
        concurrency: Keys brought back side by side.

    Raises:
        ConfigurationError: If an option is illegal; when the cache is made, if it has no L1, or
            neither an L2 nor a ``path``.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        *,
        top: int = 1000,
        every: Duration = "1m",
        half_life: Duration = "6h",
        concurrency: int = 8,
    ) -> None:
        self._path = file(path, "path")
        self._top = whole(top, "top", least=1)
        self._every = duration(every, "every")
        self._fade = 0.5 ** (self._every / duration(half_life, "half_life"))
        self._concurrency = whole(concurrency, "concurrency", least=1)
        self._lock = threading.Lock()  # guards _ratings
        self._ratings = Ratings(self._top, self._fade)
        self._cache: Cache | None = None
        self._place: Place | None = None
        self._stopping = threading.Event()
        self._has_looked = threading.Event()  # at what is remembered, with success or without
        self._thread: threading.Thread | None = None
        self._restored = self._lost = 0
        heal_after_fork(self)

    def start(self, cache: Cache) -> None:
        if self._cache is not None:
            raise ConfigurationError(
                f"HotKeys() belongs to cache {self._cache.name!r}; give cache {cache.name!r} "
                "one of its own"
            )
        if cache.memory is None:
            raise ConfigurationError("HotKeys brings keys into L1; the cache has l1=None")
        if self._path is None and cache.store is None:
            raise ConfigurationError("HotKeys remembers keys in L2; without l2= give it a path=")
        self._cache = cache
        self._begin()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_SECONDS)
        if self._cache is not None:
            self._remember(self._cache)
        self._cache = self._thread = self._place = None

    def measures(self) -> Mapping[str, float]:
        return {
            "hot_keys.remembered": len(self._ratings),
            "hot_keys.restored": self._restored,  # keys that are in L1 since
            "hot_keys.lost": self._lost,  # keys that could not be brought back
        }

    def after_fork(self) -> None:
        """Begin anew in a forked child, whose L1 is empty."""
        self._lock = threading.Lock()
        if self._cache is not None:
            self._begin()

    async def awarm(self) -> WarmReport:
        """Bring back what is remembered in this event loop, by loads of async functions, too."""
        cache = self._cache
        if cache is None:
            raise ConfigurationError("HotKeys is not part of an open cache: Cache(plugins=[...])")
        await await_(self._has_looked.is_set, None)
        with self._lock:
            hot = self._ratings.hottest()
        return await cache.arewarm(hot, concurrency=self._concurrency)

    # In the background

    def _begin(self) -> None:
        cache = self._cache
        assert cache is not None
        if self._path is not None:
            self._place = InFile(self._path)
        elif cache.store is not None:
            self._place = InStore(cache.store, cache.name)
        self._stopping, self._has_looked = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(cache,), name="tiercache-hot-keys", daemon=True
        )
        self._thread.start()

    def _work(self, cache: Cache) -> None:
        try:
            remembered = self._recall(cache)
            with self._lock:
                self._ratings.hear(remembered)
                hot = self._ratings.hottest()
            self._has_looked.set()
            self._bring_back(cache, hot)
            while not self._stopping.wait(self._every):
                self._remember(cache)
        except Exception as error:
            log.error(  # noqa: TRY400 - a traceback may hold keys
                "hot keys of cache %r are not remembered any more: %s",
                *(cache.name, type(error).__name__),
            )
        finally:
            self._has_looked.set()

    def _bring_back(self, cache: Cache, hot: list[HotKey]) -> None:
        """Bring back keys as their functions are decorated: that comes after the cache is made."""
        memory = cache.memory
        assert memory is not None
        until = time.monotonic() + PATIENCE
        while hot and time.monotonic() < until:
            names = {"", *cache.function_names()}
            ready = [each for each in hot if each.function in names]
            hot = [each for each in hot if each.function not in names]
            if ready and not self._finish(cache.start_rewarming(ready, self._concurrency)):
                return
            restored = sum(each.key in memory for each in ready)
            self._restored += restored
            self._lost += len(ready) - restored
            if hot and self._stopping.wait(POLL_SECONDS):
                return

    def _finish(self, warmup: Warmup) -> bool:
        """Wait for warming; say whether to go on."""
        while not warmup.wait(POLL_SECONDS):
            if self._stopping.is_set():
                warmup.stop()
        return not self._stopping.is_set()

    def _recall(self, cache: Cache) -> list[HotKey]:
        """Read what is remembered; where that fails, try for a while."""
        assert self._place is not None
        until, has_said = time.monotonic() + PATIENCE, False
        while not self._stopping.is_set() and time.monotonic() < until:
            try:
                return from_bytes(self._place.load())
            except (StoreError, OSError) as error:
                if not has_said:
                    log.warning("hot keys of cache %r could not be read: %s", cache.name, error)
                has_said = True
            self._has_looked.set()
            self._stopping.wait(RETRY_SECONDS)
        return []

    def _remember(self, cache: Cache) -> None:
        """Count, merge with what others have written, and write it down."""
        place = self._place
        if place is None or cache.stats().l2_state == "open":
            return
        try:
            others = from_bytes(place.load())
            with self._lock:
                self._ratings.count(cache.hottest(2 * self._top))
                self._ratings.hear(each._replace(hits=each.hits * self._fade) for each in others)
                data = to_bytes(self._ratings.hottest())
            place.save(data)
        except (StoreError, OSError) as error:
            log.warning("hot keys of cache %r could not be written down: %s", cache.name, error)
