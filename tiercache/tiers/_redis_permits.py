"""How many connections an event loop may use at once, and who waits for one."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Permits:
    """A semaphore of one event loop that can be taken without awaiting."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take a permit if there is one that nobody waits for."""
        if not self._left:
            return False
        self._left -= 1
        return True

    async def wait(self) -> None:
        """Take a permit as soon as there is one."""
        if self.take():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was handed over a moment before
                self.give_back()
            raise
        finally:
            with suppress(ValueError):
                self._waiting.remove(turn)

    def give_back(self) -> None:
        """Hand a permit to who has waited for the longest, or keep it for the next."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._left += 1
