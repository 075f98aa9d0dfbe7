"""A moment's memory of errors: what just failed, and has no value to serve, is not asked again.

A key that is asked for a thousand times a second, and whose load fails, is loaded as fast as it
fails: single flight joins those who come during a load, not those who come after it. Here the error
is kept for a moment and raised again, as a bare copy, without loading.

Only for a *cold* key: where a stale value is there, its load's failure is nobody's error. An
explicit refresh always loads. What ends the memory of a key: its ttl, its next success, a write of
it, here or in another process, and a gap in the bus. A load that had begun before a write leaves no
error behind it. ``clear()`` and tags do not end it.

The table is bounded: the oldest goes. Since all have one ttl, the order of insertion is that of
expiry.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tiercache import (
    MISS,
    BulkheadFull,
    Cache,
    CircuitOpen,
    ConfigurationError,
    Duration,
    Event,
    Load,
    LoadTimeout,
    Plugin,
    RememberedError,
)

from ._choosing import Chosen, chooser
from ._error_notes import is_remembered, note_remembered
from ._forks import heal_after_fork
from ._options import duration, whole

__all__ = ["ErrorMemory"]

#: They say that there was no load, so there is nothing to remember.
_NOT_LOADED = (CircuitOpen, BulkheadFull)


class _Kept(NamedTuple):
    until: float  # seconds of the clock
    error: RememberedError


class ErrorMemory(Plugin):
    """Raise the error of a cold key that has just failed again, instead of loading.

    Args:
        ttl: How long an error is remembered.
        max_entries: How many; beyond, the oldest is forgotten.
        exceptions: Only these.
        functions: Only of these: functions, their names, or templates of their keys.
        clock: What measures the seconds.

    Raises:
        ConfigurationError: If an option is illegal; at its start, if it is another cache's: keys
            of two caches are not the same.
    """

    def __init__(
        self,
        ttl: Duration = "1s",
        *,
        max_entries: int = 10_000,
        exceptions: type[Exception] | Iterable[type[Exception]] = (Exception,),
        functions: Chosen | Iterable[Chosen] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl = duration(ttl, "ttl")
        self._max_entries = whole(max_entries, "max_entries", least=1)
        self._exceptions = _checked_exceptions(exceptions)
        self._concerns = chooser(functions)
        self._clock = clock
        self._cache = ""  # whose it is
        self._raised = 0
        self.after_fork()
        heal_after_fork(self)

    def after_fork(self) -> None:
        """Begin empty in a forked child. For internal use."""
        self._lock = threading.RLock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # guarded by _lock
        self._loading: dict[str, Load] = {}  # the last load of each key; guarded by _lock

    async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
        if load.items is not None:  # of many keys, none of which is known to be at fault
            return await call_next()
        if self._concerns is not None and not self._concerns(load):
            return await call_next()
        if self._kept and load.stale_value is MISS and not load.is_refresh:
            self._raise_again(load)
        with self._lock:
            self._loading[load.key] = load
        try:
            value = await call_next()
        except Exception as error:
            self._end(load, error)
            raise
        except BaseException:
            self._end(load, _timeout(load))
            raise
        self._end(load)
        self._forget(load.key)
        return value

    def _raise_again(self, load: Load) -> None:
        with self._lock:
            kept = self._kept.get(load.key)
            if kept is None or kept.until <= self._clock():
                return
            self._raised += 1
        note_remembered(load)
        raise kept.error.afresh()

    def _end(self, load: Load, error: Exception | None = None) -> None:
        """Note how a load ended: what was written since it began, it says nothing about."""
        is_to_keep = error is not None and self._is_to_keep(load, error)
        with self._lock:
            if self._loading.get(load.key) is not load:
                return
            del self._loading[load.key]
            if error is not None and is_to_keep:
                self._keep(load.key, error)

    def _is_to_keep(self, load: Load, error: Exception) -> bool:
        return (
            load.stale_value is MISS
            and isinstance(error, self._exceptions)
            and not isinstance(error, _NOT_LOADED)
            and not is_remembered(load)
        )

    def _keep(self, key: str, error: Exception) -> None:
        now = self._clock()
        self._kept[key] = _Kept(now + self._ttl, RememberedError(error))
        self._kept.move_to_end(key)
        while self._kept:
            oldest = next(iter(self._kept))
            if len(self._kept) <= self._max_entries and self._kept[oldest].until > now:
                return
            del self._kept[oldest]

    def _forget(self, *keys: str) -> None:
        if not self._kept:
            return
        with self._lock:
            for key in keys:
                self._kept.pop(key, None)

    def on_write(self, keys: Sequence[str]) -> None:
        if not self._kept and not self._loading:
            return
        with self._lock:
            for key in keys:
                self._loading.pop(key, None)
                self._kept.pop(key, None)

    def on_event(self, event: Event) -> None:
        if event.name == "bus_gap":  # of writes that were missed
            with self._lock:
                self._kept.clear()
                self._loading.clear()

    def start(self, cache: Cache) -> None:
        if self._cache:
            raise ConfigurationError(
                f"this ErrorMemory belongs to cache {self._cache!r}; give each cache its own"
            )
        self._cache = cache.name

    def stop(self) -> None:
        self._cache = ""
        self.after_fork()

    def measures(self) -> Mapping[str, float]:
        return {"error_memory.entries": len(self._kept), "error_memory.raised": self._raised}


def _timeout(load: Load) -> LoadTimeout | None:
    """Return the error of an asyncio load that was cancelled because it took too long."""
    if not load.has_timed_out:
        return None
    return LoadTimeout(f"{load.function}: a load of this key has just taken too long")


def _checked_exceptions(
    exceptions: type[Exception] | Iterable[type[Exception]],
) -> tuple[type[Exception], ...]:
    classes = (exceptions,) if isinstance(exceptions, type) else tuple(exceptions)
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(f"exceptions takes exception classes, got {kind!r}")
    return classes
