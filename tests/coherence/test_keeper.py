"""The thread that renews leases and locks: in order, on time, and at rest when there is nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from functools import partial
from itertools import pairwise
from math import inf

import pytest

from tests.waiting import until
from tiercache.coherence import keeper as keepers
from tiercache.coherence.keeper import Keeper

LONG = 3600.0  # never due in a test


@pytest.fixture
def keeper():
    keeper = Keeper()
    yield keeper
    until(lambda: has_ended(keeper))


def has_ended(keeper):
    """Cancel whatever is kept, and have the thread end."""
    with keeper._lock:
        handles = [handle for _, _, handle in keeper._heap]
    for handle in handles:
        handle.cancel()
    keeper.rest()
    return keeper._thread is None


def once(function, *args):
    """Return a callback that is called once."""

    def callback():
        function(*args)
        return inf

    return callback


def test_called_until_cancelled(keeper):
    """What is kept is called again and again, and no more once it is cancelled."""
    calls = []
    handle = keeper.keep(0.001, lambda: calls.append(1))
    until(lambda: len(calls) > 3)
    handle.cancel()
    handle.cancel()
    fence = threading.Event()
    keeper.keep(0.0, once(fence.set))  # comes after a call that was under way
    assert fence.wait(10)
    seen = len(calls)
    again = threading.Event()
    keeper.keep(0.005, once(again.set))
    assert again.wait(10)
    assert len(calls) == seen
    assert len(keeper) <= 2


def test_in_order(keeper):
    """Calls are made in the order in which they are due, whatever the order of keeping."""
    calls, gate, done = [], threading.Event(), threading.Event()
    keeper.keep(0.0, once(gate.wait, 10))
    for number, interval in [(3, 0.5), (1, 0.1), (4, 0.7), (2, 0.3)]:
        keeper.keep(interval, once(calls.append, number))
    keeper.keep(0.8, once(done.set))
    time.sleep(0.9)  # all are due by now, and the thread is at the gate
    gate.set()
    assert done.wait(10)
    assert calls == [1, 2, 3, 4]


def test_the_callback_says_when_next(keeper):
    """A callback's answer is the time until its next call; after infinity it is not kept."""
    answers, called = [0.0, 0.0, inf], []

    def callback():
        called.append(time.monotonic())
        return answers[len(called) - 1]

    keeper.keep(0.01, callback)
    until(lambda: len(called) == 3)
    until(lambda: len(keeper) == 0)


def test_a_callback_may_cancel_itself(keeper):
    """Cancelled from within its own call, it is not called again."""
    calls, handles = [], []
    handles.append(keeper.keep(0.02, lambda: calls.append(1) or handles[0].cancel() or 0.0))
    until(lambda: calls)
    done = threading.Event()
    keeper.keep(0.005, once(done.set))
    assert done.wait(10)
    assert calls == [1]


def test_an_error_is_logged_and_the_others_go_on(keeper, caplog):
    """What a callback raises ends neither the thread nor its own calls."""
    calls = []

    def bad():
        calls.append("bad")
        raise ValueError("no")

    keeper.keep(0.001, bad)
    keeper.keep(0.001, lambda: calls.append("good"))
    until(lambda: calls.count("bad") > 2 and calls.count("good") > 2)
    assert "failed" in caplog.text and "ValueError" in caplog.text


def test_keeping_and_cancelling_wakes_nobody(keeper):
    """What is due after the thread's next look costs it nothing."""
    keeper.keep(LONG, lambda: None)
    wakes_at = keeper._wakes_at
    for _ in range(500):
        keeper.keep(LONG + 1, lambda: None).cancel()
    assert keeper._wakes_at == wakes_at and keeper._bell.empty()


def test_an_earlier_one_wakes_it(keeper):
    """What is due before all that was known is called in time."""
    keeper.keep(LONG, lambda: None)
    until(lambda: keeper._wakes_at > time.monotonic() + 100)
    called = threading.Event()
    began = time.monotonic()
    keeper.keep(0.02, once(called.set))
    assert called.wait(10)
    assert time.monotonic() - began < 10


