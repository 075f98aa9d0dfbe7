"""Cancelling a caller is that caller's matter alone."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from typing import Any

import pytest

from tests.waiting import until
from tiercache import Cache


async def test_leader_leaves_and_the_others_stay(cache: Cache) -> None:
    """Cancelling the first caller changes nothing for the other nineteen."""
    loads = 0

    @cache.cached
    async def f(x: int) -> int:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.05)
        return 42

    tasks = [asyncio.create_task(f(1)) for _ in range(20)]
    await asyncio.sleep(0.01)
    tasks[0].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [42] * 19
    assert loads == 1
    assert await f(1) == 42
    assert loads == 1


async def test_last_one_out_cancels_the_load(cache: Cache) -> None:
    """When the last caller leaves, the load is cancelled and the key is free."""
    cancelled = asyncio.Event()
    loads = 0

    @cache.cached
    async def f(x: int) -> int:
        nonlocal loads
        loads += 1
        if loads > 1:
            return 7
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 0

    tasks = [asyncio.create_task(f(1)) for _ in range(5)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not cache.flow.flights.under_way()
    assert await f(1) == 7
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_one_waiter_times_out(cache: Cache) -> None:
    """A caller's own timeout ends its wait and nobody else's."""

    @cache.cached
    async def f(x: int) -> int:
        await asyncio.sleep(0.1)
        return 1

    patient = asyncio.create_task(f(1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(f(1), 0.01)
    assert await patient == 1


async def test_loader_that_cancels_itself(cache: Cache) -> None:
    """A CancelledError of the loader's own making reaches its callers, once, and frees the key."""
    loads = 0

    @cache.cached
    async def f(x: int) -> int:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        if loads == 1:
            raise asyncio.CancelledError
        return 1

    results = await asyncio.gather(*[f(1) for _ in range(5)], return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert loads == 1
    assert await f(1) == 1


async def test_load_sees_the_leaders_context(cache: Cache) -> None:
    """A load runs in a copy of its first caller's context."""
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    @cache.cached
    async def f(x: int) -> str:
        return var.get()

    var.set("request 1")
    assert await f(1) == "request 1"


@pytest.mark.parametrize("seed", range(20))
async def test_random_cancellations(cache: Cache, seed: int) -> None:
    """Whoever is cancelled when, all others get the value, and nothing is left behind."""
    rng = random.Random(seed)

    @cache.cached(ttl=None)
    async def f(x: int) -> int:
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        return x

    for round_number in range(30):
        tasks = [asyncio.create_task(f(round_number)) for _ in range(8)]
        doomed = rng.sample(tasks, rng.randrange(9))
        for task in doomed:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            assert result == round_number or (
                task in doomed and isinstance(result, asyncio.CancelledError)
            )
    await asyncio.sleep(0)
    assert not cache.flow.flights.under_way()


async def test_cancelled_batch_leaves_the_others(cache: Cache) -> None:
    """Cancelling a caller of many() does not disturb single callers of the same keys."""
    started = asyncio.Event()

    @cache.cached
    async def f(x: int) -> int:
        started.set()
        await asyncio.sleep(0.05)
        return x

    batch = asyncio.create_task(f.many([1, 2, 3]))
    await started.wait()
    single = asyncio.create_task(f(2))
    await asyncio.sleep(0)
    batch.cancel()
    assert await single == 2
    with pytest.raises(asyncio.CancelledError):
        await batch
    await asyncio.sleep(0.1)
    assert not cache.flow.flights.under_way()


def test_keyboard_interrupt_of_the_leader(cache: Cache) -> None:
    """A leader's KeyboardInterrupt is its own: a follower takes over."""
    entered = threading.Event()
    go = threading.Event()
    loads = 0

    @cache.cached
    def f(x: int) -> int:
        nonlocal loads
        loads += 1
        if loads == 1:
            entered.set()
            go.wait(5)
            raise KeyboardInterrupt
        return 7

    outcomes: list[Any] = []

    def lead() -> None:
        try:
            f(1)
        except KeyboardInterrupt as error:
            outcomes.append(error)

    leader = threading.Thread(target=lead)
    leader.start()
    entered.wait(5)
    followers = [threading.Thread(target=lambda: outcomes.append(f(1))) for _ in range(5)]
    for thread in followers:
        thread.start()
    until(lambda: sum(flight.passengers for flight in cache.flow.flights.under_way()) == 6)
    go.set()
    for thread in [leader, *followers]:
        thread.join(5)
    assert outcomes.count(7) == 5
    assert loads == 2
