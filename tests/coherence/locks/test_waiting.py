"""Who waits is woken, asks in time where nobody wakes him, and gives up when his wait is over."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from tests.coherence.locks.users import LONG, seconds_of
from tests.waiting import until
from tiercache.errors import CacheError, LockLost, LockTimeout


@pytest.mark.usefixtures("never_polling")
@pytest.mark.parametrize("same_process", [True, False])
def test_a_waiter_is_woken(cluster, user, same_process):
    """A release is news: a waiter has the lock at once, without having asked meanwhile."""
    holder = cluster.process()
    waiting = holder if same_process else cluster.process()
    lock = holder.locks.lock("job", ttl=LONG)
    lock.acquire()
    waiter, got = user.make(waiting.locks), []
    waiting.store.calls.clear()
    thread = threading.Thread(
        target=user.inside, args=(waiter, lambda: got.append(time.monotonic()))
    )
    thread.start()
    until(lambda: "lock" in waiting.store.calls and len(waiting.waits))
    released = time.monotonic()
    lock.release()
    thread.join(10)
    assert got[0] - released < 10  # of 60 s that the holder's time, and a poll, would take
    assert waiting.store.calls.count("lock") <= 3


@pytest.mark.usefixtures("never_polling")
def test_a_waiter_in_the_same_process_needs_no_bus(any_locks, user):
    """Within a process a release wakes who waits, also where there is nobody to bring news."""
    lock = any_locks.lock("job", ttl=LONG)
    lock.acquire()
    thread = threading.Thread(target=user.inside, args=(user.make(any_locks),))
    thread.start()
    until(lambda: len(any_locks.waits))
    lock.release()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.usefixtures("never_polling")
def test_news_between_asking_and_waiting(cluster, user):
    """A release that comes after the refusal, and before its waiter waits, is not missed."""
    process = cluster.process()
    lock = process.locks.lock("job", ttl=LONG)
    lock.acquire()
    inside = process.store.inside

    class ReleasesMeanwhile:
        def __getattr__(self, name):
            return getattr(inside, name)

        def lock(self, *args):
            grant = inside.lock(*args)
            if grant.fence is None:
                lock.release()
            return grant

        async def alock(self, *args):
            return self.lock(*args)

    process.store.inside = ReleasesMeanwhile()
    assert seconds_of(lambda: user.inside(user.make(process.locks))) < 10


def test_a_silent_bus_is_survived(cluster, user):
    """Where no news comes a waiter finds out by itself, and asks ever more rarely."""
    holder, waiting = cluster.process(), cluster.process(listens=False)
    lock = holder.locks.lock("job", ttl=LONG)
    lock.acquire()
    thread = threading.Thread(target=user.inside, args=(user.make(waiting.locks),))
    thread.start()
    until(lambda: waiting.store.calls.count("lock") >= 3)
    lock.release()
    asked = waiting.store.calls.count("lock")
    thread.join(10)
    assert not thread.is_alive()
    assert waiting.store.calls.count("lock") <= asked + 1


@pytest.mark.usefixtures("never_polling")
def test_a_dead_holders_lock_ends(any_locks, user):
    """What nobody renews ends by its ttl, at which the waiter asks, without polling."""
    began = time.monotonic()
    any_locks.store.lock("job", b"deadbeef", 0.3)
    user.inside(user.make(any_locks))
    assert 0.3 <= time.monotonic() - began < 10  # of 60 s that a poll would take


def test_someone_listens_before_anyone_waits(cluster, user):
    """The reader of the bus is asked for by who waits, and not by who need not."""
    asked = []
    process = cluster.process()
    process.locks.listen = lambda: asked.append(1)
    lock = process.locks.lock("job", ttl=LONG)
    with lock:
        assert not asked
        with pytest.raises(LockTimeout):
            user.acquire(user.make(process.locks, wait=0.05))
    assert asked


@pytest.mark.parametrize("wait", [0, "0s", timedelta(0)])
def test_wait_nothing_tries_once(cluster, user, wait):
    """``wait=0`` asks once and says who is in the way."""
    process = cluster.process()
    with process.locks.lock("job", ttl=LONG):
        process.store.calls.clear()
        with pytest.raises(LockTimeout, match="lock 'job' of cache 'test' is held by somebody"):
            user.acquire(user.make(process.locks, wait=wait))
        assert process.store.calls == ["lock"]


def test_wait_ends_in_time(cluster, user):
    """A lock that does not become free is a LockTimeout that names it and the remedy."""
    process = cluster.process()
    with process.locks.lock("job", ttl=LONG):
        lock = user.make(process.locks, wait="150ms")

        def acquire():
            with pytest.raises(LockTimeout, match=r"'job'.*within 0\.15 s; wait longer, or"):
                user.inside(lock)

        assert 0.14 < seconds_of(acquire) < 10  # of 60 s that the holder has
    assert not lock.is_held and not lock.lost
    user.inside(lock)  # free now; the object is good for another try


def test_a_lock_timeout_is_a_timeout_error():
    """It can be caught as any timeout."""
    assert issubclass(LockTimeout, TimeoutError) and issubclass(LockTimeout, CacheError)


def test_not_required(cluster, user):
    """With ``required=False`` the block is entered without the lock, and says so."""
    process = cluster.process()
    entered = []
    with process.locks.lock("job", ttl=LONG):
        lock = user.make(process.locks, wait=0, required=False)
        user.inside(lock, lambda: entered.append((lock.is_held, lock.lost, lock.fence)))
        lock.check()
        assert user.acquire(lock) is False
        with pytest.raises(LockLost, match="not held by this object"):
            user.release(lock)
    assert entered == [(False, False, 0)]
    user.inside(lock, lambda: entered.append(lock.is_held))
    assert entered[1] is True
