"""The lock: one holder at a time, woken waiters, losses told, and nothing kept on any way out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
import warnings
from datetime import timedelta

import pytest

from tests.coherence.lock_cluster import Cluster
from tests.waiting import until
from tiercache.coherence import pursuit as pursuits
from tiercache.coherence.async_lock import quiesce
from tiercache.coherence.hold import Loss
from tiercache.coherence.keeper import Keeper
from tiercache.coherence.local_locks import FEW
from tiercache.coherence.lock import Locks
from tiercache.coherence.pursuit import Pursuit
from tiercache.errors import CacheError, ConfigurationError, LockLost, LockTimeout, StoreError
from tiercache.testing.dict_store import DictStore
from tiercache.tiers.store import Kind
from tiercache.waits import Waits

LONG = 60.0  # a ttl that does not end in a test
SHORT = 0.15  # a ttl that does


@pytest.fixture
def cluster():
    """Processes on one DictStore; at the end nobody waits or renews."""
    cluster = Cluster()
    yield cluster
    cluster.close()
    for process in cluster.processes:
        assert len(process.waits) == 0
        until(lambda process=process: len(process.keeper) == 0)
        process.keeper.rest()


@pytest.fixture
def locks(cluster):
    """The locks of one process."""
    return cluster.process().locks


class BlockingUser:
    """Does with a blocking lock what a test says."""

    def make(self, locks, name="job", **options):
        return locks.lock(name, **{"ttl": LONG, **options})

    def acquire(self, lock):
        return lock.acquire()

    def release(self, lock):
        lock.release()

    def inside(self, lock, do=lambda: None):
        with lock:
            return do()

    def settle(self, locks):
        """Wait for what goes on in the background."""
        until(lambda: not locks._returns)

    def close(self):
        pass


class AsyncUser:
    """Does the same with an asyncio lock, in an event loop that runs in a thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def make(self, locks, name="job", **options):
        return locks.alock(name, **{"ttl": LONG, **options})

    def acquire(self, lock):
        return self.run(lock.acquire())

    def release(self, lock):
        self.run(lock.release())

    def inside(self, lock, do=lambda: None):
        async def main():
            async with lock:
                return await asyncio.to_thread(do)

        return self.run(main())

    def settle(self, locks):
        self.run(quiesce(locks.tasks))

    def close(self):
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(params=[BlockingUser, AsyncUser], ids=["blocking", "asyncio"])
def user(request):
    user = request.param()
    yield user
    user.close()


@pytest.fixture(params=["store", "local"])
def any_locks(request, cluster):
    """The locks of a cache with L2 whose bus is silent, and of one without."""
    if request.param == "store":
        yield cluster.process(listens=False).locks
        return
    locks = Locks("test", None, Waits(), 0.5, keeper=Keeper())
    yield locks
    locks.close()


def seconds_of(do):
    began = time.monotonic()
    do()
    return time.monotonic() - began


# What it promises


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


# Waiting


@pytest.fixture
def never_polling(monkeypatch):
    """Only news lets a waiter in: polls come too late for any test."""
    monkeypatch.setattr(pursuits, "FIRST_POLL", LONG)
    monkeypatch.setattr(pursuits, "LONGEST_POLL", LONG)


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
    assert got[0] - released < 1  # of 60 s that the holder's time, and a poll, would take
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
    until(lambda: waiting.store.calls.count("lock") == 3)
    lock.release()
    thread.join(10)
    assert not thread.is_alive()
    assert waiting.store.calls.count("lock") <= 4


def test_a_dead_holders_lock_ends(any_locks, user):
    """What nobody renews ends by its ttl, at which the waiter asks, and not long after."""
    any_locks.store.lock("job", b"deadbeef", 0.3)
    lock = user.make(any_locks)
    assert 0.2 < seconds_of(lambda: user.inside(lock)) < 0.6


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

        assert 0.14 < seconds_of(acquire) < 1
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


# A store in trouble


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


