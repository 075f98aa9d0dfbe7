"""The breaker: when it opens, what it lets through, and when it closes; by a clock of its own."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from tests.waiting import until
from tiercache import LRU, StoreError, StoreTimeout
from tiercache.health import health_of
from tiercache.testing import DictStore, FaultyStore
from tiercache.tiers.breaker import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PROBE_SECONDS,
    QUICK_FAILURES,
    RETURN_SECONDS,
    WATCHED_PAUSE,
    Breaker,
    State,
)
from tiercache.tiers.store import StoreBusy, StoreRefused

TIMEOUT = 0.5


class Driven:
    """A breaker at a time that moves when told; pauses are of their mean length."""

    def __init__(self, draw=lambda: 0.5):
        self.now = 1000.0
        self.breaker = Breaker(TIMEOUT, draw)

    def call(self, seconds=0.001):
        """Have a call answered; say whether it was let through."""
        if not self.breaker.admits(self.now):
            return False
        self.now += seconds
        self.breaker.succeeded(self.now, seconds)
        return True

    def fail(self, seconds=0.0):
        """Have a call fail; say whether it was let through."""
        if not self.breaker.admits(self.now):
            return False
        self.now += seconds
        self.breaker.failed(self.now, seconds)
        return True

    @property
    def state(self):
        return self.breaker.state

    def until_half_open(self):
        """Let the pause go by, and the probe be asked for; return how long it was."""
        began = self.now
        while not self.breaker.admits(self.now):
            self.now += 0.001
        return self.now - began


@pytest.fixture
def driven():
    return Driven()


def opened(driven):
    driven.fail(TIMEOUT)
    assert driven.state is State.OPEN
    return driven


class TestOpening:
    def test_a_timeout_opens_it_where_nothing_went_well(self, driven):
        """The first call of all times out: nobody else needs to find out."""
        assert driven.fail(TIMEOUT)
        assert driven.state is State.OPEN
        assert not driven.call()
        assert driven.breaker.openings == 1

    def test_one_slow_call_among_thousands_does_not(self, driven):
        """Many threads are served well while one call times out."""
        for _ in range(3000):
            driven.now += TIMEOUT / 3000
            driven.breaker.succeeded(driven.now, 0.002)
        driven.breaker.failed(driven.now, TIMEOUT)
        assert driven.state is State.CLOSED

    def test_a_slow_call_now_and_then_does_not(self, driven):
        """Nor do several, as long as most of the time is not wasted: there is no count."""
        for turn in range(50):
            for _ in range(1000):
                driven.now += TIMEOUT / 1000
                driven.breaker.succeeded(driven.now, 0.003)
            driven.breaker.failed(driven.now, TIMEOUT)
            assert driven.state is State.CLOSED, turn

    @pytest.mark.parametrize("connections", [1, 2, 8, 32])
    @pytest.mark.parametrize("seconds", [0.0002, 0.001, 0.005])
    def test_once_every_connection_has_timed_out_it_is_open(self, connections, seconds):
        """Whatever went well before, and whenever the server freezes."""
        rng = random.Random(connections)
        for _ in range(5):
            driven = Driven()
            frozen_at = driven.now + rng.uniform(2, 3) * TIMEOUT
            while (ends := driven.now + seconds / connections) <= frozen_at:
                driven.now = ends
                driven.breaker.succeeded(driven.now, seconds)
            for _ in range(connections):  # each at most the length of one good call late
                driven.breaker.failed(frozen_at + TIMEOUT, TIMEOUT + seconds)
            assert driven.state is State.OPEN

    def test_refused_thrice(self, driven):
        """Quick failures are no proof alone, and three are."""
        for _ in range(QUICK_FAILURES - 1):
            driven.fail(0.0001)
            assert driven.state is State.CLOSED
        driven.fail(0.0001)
        assert driven.state is State.OPEN

    def test_refused_after_thousands_of_good_calls(self, driven):
        """It takes a moment, not more than two timeouts, until good calls are past."""
        for _ in range(3000):
            driven.call(0.0003)
        began = driven.now
        while driven.fail(0.001):
            assert driven.now - began < 2 * TIMEOUT
        assert driven.state is State.OPEN

    def test_two_refused_now_and_then(self, driven):
        """What is long past does not count."""
        for _ in range(10):
            driven.fail(0.0001)
            driven.fail(0.0001)
            driven.now += 3 * TIMEOUT
        assert driven.state is State.CLOSED

    def test_calls_that_began_before_it_opened(self, driven):
        """Their failures do not open it again, or put off the probe."""
        opened(driven)
        began = driven.now
        for _ in range(100):
            driven.breaker.failed(driven.now, TIMEOUT)
        assert driven.breaker.openings == 1
        driven.until_half_open()
        assert driven.now - began <= FIRST_PAUSE * 1.01

    def test_a_late_success_closes_it(self, driven):
        """A call that began before it opened and is answered after all says that all is well."""
        opened(driven)
        assert driven.breaker.succeeded(driven.now, 0.3)
        assert driven.state is State.CLOSED
        assert driven.call()


class TestProbing:
    def test_one_probe(self, driven):
        """After the pause one call is let through, and no other until that one reports."""
        opened(driven)
        driven.until_half_open()
        assert driven.state is State.HALF_OPEN
        assert not any(driven.breaker.admits(driven.now) for _ in range(100))
        driven.now += PROBE_SECONDS / 2
        assert not driven.breaker.admits(driven.now)

    def test_one_probe_of_many_threads(self):
        """Of threads that all come when the pause is over, just one is let through."""
        for _ in range(50):
            driven = opened(Driven())
            driven.now += 10
            barrier = threading.Barrier(8)
            admitted = []

            def work(driven=driven, barrier=barrier, admitted=admitted):
                barrier.wait()
                admitted.append(driven.breaker.admits(driven.now))

            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(admitted) == [False] * 7 + [True]

    def test_an_answer_closes_it(self, driven):
        """And what was wasted before is forgotten: it takes as much to open it again."""
        opened(driven)
        driven.until_half_open()
        assert driven.breaker.succeeded(driven.now, 0.001)
        assert driven.state is State.CLOSED
        for _ in range(QUICK_FAILURES - 1):
            driven.fail(0.0001)
        assert driven.state is State.CLOSED

    def test_a_failure_opens_it_for_twice_as_long(self, driven):
        """Up to a limit, and from the start once it was closed."""
        opened(driven)
        pauses = [driven.until_half_open()]
        for _ in range(6):
            driven.breaker.failed(driven.now, 0.0001)
            assert driven.state is State.OPEN
            pauses.append(driven.until_half_open())
        expected = [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(7)]
        assert pauses == pytest.approx(expected, abs=0.002)
        assert driven.breaker.openings == 1
        driven.breaker.succeeded(driven.now, 0.001)
        opened(driven)
        assert driven.until_half_open() == pytest.approx(FIRST_PAUSE, abs=0.002)

    def test_pauses_are_random(self):
        """Processes that were all cut off at once do not come back all at once."""
        pauses = [opened(Driven(random.Random(n).random)).until_half_open() for n in range(200)]
        assert min(pauses) >= FIRST_PAUSE * 0.5
        assert max(pauses) <= FIRST_PAUSE * 1.5 + 0.002
        assert max(pauses) - min(pauses) > FIRST_PAUSE * 0.9

    def test_a_probe_that_says_nothing(self, driven):
        """One that was cancelled, or found the pool busy, makes the next call the probe."""
        opened(driven)
        driven.until_half_open()
        driven.breaker.abstained()
        assert driven.breaker.admits(driven.now)
        assert not driven.breaker.admits(driven.now)
        assert driven.state is State.HALF_OPEN

    def test_a_probe_that_never_reports(self, driven):
        """Its thread may be gone: after a while another one is sent."""
        opened(driven)
        driven.until_half_open()
        driven.now += PROBE_SECONDS
        assert driven.breaker.admits(driven.now)
        assert not driven.breaker.admits(driven.now)

    def test_hearing_of_the_server_ends_the_pause(self, driven):
        """Where the bus has contact the next call is a probe, and one only."""
        opened(driven)
        driven.breaker.heard_from(driven.now)
        assert driven.state is State.OPEN
        driven.now += RETURN_SECONDS
        assert driven.breaker.admits(driven.now)
        driven.breaker.heard_from(driven.now)
        assert not driven.breaker.admits(driven.now)

    def test_no_caller_is_a_probe_where_somebody_watches(self, driven):
        """A probe may cost a timeout; who watches the store finds out for all."""
        driven.breaker.watched(begins=True)
        opened(driven)
        driven.now += WATCHED_PAUSE * 0.9
        assert not driven.breaker.admits(driven.now)
        driven.breaker.heard_from(driven.now)
        driven.now += RETURN_SECONDS
        assert driven.breaker.admits(driven.now)

    def test_without_a_watcher_pauses_are_short_again(self, driven):
        """Who watched and has ceased to is not waited for."""
        driven.breaker.watched(begins=True)
        driven.breaker.watched(begins=False)
        opened(driven)
        assert driven.until_half_open() <= FIRST_PAUSE * 1.5

    def test_abstaining_changes_nothing_otherwise(self, driven):
        """Closed it stays closed, open it stays open."""
        driven.breaker.abstained()
        assert driven.state is State.CLOSED
        opened(driven)
        driven.breaker.abstained()
        assert not driven.breaker.admits(driven.now)


class TestOfACache:
    """What counts against a store, and who shares the breaker."""

    @pytest.fixture
    def store(self):
        return FaultyStore(DictStore(), timeout=0.1)

    def test_caches_on_one_store_share_it(self, make_cache, store):
        """What one cache finds out, the others need not."""
        one, two = make_cache("one", l2=store), make_cache("two", l2=store)
        assert health_of(store).breaker is one.flow.l2.breaker is two.flow.l2.breaker
        another = DictStore()
        assert health_of(another).breaker is not health_of(store).breaker

    @pytest.mark.parametrize("error", [StoreBusy("busy"), StoreRefused("no")], ids=type)
    def test_what_says_nothing_about_the_store(self, kind, make_cache, store, error):
        """That the pool is in use, or a command refused, is counted, and opens nothing."""
        cache = make_cache(l2=store)
        store.fail(error=error)
        for number in range(20):
            kind.do(cache, "get", f"k{number}")
        assert cache.stats().store_errors == 20
        assert cache.flow.l2.breaker.state is State.CLOSED

    def test_garbage_is_no_failure(self, kind, make_cache, store):
        """Bytes that cannot be decoded are a miss, and the store is well."""
        cache = make_cache(l1=None, l2=store)
        kind.do(cache, "set", "k", 1)
        store.garbage()
        for _ in range(20):
            assert kind.do(cache, "get", "k") is None
        assert cache.stats().decode_errors == 20
        assert cache.stats().store_errors == 0
        assert cache.flow.l2.breaker.state is State.CLOSED

    async def test_a_caller_that_is_cancelled(self, make_cache, store):
        """Whoever does not wait for the answer has not found out anything."""
        cache = make_cache(l2=store)
        await cache.aget("k")
        store.hang()
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cache.aget("k"), 0.001)
        assert cache.flow.l2.breaker.state is State.CLOSED
        assert cache.stats().store_errors == 0

    def test_no_call_goes_to_a_store_that_hangs(self, kind, make_cache, store, monkeypatch):
        """After one timeout none goes there; the loader answers at once, and keeps in L1."""
        monkeypatch.setattr("tiercache.tiers.breaker.FIRST_PAUSE", 60.0)
        cache = make_cache(l1=LRU(1000), l2=store)
        f = cache.cached("f:{x}")(kind.function(lambda x: x))
        kind.call(f, 0)
        store.hang()
        kind.call(f, 1)
        assert cache.flow.l2.breaker.state is State.OPEN
        store.calls.clear()
        for number in range(100):
            assert kind.call(f, number) == number
        kind.do(cache, "delete", "f:0")
        kind.do(cache, "set", "f:1", 7)
        assert kind.call(f, 1) == 7
        assert {name: n for name, n in store.calls.items() if name != "tail"} == {}
        assert cache.stats().store_errors == 1

    def test_it_comes_back_by_itself(self, kind, make_cache, store):
        """Soon after the store answers again it is asked again, without a caller's timeout."""
        cache = make_cache(l1=None, l2=store, blind_ttl=0.4)
        f = cache.cached("f:{x}")(kind.function(lambda x: x))
        kind.call(f, 1)
        store.fail()
        for number in range(5):
            kind.call(f, number)
        assert cache.flow.l2.breaker.state is State.OPEN
        store.heal()

        def comes_from_l2():
            before = f.cache_info().loads
            return kind.call(f, 1) == 1 and f.cache_info().loads == before

        until(comes_from_l2)
        assert cache.flow.l2.breaker.state is State.CLOSED

    def test_errors_of_the_store_reach_no_caller(self, kind, make_cache, store):
        """Whatever the breaker's state, each operation ends well."""
        cache = make_cache(l2=store)
        f = cache.cached("f:{x}", tags=["t"])(kind.function(lambda x: x))
        for error in (StoreError("down"), StoreTimeout("late"), StoreBusy("busy")):
            store.fail(error=error)
            for number in range(4):
                assert kind.call(f, number) == number
                assert kind.call(f.refresh, number) == number
                assert kind.call(f.many, [number, 9]) == {number: number, 9: 9}
                kind.do(cache, "set", "k", number)
                assert kind.do(cache, "get", "k") == number
                assert kind.do(cache, "delete", "k") == 1
                kind.do(cache, "invalidate_tags", "t")
                kind.do(cache, "clear")
            store.heal()
