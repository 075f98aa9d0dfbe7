"""Locks over the life of a cache: closed, forked, and used from event loop to event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import warnings

import pytest

from tests.coherence.locks.users import LONG, SHORT
from tests.waiting import until
from tiercache.coherence.hold import Loss
from tiercache.coherence.local_locks import FEW
from tiercache.coherence.lock import Locks
from tiercache.errors import LockLost
from tiercache.testing.dict_store import DictStore
from tiercache.waits import Waits


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
            with locks.lock("other", ttl=1.0) as other:
                time.sleep(1.2)
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
