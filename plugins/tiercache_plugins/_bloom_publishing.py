"""A build for all processes: one at a time, and whatever fails, it still serves this one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tiercache import Cache, LockLost

from ._bloom_keys import Keys
from ._bloom_members import Build
from ._bloom_shared import Mark, SharedFilter
from ._bloom_snapshot import encode

log = logging.getLogger(__name__)


@contextmanager
def turn(shared: SharedFilter | None, cache: Cache, keys: Keys) -> Iterator[bool]:
    """Be the only one who builds what is shared, or not; a lock that fails costs work, no more."""
    if shared is None:
        yield True
        return
    lock = cache.lock(f"bloom:{keys.label}", wait=0, required=False)
    try:
        with lock:
            yield lock.is_held
    except LockLost:
        log.info("BloomGuard: another process may have built the shared filter, too")


def begin(shared: SharedFilter) -> Mark | None:
    """Set a mark, if Redis answers."""
    try:
        return shared.begin()
    except Exception as error:
        _say(error)
        return None


def publish(shared: SharedFilter, keys: Keys, build: Build, mark: Mark) -> None:
    """Publish what was built since a mark, and note in it that it is."""
    assert build.series is not None
    try:
        if shared.publish(encode(build.series, keys.label, is_complete=False), mark):
            build.series.publication = mark.name
    except Exception as error:
        _say(error)


def _say(error: Exception) -> None:
    log.warning("BloomGuard: this build is not shared: %s", type(error).__name__)
