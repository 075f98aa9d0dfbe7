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
from functools import partial
from threading import get_ident
from typing import Any, Final, Generic, TypeAlias, TypeVar

from tiercache.errors import StoreError, StoreTimeout

K = TypeVar("K")  # what is asked for
T = TypeVar("T")  # what is answered

Batch: TypeAlias = list[tuple[K, "asyncio.Future[T | None]"]]
Work: TypeAlias = Callable[[], Awaitable[Sequence[T | None]]]
Outcome: TypeAlias = Sequence[T | None] | StoreError | Work[T]
Tell: TypeAlias = Callable[[Outcome[T]], None]
Start: TypeAlias = Callable[[Sequence[K], float | None, Tell[T]], bool]

MAX_BATCH: Final = 512  # keys per MGET: keeps one command under about a millisecond of server time
LONE_READS: Final = 3  # one after another, from which the next is not made to wait for company
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

    The I/O is nobody's: no reader's cancellation reaches it. Where ``start`` can do it, that is by
    a call and a call back; else a task of its own awaits ``fetch``. It begins in the loop's next
    turn, so that all reads of this turn go out together; or at once, where the last few reads have
    all been alone. While readers wait it goes on.

    Args:
        fetch: Gets the keys and, where less than the whole timeout is left, the seconds to do it
            in; returns a result for each key, or raises.
        timeout: In seconds.
        start: Gets the same, and whom to tell of the outcome, later: the results, an error, or
            what a task is to await for them. Returns False where it cannot begin.
    """

    def __init__(
        self,
        fetch: Callable[[Sequence[K], float | None], Awaitable[Sequence[T | None]]],
        timeout: float,
        start: Start[K, T] | None = None,
    ) -> None:
        self._fetch = fetch
        self._timeout = timeout
        self._start = start
        self._waiting: list[tuple[K, asyncio.Future[T | None]]] = []
        self._oldest = 0.0  # loop time at which the first of _waiting arrived
        self._is_busy = False  # a batch is under way, or about to be
        self._lone_reads = 0  # one after another, of late
        self._runner: asyncio.Task[None] | None = None

    def read(self, key: K) -> asyncio.Future[T | None]:
        """Return the future of a read; must be called in the loop, and awaited."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T | None] = loop.create_future()
        if self._is_busy:
            if not self._waiting:
                self._oldest = loop.time()
            self._waiting.append((key, future))
            return future
        self._is_busy = True
        self._waiting.append((key, future))
        if self._lone_reads >= LONE_READS and self._start is not None:
            self._go_out(None)
        else:
            self._oldest = loop.time()
            loop.call_soon(self._go_on, context=Context())
        return future

    def _go_on(self) -> None:
        """Send the next batch, if anyone waits."""
        if self._waiting:
            waited = asyncio.get_running_loop().time() - self._oldest
            self._go_out(_budget(self._timeout, waited))
        else:
            self._is_busy = False

    def _go_out(self, budget: float | None) -> None:
        batch = self._next_batch()
        keys = [key for key, _ in batch]
        if not self._has_started(batch, keys, budget):
            self._send_runner(batch, partial(self._fetch, keys, budget))

    def _has_started(self, batch: Batch[K, T], keys: list[K], budget: float | None) -> bool:
        if self._start is None:
            return False
        try:
            return self._start(keys, budget, partial(self._landed, batch))
        except Exception:  # a task will come to the same, and tell the readers
            return False

    def _next_batch(self) -> Batch[K, T]:
        if len(self._waiting) > MAX_BATCH:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        else:
            batch, self._waiting = self._waiting, []
        return batch

    def _landed(self, batch: Batch[K, T], outcome: Outcome[T]) -> None:
        if callable(outcome):
            if not all(future.done() for _, future in batch):
                self._send_runner(batch, outcome)
                return
        else:
            _settle(batch, outcome)
        self._lone_reads = self._lone_reads + 1 if len(batch) == 1 and not self._waiting else 0
        self._go_on()

    def _send_runner(self, batch: Batch[K, T], work: Work[T]) -> None:
        # An empty context: the batch is nobody's request in particular.
        run = self._run(batch, work)
        self._runner = asyncio.get_running_loop().create_task(run, context=Context())
        self._runner.add_done_callback(partial(self._leave_nobody, batch))

    async def _run(self, batch: Batch[K, T], work: Work[T]) -> None:
        outcome: Sequence[T | None] | StoreError
        try:
            outcome = await work()
        except StoreError as error:
            outcome = error
        self._runner = None
        self._landed(batch, outcome)

    def _leave_nobody(self, batch: Batch[K, T], runner: asyncio.Task[None]) -> None:
        """Tell the readers of a runner that was cancelled, perhaps before it began."""
        if self._runner is runner:
            self._runner = None
            left, self._waiting, self._is_busy = batch + self._waiting, [], False
            _settle(left, StoreError("a merged read was broken off: its task was cancelled"))


def _settle(batch: Batch[Any, T], outcome: Sequence[T | None] | StoreError) -> None:
    if isinstance(outcome, StoreError):
        for _, future in batch:
            if not future.done():
                future.set_exception(again(outcome))
        return
    for (_, future), result in zip(batch, outcome, strict=True):
        if not future.done():
            future.set_result(result)


def _budget(timeout: float, waited: float) -> float | None:
    """Return the seconds a batch may take; None (the whole timeout) if it has hardly waited."""
    left = 1 - waited / timeout
    return None if left > _HARDLY_LESS else max(left, _LEAST_SHARE) * timeout