def test_what_is_cancelled_does_not_pile_up(keeper):
    """However much is kept and cancelled, the heap stays bounded."""
    living = [keeper.keep(LONG, lambda: None) for _ in range(10)]
    for _ in range(20):
        for _ in range(keepers.MANY_CANCELLED):
            keeper.keep(LONG, lambda: None).cancel()
        until(lambda: len(keeper._heap) < 2 * keepers.MANY_CANCELLED)
    assert len(keeper) == len(living)


def test_ends_when_idle_and_starts_again(keeper, monkeypatch):
    """Without anything to keep the thread ends after a while; the next thing kept starts one."""
    monkeypatch.setattr(keepers, "IDLE_SECONDS", 0.02)
    for _ in range(2):
        called = threading.Event()
        keeper.keep(0.0, once(called.set))
        assert called.wait(10)
        thread = keeper._thread
        until(lambda: keeper._thread is None)
        if thread is not None:
            thread.join(10)
            assert not thread.is_alive()


def test_rest(keeper):
    """It ends at once where that is asked for, unless something is kept."""
    handle = keeper.keep(LONG, lambda: None)
    thread = keeper._thread
    keeper.rest()
    assert thread.is_alive() and keeper._thread is thread
    handle.cancel()
    keeper.rest()
    assert not thread.is_alive()
    keeper.rest()


def test_a_slow_group_does_not_starve_the_others(keeper):
    """Of ten that hang for a while, the others wait for one, and not for ten."""
    hang, calls, slow = 0.15, [], []
    assert hang > keepers.SLOW_SECONDS

    def hangs():
        slow.append(1)
        time.sleep(hang)

    handles = [keeper.keep(0.02, hangs, group="frozen") for _ in range(10)]
    handles.append(keeper.keep(0.02, lambda: calls.append(time.monotonic()), group="well"))
    until(lambda: len(slow) >= 4)
    gaps = [later - earlier for earlier, later in pairwise(calls)]
    assert calls and max(gaps) < 8 * hang
    for handle in handles:
        handle.cancel()


def test_each_of_a_slow_group_has_its_turn(keeper):
    """Those that are put off are called in turn, once the store has recovered, all of them."""
    is_frozen, called = threading.Event(), set()
    is_frozen.set()

    def renew(number):
        if is_frozen.is_set():
            time.sleep(0.12)
            is_frozen.clear()
        called.add(number)

    for number in range(20):
        keeper.keep(0.01, partial(renew, number), group="frozen")
    until(lambda: len(called) == 20)


def test_many_threads(keeper):
    """Of what many threads keep, just what is not cancelled is called, each once."""
    called = []

    def work(start):
        for number in range(start, start + 400):
            handle = keeper.keep(0.01, once(called.append, number))
            if number % 2:
                handle.cancel()

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {1000 * i + n for i in range(8) for n in range(0, 400, 2)}
    until(lambda: expected <= set(called))
    assert sorted(number for number in called if number % 2 == 0) == sorted(expected)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_a_signal_handler_may_keep(keeper):
    """A handler that interrupts keep() in its own thread may keep and cancel as well."""
    called, handled = set(), []

    def handler(*_):
        number = -len(handled) - 1
        handled.append(number)
        keeper.keep(0.0, once(called.add, number))
        keeper.keep(LONG, lambda: None).cancel()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        for number in range(5000):
            handle = keeper.keep(0.0, once(called.add, number))
            keeper.keep(LONG, lambda: None).cancel()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert handle is not None and handled
    until(lambda: called == {*range(5000), *handled})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_keeps_nothing_of_its_parents():
    """A child starts with nothing to keep, and with a thread of its own when it needs one."""
    keeper = keepers.keeper
    calls = []
    handle = keeper.keep(0.01, lambda: calls.append(os.getpid()))
    until(lambda: calls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            good = len(keeper) == 0 and keeper._thread is None
            handle.cancel()
            called = threading.Event()
            keeper.keep(0.0, once(called.set))
            good = good and called.wait(5) and os.getpid() not in calls
            status = 0 if good else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    seen = len(calls)
    until(lambda: len(calls) > seen)
    until(lambda: has_ended(keeper))
