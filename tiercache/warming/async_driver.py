"""Tasks that bring the keys of a source side by side, in the event loop of whoever awaits.

A blocking source is read by a thread of its own, so that it does not hold up the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .carrier import Carrier
from .drivers import POLL_SECONDS
from .run import STOPPED, Run
from .sources import BATCH, Job, Source, checked_items, closing_items, read_some

if TYPE_CHECKING:
    from tiercache.cache import Cache


async def warm_async(cache: Cache, source: Source, run: Run, show: Callable[[], None]) -> None:
    """Warm a source in tasks of this event loop."""
    carrier = Carrier(cache.flow, cache.asyncio, source, run, partial(_pause, run))
    reader: _Reader = _Awaited(source, run) if source.reads_async else _Threaded(source, run)
    turn = asyncio.Lock()

    async def work() -> None:
        while not run.is_stopping and not carrier.is_pointless():
            async with turn:
                chunk = await reader.take(carrier.size)
            if not chunk:
                return
            await carrier.bring(chunk)
            show()

    try:
        await reader.begin()
        await _all(work, run.limits.concurrency)
    except BaseException:
        run.stop(STOPPED)
        raise
    finally:
        await reader.close()


async def _all(work: Callable[[], Any], count: int) -> None:
    """Run so many workers; when one fails, or this task is cancelled, none goes on."""
    workers = [asyncio.ensure_future(work()) for _ in range(count)]
    try:
        await asyncio.gather(*workers)
    finally:
        await _cancel(workers)


async def _cancel(workers: Sequence[asyncio.Future[None]]) -> None:
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def _pause(run: Run, seconds: float) -> bool:
    """Wait, unless the run is stopped meanwhile; say whether to go on."""
    loop = asyncio.get_running_loop()
    until = loop.time() + run.within(seconds)
    while (left := until - loop.time()) > 0 and not run.is_stopping:  # noqa: ASYNC110 - stopped by a thread
        await asyncio.sleep(min(left, POLL_SECONDS))
    return not run.is_stopping


class _Reader(Protocol):
    """Reads a source, a chunk at a time. Used by one task at a time."""

    async def begin(self) -> None: ...
    async def take(self, count: int) -> list[Job]: ...
    async def close(self) -> None: ...


class _Threaded:
    """Reads a blocking source in one thread, from its first item to its last, a little ahead."""

    def __init__(self, source: Source, run: Run) -> None:
        self._source = source
        self._run = run
        self._thread = ThreadPoolExecutor(1, "tiercache-warm")
        self._items: Any = None
        self._jobs: Any = iter(())
        self._ahead: list[Job] = []

    async def begin(self) -> None:
        await self._do(self._begin)

    def _begin(self) -> None:
        source, run = self._source, self._run
        self._items = checked_items(source, source.produce(), run)
        self._jobs = source.jobs(self._items, run.note_error)

    async def take(self, count: int) -> list[Job]:
        if not self._ahead:
            self._ahead = await self._do(partial(read_some, self._jobs, BATCH))
        some, self._ahead = self._ahead[:count], self._ahead[count:]
        return some

    async def close(self) -> None:
        try:
            await self._do(self._close)
        finally:
            self._thread.shutdown()  # it is idle by now

    def _close(self) -> None:
        with closing_items(self._items):
            self._jobs = iter(())

    async def _do(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Awaited:
    """Reads an async source."""

    def __init__(self, source: Source, run: Run) -> None:
        self._source = source
        self._run = run
        self._items: Any = None

    async def begin(self) -> None:
        items = self._source.produce()
        if hasattr(items, "__await__"):
            items = await items
        items = checked_items(self._source, items, self._run)
        self._items = items.__aiter__() if hasattr(items, "__aiter__") else _each(items)

    async def take(self, count: int) -> list[Job]:
        items: list[Any] = []
        while len(items) < count:
            try:
                items.append(await self._items.__anext__())
            except StopAsyncIteration:
                break
        jobs = list(self._source.jobs(items, self._run.note_error))
        return jobs if jobs or not items else await self.take(count)

    async def close(self) -> None:
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


async def _each(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


async def in_a_thread(run: Run, work: Callable[[], None]) -> None:
    """Do blocking work beside this loop; a cancelled task stops it, and waits for its end."""
    with ThreadPoolExecutor(1, "tiercache-warm") as thread:
        done = asyncio.get_running_loop().run_in_executor(thread, work)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            run.stop(STOPPED)
            await asyncio.wait([done])
            raise
