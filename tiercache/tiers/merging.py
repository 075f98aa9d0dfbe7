"""Concurrent single reads share one round trip.

The first read goes out at once. Those that arrive while it is under way wait and go out together
when it is back: one MGET for all, which costs little more than one GET. A lone read waits for
nobody and pays for no more than a lock, or a task.

The cost is that a read may wait for the one ahead of it. A read's patience therefore counts from
its arrival: a batch is given what is left to its longest-waiting reader, but at least a quarter
of the timeout, so that a reader never waits longer than 1.25 times the timeout.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from threading import get_ident
from typing import Any, Final, Generic, TypeVar

from tiercache.errors import StoreError, StoreTimeout

K = TypeVar("K")  # what is asked for
T = TypeVar("T")  # what is answered

MAX_BATCH: Final = 512  # keys per MGET: keeps one command under about a millisecond of server time
_LEAST_SHARE: Final = 0.25  # of the timeout, for a batch that has waited long
_HARDLY_LESS: Final = 0.9  # of the timeout; not worth setting another one on a socket


def again(error: StoreError) -> StoreError:
    """Return an equal error for one more reader: a shared one would collect tracebacks."""
    twin = type(error)(*error.args)
    twin.__cause__ = error.__cause__
    return twin


class _Reader(Generic[K, T]):
    """A thread that waits for its key. Its outcome is written before ``ready`` is released."""

    __slots__ = ("arrived", "batch", "error", "key", "ready", "result")

    def __init__(self, key: K) -> None:
        self.key = key
        self.arrived = time.monotonic()
        self.batch: list[_Reader[K, T]] | None = None  # set: this reader leads it; guarded by _lock
        self.result: T | None = None
        self.error: StoreError | None = None
        self.ready = threading.Lock()
        self.ready.acquire()


class MergedThreads(Generic[K, T]):
    """Merge the reads of threads: the first reader of each batch does the I/O for all of it.

    ``fetch`` gets the keys and, where less than the whole timeout is left, the seconds to do it
    in; it returns a result for each key, or raises.
    """

    def __init__(
        self, fetch: Callable[[Sequence[K], float | None], Sequence[T | None]], timeout: float
    ) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._lock = threading.RLock()
        self._is_busy = False  # a batch is under way; guarded by _lock
        self._leader = 0  # the thread that carries it
        self._waiting: list[_Reader[K, T]] = []  # guarded by _lock

    def read(self, key: K) -> T | None:
        """Return the key's result, or raise what the batch it went with raised."""
        if self._leader == get_ident():  # in a signal handler or a finalizer, during a read
            return self._fetch((key,), None)[0]
        with self._lock:
            # Not _Reader[K, T](key): subscribing costs more than the reader.
            reader: _Reader[K, T] | None = _Reader(key) if self._is_busy else None
            if reader is None:
                self._is_busy = True
            else:
                self._waiting.append(reader)
        if reader is not None:
            return self._follow(reader)
        try:
            self._leader = get_ident()
            return self._fetch((key,), None)[0]
        finally:
            self._leader = 0
            self._hand_over()

    def _follow(self, reader: _Reader[K, T]) -> T | None:
        patience = self._timeout * (1 + _LEAST_SHARE)
        is_ready = False
        try:
            is_ready = reader.ready.acquire(timeout=patience)
            if reader.batch is not None:
                return self._lead(reader, reader.batch)
        finally:
            if not is_ready or reader.batch is not None:
                self._leave(reader)
        if not is_ready:
            raise StoreTimeout(f"no answer to a merged read within {patience:g} s")
        if reader.error is not None:
            raise again(reader.error)
        return reader.result

    def _lead(self, reader: _Reader[K, T], batch: list[_Reader[K, T]]) -> T | None:
        error = StoreError("the merged read that carried this one was interrupted")
        results: Sequence[T | None] | None = None
        try:
            self._leader = get_ident()
            budget = _budget(self._timeout, time.monotonic() - reader.arrived)
            results = self._fetch([each.key for each in batch], budget)
            return results[0]
        except StoreError as caught:
            error = caught
            raise
        finally:
            reader.batch = None
            self._leader = 0
            self._hand_over()
            self._tell(batch[1:], None if results is None else results[1:], error)

    @staticmethod
    def _tell(
        followers: Sequence[_Reader[K, T]], results: Sequence[T | None] | None, error: StoreError
    ) -> None:
        for index, follower in enumerate(followers):
            if results is None:
                follower.error = error
            else:
                follower.result = results[index]
            follower.ready.release()

    def _hand_over(self) -> None:
        """Wake the leader of the next batch, if anyone waits."""
        with self._lock:
            if self._waiting:
                self._promote_next()
            else:
                self._is_busy = False

    def _promote_next(self) -> None:  # holds _lock
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._is_busy = bool(batch)
        if batch:
            batch[0].batch = batch
            batch[0].ready.release()

    def _leave(self, reader: _Reader[K, T]) -> None:
        """Make sure that nobody waits for a reader that was interrupted or lost patience.

        One that still waits after all that time has outlived the batch ahead of it: whoever led
        that is gone or stuck, so the next batch need not wait for it any longer.
        """
        with self._lock:
            if reader in self._waiting:
                self._waiting.remove(reader)
            elif reader.batch is not None:  # told to lead, and did not get to it
                self._waiting = reader.batch[1:] + self._waiting
                reader.batch = None
            else:
                return
            self._promote_next()


class MergedTasks(Generic[K, T]):
    """Merge the reads of one event loop's tasks.

    The I/O runs in a task of its own that no reader can cancel. It starts in the loop's next
    turn, so all reads of this turn go out together; while readers wait it goes on.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[K], float | None], Awaitable[Sequence[T | None]]],
        timeout: float,
    ) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._waiting: list[tuple[K, asyncio.Future[T | None]]] = []
        self._oldest = 0.0  # loop time at which the first of _waiting arrived
        self._runner: asyncio.Task[None] | None = None

    def read(self, key: K) -> asyncio.Future[T | None]:
        """Return the future of a read; must be called in the loop, and awaited."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T | None] = loop.create_future()
        if not self._waiting:
            self._oldest = loop.time()
        self._waiting.append((key, future))
        if self._runner is None or self._runner.done():
            # An empty context: the batch is nobody's request in particular.
            self._runner = loop.create_task(self._run(), context=Context())
        return future

    async def _run(self) -> None:
        batch = self._next_batch()
        try:
            budget = None
            while batch:
                await self._read(batch, budget)
                budget = _budget(self._timeout, asyncio.get_running_loop().time() - self._oldest)
                batch = self._next_batch()
        finally:
            # Only a runner that was cancelled (its loop is shutting down) leaves anyone behind.
            self._runner = None
            left, self._waiting = batch + self._waiting, []
            _fail(left, StoreError("a merged read was broken off: its task was cancelled"))

    async def _read(
        self, batch: Sequence[tuple[K, asyncio.Future[T | None]]], budget: float | None
    ) -> None:
        try:
            results = await self._fetch([key for key, _ in batch], budget)
        except StoreError as error:
            _fail(batch, error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _next_batch(self) -> list[tuple[K, asyncio.Future[T | None]]]:
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        return batch


def _budget(timeout: float, waited: float) -> float | None:
    """Return the seconds a batch may take; None (the whole timeout) if it has hardly waited."""
    left = 1 - waited / timeout
    return None if left > _HARDLY_LESS else max(left, _LEAST_SHARE) * timeout


def _fail(batch: Sequence[tuple[Any, asyncio.Future[T | None]]], error: StoreError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(again(error))
