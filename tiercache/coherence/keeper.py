"""The thread that renews what this process holds for a while: leases and locks.

Something *kept* has a callback that is called again and again until it is cancelled. Most of what
is kept, the leases of loads, is cancelled long before its first call, so keeping and cancelling
cost about a microsecond and wake nobody: the thread sleeps until the earliest call it knows of, and
is woken only for an earlier one. What was cancelled stays in the heap until its time comes, or
until there is so much of it that the thread sweeps it out.

There is one thread per process. It starts when it is needed, ends after a second without anything
to keep, and a forked child has its own, with nothing to keep: a child owns no lock of its parent's.

Callbacks run one after another, in the order in which they are due, while no lock is held. One that
is slow, since its store hangs, makes the others late; so its *group* (those of one store) is put
off for as long as it took. With one group that hangs, another callback is late by one timeout of
that store at most, however much is kept; with n such groups by n timeouts.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from heapq import heapify, heappop, heappush
from math import inf
from typing import TypeAlias

from tiercache.logs import trace_of

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
SLOW_SECONDS = 0.1
MANY_CANCELLED = 1000  # handles that may wait to be swept out

#: Returns the seconds until it is to be called again; None: the interval it was kept with;
#: infinity: never.
Callback: TypeAlias = Callable[[], float | None]


class Handle:
    """Something kept."""

    __slots__ = ("_keeper", "callback", "group", "interval")

    def __init__(self, keeper: Keeper, interval: float, callback: Callback, group: object) -> None:
        self.interval = interval
        self.group = group
        self.callback: Callback | None = callback  # None: cancelled
        self._keeper = keeper

    def cancel(self) -> None:
        """Have it called no more. A call that has begun in the keeper's thread goes on."""
        if self.callback is not None:
            self.callback = None
            self._keeper.count_cancelled()


class Keeper:
    """Calls what is kept when it is due, in a thread of its own."""

    def __init__(self) -> None:
        # A signal handler may interrupt its own thread in here, hence a lock that lets it in, and
        # single steps by which the state stays whole.
        self._lock = threading.RLock()
        self._heap: list[tuple[float, int, Handle]] = []  # guarded by _lock, as is all below
        self._numbers = itertools.count()
        self._cancelled = 0  # about as many handles in the heap are
        self._kept = 0  # how many were kept, ever
        self._kept_when_idle = -1  # by when the thread last found nothing to do
        self._put_off: dict[object, float] = {}  # until when, by group
        self._thread: threading.Thread | None = None
        self._wakes_at = inf  # when it wakes by itself; it needs no bell for what is due later
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # the thread's own

    def __len__(self) -> int:
        with self._lock:
            return sum(handle.callback is not None for _, _, handle in self._heap)

    def keep(self, interval: float, callback: Callback, group: object = None) -> Handle:
        """Have a callback called every ``interval`` seconds, first after one, until cancelled.

        Args:
            interval: Seconds. The callback may return others for its next call, or infinity.
            callback: Called in the keeper's thread; what it raises is logged.
            group: What is put off together when one of it is slow; None: this is not put off.
        """
        handle = Handle(self, interval, callback, group)
        due = time.monotonic() + interval
        with self._lock:
            self._kept += 1
            self._push(due, handle)
        return handle

    def count_cancelled(self) -> None:
        """Take note that a handle was cancelled."""
        with self._lock:
            self._cancelled += 1
            if self._is_littered():
                self._wake_for(-inf)

    def rest(self) -> None:
        """End the thread now, instead of in a second, if nothing is kept.

        Waits until it has ended, unless it is in a slow callback.
        """
        with self._lock:
            thread = self._thread
            if thread is None or thread is threading.current_thread() or len(self):
                return
            self._forget_thread()
            self._bell.put(None)
        thread.join(SLOW_SECONDS)

    def after_fork(self) -> None:
        """Forget what the parent keeps, and its thread."""
        self.__init__()  # type: ignore[misc]

    # The lock is held

    def _push(self, due: float, handle: Handle) -> None:
        heappush(self._heap, (due, next(self._numbers), handle))
        self._wake_for(due)

    def _wake_for(self, due: float) -> None:
        if due >= self._wakes_at:
            return
        self._wakes_at = due
        if self._thread is None:
            self._start()
        else:
            self._bell.put(None)

    def _start(self) -> None:
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._bell = bell
        self._thread = threading.Thread(
            target=self._run, args=(bell,), name="tiercache-keeper", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending, or the system has no threads left
            self._forget_thread()
        except BaseException:
            self._forget_thread()  # should it run all the same, it finds that it is not wanted
            raise

    def _forget_thread(self) -> None:
        self._thread, self._wakes_at = None, inf

    def _pop_due(self, now: float) -> Handle | None:
        """Take out what is due and neither cancelled nor put off."""
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][2].callback is None):
            _, _, handle = heappop(heap)
            if handle.callback is None:
                self._cancelled -= 1
            elif (until := self._put_off.get(handle.group, 0.0)) > now:
                heappush(heap, (until, next(self._numbers), handle))
            else:
                return handle
        return None

    def _is_littered(self) -> bool:
        return self._cancelled > MANY_CANCELLED and self._cancelled * 2 > len(self._heap)

    def _sweep(self) -> None:
        # In place, and by this thread only: a signal handler, which may keep something in the
        # middle of anything, runs in the main thread, where the lock would stop it.
        self._heap[:] = [entry for entry in self._heap if entry[2].callback is not None]
        heapify(self._heap)
        self._cancelled = 0

    # In the thread

    def _run(self, bell: queue.SimpleQueue[None]) -> None:
        while (step := self._next_step()) is not None:
            if isinstance(step, Handle):
                self._call(step)
            else:
                with suppress(queue.Empty):
                    bell.get(timeout=min(max(0.0, step), threading.TIMEOUT_MAX))

    def _next_step(self) -> Handle | float | None:
        """Return what to call now, or how long to sleep; None: there is no more to do."""
        with self._lock:
            if self._thread is not threading.current_thread():
                return None
            if self._is_littered():
                self._sweep()
            now = time.monotonic()
            handle = self._pop_due(now)
            if handle is not None:
                self._wakes_at = -inf  # it will look at whatever is kept meanwhile
                return handle
            if self._heap:
                self._wakes_at = self._heap[0][0]
            elif self._kept_when_idle != self._kept:
                self._kept_when_idle = self._kept
                self._wakes_at = now + IDLE_SECONDS
            else:
                self._forget_thread()
                return None
            return self._wakes_at - now

    def _call(self, handle: Handle) -> None:
        callback = handle.callback
        if callback is None:
            return
        began = time.monotonic()
        try:
            delay = callback()
        except Exception as error:
            log.error("the keeper of leases and locks called what failed: %s", trace_of(error))  # noqa: TRY400 - see logs.py
            delay = None
        now = time.monotonic()
        with self._lock:
            if handle.group is not None and now - began > SLOW_SECONDS:
                self._put_off = {group: t for group, t in self._put_off.items() if t > now}
                self._put_off[handle.group] = now + (now - began)
            if handle.callback is not None and delay != inf:
                self._push(now + (handle.interval if delay is None else delay), handle)


keeper = Keeper()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=keeper.after_fork)
