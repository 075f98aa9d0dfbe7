"""Waiting for news: who is woken by what, and that no news is lost in between."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tiercache.async_waits import AsyncExpectation
from tiercache.tiers.store import Kind
from tiercache.waits import ThreadExpectation, Waits, lock_name


@pytest.fixture
def waits():
    return Waits()


class Noting:
    """An expectation that notes what it is woken by."""

    def __init__(self):
        self.news = []

    def wake(self, kind):
        self.news.append(kind)


def test_who_is_woken(waits):
    """Everyone who expects news of the name, and nobody else; or all."""
    one, two, other = Noting(), Noting(), Noting()
    waits.add("k", one)
    waits.add("k", two)
    waits.add("other", other)
    waits.tell(["k", "nobody's"], Kind.LANDED)
    assert (one.news, two.news, other.news) == ([Kind.LANDED], [Kind.LANDED], [])
    waits.tell_all(Kind.CLEAR)
    assert (one.news, other.news) == ([Kind.LANDED, Kind.CLEAR], [Kind.CLEAR])


def test_who_has_left_is_not(waits):
    """And nothing of it is kept."""
    one, two = Noting(), Noting()
    waits.add("k", one)
    waits.add("k", two)
    waits.remove("k", one)
    waits.remove("k", one)
    waits.remove("never", one)
    waits.tell(["k"], Kind.FAILED)
    assert (one.news, two.news) == ([], [Kind.FAILED])
    waits.remove("k", two)
    assert len(waits) == 0


def test_locks_are_no_keys():
    """A lock's name is no key that a cache could have."""
    assert lock_name("k") != "k"
    assert lock_name("a") != lock_name("b")


class TestThreads:
    def test_news_ends_the_wait(self):
        """With its kind, and long before the time is over."""
        expectation = ThreadExpectation()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(expectation.wait, 30)
            expectation.wake(Kind.LANDED)
            assert waiting.result(10) is Kind.LANDED

    def test_news_before_the_wait(self):
        """Is not lost; several pieces of it are one."""
        expectation = ThreadExpectation()
        for kind in (Kind.LANDED, Kind.CLEAR, Kind.FAILED):
            expectation.wake(kind)
        assert expectation.wait(30) is Kind.FAILED
        assert expectation.wait(0.01) is None

    def test_no_news(self):
        """Ends with the time."""
        began = time.monotonic()
        assert ThreadExpectation().wait(0.02) is None
        assert ThreadExpectation().wait(-1) is None
        assert 0.02 <= time.monotonic() - began < 5

    def test_many(self, waits):
        """Wakes and waits of many threads at once lose nobody."""
        barrier = threading.Barrier(9)

        def wait(number):
            expectation = ThreadExpectation()
            waits.add("k", expectation)
            barrier.wait()
            try:
                return expectation.wait(30)
            finally:
                waits.remove("k", expectation)

        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(wait, number) for number in range(8)]
            barrier.wait()
            waits.tell(["k"], Kind.LANDED)
            assert [each.result(10) for each in waiting] == [Kind.LANDED] * 8
        assert len(waits) == 0


class TestTasks:
    async def test_news_from_a_thread(self):
        """Ends the wait of a task."""
        expectation = AsyncExpectation()
        waiting = asyncio.create_task(expectation.wait(30))
        await asyncio.to_thread(expectation.wake, Kind.LANDED)
        assert await waiting is Kind.LANDED

    async def test_news_before_the_wait(self):
        """Is not lost."""
        expectation = AsyncExpectation()
        expectation.wake(Kind.FAILED)
        assert await expectation.wait(30) is Kind.FAILED
        assert await expectation.wait(0.01) is None

    async def test_no_news(self):
        """Ends with the time."""
        assert await AsyncExpectation().wait(0.01) is None
        assert await AsyncExpectation().wait(-1) is None

    async def test_a_waiter_that_is_cancelled(self):
        """May wait again."""
        expectation = AsyncExpectation()
        waiting = asyncio.create_task(expectation.wait(30))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        expectation.wake(Kind.LANDED)
        assert await expectation.wait(30) is Kind.LANDED

    def test_news_for_a_loop_that_is_closed(self):
        """Concerns nobody, and does no harm."""

        async def make():
            return AsyncExpectation()

        asyncio.run(make()).wake(Kind.LANDED)
