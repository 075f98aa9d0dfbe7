"""A held lock is renewed, and nothing else is."""

from __future__ import annotations

import gc
import time

import pytest

from tests.coherence.locks.users import SHORT
from tests.waiting import until
from tiercache.errors import LockTimeout


def test_renewed_while_held(cluster, user):
    """A lock held for several times its ttl stays held; its ttl is for the dead only."""
    process = cluster.process()
    other = process.locks.lock("job", wait=0)

    def work():
        began = time.monotonic()
        while time.monotonic() - began < 1.3:
            time.sleep(0.1)
            with pytest.raises(LockTimeout):
                other.acquire()

    user.inside(user.make(process.locks, ttl=1.0), work)
    assert process.store.calls.count("renew_lock") >= 2
    calls = len(process.store.calls)
    time.sleep(0.4)
    assert len(process.store.calls) == calls  # released, it is not renewed


def test_one_failed_renewal_is_made_up_for(cluster, user):
    """A renewal that fails is tried again soon enough to keep the lock."""
    process = cluster.process()
    process.store.fail("renew_lock")

    def work():
        end = lock._hold.until
        until(lambda: process.store.calls.count("renew_lock") >= 1)
        process.store.heal()
        until(lambda: lock._hold.until > end)

    lock = user.make(process.locks, ttl=2.0)
    user.inside(lock, work)


def test_a_dropped_lock_is_not_renewed(cluster, user):
    """One acquired and thrown away ends by its ttl."""
    process = cluster.process()
    lock = user.make(process.locks, ttl=SHORT)
    user.acquire(lock)
    del lock
    gc.collect()
    user.inside(user.make(process.locks, wait=5))
    until(lambda: len(process.keeper) == 0)


def test_a_short_block_starts_no_renewal(cluster, user):
    """A lock that is released before a third of its ttl costs the store two commands."""
    process = cluster.process()
    user.inside(user.make(process.locks))
    assert process.store.calls == ["lock", "unlock"]