@pytest.mark.parametrize(("wait", "least", "most"), [(0, 0, 0.3), (0.2, 0.2, 1), (None, 0.3, 2)])
def test_trouble_that_lasts(cluster, user, wait, least, most):
    """It is given up when the wait, or else the ttl, is over; the cause is told."""
    process = cluster.process()
    error = StoreError("redis://localhost refused")
    process.store.fail("lock", error=error)
    lock = user.make(process.locks, wait=wait, ttl=0.3)

    def acquire():
        with pytest.raises(LockTimeout, match="out of reach: redis://localhost refused") as caught:
            user.inside(lock)
        assert caught.value.__cause__ is error

    assert least <= seconds_of(acquire) < most


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
    with pytest.raises(LockTimeout, match=r"its ttl of 0\.15 s was over; choose a longer ttl"):
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


# Renewing


def test_renewed_while_held(cluster, user):
    """A lock held for several times its ttl stays held; its ttl is for the dead only."""
    process = cluster.process()
    other = process.locks.lock("job", wait=0)

    def work():
        for _ in range(3):
            time.sleep(0.2)
            with pytest.raises(LockTimeout):
                other.acquire()

    user.inside(user.make(process.locks, ttl=0.3), work)
    assert process.store.calls.count("renew_lock") >= 4
    calls = len(process.store.calls)
    time.sleep(0.15)
    assert len(process.store.calls) == calls  # released, it is not renewed


def test_one_failed_renewal_is_made_up_for(cluster, user):
    """A renewal that fails is tried again soon enough to keep the lock."""
    process = cluster.process()
    process.store.fail("renew_lock")

    def work():
        until(lambda: process.store.calls.count("renew_lock") >= 2)
        process.store.heal()
        until(lambda: process.store.calls.count("renew_lock") >= 4)

    user.inside(user.make(process.locks, ttl=0.6), work)


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


# Losing it


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
    with process.locks.lock("job", wait=0.5):  # also what the store still held was given back
        pass


def test_lost_by_time_needs_no_thread(cluster):
    """Where renewals hang, the clock tells that the lock is lost, within its ttl."""
    process = cluster.process()
    gate = threading.Event()
    process.store.before["renew_lock"] = lambda: gate.wait(10)
    lock = process.locks.lock("job", ttl=SHORT)
    began = time.monotonic()
    lock.acquire()
    until(lambda: lock.lost)
    assert time.monotonic() - began < SHORT + 0.3
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
        process.store.before["renew_lock"] = lambda: asyncio.sleep(0.4)

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
    lock = process.locks.alock("job", ttl=0.3)
    await lock.acquire()
    await entered.wait()
    await lock.release()
    process.store.heal()
    async with lock:
        gate.set()
        await asyncio.sleep(0.5)
        assert lock.is_held
    await process.locks.aclose()


# Ways out


def test_releasing_what_is_not_held(any_locks, user):
    """A release without a lock is LockLost, and so is a second one."""
    lock = user.make(any_locks)
    with pytest.raises(LockLost, match="not held by this object; acquire it before"):
        user.release(lock)
    user.acquire(lock)
    user.release(lock)
    with pytest.raises(LockLost, match="not held by this object"):
        user.release(lock)


def test_released_within_the_block(any_locks, user):
    """A block may release its lock early; its end then does nothing."""
    lock = user.make(any_locks)

    def inside():
        user.release(lock)
        assert not lock.is_held

    user.inside(lock, inside)


def test_not_reentrant(any_locks, user):
    """One object is one acquisition: another one through it is an error, not a deadlock."""
    lock = user.make(any_locks)
    user.acquire(lock)
    with pytest.raises(CacheError, match="not reentrant; make an object for each"):
        user.acquire(lock)
    assert lock.is_held
    user.release(lock)
    user.inside(lock)


