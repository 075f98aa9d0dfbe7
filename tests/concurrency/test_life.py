"""Event loops that come and go, forks, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from tests.waiting import until
from tiercache import Cache, CacheError, SQLite


def test_asyncio_run_after_asyncio_run(make_cache: Callable[..., Cache]) -> None:
    """One cache serves one event loop after another."""
    cache = make_cache()
    loads: list[int] = []

    @cache.cached
    async def f(x: int) -> int:
        loads.append(x)
        await asyncio.sleep(0)
        return x

    for i in range(5):
        assert asyncio.run(f(i)) == i
        assert asyncio.run(f(0)) == 0
    assert loads == [0, 1, 2, 3, 4]


def test_a_loop_that_ended_in_mid_load(make_cache: Callable[..., Cache]) -> None:
    """A load whose event loop ended does not keep its key from the next loop."""
    cache = make_cache()
    loads = 0

    @cache.cached
    async def f(x: int) -> int:
        nonlocal loads
        loads += 1
        if loads == 1:
            await asyncio.sleep(60)
        return x

    async def abandon() -> None:
        task = asyncio.create_task(f(1))
        await asyncio.sleep(0.01)
        assert not task.done()

    asyncio.run(abandon())
    assert asyncio.run(asyncio.wait_for(f(1), 5)) == 1

    loop = asyncio.new_event_loop()
    loads = 0
    task = loop.create_task(f(2))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()  # rudely: its tasks are neither cancelled nor done
    assert asyncio.run(asyncio.wait_for(f(2), 5)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        gc.collect()


def test_loops_in_several_threads_share_one_load(make_cache: Callable[..., Cache]) -> None:
    """Tasks of event loops in different threads join one flight."""
    cache = make_cache()
    loads: list[int] = []
    barrier = threading.Barrier(4)
    results: list[int] = []

    @cache.cached
    async def f(x: int) -> int:
        loads.append(x)
        await asyncio.sleep(0.05)
        return x

    def work() -> None:
        async def main() -> None:
            barrier.wait()
            results.extend(await asyncio.gather(*[f(1) for _ in range(20)]))

        asyncio.run(main())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [1] * 80
    assert loads == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_clean(
    make_cache: Callable[..., Cache], tmp_path: os.PathLike[str]
) -> None:
    """A child forked while a load is under way does not believe it its own, and expires entries."""
    cache = make_cache(clock=None, l2=SQLite(os.path.join(tmp_path, "l2.db"), timeout=5))
    entered, go = threading.Event(), threading.Event()

    @cache.cached(ttl=0.2, lease=False)  # else the child waits for its parent, as any peer does
    def f(x: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            go.wait(10)
        return os.getpid()

    f(2)
    f(2)
    thread = threading.Thread(target=f, args=(1,))
    thread.start()
    entered.wait(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            deadline = time.monotonic() + 5
            good = f(1) == os.getpid()
            while f(2) != os.getpid():
                good = good and time.monotonic() < deadline
            status = 0 if good else 2
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    go.set()
    thread.join()
    assert status == 0


def test_close_leaves_nothing(tmp_path: os.PathLike[str]) -> None:
    """After close no thread and no file of the cache is left."""

    def descriptors() -> set[str]:
        if not os.path.isdir("/proc/self/fd"):
            return set()
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return {os.readlink(link) for link in links if os.path.islink(link)}

    threads, files = set(threading.enumerate()), descriptors()
    with Cache("closing", l2=SQLite(os.path.join(tmp_path, "l2.db"), timeout=5)) as cache:

        @cache.cached
        def f(x: int) -> int:
            return x

        @cache.cached(timeout=5)
        async def g(x: int) -> int:
            return x

        for _ in range(3):
            assert f(1) == 1
            assert asyncio.run(g(1)) == 1
    until(lambda: set(threading.enumerate()) <= threads, 5.0)  # those of other tests come and go
    assert {file for file in descriptors() - files if "l2.db" in file} == set()
    cache.close()


def test_aclose_ends_loads_under_way() -> None:
    """aclose() cancels what is being loaded and waits for it."""
    cancelled = False

    async def main() -> None:
        nonlocal cancelled
        async with Cache("closing") as cache:

            @cache.cached
            async def f(x: int) -> None:
                nonlocal cancelled
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    cancelled = True
                    raise

            caller = asyncio.create_task(f(1))
            await asyncio.sleep(0.01)
        with pytest.raises(CacheError, match="closed"):
            await caller
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert cancelled
