"""Carriers: a load begins within its caller's own step, and is carried on by a task if it suspends.

A load must run in a task of its own: no caller's cancellation may reach it, and what it asks of its
task (``asyncio.timeout``, ``TaskGroup``) must not meet its caller's. But to make a task, have the
event loop run it, and be woken by it takes twenty times as long as a load that finds what it needs
at once. So carriers are kept in reserve: tasks that have begun and wait for something to carry. A
load takes its first step where its caller stands, with the carrier's task as the current one, in a
context of its own. If it ends there, nothing was spent and the carrier goes back. If it suspends,
the carrier takes it over as it is and goes on with it, and is not used again.

Tasks are switched as the documentation of asyncio has it for tasks of third parties ("Extending"):
``_enter_task`` and ``_leave_task``. While a carrier waits it is no task that anybody should wait
for, or be told of: it is not among ``asyncio.all_tasks()``, and may be dropped.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio.tasks import (
    _enter_task,
    _leave_task,
    _register_task,
    _unregister_task,
)
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from sys import getrefcount
from typing import Any

MOST_IDLE = 8  # carriers of one event loop that wait: as many as loads that ask for one another

#: What goes on with a coroutine, given the cancellation that came before it could.
Rest = Callable[[asyncio.CancelledError | None], Coroutine[Any, Any, None]]


class Carrier:
    """A task in reserve, of the running event loop."""

    __slots__ = ("_is_known", "_loop", "_parked", "_rest", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parked: asyncio.Future[None] | None = None
        self._rest: Rest | None = None
        self._is_known = True  # to asyncio.all_tasks()
        body = self._body()
        body.send(None)  # begun, it may be dropped without a warning that it never was
        self.task = asyncio.Task(body, loop=loop, context=Context())

    def begin(
        self, caller: asyncio.Task[Any], context: Context, step: Callable[..., Any], *args: Any
    ) -> Any:
        """Return what a first step returns, or raise what it raises; this task is the current one.

        Args:
            caller: The current task, which it is again afterwards.
            context: The one to run the step in.
            step: The function that takes it.
            *args: Its arguments.
        """
        loop, task = self._loop, self.task
        known = getrefcount(task)
        _leave_task(loop, caller)
        _enter_task(loop, task)
        try:
            return context.run(step, *args)
        finally:
            _leave_task(loop, task)
            _enter_task(loop, caller)
            if getrefcount(task) != known:  # who knows this task may cancel it later
                self._rest = _nothing

    def carry_on(self, rest: Rest) -> None:
        """Go on with what has suspended in its first step."""
        self._rest = rest
        if not self._is_known:
            self._is_known = True
            _register_task(self.task)
        if self._parked is not None and not self._parked.done():  # else it has been cancelled
            self._parked.set_result(None)

    def give_back(self) -> None:
        """Wait for something else, after a first step that was the last, too."""
        idle = _reserve.idle
        is_clean = self._rest is None and not self.task.cancelling()
        if is_clean and len(idle) < MOST_IDLE and _reserve.loop is self._loop:
            self._hide()
            idle.append(self)
        else:
            self.carry_on(_nothing)

    def _hide(self) -> None:
        if self._is_known:
            self._is_known = False
            self.task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
            _unregister_task(self.task)

    async def _body(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        try:
            await _Pause()  # until the event loop runs the task
            if self._rest is None:
                self._parked = self._loop.create_future()
                await self._parked
        except asyncio.CancelledError as error:
            cancelled = error
        if self._rest is not None:
            await self._rest(cancelled)


class Resumed:
    """The rest of a coroutine that has suspended elsewhere, to be awaited; in its own context.

    Args:
        coroutine: It.
        context: Where its steps run.
        awaited: What it has yielded: a future, or None to let others run.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context, awaited: Any) -> None:
        self._coroutine = coroutine
        self._run = context.run
        self._awaited = awaited
        #: To be raised in the coroutine; not a local, which an error's own traceback would hold.
        self._errors: list[BaseException] = []
        # A future notes that it is being yielded, until the task that gets it has taken note:
        # here that is us, and once more the task that this is awaited in.
        self._is_future = getattr(awaited, "_asyncio_future_blocking", None) is not None
        if self._is_future:
            awaited._asyncio_future_blocking = False  # noqa: SLF001

    def throw(self, error: BaseException) -> None:
        """Have an error raised in the coroutine, in place of waiting for what it awaits."""
        self._errors.append(error)

    def __await__(self) -> Generator[Any, None, Any]:
        coroutine, run, errors, awaited = self._coroutine, self._run, self._errors, self._awaited
        if self._is_future and not errors:
            awaited._asyncio_future_blocking = True  # noqa: SLF001
        try:
            while True:
                try:
                    if not errors:
                        yield awaited
                except (Exception, asyncio.CancelledError) as error:
                    errors.append(error)
                awaited = (
                    run(coroutine.throw, errors.pop()) if errors else run(coroutine.send, None)
                )
        except StopIteration as stop:
            return stop.value
        finally:
            coroutine.close()


class _Pause:
    """Suspends once, for whoever sends next."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class _Reserve(threading.local):
    """The carriers that wait, of the event loop that runs in this thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.idle: list[Carrier] = []


_reserve = _Reserve()


def take(loop: asyncio.AbstractEventLoop) -> Carrier:
    """Return a carrier of the running event loop, from the reserve or a new one."""
    reserve = _reserve
    if reserve.loop is not loop:
        reserve.loop, reserve.idle = loop, []
    return reserve.idle.pop() if reserve.idle else Carrier(loop)


async def _nothing(cancelled: asyncio.CancelledError | None) -> None:
    """End a task that somebody may know."""
