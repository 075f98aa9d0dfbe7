"""A bulkhead: at most so many loads at once, so that one slow database does not take all threads.

Blocking and asyncio loads share one limit and one fair queue (_permits.py). A load that finds
neither a permit nor a place in the queue, or waits too long, raises ``BulkheadFull``; a stale value
that ``stale_if_error`` allows is served instead.

A load inside a load of the same bulkhead passes: its outer load has a permit, and would wait for
itself. (The context tells; what a loader leaves running behind it does not count as inside.) One
way to wait for oneself is left: a load that *joins* the load of another key that is in the queue.
``wait`` ends it; without one, ``load_timeout`` does.

A blocking load in a thread that runs an event loop never waits: the permits may be with that very
loop's tasks, which cannot go on meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from tiercache import BulkheadFull, Duration, Load, Plugin

from ._choosing import Chosen, chooser
from ._forks import heal_after_fork
from ._options import duration, whole
from ._permits import Permits, TaskWaiter, ThreadWaiter, runs_a_loop

__all__ = ["Bulkhead"]


class _Stay:
    """The time in which one load has a permit of a bulkhead."""

    __slots__ = ("bulkhead", "is_over")

    def __init__(self, bulkhead: Bulkhead) -> None:
        self.bulkhead = bulkhead
        self.is_over = False  # a task that the loader left behind inherits its context


_stays: ContextVar[tuple[_Stay, ...]] = ContextVar("tiercache_bulkheads", default=())


class Bulkhead(Plugin):
    """Let at most ``max_concurrent`` loads run at once, and ``max_waiting`` wait.

    The limit is of this object: of all loads of a cache, of some ``functions``, or of several
    caches that are given the same one.

    Args:
        max_concurrent: Loads at once, >= 1.
        max_waiting: Loads in the queue, >= 0; beyond, ``BulkheadFull`` at once.
        wait: How long one may wait; None: as long as the load may take.
        functions: Only loads of these: functions, their names, or templates of their keys.
        name: What its measures are called by, where a cache has several.

    Raises:
        ConfigurationError: If an option is illegal.
    """

    def __init__(
        self,
        max_concurrent: int,
        max_waiting: int = 0,
        *,
        wait: Duration | None = "1s",
        functions: Chosen | Iterable[Chosen] | None = None,
        name: str = "bulkhead",
    ) -> None:
        self._permits = Permits(
            whole(max_concurrent, "max_concurrent", least=1),
            whole(max_waiting, "max_waiting", least=0),
        )
        self._wait = None if wait is None else duration(wait, "wait")
        self._concerns = chooser(functions)
        self._name = name
        self._refused = 0
        heal_after_fork(self._permits)

    async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
        if self._concerns is not None and not self._concerns(load):
            return await call_next()
        stays = _stays.get()
        if any(stay.bulkhead is self and not stay.is_over for stay in stays):
            return await call_next()
        permits = self._permits  # a forked child keeps it, with a new count
        if not permits.try_to_take():
            await self._queue_up(load)
        stay = _Stay(self)
        token = _stays.set((*stays, stay))
        try:
            return await call_next()
        finally:
            stay.is_over = True
            _stays.reset(token)
            permits.give_back()

    async def _queue_up(self, load: Load) -> None:
        """Return with a permit.

        Raises:
            BulkheadFull: If there is none.
        """
        began = time.monotonic()
        if load.is_async:
            has_permit = await self._wait_as_task()
        else:
            has_permit = self._wait_as_thread()
        waited = time.monotonic() - began
        load.notes["bulkhead.waited_s"] = waited
        if not has_permit:
            self._refused += 1
            raise BulkheadFull(
                f"{load.function}: all {self._permits.most} loads of the bulkhead "
                f"{self._name!r} are under way, {self._permits.waiting} wait, and none ended "
                f"within {waited:.3g} s; raise max_concurrent or max_waiting, or load less"
            )

    async def _wait_as_task(self) -> bool:
        import asyncio

        waiter = TaskWaiter(asyncio.get_running_loop())
        if not self._permits.enqueue(waiter):
            return False
        uses_permit = False
        try:
            if not waiter.has_permit:
                await waiter.wait(self._wait)
            uses_permit = True
        finally:
            has_permit = self._permits.leave(waiter, uses_permit=uses_permit)
        return has_permit

    def _wait_as_thread(self) -> bool:
        waiter = ThreadWaiter()
        if runs_a_loop() or not self._permits.enqueue(waiter):
            return self._permits.try_to_take()
        uses_permit = False
        try:
            if not waiter.has_permit:
                waiter.wait(self._wait)
            uses_permit = True
        finally:
            has_permit = self._permits.leave(waiter, uses_permit=uses_permit)
        return has_permit

    def measures(self) -> Mapping[str, float]:
        return {
            f"{self._name}.running": self._permits.taken,
            f"{self._name}.waiting": self._permits.waiting,
            f"{self._name}.refused": self._refused,
        }
