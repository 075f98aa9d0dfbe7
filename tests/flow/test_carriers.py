"""A load that begins in its caller's step has its own task, context and end all the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from tiercache import LRU, Cache, LoadTimeout, Plugin, current_load
from tiercache.carriers import MOST_IDLE, take

Loader = Callable[[int], Awaitable[Any]]
word: ContextVar[str] = ContextVar("word", default="none")


@pytest.fixture(params=["short", "long"])
def cache(request: pytest.FixtureRequest, make_cache: Callable[..., Cache]) -> Cache:
    """A cache whose loads go the short way; or the long one, for the sake of an idle plugin."""
    return make_cache(l1=LRU(100), plugins=() if request.param == "short" else [Plugin()])


def counts(cache: Cache) -> tuple[int, ...]:
    stats = cache.stats()
    assert len(cache.flow.flights) == 0
    return stats.hits_l1, stats.misses, stats.loads, stats.load_errors, stats.joined


@pytest.fixture(params=["at once", "later"])
def pause(request: pytest.FixtureRequest) -> Callable[[], Awaitable[None]]:
    """What a loader awaits before it ends: nothing, or others' turn."""

    async def wait() -> None:
        if request.param == "later":
            await asyncio.sleep(0)

    return wait


async def test_its_task(cache: Cache, pause: Callable[[], Awaitable[None]]) -> None:
    """It is one of its own, from the first step to the last; its caller's is what it was."""
    seen: list[Any] = []

    async def load(x: int) -> int:
        seen.append(asyncio.current_task())
        await pause()
        seen.append(asyncio.current_task())
        return x

    f = cache.cached("k:{x}")(load)
    mine = asyncio.current_task()
    assert [await f(1), await f(2)] == [1, 2]
    assert asyncio.current_task() is mine
    assert seen[0] is seen[1] is not mine
    assert seen[2] is seen[3] is not mine
    assert seen[0] is not seen[2]
    assert counts(cache) == (0, 2, 2, 0, 0)


async def test_its_context(cache: Cache, pause: Callable[[], Awaitable[None]]) -> None:
    """It sees its caller's variables, and what it sets stays its own."""

    async def load(x: int) -> tuple[str, str]:
        before = word.get()
        word.set("the loader's")
        await pause()
        return before, word.get()

    f = cache.cached("k:{x}")(load)
    word.set("the caller's")
    assert await f(1) == ("the caller's", "the loader's")
    assert word.get() == "the caller's"


async def test_what_it_raises(cache: Cache, pause: Callable[[], Awaitable[None]]) -> None:
    """It reaches the caller, each time; nothing is kept."""

    async def load(x: int) -> None:
        await pause()
        raise KeyError(x)

    f = cache.cached("k:{x}")(load)
    for _ in range(2):
        with pytest.raises(KeyError):
            await f(1)
    assert counts(cache) == (0, 2, 2, 2, 0)


async def test_current_load(cache: Cache, pause: Callable[[], Awaitable[None]]) -> None:
    """What it says of its value before and after it has suspended counts."""

    async def load(x: int) -> int:
        if x == 1:
            current_load().ttl = 5
        await pause()
        if x == 2:
            current_load().skip()
        return x

    f = cache.cached("k:{x}", ttl=100)(load)
    assert [await f(1), await f(2)] == [1, 2]
    assert cache.memory.get("k:1").fresh_until < cache.flow.time() + 10
    assert cache.memory.get("k:2") is None


async def test_a_timeout_inside(cache: Cache) -> None:
    """``asyncio.timeout`` of a loader ends what it waits for, and disturbs nobody else."""

    async def load(x: int) -> str:
        try:
            async with asyncio.timeout(0.01 if x == 1 else 0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "too late"
        return "never"

    f = cache.cached("k:{x}")(load)
    assert await asyncio.gather(f(1), f(2), f(1)) == ["too late"] * 3
    assert asyncio.current_task().cancelling() == 0


async def test_a_task_group_inside(cache: Cache) -> None:
    """A loader may run others side by side; one that fails ends them all."""

    async def load(x: int) -> int:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.sleep(0 if x == 1 else 100, x))
            if x == 2:
                group.create_task(fail())
        return waiting.result()

    async def fail() -> None:
        raise ValueError

    f = cache.cached("k:{x}")(load)
    assert await f(1) == 1
    with pytest.raises(ExceptionGroup):
        await f(2)


