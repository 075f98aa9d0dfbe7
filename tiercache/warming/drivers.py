"""Threads that bring the keys of a blocking source side by side.

The source is read by one thread only, as its author would expect of a generator with a database
cursor in it. What it yields goes in chunks, over a short queue, to those who load.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from tiercache import runtime

from .carrier import Carrier
from .run import STOPPED, Run
from .sources import Job, Source, checked_items, closing_items, read_some

if TYPE_CHECKING:
    from tiercache.cache import Cache

POLL_SECONDS = 0.05  # until somebody who waits looks whether the run is stopping


def warm_blocking(cache: Cache, source: Source, run: Run, show: Callable[[], None]) -> None:
    """Warm a source: this thread reads it, others load."""

    async def pause(seconds: float) -> bool:
        return run.pause(seconds)

    carrier = Carrier(cache.flow, cache.blocking, source, run, pause)
    items = checked_items(source, source.produce(), run)
    crew = _Crew(carrier, run, show)
    try:
        with closing_items(items):
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

    def __init__(self, carrier: Carrier, run: Run, show: Callable[[], None]) -> None:
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

    def feed(self, jobs: Iterator[Job]) -> None:
        carrier, run = self._carrier, self._run
        for thread in self._threads:
            thread.start()
        while not run.is_stopping and not carrier.is_pointless():
            chunk = read_some(jobs, carrier.size)
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
            if thread.ident is not None:  # else there was none to be had, and the run is stopped
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
