"""Who brings the keys of a source side by side: threads that block, or tasks of an event loop.

A source is read by one thread, or one task, only, as its author would expect of a generator with a
database cursor in it. What it yields goes in chunks, over a short queue, to those who load.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from tiercache import runtime
from tiercache.errors import ConfigurationError

from .carrier import Carrier
from .run import STOPPED, Run
from .sources import Job, Source, is_many, length_of

if TYPE_CHECKING:
    from tiercache.cache import Cache

POLL_SECONDS = 0.05  # until somebody who waits looks whether the run is stopping

Show = Callable[[], None]


# Blocking


def warm_blocking(cache: Cache, source: Source, run: Run, show: Show) -> None:
    """Warm a source in this thread, which reads it, and in others, which load."""

    async def pause(seconds: float) -> bool:
        return run.pause(seconds)

    carrier = Carrier(cache.flow, cache.blocking, source, run, pause)
    crew = _Crew(carrier, run, show)
    items = _checked_items(source, source.produce(), run)
    try:
        with _closing(items):
            crew.feed(source.jobs(items, run.note_error))
    except BaseException:
        run.stop(STOPPED)
        raise
    finally:
        crew.dismiss()
    if crew.error is not None:
        raise crew.error


class _Crew:
    """Threads that load what they are fed."""

    def __init__(self, carrier: Carrier, run: Run, show: Show) -> None:
        self.error: BaseException | None = None
        self._carrier = carrier
        self._run = run
        self._show = show
        count = run.limits.concurrency
        self._chunks: queue.Queue[list[Job] | None] = queue.Queue(count)
        self._threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(self._work,),
                name="tiercache-warm",
                daemon=True,
            )
            for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def feed(self, jobs: Iterator[Job]) -> None:
        carrier, run = self._carrier, self._run
        while not run.is_stopping and carrier.has_a_point():
            chunk = list(islice(jobs, carrier.size))
            if not chunk:
                return
            self._put(chunk)

    def _put(self, chunk: list[Job] | None) -> None:
        while not self._run.is_stopping:
            with suppress(queue.Full):
                self._chunks.put(chunk, timeout=POLL_SECONDS)
                return

    def dismiss(self) -> None:
        """Have the threads end when nothing is left to do, and wait for that."""
        for _ in self._threads:
            self._put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._run.is_stopping:
            try:
                chunk = self._chunks.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if chunk is None:
                return
            try:
                runtime.run(self._carrier.bring(chunk))
                self._show()
            except BaseException as error:
                self.error = self.error or error
                self._run.stop(STOPPED)


# Asyncio


async def warm_async(cache: Cache, source: Source, run: Run, show: Show) -> None:
    """Warm a source in tasks of this event loop."""

    async def pause(seconds: float) -> bool:
        return await _pause(run, seconds)

    carrier = Carrier(cache.flow, cache.asyncio, source, run, pause)
    with ThreadPoolExecutor(1, "tiercache-warm") as reader:
        items = source.produce()
        if hasattr(items, "__await__"):
            items = await items
        chunks = _read(reader, _checked_items(source, items, run), source, run)
        async with aclosing(chunks):
            lock = asyncio.Lock()
            workers = [
                asyncio.ensure_future(_work(carrier, run, chunks, lock, show))
                for _ in range(run.limits.concurrency)
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                await _end(workers)


async def _work(
    carrier: Carrier,
    run: Run,
    chunks: AsyncIterator[list[Job]],
    lock: asyncio.Lock,
    show: Show,
) -> None:
    while not run.is_stopping and carrier.has_a_point():
        async with lock:
            chunk = await _take(chunks, carrier.size)
        if not chunk:
            return
        await carrier.bring(chunk)
        show()