def test_threads_releasing_one_object(any_locks):
    """Of several threads that release one object, one does."""
    lock = any_locks.lock("job")
    for _ in range(20):
        lock.acquire()
        outcomes, barrier = [], threading.Barrier(4)

        def release(outcomes=outcomes, barrier=barrier):
            barrier.wait()
            try:
                lock.release()
                outcomes.append("released")
            except LockLost:
                outcomes.append("not held")

        threads = [threading.Thread(target=release) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["not held"] * 3 + ["released"]


async def test_cancelled_while_asking(cluster):
    """A task cancelled while its grant is on the way gives it back, even if it comes later."""
    process = cluster.process()
    gate, asked = asyncio.Event(), asyncio.Event()

    async def slow():
        asked.set()
        await gate.wait()

    process.store.before["lock"] = slow
    task = asyncio.create_task(process.locks.alock("job", ttl=LONG).acquire())
    await asked.wait()
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 1  # though the store does not answer
    gate.set()
    await process.locks.aclose()
    assert process.store.calls == ["lock", "unlock"]
    assert not cluster.rows()


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_cancellations(cluster, seed):
    """Whenever tasks are cancelled, the lock is free afterwards, and excludes meanwhile."""
    draw = random.Random(seed)
    processes = [cluster.process() for _ in range(2)]
    for process in processes:
        for method in ("lock", "unlock"):
            process.store.before[method] = lambda: asyncio.sleep(draw.choice([0, 0, 0.001]))
    inside, entered = [], []

    async def work(locks):
        async with locks.alock("job", ttl=LONG):
            inside.append(1)
            entered.append(1)
            try:
                assert len(inside) == 1
                await asyncio.sleep(draw.choice([0, 0.001]))
                assert len(inside) == 1
            finally:
                inside.pop()

    tasks = [asyncio.create_task(work(processes[i % 2].locks)) for i in range(60)]
    while not all(task.done() for task in tasks):
        draw.choice(tasks).cancel()
        await asyncio.sleep(draw.choice([0, 0, 0.0005]))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    for process in processes:
        await process.locks.aclose()
    assert not cluster.rows()
    assert entered


def test_a_loop_that_ends_with_tasks_waiting_and_holding(cluster, caplog):
    """What is under way when an event loop ends leaves the lock free, and says nothing."""
    process = cluster.process()
    process.store.before["unlock"] = lambda: asyncio.sleep(0.005)

    async def work():
        async with process.locks.alock("job", ttl=LONG):
            await asyncio.sleep(10)

    async def main():
        tasks = [asyncio.create_task(work()) for _ in range(5)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in tasks)

    asyncio.run(main())
    assert not cluster.rows()
    assert not process.locks.tasks
    assert not caplog.records


@pytest.mark.parametrize("method", ["lock", "unlock"])
def test_a_loop_that_ends_in_mid_command(cluster, caplog, method):
    """Nor does a loop that ends while the store is being asked: what it did is undone in time."""
    process = cluster.process()
    inside = process.store.inside

    class Slow:
        async def alock(self, *args):
            grant = inside.lock(*args)
            await asyncio.sleep(0.02 if method == "lock" else 0)
            return grant

        async def aunlock(self, *args):
            await asyncio.sleep(0.02 if method == "unlock" else 0.002)
            return inside.unlock(*args)

    process.store.inside = Slow()

    async def work():
        async with process.locks.alock("job", ttl=LONG):
            pass

    async def main():
        task = asyncio.create_task(work())
        while method not in process.store.calls:
            await asyncio.sleep(0)
        assert not task.done()

    asyncio.run(main())
    assert not cluster.rows()
    assert not process.locks.tasks
    assert not caplog.records


async def test_cancelled_while_releasing(cluster, caplog):
    """A cancellation is not held up by a release, whose failure is nobody's then."""
    process = cluster.process()
    lock = process.locks.alock("job", ttl=LONG)
    await lock.acquire()
    process.store.before["unlock"] = lambda: asyncio.sleep(0.3)
    process.store.fail("unlock")
    task = asyncio.create_task(lock.release())
    while "unlock" not in process.store.calls:
        await asyncio.sleep(0)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - began < 0.25
    assert not lock.is_held
    while process.locks.tasks:  # aclose would look at what they raised
        await asyncio.sleep(0.01)
    gc.collect()
    assert not caplog.records


def test_a_loop_that_is_gone(cluster):
    """A holder whose loop was closed under it is collected quietly; its lock ends by its ttl."""
    process = cluster.process()

    async def work():
        async with process.locks.alock("job", ttl=SHORT):
            await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    task = loop.create_task(work())
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()
    task._log_destroy_pending = False
    del task
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    with process.locks.lock("job", wait=5):
        pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a finalizer
@pytest.mark.parametrize("seed", range(3))
def test_interrupted_at_any_point(seed):
    """A KeyboardInterrupt anywhere in acquire() leaves the lock free."""
    # Not the fixture: an expectation may be left among the waits, if its removal is interrupted.
    cluster = Cluster()
    process = cluster.process(listens=False)
    draw = random.Random(seed)
    interrupted = 0

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(100):
            lock = process.locks.lock("job", ttl=LONG, wait=0)
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.00001, 0.0002))
                lock.acquire()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            if lock._hold is not None and not lock._hold.is_released:
                lock.release()  # it came after the grant had been handed over
            assert not cluster.rows()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted


