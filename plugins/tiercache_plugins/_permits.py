"""A bounded number of permits, and one fair queue of threads and asyncio tasks for them.

A permit that is given back goes to the first in the queue, not to whoever asks next: nobody
starves. It is handed over under the lock; who gets it is woken after that. A waiter that leaves
(cancelled, interrupted, out of patience) either still stands in the queue and gets out of it, or
has been handed a permit and, unless it goes on to use it, gives it back. None is lost on any path.

An event loop that was closed under its tasks cannot be woken: what it was handed goes to the next.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio


class Waiter(Protocol):
    """One in the queue."""

    has_permit: bool  # guarded by the lock of the permits

    def wake(self) -> bool:
        """Tell it that it has a permit; False if it can hear nothing any more."""


class ThreadWaiter:
    """A thread in the queue."""

    def __init__(self) -> None:
        self.has_permit = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def wake(self) -> bool:
        self._gate.release()
        return True

    def wait(self, seconds: float | None) -> None:
        """Return when woken, or after so many seconds."""
        self._gate.acquire(timeout=-1 if seconds is None else seconds)


class TaskWaiter:
    """A task in the queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.has_permit = False
        self._loop = loop
        self._woken = loop.create_future()

    def wake(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:  # closed
            return False
        return True

    async def wait(self, seconds: float | None) -> None:
        """Return when woken, or after so many seconds."""
        timer = None if seconds is None else self._loop.call_later(seconds, self._resolve)
        try:
            await self._woken
        finally:
            if timer is not None:
                timer.cancel()

    def _resolve(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)


class Permits:
    """At most so many at once; at most so many waiting."""

    def __init__(self, most: int, most_waiting: int) -> None:
        self.most = most
        self.most_waiting = most_waiting
        self.after_fork()

    def after_fork(self) -> None:
        """Begin with all permits in a forked child: who had them is not here."""
        self._lock = threading.RLock()  # a finalizer may load within
        self._taken = 0  # guarded by _lock, as is the queue
        self._queue: deque[Waiter] = deque()

    @property
    def taken(self) -> int:
        """How many are in use."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._queue)

    def try_to_take(self) -> bool:
        """Take a permit if one is free: while others wait none is."""
        with self._lock:
            if self._taken >= self.most:
                return False
            self._taken += 1
            return True

    def enqueue(self, waiter: Waiter) -> bool:
        """Queue up, or take the permit that was freed meanwhile; False if the queue is full."""
        with self._lock:
            if self._taken < self.most:
                self._taken += 1
                waiter.has_permit = True
            elif len(self._queue) >= self.most_waiting:
                return False
            else:
                self._queue.append(waiter)
            return True

    def leave(self, waiter: Waiter, *, uses_permit: bool) -> bool:
        """Get out of the queue; whether it had been handed a permit by then.

        One that it will not use goes to the next.
        """
        with self._lock:
            if not waiter.has_permit:
                self._queue.remove(waiter)
                return False
        if not uses_permit:
            self.give_back()
        return True

    def give_back(self) -> None:
        """Hand a permit to the first in the queue that can hear of it."""
        while (waiter := self._pass_on()) is not None:
            if waiter.wake():
                return

    def _pass_on(self) -> Waiter | None:
        with self._lock:
            if not self._queue:
                self._taken -= 1
                return None
            waiter = self._queue.popleft()
            waiter.has_permit = True
            return waiter


def runs_a_loop() -> bool:
    """Whether this thread runs an event loop now; does not import asyncio."""
    module = sys.modules.get("asyncio")
    return module is not None and module._get_running_loop() is not None  # noqa: SLF001 - the documented way not to raise