async def test_the_first_caller_is_cancelled(cache: Cache) -> None:
    """The load goes on for those who wait with it."""
    may_end, cancelled = asyncio.Event(), []

    async def load(x: int) -> int:
        try:
            await may_end.wait()
        except asyncio.CancelledError:
            cancelled.append(x)
            raise
        return x

    f = cache.cached("k:{x}")(load)
    callers = [asyncio.create_task(f(1)) for _ in range(20)]
    await asyncio.sleep(0)
    callers[0].cancel()
    await asyncio.sleep(0)
    may_end.set()
    assert await asyncio.gather(*callers[1:]) == [1] * 19
    assert callers[0].cancelled()
    assert not cancelled
    assert cache.stats().loads == 1


async def test_the_last_caller_is_cancelled(cache: Cache) -> None:
    """The load is ended, since nobody wants it; the key is free at once."""
    ended = asyncio.Event()

    async def load(x: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return x

    f = cache.cached("k:{x}")(load)
    callers = [asyncio.create_task(f(1)) for _ in range(3)]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    await asyncio.wait_for(ended.wait(), 10)
    assert len(cache.flow.flights) == 0


async def test_cancelled_before_it_could_go_on(cache: Cache) -> None:
    """A caller may go in the very turn in which the load has suspended."""
    seen: list[str] = []

    async def load(x: int) -> int:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return x

    f = cache.cached("k:{x}")(load)
    caller = asyncio.create_task(f(1))
    asyncio.get_running_loop().call_soon(caller.cancel)
    with pytest.raises(asyncio.CancelledError):
        await caller
    await cache.asyncio.quiesce()
    assert seen in (["cancelled"], [])  # the long way may not have begun
    assert len(cache.flow.flights) == 0


async def test_it_cancels_itself(cache: Cache) -> None:
    """A loader that cancels its own task, and goes on to wait, is cancelled; no other load is."""
    tasks: list[asyncio.Task[Any]] = []

    async def load(x: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if x == 1:
            task.cancel()
            await asyncio.sleep(10)
        return x

    f = cache.cached("k:{x}")(load)
    caller = asyncio.create_task(f(1))
    await asyncio.wait([caller], timeout=0.2)
    assert not tasks[0].done() or tasks[0].cancelled()
    caller.cancel()
    assert await f(2) == 2
    await asyncio.wait([caller])


async def test_its_task_is_cancelled_later(cache: Cache) -> None:
    """Who holds on to the task of a load that has ended can cancel nothing any more."""
    tasks: list[Any] = []
    gate = asyncio.Event()

    async def load(x: int) -> int:
        if x == 0:
            await gate.wait()
            return x
        tasks.append(asyncio.current_task() if x % 2 else weakref.ref(asyncio.current_task()))
        return x

    f = cache.cached("k:{x}")(load)
    for x in range(1, 20, 2):
        assert await f(x) == x
    waiting = asyncio.create_task(f(0))
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)
    gate.set()
    assert await waiting == 0
    assert await f(21) == 21


async def test_nobody_sees_the_reserve(cache: Cache) -> None:
    """Carriers that wait are no tasks of the application: who awaits all of them ends."""

    async def load(x: int) -> int:
        if x % 3 == 0:
            await asyncio.sleep(0)
        return x

    f = cache.cached("k:{x}")(load)
    for x in range(9):
        await f(x)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not {task for task in others if "Carrier" in repr(task)}
    await asyncio.wait_for(asyncio.gather(*others), 10)


async def test_loads_within_loads(cache: Cache, pause: Callable[[], Awaitable[None]]) -> None:
    """Each has a task of its own, however deep; many more than are in reserve."""
    tasks: set[Any] = set()

    async def load(x: int) -> int:
        tasks.add(asyncio.current_task())
        below = await f(x - 1) if x else 0
        await pause()
        return below + x

    f = cache.cached("k:{x}")(load)
    depth = 3 * MOST_IDLE
    assert await f(depth) == sum(range(depth + 1))
    assert len(tasks) == depth + 1
    assert counts(cache)[1:3] == (depth + 1, depth + 1)


async def test_two_await_the_same(cache: Cache) -> None:
    """Loads, and others, may wait for one future."""
    shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def load(x: int) -> int:
        return await shared + x

    async def beside() -> int:
        return await shared

    f = cache.cached("k:{x}")(load)
    callers = [asyncio.create_task(work) for work in (f(1), beside(), f(2), beside())]
    await asyncio.sleep(0)
    shared.set_result(10)
    assert await asyncio.gather(*callers) == [11, 10, 12, 10]


async def test_a_future_that_is_done_by_then(cache: Cache) -> None:
    """What it waits for may come, or fail, before the carrier has its turn."""

    async def load(x: int) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if x:
            future.set_exception(KeyError(x))
        else:
            future.set_result(7)
        return await future if x < 2 else await asyncio.shield(future)

    f = cache.cached("k:{x}")(load)
    assert await f(0) == 7
    for x in (1, 2):
        with pytest.raises(KeyError):
            await f(x)


async def test_a_load_that_takes_too_long(make_cache: Callable[..., Cache]) -> None:
    """It is overdue as on the long way, and its task is ended."""
    ended = asyncio.Event()

    async def load(x: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    f = make_cache(l1=LRU(10), load_timeout=0.05).cached("k:{x}")(load)
    with pytest.raises(LoadTimeout):
        await f(1)
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_delete_while_it_is_suspended(cache: Cache) -> None:
    """What was read before is returned, and not kept."""
    may_end = asyncio.Event()

    async def load(x: int) -> int:
        await may_end.wait()
        return x

    f = cache.cached("k:{x}")(load)
    caller = asyncio.create_task(f(1))
    await asyncio.sleep(0)
    await cache.adelete("k:1")
    may_end.set()
    assert await caller == 1
    assert cache.memory.get("k:1") is None


async def test_the_reserve_is_bounded() -> None:
    """However many are given back, a few are kept; the others' tasks end."""
    loop = asyncio.get_running_loop()
    carriers = [take(loop) for _ in range(3 * MOST_IDLE)]
    for carrier in carriers:
        carrier.give_back()
    for _ in range(4):
        await asyncio.sleep(0)
    assert sum(not carrier.task.done() for carrier in carriers) == MOST_IDLE


@pytest.mark.parametrize("way", ["run", "run_until_complete", "debug", "stopped"])
def test_no_word_at_the_end(way: str) -> None:
    """An event loop that ends with carriers in reserve, or never had one, warns of nothing."""
    program = f"""
        import asyncio, gc
        from tiercache import Cache, LRU
        f = Cache(l1=LRU(10)).cached(lambda: 0)
        cache = Cache("c", l1=LRU(10))

        @cache.cached
        async def load(x):
            if x == 2:
                await asyncio.sleep(0)
            return x

        async def main(loop=None):
            for x in (1, 2, 3):
                assert await load(x) == x
            if loop is not None:
                loop.stop()

        if {way!r} in ("run", "debug"):
            asyncio.run(main(), debug={way == "debug"})
        else:
            loop = asyncio.new_event_loop()
            if {way!r} == "stopped":
                task = loop.create_task(main(loop))
                loop.run_forever()
                del task
            else:
                loop.run_until_complete(main())
            loop.close()
            del loop
        cache.clear()
        asyncio.run(main())
        gc.collect()
    """
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_what_ends_it_at_once(cache: Cache) -> None:
    """A loader that is ended by no exception of its kind leaves no task behind, and a free key."""
    before = asyncio.all_tasks()

    async def load(x: int) -> None:
        raise (SystemExit if x == 1 else asyncio.CancelledError)(x)

    f = cache.cached("k:{x}")(load)
    with pytest.raises(asyncio.CancelledError):
        await f(2)
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before
    assert len(cache.flow.flights) == 0


@pytest.mark.parametrize("is_async", [False, True])
async def test_somebody_lands_just_before(make_cache: Callable[..., Cache], is_async: bool) -> None:
    """Who finds the value only once he has begun gives way to it, and counts as a hit."""
    cache = make_cache(l1=LRU(10))
    loads: list[int] = []

    def load(x: int) -> int:
        loads.append(x)
        return x

    async def aload(x: int) -> int:
        return load(x)

    f = cache.cached("k:{x}")(aload if is_async else load)
    deck = cache.flow.flights.decks[is_async]

    class Landing(dict[str, Any]):
        """Has another's value stand in L1 by the time that a flight is registered."""

        def setdefault(self, key: str, flight: Any) -> Any:
            cache.flow.flights.decks = decks
            cache.set(key, "another's")
            return deck.setdefault(key, flight)

    decks = cache.flow.flights.decks
    cache.flow.flights.decks = (Landing(), decks[1]) if not is_async else (decks[0], Landing())
    found = f(1)
    assert (await found if is_async else found) == "another's"
    assert loads == []
    assert counts(cache) == (1, 0, 0, 0, 0)
