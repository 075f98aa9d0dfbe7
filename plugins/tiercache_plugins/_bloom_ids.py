"""Where a guard's ids come from: read one by one, in the thread of the build.

An iterable, an async iterable, or a function (``async`` or not) that returns or yields one. What is
async is run by an event loop of its own, so that no loop of the program has to be there.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Any

from tiercache import ConfigurationError


class Interrupted(Exception):
    """A read was ended from outside."""


class Ids:
    """The ids of everything that exists, to be read as often as needed.

    Args:
        source: What ``BloomGuard(ids=)`` was given.

    Raises:
        ConfigurationError: If it is nothing that can be iterated over.
    """

    def __init__(self, source: Any) -> None:
        if isinstance(source, str | bytes) or not _is_source(source):
            raise ConfigurationError(
                f"ids must be an iterable or a function that returns one, got {source!r}; "
                "for example a function that reads all ids from the database"
            )
        self._source = source
        self._is_used = False
        self._cancel: Callable[[], object] | None = None  # what an event loop of ours waits for

    @property
    def is_one_shot(self) -> bool:
        """Whether they can be read only once: a generator that has begun is not to be restarted."""
        return isinstance(self._source, Iterator | AsyncIterator)

    @property
    def is_spent(self) -> bool:
        """Whether there is nothing left to read."""
        return self.is_one_shot and self._is_used

    def read(self, take: Callable[[Any], None], expect: Callable[[int | None], None]) -> None:
        """Give every id to ``take``, and first to ``expect`` how many there are, if it is known.

        What ``take``, ``expect`` or the source raise ends it.
        """
        self._is_used = True
        found = self._source() if callable(self._source) else self._source
        if inspect.isawaitable(found) or isinstance(found, AsyncIterable):
            self._run(_read_async(found, take, expect))
            return
        _check_iterable(found)
        expect(_length(found))
        try:
            for each in found:
                take(each)
        finally:
            _close(found)

    def _run(self, reading: Coroutine[Any, Any, None]) -> None:
        async def main() -> None:
            task = asyncio.current_task()
            assert task is not None
            loop = asyncio.get_running_loop()
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            await reading

        try:
            with asyncio.Runner() as runner:
                runner.run(main())
        except asyncio.CancelledError:
            raise Interrupted from None
        finally:
            self._cancel = None

    def after_fork(self) -> None:
        """Leave the parent's event loop alone."""
        self._cancel = None

    def interrupt(self) -> None:
        """Have a read that awaits something end with Interrupted; from any thread."""
        cancel = self._cancel
        if cancel is not None:
            with suppress(RuntimeError):  # it has just ended
                cancel()


async def _read_async(
    found: Any, take: Callable[[Any], None], expect: Callable[[int | None], None]
) -> None:
    if inspect.isawaitable(found):
        found = await found
    expect(_length(found))
    if not isinstance(found, AsyncIterable):
        _check_iterable(found)
        for each in found:
            take(each)
        return
    try:
        async for each in found:
            take(each)
    finally:
        if inspect.isasyncgen(found):
            await found.aclose()


def _close(found: Any) -> None:
    """Let a generator that was not read to its end close its cursor now, not some time."""
    if inspect.isgenerator(found):
        with suppress(Exception):
            found.close()


def _is_source(source: Any) -> bool:
    return callable(source) or isinstance(source, Iterable | AsyncIterable)


def _check_iterable(found: Any) -> None:
    if isinstance(found, str | bytes) or not isinstance(found, Iterable):
        raise TypeError(f"ids gave {type(found).__name__}, not an iterable of ids")


def _length(found: Any) -> int | None:
    with suppress(TypeError):
        return len(found)
    return None
