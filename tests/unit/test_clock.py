"""The coarse clock: close to the true time while it runs, and infinity when it does not."""

from __future__ import annotations

import sys
import threading
import time
from math import inf

import pytest

from tiercache.clock import TICK, TICKS_UNTIL_PARKED, CoarseClock, PreciseClock, as_clock
from tiercache.errors import ConfigurationError
from tiercache.testing import FakeClock


def awake(clock: CoarseClock) -> None:
    """Wake a clock and wait until it tells the time."""
    deadline = time.monotonic() + 5
    while clock.now == inf:
        clock.awaken()
        assert time.monotonic() < deadline


def test_lags_by_a_tick_or_little_more() -> None:
    """While it runs, `now` is never ahead, and mostly behind by some ticks at most."""
    clock = CoarseClock()
    awake(clock)
    lags = []
    started = time.monotonic()
    while time.monotonic() - started < 0.3:
        now = clock.now
        if now != inf:
            lags.append(time.monotonic() - now)
        time.sleep(0.001)
    clock.stop()
    assert min(lags) >= 0
    assert sorted(lags)[len(lags) // 4] < 5 * TICK  # more only where its thread gets no turn


def test_parks_and_never_stands_at_a_finite_time() -> None:
    """Unused, it goes to infinity within its period; awakened, it comes back."""
    clock = CoarseClock()
    for _ in range(2):
        awake(clock)
        deadline = time.monotonic() + 20 * TICK * TICKS_UNTIL_PARKED
        while clock.now != inf:
            assert time.monotonic() < deadline
            time.sleep(TICK)
    clock.stop()


def test_stop_ends_the_thread() -> None:
    """After stop() there is no thread, `now` is infinity, and it can start again."""
    clock = CoarseClock()
    before = threading.active_count()
    for _ in range(20):
        awake(clock)
        clock.stop()
        assert clock.now == inf
        assert threading.active_count() <= before
    clock.stop()


def test_awaken_and_stop_from_many_threads() -> None:
    """Whatever the order of awaken() and stop(), the clock can be woken afterwards."""
    clock = CoarseClock()

    def work() -> None:
        for i in range(50):
            clock.awaken()
            if i % 5 == 0:
                clock.stop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    awake(clock)
    clock.stop()


def test_what_wakes_the_clock_sets_it() -> None:
    """The hit after the one that woke the clock finds the time, whether the thread ran or not."""
    clock = CoarseClock()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5.0)  # the thread gets no turn
    try:
        for _ in range(5):
            clock.awaken()
            assert 0 <= time.monotonic() - clock.now < 1
    finally:
        sys.setswitchinterval(interval)
    clock.stop()
    assert clock.now == inf


def test_parking_and_waking_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However parking and waking meet, the clock never stands at a finite time."""
    monkeypatch.setattr("tiercache.clock.TICKS_UNTIL_PARKED", 1)
    monkeypatch.setattr("tiercache.clock.TICK", 0.0)
    clock = CoarseClock()
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            clock.awaken()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    done.set()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 5
    while clock.now != inf:
        assert time.monotonic() < deadline
    ticker = clock._ticker
    assert ticker is not None
    assert ticker.is_alive()
    clock.stop()


def test_kinds_of_clocks() -> None:
    """None is the shared clock; a callable is read per hit; a FakeClock stands."""
    assert isinstance(as_clock(None), CoarseClock)
    precise = as_clock(time.monotonic)
    assert isinstance(precise, PreciseClock)
    assert precise() <= precise.now <= precise()
    fake = FakeClock(5)
    assert as_clock(fake) is fake
    fake.advance("1m")
    assert fake() == fake.now == 65
    with pytest.raises(ConfigurationError):
        fake.advance(-1)
