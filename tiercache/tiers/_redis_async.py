"""Asyncio connections to Redis: one link per event loop, closed with its loop.

An asyncio connection belongs to the loop that opened it. A link therefore lives and dies with
one: it starts an async generator there and leaves it suspended, so that ``asyncio.run``, which
closes the generators of its loop, closes the link too. A loop that was closed without that
(``loop.close()`` by hand) leaves sockets that nobody can close politely; ``abandon`` drops them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tiercache.tiers._redis_blocking import BUSY_SHARE
from tiercache.tiers._redis_errors import translate
from tiercache.tiers.store import StoreBusy

if TYPE_CHECKING:
    import redis.asyncio


class AsyncLink:
    """All asyncio connections of one store in one event loop."""

    def __init__(
        self, make: Callable[[], redis.asyncio.Connection], limit: int, timeout: float, label: str
    ) -> None:
        self._make = make
        self._limit = limit
        self._timeout = timeout
        self._label = label
        self._idle: list[Any] = []
        self._in_use: set[Any] = set()
        self._free = asyncio.Semaphore(limit)
        self._keeper: AsyncGenerator[None, None] | None = None
        self._is_closed = False
        import redis.exceptions as theirs

        self._lost = (theirs.ConnectionError, OSError)
        self._refusal = theirs.ResponseError

    async def exchange(
        self, operation: str, request: bytes, replies: int, budget: float | None = None
    ) -> list[Any]:
        """Do what BlockingLink.exchange does; budget bounds the whole exchange."""
        try:
            async with asyncio.timeout(self._timeout if budget is None else budget):
                return await self._exchange(request, replies)
        except Exception as error:
            raise translate(error, self._label, operation, self._timeout) from error

    async def _exchange(self, request: bytes, replies: int) -> list[Any]:
        if self._keeper is None:
            self._keeper = self._close_with_loop()
            await anext(self._keeper)
        if self._free.locked():
            await self._wait_for_one()
        else:
            await self._free.acquire()  # does not suspend
        connection = self._idle.pop() if self._idle else self._make()
        self._in_use.add(connection)
        is_reused = bool(connection.is_connected)
        try:
            try:
                return await self._talk(connection, request, replies, is_reused)
            except self._lost as error:
                if not is_reused or isinstance(error, TimeoutError):
                    raise
                await connection.disconnect(nowait=True)
                await self._drop_idle()
                return await self._talk(connection, request, replies, False)
        except BaseException:
            # Cancelled or failed: a reply may still be on its way, never reuse this socket.
            await connection.disconnect(nowait=True)
            raise
        finally:
            self._in_use.discard(connection)
            if self._is_closed:
                await connection.disconnect(nowait=True)
            elif connection.is_connected:
                self._idle.append(connection)
            self._free.release()

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._timeout * BUSY_SHARE):
                await self._free.acquire()
        except TimeoutError:
            raise StoreBusy(f"{self._label}: all {self._limit} connections are in use") from None

    async def _talk(
        self, connection: Any, request: bytes, replies: int, is_reused: bool
    ) -> list[Any]:
        await connection.send_packed_command(request, check_health=is_reused)
        if replies == 1:
            return [await self._reply(connection)]
        return [await self._reply(connection) for _ in range(replies)]

    async def _reply(self, connection: Any) -> Any:
        try:
            return await connection.read_response(True)
        except self._refusal as refusal:
            return refusal

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._disconnect()

    async def aclose(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""
        if self._keeper is not None:
            await self._keeper.aclose()
        await self._disconnect()

    async def _disconnect(self) -> None:
        self._is_closed = True
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(Exception):
                await connection.disconnect()

    def close_from_outside(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close as well as can be without awaiting, from any thread; loop is the link's own."""
        if loop.is_closed():
            self.abandon()
            return
        closing = self.aclose()
        try:
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(closing, loop)
            else:
                loop.run_until_complete(closing)
        except RuntimeError:  # closed meanwhile, or we are inside of another loop
            closing.close()

    def abandon(self) -> None:
        """Close the sockets of a loop that runs no more, without a word."""
        self._is_closed = True
        for connection in (*self._idle, *self._in_use):
            _drop_socket(connection)
        self._idle.clear()
        self._in_use.clear()


def _drop_socket(connection: Any) -> None:
    """Close a connection whose loop is closed.

    There is no public way: StreamWriter.close() needs the loop, and leaving it to the garbage
    collector warns of an unclosed transport. Where the names below are missing, it warns.
    """
    writer = getattr(connection, "_writer", None)
    connection._writer = connection._reader = None  # noqa: SLF001 - see above
    transport = getattr(writer, "transport", None)
    sock = getattr(transport, "_sock", None)
    if transport is not None and sock is not None:
        transport._sock = None  # noqa: SLF001
        transport._closing = True  # noqa: SLF001
        sock.close()
