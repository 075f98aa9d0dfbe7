"""A holder that has lost its lock is told, and why."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from tests.coherence.locks.users import LONG, SHORT, BlockingUser
from tests.waiting import until
from tiercache.coherence.hold import Loss
from tiercache.errors import CacheError, LockLost


def lose(cluster, process, how):
    """Have the store forget a lock, or fail to renew it."""
    if how == "dropped":
        cluster.drop("job")
    else:
        process.store.fail("renew_lock")


@pytest.mark.parametrize(
    ("how", "ttl", "loss"), [("dropped", 3.0, Loss.GONE), ("not renewed", SHORT, Loss.OVERDUE)]
)
def test_a_blocking_holder_is_told(cluster, how, ttl, loss):
    """``lost`` turns true, ``check`` raises, and so does leaving the block; they say why."""
    process = cluster.process()
    reached = []
    lock = process.locks.lock("job", ttl=ttl)

    def inside():
        lock.check()
        lose(cluster, process, how)
        until(lambda: lock.lost)
        assert not lock.is_held
        with pytest.raises(LockLost):
            lock.check()
        process.store.heal()
        reached.append(1)

    with pytest.raises(LockLost, match=f"lock 'job' of cache 'test' was lost: {loss}"):
        BlockingUser().inside(lock, inside)
    assert reached and lock.lost and not lock.is_held
    with process.locks.lock("job", wait=5):  # also what the store still held was given back
        pass


def test_lost_by_time_needs_no_thread(cluster):
    """Where renewals hang, the clock tells that the lock is lost, within its ttl."""
    process = cluster.process()
    gate = threading.Event()
    process.store.before["renew_lock"] = lambda: gate.wait(10)
    lock = process.locks.lock("job", ttl=SHORT)
    lock.acquire()
    until(lambda: lock.lost, 5)
    assert not gate.is_set()
    gate.set()
    with pytest.raises(LockLost):
        lock.release()
    assert lock.lost  # though the last renewal was answered in the end


def test_what_is_lost_by_time_is_given_back(cluster, user):
    """A store that counts longer than the holder is told that the lock is not needed any more."""
    process = cluster.process()
    inside = process.store.inside

    class Generous:
        def __getattr__(self, name):
            return getattr(inside, name)

        def lock(self, name, nonce, seconds):
            return inside.lock(name, nonce, LONG)

        async def alock(self, *args):
            return self.lock(*args)

    process.store.inside = Generous()
    process.store.fail("renew_lock")
    lock = user.make(process.locks, ttl=SHORT)
    user.acquire(lock)
    until(lambda: lock.lost)
    assert "job" in cluster.rows()
    with pytest.raises(LockLost):
        user.release(lock)
    user.settle(process.locks)
    until(lambda: not cluster.rows())


def test_a_loss_unseen_is_found_at_the_release(cluster):
    """Where the store does not answer the release either, the clock tells that the lock is lost."""
    process = cluster.process()
    process.store.fail("renew_lock", "unlock")
    lock = process.locks.lock("job", ttl=SHORT)
    lock.acquire()
    hold = lock._hold
    until(lambda: time.monotonic() > hold.until)  # nobody looks at it meanwhile
    with pytest.raises(LockLost):
        lock.release()


def test_the_bodys_own_error_is_not_hidden(cluster, user):
    """A block that raises while its lock is lost raises its own error."""
    process = cluster.process()

    def body():
        cluster.drop("job")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        user.inside(user.make(process.locks), body)


def test_a_loss_nobody_noticed_is_told_at_the_end(cluster, user):
    """If the store no longer has the lock at its release, leaving the block raises LockLost."""
    process = cluster.process()
    lock = user.make(process.locks)
    with pytest.raises(LockLost):
        user.inside(lock, lambda: cluster.drop("job"))
    assert lock.lost
    user.inside(lock)
    assert not lock.lost


@pytest.mark.parametrize("how", ["dropped", "not renewed", "hanging"])
async def test_a_task_is_cancelled(cluster, how):
    """The block of an asyncio holder is cancelled, and LockLost comes out of it."""
    process = cluster.process()
    seen = []
    if how == "hanging":
        process.store.before["renew_lock"] = lambda: asyncio.sleep(2 * SHORT)

    async def hold():
        async with process.locks.alock("job", ttl=SHORT) as lock:
            if how != "hanging":
                lose(cluster, process, how)
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                seen.append((lock.lost, lock.is_held))
                raise

    with pytest.raises(LockLost) as caught:
        await hold()
    assert seen == [(True, False)]
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # the task goes on as if it had never been cancelled
    process.store.heal()
    await process.locks.aclose()


async def test_a_cancellation_from_outside_stays_one(cluster):
    """Cancelled by somebody else as well, the task ends with CancelledError."""
    process = cluster.process()

    async def hold():
        async with process.locks.alock("job", ttl=SHORT):
            cluster.drop("job")
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                asyncio.current_task().cancel()  # as if from outside, just now
                raise

    task = asyncio.create_task(hold())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_cancelled_while_holding(cluster):
    """A holder that is cancelled releases, and its cancellation is not changed."""
    process = cluster.process()
    entered = asyncio.Event()

    async def hold():
        async with process.locks.alock("job", ttl=LONG):
            entered.set()
            await asyncio.sleep(10)

    task = asyncio.create_task(hold())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not cluster.rows()


async def test_within_a_timeout(cluster):
    """``asyncio.timeout`` around a held lock is what it was."""
    process = cluster.process()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.02), process.locks.alock("job", ttl=LONG):
            await asyncio.sleep(10)
    assert not isinstance(caught.value, CacheError)


async def test_around_a_timeout_and_a_group(cluster):
    """A loss comes out of what is inside the block, be it a timeout or a group of tasks."""
    process = cluster.process()

    async def timeout_inside():
        async with asyncio.timeout(10), process.locks.alock("job", ttl=SHORT):
            cluster.drop("job")
            async with asyncio.timeout(5):
                await asyncio.sleep(10)

    async def group_inside():
        async with process.locks.alock("job", ttl=SHORT):
            cluster.drop("job")
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(10))

    for scenario in (timeout_inside, group_inside):
        with pytest.raises(LockLost):
            await scenario()
        assert asyncio.current_task().cancelling() == 0


async def test_a_block_that_swallows_its_cancellation(cluster):
    """Whoever catches the cancellation and goes on still hears of the loss at the end."""
    process = cluster.process()

    async def hold():
        async with process.locks.alock("job", ttl=SHORT):
            cluster.drop("job")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(10)
            await asyncio.sleep(0)

    with pytest.raises(LockLost):
        await hold()
    assert asyncio.current_task().cancelling() == 0


async def test_without_a_block_nobody_is_cancelled(cluster):
    """A lock acquired by hand tells of its loss when asked, and at its release."""
    process = cluster.process()
    lock = process.locks.alock("job", ttl=SHORT)
    await lock.acquire()
    cluster.drop("job")
    while not lock.lost:
        await asyncio.sleep(0.01)
    with pytest.raises(LockLost):
        lock.check()
    with pytest.raises(LockLost):
        await lock.release()


async def test_one_timer_for_each_acquisition(cluster):
    """A renewal under way at the release does not touch the next acquisition."""
    process = cluster.process()
    entered, gate = asyncio.Event(), asyncio.Event()

    async def slow():
        entered.set()
        await gate.wait()

    process.store.before["renew_lock"] = slow
    lock = process.locks.alock("job", ttl=1.0)
    await lock.acquire()
    await entered.wait()
    await lock.release()
    process.store.heal()
    async with lock:
        gate.set()
        while process.store.calls.count("renew_lock") < 3:
            await asyncio.sleep(0.01)
        assert lock.is_held
    await process.locks.aclose()
