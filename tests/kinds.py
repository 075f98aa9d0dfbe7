"""Blocking and asyncio callers behind one interface, so that one table of cases tests both."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import Any

from tiercache import Cache


class Blocking:
    """Calls in this thread; side by side in threads."""

    name = "blocking"

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of this kind that does what the body does."""
        return body

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, or one of its tools, and return the result."""
        return function(*args, **kwargs)

    def do(self, cache: Cache, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of a cache."""
        return getattr(cache, method)(*args, **kwargs)

    def side_by_side(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
        """Make calls at once; return each one's value or exception."""
        outcomes: list[Any] = [None] * len(calls)
        barrier = threading.Barrier(len(calls))

        def work(number: int, args: tuple[Any, ...]) -> None:
            barrier.wait()
            try:
                outcomes[number] = function(*args)
            except BaseException as error:
                outcomes[number] = error

        threads = [threading.Thread(target=work, args=call) for call in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return outcomes

    def settle(self, cache: Cache) -> None:
        """Wait until nothing is loaded in the background."""
        assert cache.blocking.quiesce(10.0) == 0

    def close(self) -> None:
        """Nothing is held."""


class Asyncio:
    """Calls in an event loop; side by side in tasks."""

    name = "asyncio"

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(body)
        async def function(*args: Any, **kwargs: Any) -> Any:
            return body(*args, **kwargs)

        return function

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def main() -> Any:
            return await function(*args, **kwargs)

        return self._runner.run(main())

    def do(self, cache: Cache, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.call(getattr(cache, f"a{method}"), *args, **kwargs)

    def side_by_side(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
        async def main() -> list[Any]:
            return await asyncio.gather(
                *[function(*args) for args in calls], return_exceptions=True
            )

        return self._runner.run(main())

    def settle(self, cache: Cache) -> None:
        self._runner.run(cache.asyncio.quiesce())

    def close(self) -> None:
        self._runner.close()


Kind = Blocking | Asyncio
