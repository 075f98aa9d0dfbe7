"""How a task waits for news: ``waits.py`` for asyncio, apart since importing that is costly."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tiercache.tiers.store import Kind

__all__ = ["AsyncExpectation"]


class AsyncExpectation:
    """A task's waiting, in the event loop in which it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._news: Kind | None = None

    def wake(self, kind: Kind) -> None:
        self._news = kind
        with suppress(RuntimeError):  # that loop is closed, and the task with it
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> Kind | None:
        """Wait for news, at most so many seconds; what came since the last ``wait`` counts."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._event.wait()
        except TimeoutError:
            return None
        self._event.clear()
        return self._news
