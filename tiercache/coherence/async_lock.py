"""A lock held by a task; in a module of its own, since a blocking program imports no asyncio.

The store is asked in a task of its own that nobody's cancellation reaches: so no connection is
thrown away, and what it is granted is known, and given back, when the one who asked has gone.

One timer per held lock renews it and notices its loss. It does not keep the lock object alive: one
that is dropped unreleased is not renewed any more, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Collection, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tiercache.errors import LockLost, LockTimeout, StoreError
from tiercache.runtime import running_loop
from tiercache.tiers.store import Grant

from .hold import Hold
from .lock import Holder, Locks

if TYPE_CHECKING:
    from tiercache.async_waits import AsyncExpectation

__all__ = ["AsyncLock", "quiesce"]

log = logging.getLogger(__name__)

MOMENT = 0.1  # seconds by which a cancellation may be late, so that a lock is given back before it

_T = TypeVar("_T")


class AsyncLock(Holder):
    """A lock held by a task: ``async with cache.alock("report") as lock: ...``.

    If the lock is lost the task inside the block is cancelled, and the block raises LockLost, as
    ``asyncio.timeout`` does with TimeoutError. A cancellation from outside stays what it is.
    """

    _asking: asyncio.Task[Grant]
    _loop: asyncio.AbstractEventLoop
    _timer: asyncio.TimerHandle

    def __init__(
        self, locks: Locks, name: str, ttl: float, wait: float | None, required: bool
    ) -> None:
        super().__init__(locks, name, ttl, wait, required)
        self._task: asyncio.Task[Any] | None = None  # inside the block
        self._cancelling = 0  # how often it was being cancelled when it entered
        self._has_cancelled = False

    async def acquire(self) -> bool:
        """Acquire the lock; return False if it could not be had in time and is not required.

        Outside ``async with`` nobody is cancelled when the lock is lost: use ``check``.

        Raises:
            LockTimeout: If it could not be had in time.
            CacheError: If it is held through this object already.
        """
        self._begin()
        try:
            await self._acquire()
        except LockTimeout as error:
            self._end()
            if self._required:
                raise
            log.info("%s", error)
            return False
        except BaseException:
            self._end()
            raise
        self._loop = asyncio.get_running_loop()
        assert self._hold is not None
        self._set_timer(self._hold)
        return True

    async def release(self) -> None:
        """Release the lock.

        If the store does not answer, the lock ends by its ttl, and nothing is raised.

        Raises:
            LockLost: If it is not held by this object, or was lost.
        """
        hold = self._give_up()
        if self._loop is asyncio.get_running_loop():
            self._timer.cancel()  # of another loop it ends when it is due
        try:
            was_held = await self._unlock(hold.nonce)
        except StoreError as error:
            self._say_stays(error)
            self._return(hold)
        except asyncio.CancelledError:  # the event loop may be ending, and that attempt with it
            await _linger(self._spawn(self._unlock_quietly(hold.nonce)))
            raise
        else:
            if not was_held:
                raise self._lost(hold.lose())

    async def __aenter__(self) -> Self:
        await self.acquire()
        self._has_cancelled = False
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_ours = self._is_our_cancellation(error)
        if self._hold is None:
            return  # entered without it
        if running_loop() is None:  # the event loop has ended, and the coroutine is collected
            self._end()
            return
        try:
            if self._hold.is_released:
                self.check()
            else:
                await self.release()
        except LockLost as lost:
            if is_ours:
                raise lost from error
            if error is None:
                raise

    def _is_our_cancellation(self, error: BaseException | None) -> bool:
        """Be through with the task inside the block; say whether only the loss has cancelled it."""
        task, self._task = self._task, None
        if task is None or not self._has_cancelled:
            return False
        is_alone = task.uncancel() <= self._cancelling
        return is_alone and isinstance(error, asyncio.CancelledError)

    # While it is held

    def _set_timer(self, hold: Hold) -> None:
        delay = max(0.0, min(hold.renew_at, hold.until) - time.monotonic())
        self._timer = self._loop.call_later(delay, _look_after, weakref.ref(self), hold)

    def look_after(self, hold: Hold) -> None:
        """Do what is due: renew, or tell the holder that the lock is lost."""
        now = time.monotonic()
        if hold.loss(now) is not None:
            self._cancel_block()
            return
        if now >= hold.renew_at:
            hold.begin_renewal()
            self._spawn(self._renew(hold))
        self._set_timer(hold)

    async def _renew(self, hold: Hold) -> None:
        sent = time.monotonic()
        answer: bool | None = None
        with suppress(StoreError):
            answer = await self._locks.store.arenew_lock(self.name, hold.nonce, hold.ttl)
        if hold.is_released:
            return
        hold.after_renewal(answer, sent, time.monotonic())
        self._timer.cancel()
        _look_after(weakref.ref(self), hold)

    def _cancel_block(self) -> None:
        if self._task is not None and not self._has_cancelled:
            self._has_cancelled = True
            self._task.cancel()

    # Acquiring

    def _expect(self) -> AsyncExpectation:
        from tiercache.async_waits import AsyncExpectation

        return AsyncExpectation()

    async def _ask(self, nonce: bytes) -> Grant:
        self._asking = self._spawn(self._locks.store.alock(self.name, nonce, self._ttl))
        return await _outlast(self._asking)

    async def _pause(self, news: AsyncExpectation, pause: float) -> None:
        await news.wait(pause)

    async def _recover(self, nonce: bytes, error: BaseException) -> None:
        if running_loop() is None:  # as in __aexit__
            return
        returning = self._spawn(self._unlock_if_granted(self._asking, nonce))
        if not isinstance(error, Exception):
            await _linger(returning)

    async def _unlock_if_granted(self, asking: asyncio.Task[Grant], nonce: bytes) -> None:
        await asyncio.wait({asking})
        is_unknown = asking.cancelled() or asking.exception() is not None
        if is_unknown or asking.result().fence is not None:
            await self._unlock_quietly(nonce)

    async def _unlock(self, nonce: bytes) -> bool:
        return await _outlast(self._spawn(self._unlock_and_tell(nonce)))

    async def _unlock_and_tell(self, nonce: bytes) -> bool:
        was_held = await self._locks.store.aunlock(self.name, nonce)
        if was_held:
            self._locks.tell(self.name)
        return was_held

    async def _unlock_quietly(self, nonce: bytes) -> None:
        with suppress(StoreError):
            await self._unlock_and_tell(nonce)

    def _return(self, hold: Hold) -> None:
        self._spawn(self._unlock_quietly(hold.nonce))

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        tasks = self._locks.tasks
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task


async def _outlast(task: asyncio.Task[_T]) -> _T:
    """Await a task that goes on when the one who awaits it is cancelled."""
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.add_done_callback(_pass_over)
        raise
    return task.result()


def _pass_over(task: asyncio.Task[Any]) -> None:
    """Look at what a task raised, so that nobody complains that nobody did."""
    if not task.cancelled():
        task.exception()


async def _linger(task: asyncio.Task[None]) -> None:
    """Give a task a moment before a cancellation goes on: most often it needs no more.

    Then nothing is left under way where the event loop is ending.
    """
    await asyncio.wait({task}, timeout=MOMENT)


def _look_after(reference: weakref.ref[AsyncLock], hold: Hold) -> None:
    lock = reference()
    if lock is not None and not hold.is_released:
        lock.look_after(hold)


async def quiesce(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait for those tasks that are of this event loop."""
    loop = asyncio.get_running_loop()
    mine = [task for task in tuple(tasks) if task.get_loop() is loop]
    await asyncio.gather(*mine, return_exceptions=True)
