"""Asyncio connections to one Redis server: one link per event loop, closed with its loop.

An asyncio connection belongs to the loop that opened it. A link therefore lives and dies with
one: it starts an async generator there and leaves it suspended, so that ``asyncio.run``, which
closes the generators of its loop, closes the link too. A loop that was closed without that
(``loop.close()`` by hand) leaves sockets that nobody can close politely; ``abandon`` drops them.

redis-py opens a connection and carries its first exchange; then a channel takes it over
(``_redis_channel``). An exchange over a channel needs no task: ``start`` sends it, and calls back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from tiercache.tiers._redis_blocking import BUSY_SHARE
from tiercache.tiers._redis_channel import (
    AsyncTurn,
    Channel,
    Done,
    abandon,
    drop_unsent,
    settle,
    take_over,
)
from tiercache.tiers._redis_errors import check_fit, translate
from tiercache.tiers._redis_permits import Permits
from tiercache.tiers.store import StoreBusy, StoreHeldUp

if TYPE_CHECKING:
    import redis.asyncio

    from tiercache.errors import StoreError
    from tiercache.tiers._redis_link import Command, NodeName, Told
    from tiercache.tiers._redis_sentinel import AsyncOpener

LATE_SHARE = 0.1  # of the timeout, by which the loop is late that has not looked meanwhile


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
        self._idle: list[Any] = []  # channels, and connections that none could take over
        self._in_use: set[Any] = set()
        self._permits = Permits(limit)  # one for each that is in use
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
        deadline = self._deadline(budget)
        try:
            turn = self._begin_at_once(request, len(commands), deadline)
            if turn is not None and (replies := await self._answer(turn)) is not None:
                return replies
            async with asyncio.timeout_at(deadline):
                if turn is None:
                    turn = await self._begin(request, len(commands), deadline)
                    return await self.finish(turn)
                return await self._finish_anew(turn)
        except Exception as error:
            failure = self._failure(error, operation, deadline)
        raise failure

    def _failure(self, error: Exception, operation: str, deadline: float) -> StoreError:
        """Return what failed as one of our errors."""
        late = asyncio.get_running_loop().time() - deadline
        if isinstance(error, TimeoutError) and late > LATE_SHARE * self._timeout:
            return StoreHeldUp(
                f"{self.label}: {operation} was given up {late:.3g} s late, since something held "
                "up the event loop; have it call blocking code in a thread"
            )
        return translate(error, self.label, operation, self._timeout, self._secrets)

    async def nodes(self) -> list[NodeName]:
        """Return the one there is."""
        return [self.label]

    def _deadline(self, budget: float | None) -> float:
        return asyncio.get_running_loop().time() + (self._timeout if budget is None else budget)

    # In two halves: a cluster sends to all of its nodes before it waits for the first

    async def begin(self, request: bytes, replies: int) -> AsyncTurn:
        """Send a request; the turn must be finished or forgotten."""
        deadline = self._deadline(2 * self._timeout)  # the caller has a tighter one
        turn = self._begin_at_once(request, replies, deadline)
        return await self._begin(request, replies, deadline) if turn is None else turn

    async def finish(self, turn: AsyncTurn) -> list[Any]:
        """Return the replies of a turn."""
        if turn.answer is None:
            return await self._finish_theirs(turn)
        answer = await self._answer(turn)
        return await self._finish_anew(turn) if answer is None else answer

    async def forget(self, turn: AsyncTurn) -> None:
        """Let go of a turn whose replies nobody waits for."""
        if turn.answer is None:
            await self._give_back(turn.carrier, False)
        elif not turn.answer.done():
            self._break_off(turn)
        elif not turn.answer.cancelled():
            turn.answer.exception()  # nobody else looks

    async def _begin(self, request: bytes, replies: int, deadline: float) -> AsyncTurn:
        """Send a request, over a new connection if none is idle."""
        await self._take_permit()
        channel = self._idle_channel()
        if channel is None:
            return await self._begin_theirs(request, replies)
        return self._begin_over(channel, request, replies, deadline)

    async def _finish_anew(self, turn: AsyncTurn) -> list[Any]:
        """Repeat a turn whose channel was lost over a new connection."""
        await self._take_permit()
        try:
            await self._drop_idle()  # they died of the same cause, most likely
        except BaseException:
            self._permits.give_back()
            raise
        again = await self._begin_theirs(turn.request, turn.replies)
        return await self._finish_theirs(again)

    # Over channels

    def start(
        self, operation: str, request: bytes, replies: int, budget: float | None, done: Told
    ) -> bool:
        """Do what LoopLink.start says."""
        channel = self._take_channel()
        if channel is None:
            return False
        deadline = self._deadline(budget)
        tell = partial(self._tell, operation, deadline, done)
        self._ask(channel, request, replies, deadline, tell)
        return True

    def _tell(
        self, operation: str, deadline: float, done: Told, outcome: list[Any] | Exception
    ) -> None:
        if not isinstance(outcome, Exception):
            done(outcome)
        elif isinstance(outcome, self._lost) and not isinstance(outcome, TimeoutError):
            done(None)
        else:
            done(self._failure(outcome, operation, deadline))

    def _take_channel(self) -> Channel | None:
        """Return an idle channel, with a permit; None if there is not both."""
        if not self._idle or not self._permits.take():
            return None
        channel = self._idle_channel()
        if channel is None:
            self._permits.give_back()
        return channel

    def _idle_channel(self) -> Channel | None:
        idle = self._idle
        while idle and idle[-1].__class__ is Channel:
            channel: Channel = idle.pop()
            if channel.is_open:
                return channel
        return None

    def _begin_at_once(self, request: bytes, replies: int, deadline: float) -> AsyncTurn | None:
        channel = self._take_channel()
        return None if channel is None else self._begin_over(channel, request, replies, deadline)

    def _begin_over(
        self, channel: Channel, request: bytes, replies: int, deadline: float
    ) -> AsyncTurn:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._ask(channel, request, replies, deadline, partial(settle, answer))
        channel.answer = answer
        return AsyncTurn(channel, answer, True, request, replies)

    def _ask(
        self, channel: Channel, request: bytes, replies: int, deadline: float, done: Done
    ) -> None:
        self._in_use.add(channel)
        channel.ask(request, replies, deadline, partial(self._ended, channel, done))

    def _ended(self, channel: Channel, done: Done, answer: list[Any] | Exception) -> None:
        self._in_use.discard(channel)
        channel.answer = None
        if channel.is_open and not self._is_closed:
            self._idle.append(channel)
        else:
            channel.close()
            if self._opener is not None and isinstance(answer, Exception):
                self._close_idle_channels()  # another server may have taken the place of theirs
        self._permits.give_back()
        done(answer)

    async def _answer(self, turn: AsyncTurn) -> list[Any] | None:
        """Return the replies that came over a channel; None: it was lost."""
        answer = turn.answer
        assert answer is not None
        try:
            return await answer
        except self._lost as error:
            if isinstance(error, TimeoutError):
                raise
            return None
        finally:
            if answer.cancelled():
                self._break_off(turn)

    def _break_off(self, turn: AsyncTurn) -> None:
        """Let go of a channel over which a reply may still be on its way.

        It may have come since the future was cancelled: then the channel is not this turn's any
        more, but idle, or carries another exchange.
        """
        channel = turn.carrier
        if channel.answer is not turn.answer:
            return
        channel.answer = None
        channel.close()
        self._in_use.discard(channel)
        self._permits.give_back()

    def _close_idle_channels(self) -> None:
        while (channel := self._idle_channel()) is not None:
            channel.close()

    # Over redis-py

    async def _take_permit(self) -> None:
        if self._keeper is None:
            self._keeper = self._close_with_loop()
            await anext(self._keeper)
        if not self._permits.take():
            await self._wait_for_one()

    async def _begin_theirs(self, request: bytes, replies: int) -> AsyncTurn:
        """Send a request over a connection that is new, or that could not be taken over."""
        try:
            is_theirs = self._idle and not isinstance(self._idle[-1], Channel)
            connection = self._idle.pop() if is_theirs else self._make()
        except BaseException:
            self._permits.give_back()
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
        return AsyncTurn(connection, None, may_retry, request, replies)

    async def _finish_theirs(self, turn: AsyncTurn) -> list[Any]:
        connection, _, may_retry, request, replies = turn
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
                self._idle.append(take_over(connection, self._refusal) or connection)
                self._permits.give_back()
            else:
                await self._give_back(connection, is_sound)

    async def _wait_for_one(self) -> None:
        try:
            async with asyncio.timeout(self._timeout * BUSY_SHARE):
                await self._permits.wait()
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
            if not is_sound:
                drop_unsent(connection)
            await connection.disconnect(nowait=True)
            if self._opener is not None and not is_sound:
                await self._drop_idle()  # another server may have taken the place of theirs
        finally:
            self._in_use.discard(connection)
            self._permits.give_back()

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
        closing = [one for one in self._idle if isinstance(one, Channel)]
        await self._drop_idle()
        for one in list(self._in_use):
            if isinstance(one, Channel) and one.answer is None:
                one.lose()
                closing.append(one)
        try:
            async with asyncio.timeout(self._timeout):
                for channel in closing:
                    await channel.wait_closed()
        except TimeoutError:
            for channel in closing:
                channel.abort()

    async def _drop_idle(self) -> None:
        while self._idle:  # one by one: being cancelled in the midst of it loses none
            one = self._idle.pop()
            if isinstance(one, Channel):
                one.close()
                continue
            with suppress(Exception):
                await one.disconnect()

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
        for carrier in (*self._idle, *self._in_use):
            abandon(carrier)
        self._idle.clear()
        self._in_use.clear()
