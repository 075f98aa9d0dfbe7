"""The asyncio port: what suspends, and the tasks that carry flights.

In a module of its own, since importing asyncio costs more than the rest of tiercache, and a
blocking program has no use for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .async_waits import AsyncExpectation
from .runtime import CONCURRENT_LOADS, Overdue
from .singleflight import Deck, Flight, Flights

if TYPE_CHECKING:
    from .spec import Spec
    from .tiers.store import Kind, Namespace


MANY_TASKS = 1000

_T = TypeVar("_T")


class AsyncPort:
    """Runs each flight in a task of its own, which no caller's cancellation reaches."""

    leads_inline = False
    deck = Deck.ASYNCIO

    def __init__(self) -> None:
        # Held here, since an event loop holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def ends_the_leader_only(self, error: BaseException) -> bool:
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            return task is not None and task.cancelling() > 0
        return isinstance(error, KeyboardInterrupt | GeneratorExit)

    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def lead(
        self, flights: Flights, flight: Flight, fly: Coroutine[Any, Any, None], spec: Spec
    ) -> None:
        loop = asyncio.get_running_loop()
        task = self._start(loop, fly)
        flight.cancel = partial(_cancel, loop, task)
        await self.follow(flights, flight)

    async def lead_many(
        self,
        flights: Flights,
        led: Sequence[Flight],
        carry: Coroutine[Any, Any, None],
        spec: Spec,
        others: Sequence[Flight],
    ) -> None:
        loop = asyncio.get_running_loop()
        _bind(loop, self._start(loop, carry), led)
        awaited = list(led)
        try:
            while awaited:
                await self.follow(flights, awaited.pop())
        except BaseException:
            for flight in (*awaited, *others):
                flights.leave(flight)
            raise

    def carry(
        self,
        flights: Sequence[Flight],
        work: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_refresh: bool,
    ) -> bool:
        loop = asyncio.get_running_loop()
        context = contextvars.Context() if is_refresh else contextvars.copy_context()
        _bind(loop, self._start(loop, work(), context), flights)
        return True

    async def to_the_end(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Complete work in a task of its own, which no caller's cancellation reaches.

        A caller who is cancelled meanwhile is so once it is done.
        """
        task = asyncio.get_running_loop().create_task(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled from None if task.cancelled() else task.exception()
        return task.result()

    async def quiesce(self) -> None:
        """Wait for the tasks of this event loop to end."""
        loop = asyncio.get_running_loop()
        mine = [task for task in self._tasks if task.get_loop() is loop]
        await asyncio.gather(*mine, return_exceptions=True)

    def _start(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, None],
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[None]:
        task = loop.create_task(work, context=context)
        self._hold(task)
        return task

    def adopt(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]
    ) -> Callable[[], None]:
        """Hold a task that carries a flight; return what ends it."""
        self._hold(task)
        return partial(_cancel, loop, task)

    def _hold(self, task: asyncio.Task[None]) -> None:
        if len(self._tasks) > MANY_TASKS:  # some may be of loops that were closed under them
            self._tasks = {each for each in self._tasks if not each.get_loop().is_closed()}
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)

    def limit(self, led: Sequence[Flight], spec: Spec, overdue: Overdue) -> asyncio.TimerHandle:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        deadline = time.monotonic() + spec.load_seconds
        for flight in led:
            flight.deadline = deadline
        return loop.call_later(spec.load_seconds, _expire, led, task, spec, overdue)

    async def follow(self, flights: Flights, flight: Flight, seconds: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        landed = loop.create_future()
        if not _join_crowd(flights, flight, loop, landed):
            return
        overdue = None
        if flight.loop is not loop:  # that loop may stop running without a word
            remaining = max(0.0, flight.deadline - time.monotonic())
            overdue = loop.call_later(remaining, _give_up, flights, flight, landed)
        soft = None if seconds is None else loop.call_later(seconds, _resolve, landed)
        try:
            await landed
        except BaseException:
            flights.leave(flight)
            raise
        finally:
            for timer in (overdue, soft):
                if timer is not None:
                    timer.cancel()

    def call(self, function: Any, args: Any, kwargs: Any, timeout: float | None) -> Awaitable[Any]:
        result: Awaitable[Any] = function(*args, **kwargs)
        return result

    async def gather(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        slots = asyncio.Semaphore(CONCURRENT_LOADS)

        async def work(job: Callable[[], Coroutine[Any, Any, None]]) -> None:
            async with slots:
                await job()

        await asyncio.gather(*map(work, jobs), return_exceptions=True)

    def ask(self, namespace: Namespace, operation: str, *args: Any, **options: Any) -> Any:
        return getattr(namespace, f"a{operation}")(*args, **options)

    def expectation(self) -> AsyncExpectation:
        return AsyncExpectation()

    async def news(self, expectation: AsyncExpectation, seconds: float) -> Kind | None:
        return await expectation.wait(seconds)


def _join_crowd(
    flights: Flights,
    flight: Flight,
    loop: asyncio.AbstractEventLoop,
    landed: asyncio.Future[None],
) -> bool:
    """Have a future resolved when a flight lands; False if it has landed already.

    A loop's futures are resolved together: from another thread that takes one call, not a
    thousand. A future whose task was cancelled stays among them and is passed over.
    """
    with flights.lock:
        if flight.has_landed:
            return False
        if flight.crowds is None:
            flight.crowds = {}
        crowd = flight.crowds.get(loop)
        if crowd is None:
            crowd = flight.crowds[loop] = []
            flights.on_landing(flight, partial(_wake, loop, crowd))
        crowd.append(landed)
        return True


def _wake(loop: asyncio.AbstractEventLoop, crowd: list[asyncio.Future[None]]) -> None:
    if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the documented way not to raise
        _resolve_all(crowd)
    else:
        with suppress(RuntimeError):  # that loop is closed, and its callers with it
            loop.call_soon_threadsafe(_resolve_all, crowd)


def _resolve_all(crowd: list[asyncio.Future[None]]) -> None:
    for landed in crowd:
        if not landed.done():
            landed.set_result(None)


def _resolve(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)


def _bind(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], flights: Sequence[Flight]
) -> None:
    """Have a task cancelled once nobody wants any of the flights that it carries."""

    def leave_one() -> None:  # called for each that nobody wants any more
        if all(flight.has_landed or not flight.passengers for flight in flights):
            _cancel(loop, task)

    for flight in flights:
        flight.cancel = leave_one


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(task.cancel)


def _expire(
    led: Sequence[Flight], task: asyncio.Task[None] | None, spec: Spec, overdue: Overdue
) -> None:
    overdue(led, spec)
    if task is not None:
        task.cancel()


def _give_up(flights: Flights, flight: Flight, landed: asyncio.Future[None]) -> None:
    flights.detach_flight(flight)
    _resolve(landed)
