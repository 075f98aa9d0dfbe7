"""Reading a namespace's log: a stream, read from a position of one's own.

A pub/sub subscriber that is cut off for a moment loses what was said meanwhile, and is not told.
A stream keeps it. That it has been kept is checked, too: the message at the position where a read
began must still be there *after* the read; what follows it cannot have been trimmed, then.

A server may also lose what it has acknowledged: a replica that takes over lags behind, a restart
brings back yesterday's snapshot. Then a message that was there is not, while older ones are; the
entries it was about are back as they were before. So the namespace is cleared. Each process checks
that for the last message it has read, and for the last of its own.
"""

from __future__ import annotations

from contextlib import suppress
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any, Final

from tiercache.errors import StoreError
from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_errors import refusal_text
from tiercache.tiers.store import LogGap, Message, StoreRefused

if TYPE_CHECKING:
    from tiercache.tiers._redis_namespace import RedisNamespace
    from tiercache.tiers.redis import Redis

_COUNT: Final = b"512"  # messages per reply


class RedisTail:
    """A reader of the log, on a connection of its own: a blocked one can do nothing else."""

    def __init__(self, store: Redis, namespace: RedisNamespace, position: str | None) -> None:
        self._store = store
        self._namespace = namespace
        self._log = namespace.plans.keys.log
        self._position = None if position is None else position.encode()
        self._before = self._position  # the position at which the last read began
        self._connection: Any = None
        self._is_interrupted = False
        self._refusal: type[Exception] = StoreRefused  # redis-py's, once that is imported

    def read(self, wait: float) -> list[Message]:
        """Return the next messages; wait for up to ``wait`` seconds."""
        try:
            if self._position is None:
                self._go_to_the_end()
            return self._read(wait)
        except LogGap:
            raise
        except Exception as error:
            self.close()
            self._is_interrupted = False
            self._namespace.plans.heard = None
            failure = self._store.translate(error, "log")
        raise failure  # outside: redis-py's frames, which the chain would keep, hold the login

    def _go_to_the_end(self) -> None:
        """Take the log's end for the position, and own up to having missed what came before."""
        self._namespace.plans.forget()
        self._position = self._before = self._namespace.log_end().encode()
        raise LogGap

    def _read(self, wait: float) -> list[Message]:
        assert self._position is not None
        assert self._before is not None
        connection = self._connection or self._connect()
        if self._is_interrupted:  # from here on there is a socket to be cut
            self._is_interrupted = False
            raise StoreError("interrupted")
        connection.send_packed_command(
            [
                self._range(self._before, self._before)
                + wire.pack(
                    *(b"XREAD", b"COUNT", _COUNT, b"BLOCK", b"%d" % max(1, int(wait * 1000))),
                    *(b"STREAMS", self._log, self._position),
                )
            ],
            check_health=False,
        )
        if not self._reply(connection, self._store.timeout):
            self.close()  # the answer to XREAD is still to come
            self._clear_if_lost(self._connect(), self._before)
            self._position = None
            with suppress(StoreError):  # then it is looked for again, and is a gap again
                self._go_to_the_end()
            raise LogGap
        streams = self._reply(connection, wait + self._store.timeout)
        entries = streams[0][1] if streams else []
        self._before = self._position
        if entries:
            self._position = entries[-1][0]
        self._namespace.plans.heard = self._position.decode()
        found = [wire.read_message(fields) for _, fields in entries]
        messages = [message for message in found if message is not None]
        self._namespace.plans.heed(messages)
        return messages

    def _range(self, first: bytes, last: bytes) -> bytes:
        return wire.pack(b"XRANGE", self._log, first, last, b"COUNT", b"1")

    def _connect(self) -> Any:
        from redis.exceptions import ResponseError

        self._refusal = ResponseError
        self._connection = connection = self._store.dedicated(self._log)
        connection.connect()
        said = self._namespace.plans.said
        if said is not None and self._clear_if_lost(connection, said):
            self._go_to_the_end()
        return connection

    def _clear_if_lost(self, connection: Any, position: bytes) -> bool:
        """Clear the namespace if a message is missing that came after one which is still there."""
        connection.send_packed_command(
            [self._range(position, position) + self._range(b"-", b"+")], check_health=False
        )
        found = self._reply(connection, self._store.timeout)
        first = self._reply(connection, self._store.timeout)
        if found or not first or _order(first[0][0]) > _order(position):
            return False
        self._namespace.plans.said = None
        self._namespace.clear()
        return True

    def _reply(self, connection: Any, timeout: float) -> Any:
        # The public ``timeout=`` of read_response is new in redis-py 7; the socket is as old as it.
        connection._sock.settimeout(timeout)  # noqa: SLF001
        reply, refusal = None, ""
        try:
            reply = connection.read_response(True)
        except self._refusal as error:
            refusal = refusal_text(error)
        if refusal:
            raise StoreRefused(f"{self._store.label} refused log: {refusal}")
        if reply is not None and not isinstance(reply, list):
            raise StoreError(f"{self._store.label} answered log with a {type(reply).__name__}")
        return reply

    def interrupt(self) -> None:
        """Cut the connection, so that a waiting read fails."""
        self._is_interrupted = True
        connection = self._connection
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the position is kept."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


def _order(position: bytes) -> tuple[int, int]:
    milliseconds, _, number = position.partition(b"-")
    return int(milliseconds), int(number)
