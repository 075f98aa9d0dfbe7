"""A store that fails, hangs, or answers too late: what a caller gets, and what is given back."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.coherence.locks.users import SHORT, BlockingUser, seconds_of
from tests.waiting import until
from tiercache.errors import LockTimeout, StoreError


def test_trouble_that_passes(cluster, user):
    """A store that fails for a while is asked again until it answers."""
    process = cluster.process()
    process.store.fail("lock")
    lock = user.make(process.locks)
    held = []
    thread = threading.Thread(target=user.inside, args=(lock, lambda: held.append(lock.is_held)))
    thread.start()
    until(lambda: process.store.calls.count("lock") >= 2)
    process.store.heal()
    thread.join(10)
    assert held == [True]


@pytest.mark.parametrize(("wait", "least"), [(0, 0), (0.2, 0.2), (None, 0.3)])
def test_trouble_that_lasts(cluster, user, wait, least):
    """It is given up when the wait, or else the ttl, is over; the cause is told."""
    process = cluster.process()
    error = StoreError("redis://localhost refused")
    process.store.fail("lock", error=error)
    lock = user.make(process.locks, wait=wait, ttl=0.3)

    def acquire():
        with pytest.raises(LockTimeout, match="out of reach: redis://localhost refused") as caught:
            user.inside(lock)
        assert caught.value.__cause__ is error

    assert least <= seconds_of(acquire) < 10
    assert (process.store.calls.count("lock") == 1) == (wait == 0)


def test_granted_unheard(cluster, user):
    """A grant whose answer is lost is given back when the caller gives up."""
    process = cluster.process()
    inside = process.store.inside

    class DeafNamespace:
        def lock(self, *args):
            inside.lock(*args)
            raise StoreError("the answer was lost")

        def unlock(self, *args):
            return inside.unlock(*args)

        async def alock(self, *args):
            return self.lock(*args)

        async def aunlock(self, *args):
            return self.unlock(*args)

    process.store.inside = DeafNamespace()
    with pytest.raises(LockTimeout):
        user.inside(user.make(process.locks, wait=0))
    user.settle(process.locks)
    until(lambda: not cluster.rows())


def test_granted_unheard_and_asked_again(cluster, user):
    """Asked again by the same caller the store grants again, with a new fence."""
    process = cluster.process()
    lost = []

    class Deaf:
        def __getattr__(self, name):
            return getattr(inside, name)

        def lock(self, *args):
            grant = inside.lock(*args)
            if not lost:
                lost.append(grant.fence)
                raise StoreError("the answer was lost")
            return grant

        async def alock(self, *args):
            return self.lock(*args)

    inside, process.store.inside = process.store.inside, Deaf()
    lock = user.make(process.locks)
    user.inside(lock)
    assert lock.fence > lost[0]


def test_a_grant_that_comes_too_late(cluster, user):
    """A grant that arrives after its ttl is given back, and the error names the ttl."""
    process = cluster.process()

    def slow():
        time.sleep(SHORT + 0.01)

    async def aslow():
        await asyncio.sleep(SHORT + 0.01)

    # The store counts from when it is asked: here it is asked late, and holds it still.
    process.store.before["lock"] = slow if isinstance(user, BlockingUser) else aslow
    with pytest.raises(LockTimeout, match=r"its ttl of 0\.5 s was over; choose a longer ttl"):
        user.inside(user.make(process.locks, ttl=SHORT))
    user.settle(process.locks)
    until(lambda: "unlock" in process.store.calls)
    until(lambda: not cluster.rows())


def test_released_while_the_store_fails(cluster, user):
    """A release that does not reach the store raises nothing; it is tried once more."""
    process = cluster.process()
    lock = user.make(process.locks)
    user.acquire(lock)
    process.store.fail("unlock")
    user.release(lock)
    assert not lock.is_held and not lock.lost
    user.settle(process.locks)
    until(lambda: process.store.calls.count("unlock") == 2)


def test_another_error_passes_through(cluster, user):
    """What is no StoreError is a bug: it comes out as it is, and the lock is not kept."""
    process = cluster.process()
    inside = process.store.inside
    process.store.before["lock"] = None  # 'NoneType' object is not callable

    with pytest.raises(TypeError):
        user.inside(user.make(process.locks))
    process.store.heal()
    user.inside(user.make(process.locks, wait=0))
    assert inside is process.store.inside
