"""The clients: each asks, takes the answer, and asks the next; threads and tasks alike."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace

from examples.city_service.traffic import Request
from examples.city_service.watch import Watch

IsOver = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Client:
    """What one client asks for, and what it watches."""

    requests: Iterable[Request]
    watch: Watch


def ask(service: Any, client: Client, is_over: IsOver) -> None:
    """Be a client of a threaded service."""
    for request in client.requests:
        if is_over():
            return
        glance = client.watch.before(request)
        try:
            answer = getattr(service, request.what)(*request.args)
        except Exception as error:
            client.watch.failed(glance, error)
        else:
            client.watch.after(glance, answer)
        time.sleep(request.pause)  # if 0: the answer goes out, and another thread has its turn


async def aask(service: Any, client: Client, is_over: IsOver) -> None:
    """Be a client of an asyncio service."""
    for request in client.requests:
        if is_over():
            return
        glance = client.watch.before(request)
        try:
            answer = await getattr(service, request.what)(*request.args)
        except Exception as error:
            client.watch.failed(glance, error)
        else:
            client.watch.after(glance, answer)
        await asyncio.sleep(request.pause)


def handle(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Handle a request in a span of its own, as a web framework would."""
    with _request_span(function, args):
        try:
            return function(*args)
        except Exception as error:
            return error


async def ahandle(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    """Do the same with asyncio."""
    with _request_span(function, args):
        try:
            return await function(*args)
        except Exception as error:
            return error


def _request_span(function: Callable[..., Any], args: Sequence[Any]) -> Any:
    tracer = trace.get_tracer("city-service")
    return tracer.start_as_current_span(f"request {function.__name__}({args[0]})")


class Threads:
    """Serves from threads."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the service, or of the cache."""
        return function(*args, **kwargs)

    def together(self, function: Callable[..., Any], args: Sequence[Any], times: int) -> list[Any]:
        """Handle so many requests at once; return answers, and errors in their place."""
        with ThreadPoolExecutor(times) as threads:
            return list(threads.map(lambda _: handle(function, args), range(times)))

    def serve(self, service: Any, clients: Sequence[Client], is_over: IsOver) -> None:
        """Serve all clients until it is over."""
        with ThreadPoolExecutor(len(clients)) as threads:
            for running in [threads.submit(ask, service, each, is_over) for each in clients]:
                running.result()

    def close(self) -> None:
        """There is nothing to release."""


class Tasks:
    """Serves from tasks, in an event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Await a function of the service, or of the cache."""
        return self._run(_awaited(function, args, kwargs))

    def together(self, function: Callable[..., Any], args: Sequence[Any], times: int) -> list[Any]:
        """Handle so many requests at once; return answers, and errors in their place."""

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*(ahandle(function, args) for _ in range(times)))

        return list(self._run(all_of_them()))

    def serve(self, service: Any, clients: Sequence[Client], is_over: IsOver) -> None:
        """Serve all clients until it is over."""

        async def serve() -> None:
            async with asyncio.TaskGroup() as tasks:
                for client in clients:
                    tasks.create_task(aask(service, client, is_over))

        self._run(serve())

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """End the event loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _awaited(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return await function(*args, **kwargs)
