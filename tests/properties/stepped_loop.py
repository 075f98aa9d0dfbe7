"""An event loop that takes one step at a time, whichever it is told to.

asyncio runs what is ready in order of arrival. Here whoever drives the loop picks: so every order
in which tasks, landings, timers and cancellations could come about can be brought about, and the
same picks bring it about again. Time is a FakeClock's.
"""

from __future__ import annotations

import asyncio
import heapq
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from tiercache.testing import FakeClock


@types.coroutine
def gate() -> Generator[None, None, None]:
    """Stop here until the driver picks this task again."""
    yield


class SteppedLoop(asyncio.AbstractEventLoop):
    """What asyncio asks of a loop, as far as tasks, futures and timers go."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._ready: list[asyncio.Handle] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._made = 0
        self.complaints: list[str] = []  # exceptions that nobody took

    # Driving

    def ready(self) -> list[asyncio.Handle]:
        """Return what may run next, in order of arrival."""
        while self._timers and self._timers[0].when() <= self._clock.now:
            self._ready.append(heapq.heappop(self._timers))
        self._ready = [handle for handle in self._ready if not handle.cancelled()]
        return self._ready

    def step(self, handle: asyncio.Handle) -> None:
        """Run one of those."""
        self._ready.remove(handle)
        self.inside(handle._run)

    def inside(self, function: Callable[[], Any]) -> Any:
        """Call a function with this loop running."""
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            return function()
        finally:
            asyncio._set_running_loop(before)

    # What asyncio asks for

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._clock.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, timer)
        return timer

    def _timer_handle_cancelled(self, timer: asyncio.TimerHandle) -> None:
        """Nothing: it is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        self._made += 1
        name = name or f"{coro.__qualname__}~{self._made}"
        return asyncio.Task(coro, loop=self, name=name, **options)

    def time(self) -> float:
        return self._clock.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")


def label(handle: asyncio.Handle) -> str:
    """Name what a handle will run."""
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    function = getattr(callback, "func", callback)
    return getattr(function, "__qualname__", repr(function))
