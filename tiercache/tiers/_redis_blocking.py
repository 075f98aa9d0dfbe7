"""Blocking connections to one Redis server: a bounded last-in-first-out pool, exchanges over it.

redis-py's connections do the connecting, logging in, TLS and parsing. Its pool and command layer
do not take part: they cost more than the rest of a GET. Instead of polling a socket before each
use, an exchange that fails on a connection that had been idle is tried once more on a new one;
every command the store sends may be repeated. A timeout is never tried again.

An exchange has two halves, ``begin`` (send) and ``finish`` (receive), so that a cluster can send to
all of its nodes before it waits for the first.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tiercache.tiers._redis_errors import check_fit, translate
from tiercache.tiers.store import StoreBusy

if TYPE_CHECKING:
    import redis

    from tiercache.tiers._redis_link import Command, NodeName
    from tiercache.tiers._redis_sentinel import BlockingOpener

BUSY_SHARE: Final = 0.5  # of the timeout, at most, is spent waiting for a free connection

# What is under way: the connection, whether to try again if it is lost, whether to keep it, the
# request, the number of its replies. A plain tuple: one is made for each exchange.
Turn: TypeAlias = tuple[Any, bool, bool, bytes, int]


class BlockingLink:
    """All blocking connections of one store to one server, for any number of threads.

    Args:
        make: Returns an unconnected connection.
        limit: How many there may be.
        timeout: Seconds to wait for connecting, and for each reply.
        label: Names the server in errors.
        secrets: Passwords, to be kept out of errors.
        opener: Finds the server anew for each connection, where another may have taken its place.
    """

    def __init__(
        self,
        make: Callable[[], redis.Connection],
        limit: int,
        timeout: float,
        label: str,
        secrets: Collection[str] = (),
        opener: BlockingOpener | None = None,
    ) -> None:
        self._make = make
        self._limit = limit
        self._timeout = timeout
        self.label = label
        self._secrets = secrets
        self._opener = opener
        self._idle: list[Any] = []  # append and pop are atomic
        self._returned = threading.Condition()
        self._open = 0  # connections in use or idle; guarded by _returned
        self._waiting = 0  # threads in _wait_for_one; guarded by _returned
        self._is_closed = False
        import redis.connection
        import redis.exceptions as theirs

        read = redis.connection.AbstractConnection.read_response
        self._takes_budget = "timeout" in inspect.signature(read).parameters  # redis-py 7 and up
        self._refusal = theirs.ResponseError
        self._lost = (theirs.ConnectionError, OSError)  # Unfit is an OSError

    def exchange(
        self,
        operation: str,
        commands: Sequence[Command],
        budget: float | None = None,
        node: NodeName | None = None,
    ) -> list[Any]:
        """Do what Link.exchange says; budget is for each reply; there is one node."""
        if len(commands) == 1:
            request = commands[0].data
        else:
            request = b"".join([command.data for command in commands])
        try:
            return self.finish(self.begin(request, len(commands), budget), budget)
        except Exception as error:
            failure = translate(error, self.label, operation, self._timeout, self._secrets)
        raise failure

    def nodes(self) -> list[NodeName]:
        """Return the one there is."""
        return [self.label]

    def dedicated(self, key: bytes | None, timeout: float) -> redis.Connection:
        """Return an unconnected connection, whatever the key."""
        try:
            connection = self._make()
            if self._opener is not None:
                self._opener.aim(connection)
        except Exception as error:
            failure = translate(error, self.label, "connect", self._timeout, self._secrets)
        else:
            connection.socket_timeout = timeout
            return connection
        raise failure

    def begin(self, request: bytes, replies: int, budget: float | None = None) -> Turn:
        """Send a request; the turn must be finished or forgotten.

        With a budget a new connection has no more than that for logging in, and is not kept.
        """
        connection, is_reused = self._take()
        try:
            if is_reused:
                may_retry = self._send_again(connection, request)
                return connection, may_retry, True, request, replies
            if budget is not None:
                connection.socket_timeout = connection.socket_connect_timeout = budget
            self._send_first(connection, request)
        except BaseException:
            self._give_back(connection, False)
            raise
        return connection, False, budget is None, request, replies

    def finish(self, turn: Turn, budget: float | None = None) -> list[Any]:
        """Return the replies of a turn; budget is for each."""
        connection, may_retry, may_keep, request, replies = turn
        is_sound = False
        try:
            try:
                answer = [self._reply(connection, budget) for _ in range(replies)]
            except self._lost as error:
                if not may_retry or isinstance(error, TimeoutError):
                    raise
                self._send_anew(connection, request)
                answer = [self._reply(connection, budget) for _ in range(replies)]
            is_sound = may_keep
            return answer
        finally:
            self._give_back(connection, is_sound)

    def forget(self, turn: Turn) -> None:
        """Let go of a turn whose replies nobody waits for."""
        self._give_back(turn[0], False)

    def _send_again(self, connection: Any, request: bytes) -> bool:
        """Send on a connection that had been idle; say whether it is the one that was."""
        try:
            connection.send_packed_command((request,), check_health=True)  # PING first after 30 s
        except self._lost as error:
            if isinstance(error, TimeoutError):
                raise
        else:
            return True
        self._send_anew(connection, request)
        return False

    def _send_anew(self, connection: Any, request: bytes) -> None:
        connection.disconnect()
        self._drop_idle()  # they died of the same cause, most likely
        self._send_first(connection, request)

    def _send_first(self, connection: Any, request: bytes) -> None:
        if self._opener is not None:
            self._opener.open(connection)
        connection.send_packed_command((request,), check_health=False)

    def _reply(self, connection: Any, budget: float | None) -> Any:
        try:
            if budget is None:
                return connection.read_response(True)
            if self._takes_budget:
                return connection.read_response(True, timeout=budget)
            return self._read_within(connection, budget)
        except self._refusal as refusal:
            check_fit(refusal)
            return refusal

    def _read_within(self, connection: Any, budget: float) -> Any:
        sock = connection._sock  # noqa: SLF001 - before redis-py 7 there is no public way
        sock.settimeout(budget)
        try:
            return connection.read_response(True)
        finally:
            with suppress(OSError):  # closed meanwhile
                sock.settimeout(self._timeout)

    def _take(self) -> tuple[Any, bool]:
        """Return a connection, and whether it was used before."""
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._wait_for_one()

    def _wait_for_one(self) -> tuple[Any, bool]:
        deadline = time.monotonic() + self._timeout * BUSY_SHARE
        with self._returned:
            self._waiting += 1
            try:
                # _waiting was raised before this look at _idle, and _give_back looks at it after
                # its append: one of the two sees the other.
                while (taken := self._idle_or_new()) is None:
                    if not self._returned.wait(max(0.0, deadline - time.monotonic())):
                        raise StoreBusy(f"{self.label}: all {self._limit} connections are in use")
                return taken
            finally:
                self._waiting -= 1

    def _idle_or_new(self) -> tuple[Any, bool] | None:
        with suppress(IndexError):
            return self._idle.pop(), True
        if self._open == self._limit:
            return None
        connection = self._make()
        self._open += 1
        return connection, False

    def _give_back(self, connection: Any, is_sound: bool) -> None:
        if not is_sound or self._is_closed:
            # After a failure a reply may still be on its way: never reuse this socket.
            connection.disconnect()
            self._count_one_less()
            if self._opener is not None and not is_sound:
                self._drop_idle()  # another server may have taken the place of theirs
            return
        self._idle.append(connection)
        if self._is_closed:  # meanwhile
            self._drop_idle()
        if self._waiting:
            with self._returned:
                self._returned.notify()

    def _count_one_less(self) -> None:
        with self._returned:
            self._open -= 1
            self._returned.notify()

    def _drop_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().disconnect()
                self._count_one_less()

    def retire(self) -> None:
        """Keep no connection from now on."""
        self._is_closed = True

    def close(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""
        self.retire()
        self._drop_idle()
