"""Blocking and asyncio, behind one set of operations.

What happens after an L1 miss is written once, as ``async def``, over a *port*. The asyncio port
suspends. The blocking port does its work before it returns, so that a coroutine over it runs from
start to end in one step, which is what ``run`` gives it.
"""

from __future__ import annotations

import contextvars
import math
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from .errors import ConfigurationError, LoadTimeout
from .singleflight import Deck, Flight, Flights
from .waits import ThreadExpectation

if TYPE_CHECKING:
    import asyncio

    from .spec import Spec
    from .tiers.store import Kind, Namespace
    from .waits import Expectation

_T = TypeVar("_T")

#: Lands flights whose load takes too long.
Overdue: TypeAlias = "Callable[[Sequence[Flight], Spec], None]"

FILL_SECONDS = 5.0  # for L2 around a load; a store's own timeout ends each operation before
CONCURRENT_LOADS = 16  # of one batch that has no bulk loader
_NOBODY = 0  # no thread has this identity
THREADS = 32  # blocking loads that run beside their callers, in one cache


class BoxedStop(Exception):
    """A loader's StopIteration, which may not leave a coroutine as it is (PEP 479)."""

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Complete a coroutine whose ports block, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise ConfigurationError("an asyncio operation was awaited in a blocking call")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if any, without importing asyncio."""
    module = sys.modules.get("asyncio")
    return None if module is None else module._get_running_loop()  # noqa: SLF001 - does not raise


def _nothing() -> None:
    """End nothing."""


def _hand_over(flights: Sequence[Flight], thread: int) -> None:
    """Have flights end with another thread than the one that boarded them."""
    for flight in flights:
        flight.thread = thread


class Port(Protocol):
    """The operations that differ between blocking and asyncio callers."""

    deck: Deck
    leads_inline: bool  # a leader's caller does the work itself

    def ends_the_leader_only(self, error: BaseException) -> bool:
        """Whether what ended a load says nothing about the value, so that followers try again."""
        ...

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the running event loop, where there is one."""
        ...

    async def lead(
        self, flights: Flights, flight: Flight, fly: Coroutine[Any, Any, None], spec: Spec
    ) -> None:
        """Carry a flight until it has landed, whatever becomes of this caller."""
        ...

    async def lead_many(
        self,
        flights: Flights,
        led: Sequence[Flight],
        carry: Coroutine[Any, Any, None],
        spec: Spec,
        others: Sequence[Flight],
    ) -> None:
        """Carry flights until all have landed; if this caller goes, it leaves the others too."""
        ...

    def carry(
        self,
        flights: Sequence[Flight],
        work: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_refresh: bool,
    ) -> bool:
        """Carry flights beside this caller, who need not wait for them; False: there is no room.

        A refresh has an empty context: it is no part of whatever its caller is doing.
        """
        ...

    def limit(
        self, led: Sequence[Flight], spec: Spec, overdue: Overdue
    ) -> asyncio.TimerHandle | None:
        """Begin the time that a load of flights may take; what is returned ends it early."""
        ...

    async def follow(self, flights: Flights, flight: Flight, seconds: float | None = None) -> None:
        """Wait until a flight has landed, or is overdue and detached; or so many seconds."""
        ...

    def call(self, function: Any, args: Any, kwargs: Any, timeout: float | None) -> Awaitable[Any]:
        """Run a user's function."""
        ...

    async def gather(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run jobs side by side; they do not raise."""
        ...

    def ask(self, namespace: Namespace, operation: str, *args: Any, **options: Any) -> Any:
        """Return an awaitable of what an operation of L2 answers."""
        ...

    def expectation(self) -> Expectation:
        """Return what a caller of this kind waits with."""
        ...

    async def news(self, expectation: Any, seconds: float) -> Kind | None:
        """Wait for news, at most so many seconds; return its kind."""
        ...


class BlockingPort:
    """Does everything in the caller's thread."""

    leads_inline = True
    deck = Deck.BLOCKING

    def __init__(self) -> None:
        # Apart, since who carries may wait for a load beside it, and then holds no slot of those.
        self._slots = threading.BoundedSemaphore(THREADS)  # for loads
        self._carriers = threading.BoundedSemaphore(THREADS)  # for what carries flights
        self._threads: set[threading.Thread] = set()  # running; changed in single steps

    def ends_the_leader_only(self, error: BaseException) -> bool:
        return isinstance(error, KeyboardInterrupt | GeneratorExit)

    def loop(self) -> None:
        return None

    async def lead(
        self, flights: Flights, flight: Flight, fly: Coroutine[Any, Any, None], spec: Spec
    ) -> None:
        await fly

    async def lead_many(
        self,
        flights: Flights,
        led: Sequence[Flight],
        carry: Coroutine[Any, Any, None],
        spec: Spec,
        others: Sequence[Flight],
    ) -> None:
        await carry

    def carry(
        self,
        flights: Sequence[Flight],
        work: Callable[[], Coroutine[Any, Any, None]],
        *,
        is_refresh: bool,
    ) -> bool:
        def body() -> None:
            _hand_over(flights, threading.get_ident())
            run(work())

        context = contextvars.Context() if is_refresh else contextvars.copy_context()
        for flight in flights:
            flight.cancel = _nothing  # it goes on, but for nobody
        _hand_over(flights, _NOBODY)
        if self._start(body, self._carriers, context=context) is not None:
            return True
        _hand_over(flights, threading.get_ident())
        return False

    @property
    def is_busy(self) -> bool:
        """Whether threads of this port run."""
        return bool(self._threads)

    def quiesce(self, seconds: float) -> int:
        """Wait for the threads of this port to end; return how many have not."""
        until = time.monotonic() + seconds
        for thread in list(self._threads):
            while thread is not threading.current_thread() and thread in self._threads:
                try:
                    thread.join(max(0.0, until - time.monotonic()))
                    break
                except RuntimeError:  # somebody is just about to start it
                    time.sleep(0.001)
        return sum(thread.is_alive() for thread in list(self._threads))

    def limit(self, led: Sequence[Flight], spec: Spec, overdue: Overdue) -> None:
        # With a timeout the leader itself raises LoadTimeout, for all; followers give up later.
        grace = 0.0 if spec.timeout is None else FILL_SECONDS
        deadline = time.monotonic() + spec.load_seconds + grace
        for flight in led:
            flight.deadline = deadline

    async def follow(self, flights: Flights, flight: Flight, seconds: float | None = None) -> None:
        gate = threading.Lock()
        gate.acquire()
        if not flights.on_landing(flight, gate.release):
            return
        until = math.inf if seconds is None else time.monotonic() + seconds
        try:
            while True:
                timeout = max(0.0, min(until, flight.deadline) - time.monotonic())
                if gate.acquire(timeout=timeout):
                    return
                now = time.monotonic()
                if flight.deadline <= now:  # the load may have begun meanwhile
                    # The leader runs in its own caller's thread and cannot be stopped. It is
                    # left behind: the next caller to board starts anew.
                    flights.detach_flight(flight)
                    return
                if until <= now:
                    return
        finally:
            flights.forget(flight, gate.release)

    async def call(self, function: Any, args: Any, kwargs: Any, timeout: float | None) -> Any:
        try:
            if timeout is not None:
                return self._call_beside(function, args, kwargs, timeout)
            return function(*args, **kwargs)
        except StopIteration as error:
            raise BoxedStop(error) from None

    async def gather(self, jobs: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Run jobs on this thread and, as far as there are free ones, on some others."""
        todo = iter(jobs)
        taking = threading.Lock()

        def work() -> None:
            while True:
                with taking:
                    job = next(todo, None)
                if job is None:
                    return
                run(job())

        helpers = [self._start(work, self._carriers) for _ in jobs[1:CONCURRENT_LOADS]]
        work()
        for thread in helpers:
            if thread is not None:
                thread.join()

    def _call_beside(self, function: Any, args: Any, kwargs: Any, timeout: float) -> Any:
        outcome: list[tuple[Any, BaseException | None]] = []
        done = threading.Event()

        def work() -> None:
            try:
                outcome.append((function(*args, **kwargs), None))
            except BaseException as error:
                outcome.append((None, error))
            finally:
                done.set()

        deadline = time.monotonic() + timeout
        if self._start(work, self._slots, wait=timeout) is None:
            raise LoadTimeout(
                f"no thread for a load within timeout={timeout:g} s: {THREADS} are busy with "
                "loads that have not ended; does the loader hang?"
            )
        if not done.wait(max(0.0, deadline - time.monotonic())):
            raise LoadTimeout(f"the load took longer than timeout={timeout:g} s")
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def _start(
        self,
        work: Callable[[], object],
        slots: threading.Semaphore,
        *,
        wait: float = 0.0,
        context: contextvars.Context | None = None,
    ) -> threading.Thread | None:
        """Run work on a thread of its own, in a context, by default a copy of this one.

        None if all threads stay busy for ``wait`` seconds, or there is none to be had.
        """
        if not slots.acquire(timeout=wait):
            return None
        where = contextvars.copy_context() if context is None else context

        def body() -> None:
            try:
                where.run(work)
            finally:
                self._threads.discard(thread)
                slots.release()

        # A daemon: a load that hangs does not keep the process from ending.
        thread = threading.Thread(target=body, name="tiercache-load", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the process is ending, or has too many
            self._threads.discard(thread)
            slots.release()
            return None
        return thread

    async def ask(self, namespace: Namespace, operation: str, *args: Any, **options: Any) -> Any:
        return getattr(namespace, operation)(*args, **options)

    def expectation(self) -> ThreadExpectation:
        return ThreadExpectation()

    async def news(self, expectation: ThreadExpectation, seconds: float) -> Kind | None:
        return expectation.wait(seconds)
