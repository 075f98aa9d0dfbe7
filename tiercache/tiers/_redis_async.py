"""Asyncio connections to one Redis server: one link per event loop, closed with its loop.

An asyncio connection belongs to the loop that opened it. A link therefore lives and dies with
one: it starts an async generator there and leaves it suspended, so that ``asyncio.run``, which
closes the generators of its loop, closes the link too. A loop that was closed without that
(``loop.close()`` by hand) leaves sockets that nobody can close politely; ``abandon`` drops them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tiercache.tiers._redis_blocking import BUSY_SHARE, Turn
from tiercache.tiers._redis_errors import check_fit, translate
from tiercache.tiers.store import StoreBusy

if TYPE_CHECKING:
    import redis.asyncio

    from tiercache.tiers._redis_link import Command, NodeName
    from tiercache.tiers._redis_sentinel import AsyncOpener


class AsyncLink:
    """All asyncio connections of one store to one server, in one event loop.

    Args: as of BlockingLink.
    """

    def __init__(
        self,
        make: Callable[[], redis.asyncio.Connection],
        limit: int,
        timeout: float,
        label: str,
        secrets: Collection[str] = (),
        opener: AsyncOpener | None = None,
    ) -> None:
        self._make = make
        self._limit = limit
        self._timeout = timeout
        self.label = label
        self._secrets = secrets
        self._opener = opener
        self._idle: list[Any] = []
        self._in_use: set[Any] = set()
        self._free = asyncio.Semaphore(limit)
        self._keeper: AsyncGenerator[None, None] | None = None
        self._is_closed = False
        import redis.exceptions as theirs

        self._refusal = theirs.ResponseError
        self._lost = (theirs.ConnectionError, OSError)  # Unfit is an OSError

    async def exchange(
        self,
        operation: str,
        commands: Sequence[Command],
        budget: float | None = None,
        node: NodeName | None = None,
    ) -> list[Any]:
        """Do what LoopLink.exchange says; there is one node."""
        if len(commands) == 1:
            request = commands[0].data
        else:
            request = b"".join([command.data for command in commands])
        try:
            async with asyncio.timeout(self._timeout if budget is None else budget):
                return await self.finish(await self.begin(request, len(commands)))
        except Exception as error:
            failure = translate(error, self.label, operation, self._timeout, self._secrets)
        raise failure

    async def nodes(self) -> list[NodeName]:
        """Return the one there is."""
        return [self.label]

    async def begin(self, request: bytes, replies: int) -> Turn:
        """Send a request; the turn must be finished or forgotten."""
        if self._keeper is None:
            self._keeper = self._close_with_loop()
            await anext(self._keeper)
        if self._free.locked():
            await self._wait_for_one()
        else:
            await self._free.acquire()  # does not suspend
        try:
            connection = self._idle.pop() if self._idle else self._make()
        except BaseException:
            self._free.release()
            raise
        self._in_use.add(connection)
        may_retry = bool(connection.is_connected)
        try:
            if not may_retry:
                await self._send_first(connection, request)
            else:
                may_retry = await self._send_again(connection, request)
        except BaseException:
            await self._give_back(connection, False)
            raise
        return connection, may_retry, True, request, replies

    async def finish(self, turn: Turn) -> list[Any]:
        """Return the replies of a turn."""
        connection, may_retry, _, request, replies = turn
        is_sound = False
        try:
            try:
                answer = await self._receive(connection, replies)
            except self._lost as error:
                if not may_retry or isinstance(error, TimeoutError):
                    raise
                await self._send_anew(connection, request)
                answer = await self._receive(connection, replies)
            is_sound = True
            return answer
        finally:
            if is_sound and not self._is_closed:
                self._in_use.discard(connection)
                self._idle.append(connection)
                self._free.release()
            else:
                await self._give_back(connection, is_sound)

    async def forget(self, turn: Turn) -> None:
        """Let go of a turn whose replies nobody waits for."""
        await self._give_back(turn[0], False)

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._timeout * BUSY_SHARE):
                await self._free.acquire()
        except TimeoutError:
            raise StoreBusy(f"{self.label}: all {self._limit} connections are in use") from None

    async def _send_again(self, connection: Any, request: bytes) -> bool:
        """Send on a connection that had been idle; say whether it is the one that was."""
        try:
            await connection.send_packed_command(request, check_health=True)
        except self._lost as error:
            if isinstance(error, TimeoutError):
                raise
        else:
            return True
        await self._send_anew(connection, request)
        return False

    async def _send_anew(self, connection: Any, request: bytes) -> None:
        await connection.disconnect(nowait=True)
        await self._drop_idle()
        await self._send_first(connection, request)

    async def _send_first(self, connection: Any, request: bytes) -> None:
        if self._opener is not None:
            await self._opener.open(connection)
        await connection.send_packed_command(request, check_health=False)

    async def _receive(self, connection: Any, replies: int) -> list[Any]:
        if replies == 1:
            return [await self._reply(connection)]
        return [await self._reply(connection) for _ in range(replies)]

    async def _reply(self, connection: Any) -> Any:
        try:
            return await connection.read_response(True)
        except self._refusal as refusal:
            check_fit(refusal)
            return refusal

    async def _give_back(self, connection: Any, is_sound: bool) -> None:
        """Take back a connection that is not to be used again."""
        try:
            # Cancelled or failed: a reply may still be on its way, never reuse this socket.
            await connection.disconnect(nowait=True)
            if self._opener is not None and not is_sound:
                await self._drop_idle()  # another server may have taken the place of theirs
        finally:
            self._in_use.discard(connection)
            self._free.release()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._disconnect()

    def retire(self) -> None:
        """Keep no connection from now on."""
        self._is_closed = True

    async def aclose(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""
        if self._keeper is not None:
            await self._keeper.aclose()
        await self._disconnect()

    async def _disconnect(self) -> None:
        self.retire()
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        while self._idle:  # one by one: being cancelled in the midst of it loses none
            with suppress(Exception):
                await self._idle.pop().disconnect()

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
