"""What a caller does after each answer of the store: no I/O, no clock."""

from __future__ import annotations

import threading

import pytest

from tests.coherence.locks.users import LONG
from tests.waiting import until
from tiercache.coherence.keeper import Keeper
from tiercache.coherence.lock import Locks
from tiercache.coherence.pursuit import Pursuit
from tiercache.errors import LockLost, LockTimeout, StoreError
from tiercache.tiers.store import Kind
from tiercache.waits import Waits


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
