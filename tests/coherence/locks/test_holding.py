"""What a lock promises: one holder at a time, and fences that only grow."""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest

from tests.coherence.locks.users import LONG
from tiercache.errors import LockLost, LockTimeout


def test_held_and_released(any_locks, user):
    """Inside its block a lock is held by this object and by nobody else; then it is free."""
    lock, other = user.make(any_locks), user.make(any_locks, wait=0)
    assert not lock.is_held and not lock.lost and lock.fence == 0

    def inside():
        assert lock.is_held and not lock.lost
        lock.check()
        with pytest.raises(LockTimeout):
            user.acquire(other)
        assert not other.is_held and other.fence == 0

    user.inside(lock, inside)
    assert not lock.is_held and not lock.lost
    assert user.acquire(other) is True and other.is_held
    user.release(other)


def test_names_are_apart(any_locks, user):
    """Locks of two names are two locks."""
    one, other = user.make(any_locks, "a"), user.make(any_locks, "b", wait=0)
    user.inside(one, lambda: user.inside(other))


def test_the_fence_only_grows(any_locks, user):
    """Each grant's fence is greater than all before, of one object and of several."""
    fences = []
    lock = user.make(any_locks)
    for _ in range(5):
        user.inside(lock, lambda: fences.append(lock.fence))
        other = user.make(any_locks)
        user.inside(other, lambda other=other: fences.append(other.fence))
    assert fences == sorted(set(fences)) and fences[0] > 0
    assert all(type(fence) is int for fence in fences)


def test_a_fence_after_a_loss_is_greater(cluster, user):
    """Who comes after a holder that lost the lock has the greater fence."""
    locks = cluster.process().locks
    lock, other = user.make(locks), user.make(locks)
    user.acquire(lock)
    cluster.drop("job")
    user.acquire(other)
    assert other.fence > lock.fence
    user.release(other)
    with pytest.raises(LockLost):
        user.release(lock)


def test_threads_exclude_one_another(cluster):
    """A counter that loses increments when two threads touch it loses none under the lock."""
    processes = [cluster.process() for _ in range(2)]
    counter, fences, inside = [0], [], []
    threads_each, rounds = 10, 5
    barrier = threading.Barrier(2 * threads_each)

    def work(locks):
        barrier.wait()
        for _ in range(rounds):
            with locks.lock("job", ttl=LONG) as lock:
                inside.append(1)
                assert len(inside) == 1
                value = counter[0]
                time.sleep(0)
                counter[0] = value + 1
                fences.append(lock.fence)
                inside.pop()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [
            threading.Thread(target=work, args=(process.locks,))
            for process in processes
            for _ in range(threads_each)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert counter[0] == 2 * threads_each * rounds
    assert fences == sorted(set(fences))


async def test_tasks_exclude_one_another(cluster):
    """The same for a hundred tasks of two processes."""
    processes = [cluster.process() for _ in range(2)]
    counter, fences = [0], []

    async def work(locks):
        async with locks.alock("job", ttl=LONG) as lock:
            value = counter[0]
            await asyncio.sleep(0)
            counter[0] = value + 1
            fences.append(lock.fence)

    await asyncio.gather(*[work(process.locks) for process in processes for _ in range(50)])
    assert counter[0] == 100
    assert fences == sorted(set(fences))


def test_threads_and_tasks_exclude_one_another(any_locks):
    """Blocking and asyncio holders are holders of one lock."""
    counter = [0]

    def work():
        for _ in range(20):
            with any_locks.lock("job"):
                value = counter[0]
                time.sleep(0.0001)
                counter[0] = value + 1

    async def main():
        threads = [asyncio.create_task(asyncio.to_thread(work)) for _ in range(4)]
        for _ in range(20):
            async with any_locks.alock("job"):
                value = counter[0]
                await asyncio.sleep(0.0001)
                counter[0] = value + 1
        await asyncio.gather(*threads)

    asyncio.run(main())
    assert counter[0] == 100
