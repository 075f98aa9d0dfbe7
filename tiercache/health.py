"""How a store is: its breaker, and what the log says of its outages.

There is one for each store, shared by all caches on it, so that an outage is one line when it
begins and one when it ends, with the number of operations that failed. A failure now and then keeps
one outage going: it ends when the breaker closes, or after QUIET_SECONDS without any.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

from .errors import StoreError
from .logs import reason_of, trace_of
from .tiers.breaker import Breaker
from .tiers.store import StoreBusy, StoreHeldUp, StoreRefused

if TYPE_CHECKING:
    from .tiers.store import Store

log = logging.getLogger(__name__)

QUIET_SECONDS = 5.0
SAY_AGAIN = 60.0  # seconds between lines about one and the same refusal


class Health:
    """What all caches on a store know of it. Safe for threads."""

    def __init__(self, store: Store) -> None:
        self.label = store.label
        self.breaker = Breaker(store.timeout)
        self.is_down = False  # an outage has begun, and the log has said so
        self._lock = threading.RLock()
        self._failures = 0  # in this outage; guarded by _lock
        self._failed_at = 0.0  # monotonic time of the last
        self._said: dict[tuple[type[Exception], str], float] = {}  # until when; guarded by _lock

    def after_fork(self) -> None:
        """Take new locks in a forked child."""
        self._lock = threading.RLock()
        self.breaker.after_fork()

    def succeeded(self, now: float, seconds: float) -> None:
        """Record an operation that the store answered."""
        has_closed = self.breaker.succeeded(now, seconds)
        if not self.is_down or not (has_closed or now - self._failed_at >= QUIET_SECONDS):
            return
        with self._lock:
            was_down, self.is_down = self.is_down, False
            failures, self._failures = self._failures, 0
        if was_down:
            log.warning("%s is back: operations that failed: %d", self.label, failures)

    def failed(self, cache: str, operation: str, error: Exception, seconds: float) -> None:
        """Record an operation that failed."""
        if isinstance(error, StoreBusy | StoreHeldUp | StoreRefused):
            self.breaker.abstained()
            self._say_sometimes(cache, operation, error)
            return
        now = time.monotonic()
        self.breaker.failed(now, seconds)
        with self._lock:
            self._failures += 1
            self._failed_at = now
            was_down, self.is_down = self.is_down, True
        if not was_down:
            why = reason_of(error)
            log.warning("cache %r goes on without L2: %s failed: %s", cache, operation, why)
        if not isinstance(error, StoreError):
            log.error("%s failed for a reason of its own: %s", operation, trace_of(error))

    def _say_sometimes(self, cache: str, operation: str, error: Exception) -> None:
        now, subject = time.monotonic(), (type(error), operation)
        with self._lock:
            if now < self._said.get(subject, now):
                return
            self._said[subject] = now + SAY_AGAIN
        log.warning("cache %r does without L2 where it cannot have it: %s", cache, error)


_known: dict[int, Health] = {}  # by the identity of a store that is alive
_making = threading.RLock()


def health_of(store: Store) -> Health:
    """Return the health of a store."""
    with _making:
        health = _known.get(id(store))
        if health is None:
            health = _known[id(store)] = Health(store)
            weakref.finalize(store, _known.pop, id(store), None).atexit = False
        return health
