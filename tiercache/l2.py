"""L2 as the read and write paths see it: its trouble is counted and logged, never raised.

It also remembers what L2 was not told. A delete that did not reach it would bring the old value
back; so a key whose invalidation is owed is not believed, and before L2 is read for it the debt is
paid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING

from .plugin import Event, Hooks
from .stats import Counters

if TYPE_CHECKING:
    from .runtime import Port
    from .tiers.store import Store, Stored

log = logging.getLogger(__name__)

DISTRUSTED_KEYS = 10_000  # whose invalidation did not reach L2; past that, all are


class L2:
    """A cache's part of a store."""

    def __init__(self, cache: str, store: Store, hooks: Hooks, counters: Counters) -> None:
        self.store = store
        self.is_down = False  # whether the last operation failed, and the log has said so
        self._cache = cache
        self._prefix = f"{cache}:"  # of this cache's keys
        self._hooks = hooks
        self._counters = counters
        self._lock = RLock()
        self._distrusts = 0  # invalidations that L2 did not take so far; guarded by _lock
        self._distrusted: dict[str, int] = {}  # keys of these, and which; guarded by _lock
        self._distrusts_all = 0  # that of the whole cache, if any; guarded by _lock

    def after_fork(self) -> None:
        """Take a new lock in a forked child."""
        self._lock = RLock()

    async def read(self, port: Port, key: str) -> Stored | None:
        """Return what L2 holds for a key; None also where it cannot say."""
        try:
            if (self._distrusted or self._distrusts_all) and self.distrusts(key):
                await self._repair(port, [key])
            stored = await port.read(self.store, self._prefix + key)
        except Exception as error:
            self._failed("read", error, key)
            return None
        if self.is_down:
            self._answered()
        return stored

    async def read_many(self, port: Port, keys: Sequence[str]) -> Sequence[Stored | None]:
        """Return what L2 holds for each key, in one round trip."""
        try:
            if self._distrusted or self._distrusts_all:
                suspects = [key for key in keys if self.distrusts(key)]
                if suspects:
                    await self._repair(port, suspects)
            found = await port.read_many(self.store, [self._prefix + key for key in keys])
        except Exception as error:
            self._failed("read_many", error, keys[0])
            return [None] * len(keys)
        if self.is_down:
            self._answered()
        return found

    async def write(self, port: Port, items: Sequence[tuple[str, bytes, float | None]]) -> bool:
        """Write payloads to L2; say whether it took them."""
        named = [(self._prefix + key, payload, ttl) for key, payload, ttl in items]
        since = self._distrusts
        try:
            if len(named) == 1:
                await port.write(self.store, *named[0])
            else:
                await port.write_many(self.store, named)
        except Exception as error:
            self._failed("write", error, items[0][0])
            return False
        self._trust([key for key, _, _ in items], since)
        self._answered()
        return True

    async def delete(self, port: Port, keys: Sequence[str]) -> int:
        """Delete keys from L2; what cannot be deleted now is not believed until it is."""
        since = self._distrusts
        try:
            count = await port.delete(self.store, [self._prefix + key for key in keys])
        except Exception as error:
            self.distrust(keys)
            self._failed("delete", error, keys[0])
            return 0
        except BaseException:
            self.distrust(keys)
            raise
        self._trust(keys, since)
        self._answered()
        return count

    async def clear(self, port: Port, prefix: str) -> None:
        """Delete every key of L2 that begins with a prefix."""
        try:
            await port.clear(self.store, self._prefix + prefix)
        except Exception as error:
            self._distrust_all()
            self._failed("clear", error, prefix)
        except BaseException:
            self._distrust_all()
            raise

    async def _repair(self, port: Port, keys: Sequence[str]) -> None:
        """Do in L2 what could not be done when it was due. Raises what the store raises."""
        since = self._distrusts  # what is distrusted while this is under way stays so
        if self._distrusts_all:
            await port.clear(self.store, self._prefix)
            with self._lock:
                if self._distrusts_all <= since:
                    self._distrusts_all = 0
            return
        await port.delete(self.store, [self._prefix + key for key in keys])
        self._trust(keys, since)

    def distrusts(self, key: str) -> bool:
        """Whether L2 may hold a value of the key that was invalidated."""
        return bool(self._distrusts_all) or key in self._distrusted

    def distrust(self, keys: Sequence[str]) -> None:
        """Remember that L2 may hold values of keys that were invalidated."""
        with self._lock:
            self._distrusts += 1
            self._distrusted.update(dict.fromkeys(keys, self._distrusts))
            if len(self._distrusted) > DISTRUSTED_KEYS:
                self._distrust_all()

    def _distrust_all(self) -> None:
        with self._lock:
            self._distrusts += 1
            self._distrusts_all = self._distrusts
            self._distrusted.clear()

    def _trust(self, keys: Sequence[str], since: int) -> None:
        """Believe L2 again for keys that were distrusted up to a moment."""
        if self._distrusted:
            with self._lock:
                for key in keys:
                    if self._distrusted.get(key, since + 1) <= since:
                        del self._distrusted[key]

    def _failed(self, operation: str, error: Exception, key: str) -> None:
        """Count a failure, and log the first of a row."""
        self._counters.store_errors += 1
        if self._hooks.on_event:
            self._hooks.tell(Event("store_error", self._cache, key, operation))
        if not self.is_down:
            self.is_down = True
            log.warning("cache %r goes on without L2: %s failed: %s", self._cache, operation, error)

    def _answered(self) -> None:
        if self.is_down:
            self.is_down = False
            log.warning(
                "cache %r has its L2 back; %d operations failed in all",
                self._cache,
                self._counters.store_errors,
            )
