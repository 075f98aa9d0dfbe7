"""The links of the Redis store, blocking and asyncio, behind one interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tiercache.tiers._redis_link import Command, open_asyncio, open_blocking
from tiercache.tiers._redis_wire import pack


def command(*words: str | bytes, key: str | None = None) -> Command:
    """Return a command; its key is its second word unless told."""
    args = [word.encode() if isinstance(word, str) else word for word in words]
    decides = args[1] if key is None and len(args) > 1 else key.encode() if key else None
    return Command(decides, pack(*args))


TIMEOUT = 5.0  # seconds; nothing is to fail for a busy machine


class BlockingCaller:
    """A link for threads."""

    name = "blocking"

    def __init__(self, endpoint: Any, timeout: float = TIMEOUT, limit: int = 8) -> None:
        self.link: Any = open_blocking(endpoint, limit, timeout, endpoint.label)

    def exchange(self, *commands: Command, **options: Any) -> list[Any]:
        return self.link.exchange("test", commands, **options)

    def nodes(self) -> list[Any]:
        return self.link.nodes()

    def side_by_side(self, *exchanges: list[Command]) -> list[Any]:
        """Make exchanges at once; return the replies, or the error, of each."""
        with ThreadPoolExecutor(len(exchanges)) as pool:
            return list(pool.map(lambda one: _outcome(self.exchange, one), exchanges))

    def close(self) -> None:
        self.link.close()


def _outcome(exchange: Callable[..., Any], commands: list[Command]) -> Any:
    try:
        return exchange(*commands)
    except Exception as error:
        return error


class AsyncioCaller:
    """A link for one event loop, driven from outside of it."""

    name = "asyncio"

    def __init__(self, endpoint: Any, timeout: float = TIMEOUT, limit: int = 8) -> None:
        self._runner: asyncio.Runner | None = asyncio.Runner()
        self.link: Any = self._run(self._open(endpoint, limit, timeout))

    async def _open(self, endpoint: Any, limit: int, timeout: float) -> Any:
        return open_asyncio(endpoint, limit, timeout, endpoint.label)

    def _run(self, awaitable: Any) -> Any:
        assert self._runner is not None
        return self._runner.run(awaitable)

    def exchange(self, *commands: Command, **options: Any) -> list[Any]:
        return self._run(self.link.exchange("test", commands, **options))

    def nodes(self) -> list[Any]:
        return self._run(self.link.nodes())

    def side_by_side(self, *exchanges: list[Command]) -> list[Any]:
        async def main() -> list[Any]:
            calls = [self.link.exchange("test", commands) for commands in exchanges]
            return await asyncio.gather(*calls, return_exceptions=True)

        return self._run(main())

    def close(self) -> None:
        if self._runner is not None:
            self._run(self.link.aclose())
            self._runner.close()
            self._runner = None


def open_sockets() -> set[str]:
    """Return the names of this process's sockets.

    What earlier tests have left may be closed at any time: look for what is new, not how many.
    """
    names = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            names.add(str(link.readlink()))
    return {name for name in names if name.startswith("socket:")}


Caller = BlockingCaller | AsyncioCaller
CALLERS: list[type[Caller]] = [BlockingCaller, AsyncioCaller]