def test_interrupted_while_asking(cluster):
    """Interrupted while the store is asked, the caller gives back what it was granted."""
    process = cluster.process()
    inside = process.store.inside

    class Interrupted:
        def lock(self, *args):
            inside.lock(*args)
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(inside, name)

    process.store.inside = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        process.locks.lock("job", ttl=LONG).acquire()
    assert not cluster.rows()


def test_returns_are_bounded(cluster):
    """While the store hangs, grants that may have been made do not pile up in the keeper."""
    process = cluster.process()
    gate = threading.Event()
    process.store.before["unlock"] = lambda: gate.wait(10)
    process.store.fail("lock")
    for _ in range(300):
        with pytest.raises(LockTimeout):
            process.locks.lock("job", wait=0).acquire()
    assert len(process.keeper) <= 101
    gate.set()
    until(lambda: len(process.keeper) == 0)


# Life


def test_closed_while_held(cluster, user):
    """Closing a cache loses its locks: they are not renewed any more."""
    process = cluster.process()
    lock = user.make(process.locks, ttl=SHORT)
    user.acquire(lock)
    process.locks.close()
    assert lock.lost
    with pytest.raises(LockLost, match="its cache was closed"):
        user.release(lock)
    until(lambda: len(process.keeper) == 0)
    until(lambda: time.monotonic() > lock._hold.until)
    assert "renew_lock" not in process.store.calls  # which would open the store again
    user.inside(user.make(process.locks, wait=5))  # it works again


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("with_store", [True, False])
def test_a_forked_child_owns_nothing(with_store):
    """A child neither holds nor renews nor releases its parent's lock, and can acquire anew."""
    namespace = DictStore().namespace("test") if with_store else None
    locks = Locks("test", namespace, Waits(), 0.5)
    lock = locks.lock("job", ttl=LONG)
    lock.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            locks.after_fork(Waits())
            good = lock.lost and not lock.is_held
            try:
                lock.release()
                good = False
            except LockLost as error:
                good = good and Loss.FORKED in str(error)
            # The DictStore was copied: there the parent's lock stands, as in a real store.
            lock = locks.lock("job", wait=0, required=False)
            good = good and lock.acquire() is not with_store
            with locks.lock("other", ttl=SHORT) as other:
                time.sleep(2 * SHORT)
                good = good and other.is_held  # renewed by the child's own keeper
            status = 0 if good else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lock.is_held
    lock.release()
    locks.close()


def test_from_loop_to_loop(any_locks):
    """One lock object serves one event loop after another, and may be released in another."""
    lock = any_locks.alock("job")
    for _ in range(3):
        asyncio.run(lock.acquire())
        asyncio.run(lock.release())

    async def main():
        async with lock:
            assert lock.is_held

    asyncio.run(main())
    asyncio.run(main())


def test_local_locks_do_not_pile_up():
    """Locks of a cache without L2 that nobody released leave after their time."""
    locks = Locks("test", None, Waits(), 0.5)
    for number in range(10 * FEW):
        locks.store.lock(f"job {number}", b"12345678", -1.0)
    assert len(locks.store._held) <= 2 * FEW


def test_a_blocking_program_imports_no_asyncio():
    """Blocking locks work without asyncio."""
    code = (
        "import sys\n"
        "from tiercache.coherence.lock import Locks\n"
        "from tiercache.waits import Waits\n"
        "with Locks('test', None, Waits(), 0.5).lock('job', ttl=1): pass\n"
        "assert 'asyncio' not in sys.modules\n"
    )
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "the name of a lock must be a text that is not empty, got ''"),
        ({"name": None}, "must be a text that is not empty, got None"),
        ({"name": b"job"}, "got b'job'"),
        ({"ttl": 0.01}, "ttl of a lock must be at least 50 ms, got 0.01: it would end within"),
        ({"ttl": "49ms"}, "at least 50 ms, got '49ms'"),
        ({"ttl": 0}, "at least 50 ms, got 0"),
        ({"ttl": "0s"}, "at least 50 ms, got '0s'"),
        ({"ttl": -1}, "at least 50 ms, got -1"),
        ({"ttl": timedelta(seconds=-1)}, "at least 50 ms"),
        ({"ttl": float("nan")}, "at least 50 ms, got nan"),
        ({"ttl": float("inf")}, "at least 50 ms, got inf"),
        ({"ttl": None}, "ttl must be a duration, got None"),
        ({"ttl": "soon"}, "ttl is not a duration: 'soon'"),
        ({"ttl": True}, "ttl must be a duration, got True"),
        ({"wait": -1}, "wait must be 0 or a positive duration, got -1; use wait=0 to try once"),
        ({"wait": "-1s"}, "wait is not a duration: '-1s'"),
        ({"wait": float("inf")}, "use wait=0 to try once, wait=None to wait as long"),
        ({"wait": "m"}, "wait is not a duration: 'm'"),
    ],
)
def test_bad_input(any_locks, user, options, message):
    """An illegal option is a ConfigurationError where the lock is made."""
    with pytest.raises(ConfigurationError) as caught:
        user.make(any_locks, **options)
    assert message in str(caught.value)
    assert str(caught.value).count("\n") <= 1


