"""The wire of one asyncio connection, without a task, a stream or a timer for each exchange.

redis-py connects and logs in. Its way of reading (coroutines over a StreamReader) costs as much as
all the rest of a read, so a connection that has proved good is taken over: a `Channel` takes the
place of the stream's protocol on the transport, writes requests to it, and is called by the event
loop with what arrives. It carries one exchange at a time. One timer serves many exchanges: when it
rings it looks how late it is, and is set again if that is not late enough.

How an exchange ends is told by a call, in the same turn of the loop. So nobody is needed who waits,
and nobody's cancellation matters. Idle connections are not probed: the loop tells of one that was
closed, and of one that is silent an exchange finds out in its time, as a PING would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from tiercache.tiers._redis_errors import check_fit
from tiercache.tiers._redis_replies import MakeError, new_reader

#: Told how an exchange ended, once: with the replies, or an exception. Must not raise.
Done = Callable[["list[Any] | Exception"], None]


class AsyncTurn(NamedTuple):
    """An exchange under way."""

    carrier: Any  # a channel, or a connection of redis-py's
    answer: asyncio.Future[list[Any]] | None  # of a channel
    may_retry: bool  # whether a connection had been idle
    request: bytes
    replies: int


class Channel(asyncio.Protocol):
    """One connection, taken over from redis-py.

    Args:
        writer: Of the connection's stream. Kept, since it closes its transport when it is lost.
        make_error: Makes exceptions of error replies.
        refusal: The class of those that are about a command, and not about the server.
    """

    def __init__(self, writer: Any, make_error: MakeError, refusal: type[Exception]) -> None:
        self._writer = writer
        self._transport: asyncio.Transport = writer.transport
        self._loop = asyncio.get_running_loop()
        self._reader = new_reader(make_error)
        self._refusal = refusal
        self._done: Done | None = None  # of the exchange under way
        self._count = 0  # its replies
        self._replies: list[Any] = []
        self._deadline = 0.0  # loop time
        self._timer: asyncio.TimerHandle | None = None
        self._gone = self._loop.create_future()  # done when the transport is
        self.is_open = True
        #: Of the exchange under way, where somebody awaits it who ends it if he is cancelled.
        self.answer: asyncio.Future[list[Any]] | None = None
        self._transport.set_protocol(self)

    def ask(self, request: bytes, replies: int, deadline: float, done: Done) -> None:
        """Send a request; ``done`` is called in a later turn of the loop, by the deadline."""
        self._done, self._count, self._deadline = done, replies, deadline
        timer = self._timer
        if timer is None or timer.when() > deadline:
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(deadline, self._ring)
        self._transport.write(request)

    def close(self) -> None:
        """Be of no more use; whoever waits for replies is told nothing.

        What has not been sent yet is dropped: a write that was given up would take effect later.
        """
        is_under_way = self._done is not None
        self.is_open = False
        self._done = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if is_under_way:
            self._transport.abort()
        else:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        await asyncio.shield(self._gone)

    def abort(self) -> None:
        """Close the socket now, whatever the other side thinks of it."""
        self._transport.abort()

    def abandon(self) -> None:
        """Close the socket of a loop that is closed: see ``_drop_socket``."""
        self.is_open = False
        _drop_socket(self._transport)

    # What the event loop calls

    def data_received(self, data: bytes) -> None:
        """Take in what has arrived."""
        try:
            is_complete = self._take(data)
        except Exception as error:
            self._end(error)
            return
        if is_complete:
            done, self._done = self._done, None
            replies, self._replies = self._replies, []
            assert done is not None
            done(replies)

    def _take(self, data: bytes) -> bool:
        reader, replies = self._reader, self._replies
        reader.feed(data)
        if self._done is None:
            raise ValueError("a reply that nobody has asked for")
        while len(replies) < self._count:
            reply = reader.gets()
            if reply is False:
                return False
            if isinstance(reply, Exception):
                self._check(reply)
            replies.append(reply)
        if reader.has_data():  # it would be taken for the answer to what is asked next
            self.is_open = False
        return True

    def _check(self, reply: Exception) -> None:
        """Raise an error reply that is about the server, and not about the command."""
        if not isinstance(reply, self._refusal):
            raise reply
        check_fit(reply)

    def eof_received(self) -> None:
        """Be used no more; the transport closes itself."""
        self.is_open = False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits that there is nothing to come."""
        if not self._gone.done():
            self._gone.set_result(None)
        self._end(error if isinstance(error, OSError) else ConnectionResetError("it was closed"))

    def _ring(self) -> None:
        self._timer = None
        if self._done is None:
            return
        if self._loop.time() >= self._deadline:
            self._end(TimeoutError())
        else:
            self._timer = self._loop.call_at(self._deadline, self._ring)

    def lose(self) -> None:
        """Close, and have whoever waits take it for lost."""
        self._end(ConnectionResetError("closed here"))

    def _end(self, error: Exception) -> None:
        done = self._done
        self.close()
        if done is not None:
            done(error)


def take_over(connection: Any, refusal: type[Exception]) -> Channel | None:
    """Return a channel in place of the streams of a connection that is between two exchanges.

    To redis-py it is disconnected from then on. None where it is not redis-py's own, or not as we
    know it: then redis-py goes on reading.
    """
    if type(connection).__module__ != "redis.asyncio.connection":
        return None
    writer = getattr(connection, "_writer", None)
    transport = getattr(writer, "transport", None)
    make_error = getattr(getattr(connection, "_parser", None), "parse_error", None)
    if transport is None or make_error is None or transport.is_closing():
        return None
    connection._reader = connection._writer = None  # noqa: SLF001 - there is no public way
    return Channel(writer, make_error, refusal)


def drop_unsent(connection: Any) -> None:
    """Have a connection of redis-py's, about to be disconnected, send no more."""
    transport = getattr(getattr(connection, "_writer", None), "transport", None)
    if transport is not None:
        transport.abort()


def abandon(carrier: Any) -> None:
    """Close a channel or a connection whose loop is closed."""
    if isinstance(carrier, Channel):
        carrier.abandon()
        return
    writer = getattr(carrier, "_writer", None)
    carrier._writer = carrier._reader = None  # noqa: SLF001 - there is no public way
    _drop_socket(getattr(writer, "transport", None))


def settle(answer: asyncio.Future[list[Any]], outcome: list[Any] | Exception) -> None:
    """Have a future end as an exchange did, unless its reader is gone."""
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _drop_socket(transport: Any) -> None:
    """Close the socket of a transport whose loop is closed.

    There is no public way: close() needs the loop, and leaving it to the garbage collector warns
    of an unclosed transport. Where the names below are missing, it warns.
    """
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        transport._sock = None  # noqa: SLF001 - see above
        transport._closing = True  # noqa: SLF001
        with suppress(OSError):
            sock.close()