@pytest.mark.parametrize("ttl", [0.05, "50ms", "1m", 10, timedelta(seconds=1)])
def test_durations(any_locks, user, ttl):
    """A ttl is written as any duration."""
    user.inside(user.make(any_locks, ttl=ttl))


def test_repr_says_how_it_stands(any_locks, user):
    """A lock shows its name and whether it is held."""
    lock = user.make(any_locks)
    assert "'job' of cache 'test': not held" in repr(lock)
    user.inside(lock, lambda: None)
    user.acquire(lock)
    assert repr(lock).endswith("held>") and "not held" not in repr(lock)
    user.release(lock)


# Deciding: no I/O, no clock


def pursuit(wait=None, ttl=10.0):
    return Pursuit("lock 'job'", ttl, wait, 0.5, now=100.0)


def test_polls_ever_more_rarely():
    """Pauses double up to two seconds, at random down to three quarters."""
    chase = pursuit()
    pauses = [chase.after_refusal(60.0, 100.0) for _ in range(10)]
    full = [min(0.1 * 2**i, 2.0) for i in range(10)]
    assert all(0.75 * most <= pause <= most for pause, most in zip(pauses, full, strict=True))


def test_asks_when_the_holder_may_end():
    """No pause is longer than the holder's time, nor shorter than ten milliseconds."""
    chase = pursuit()
    assert chase.after_refusal(0.03, 100.0) == 0.03
    assert chase.after_refusal(0.0, 100.0) == 0.01


def test_never_waits_past_its_end():
    """The last pause ends when the wait does; one more try, and it is over."""
    chase = pursuit(wait=1.0)
    assert chase.after_refusal(60.0, 100.99) == pytest.approx(0.01)
    with pytest.raises(LockTimeout):
        chase.after_refusal(60.0, 101.0)


def test_trouble_is_counted_unbroken():
    """An answer between two failures begins the count anew; an ask after it is soon again."""
    chase, error = pursuit(ttl=1.0), StoreError("down")
    assert chase.after_trouble(error, 100.0, 100.5) == 0.05
    assert chase.after_trouble(error, 100.5, 100.9) == 0.1
    chase.after_refusal(60.0, 100.95)
    assert chase.after_trouble(error, 101.0, 101.9) == 0.05
    with pytest.raises(LockTimeout):
        chase.after_trouble(error, 101.9, 102.0)


def test_knows_whether_it_may_hold_the_lock():
    """After an answer it does not; after a failure it may."""
    chase = pursuit()
    assert not chase.may_hold
    chase.ask()
    chase.after_trouble(StoreError("down"), 100.0, 100.1)
    assert chase.may_hold
    chase.ask()
    chase.after_refusal(1.0, 100.2)
    assert not chase.may_hold


def test_any_news_is_enough():
    """News of whatever kind has a waiter ask: the bus wakes all when it has missed something."""
    locks = Locks("test", None, Waits(), 0.5, keeper=Keeper())
    lock = locks.lock("job", ttl=LONG)
    lock.acquire()
    got = threading.Event()

    def wait_for_it():
        with locks.lock("job"):
            got.set()

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    until(lambda: len(locks.waits))
    locks.store.unlock("job", lock._hold.nonce)  # unheard of
    locks.waits.tell_all(Kind.CLEAR)
    assert got.wait(10)
    thread.join()
    with pytest.raises(LockLost):
        lock.release()
    locks.close()
