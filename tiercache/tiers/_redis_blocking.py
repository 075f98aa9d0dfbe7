"""Blocking connections to Redis: a bounded last-in-first-out pool, and one exchange over it.

redis-py's connections do the connecting, logging in, TLS and parsing. Its pool and command layer
do not take part: they cost more than the rest of a GET. Instead of polling a socket before each
use, an exchange that fails on a connection that had been idle is tried once more on a new one;
every command the store sends may be repeated. A timeout is never tried again.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tiercache.tiers._redis_errors import translate
from tiercache.tiers.store import StoreBusy

if TYPE_CHECKING:
    import redis

BUSY_SHARE: Final = 0.5  # of the timeout, at most, is spent waiting for a free connection


class BlockingLink:
    """All blocking connections of one store, for any number of threads."""

    def __init__(
        self, make: Callable[[], redis.Connection], limit: int, timeout: float, label: str
    ) -> None:
        self._make = make
        self._limit = limit
        self._timeout = timeout
        self._label = label
        self._idle: list[Any] = []  # append and pop are atomic
        self._returned = threading.Condition()
        self._open = 0  # connections in use or idle; guarded by _returned
        self._waiting = 0  # threads in _wait_for_one; guarded by _returned
        self._is_closed = False
        import redis.connection
        import redis.exceptions as theirs

        read = redis.connection.AbstractConnection.read_response
        self._takes_budget = "timeout" in inspect.signature(read).parameters  # redis-py 7 and up
        self._lost = (theirs.ConnectionError, OSError)
        self._refusal = theirs.ResponseError

    def exchange(
        self, operation: str, request: bytes, replies: int, budget: float | None = None
    ) -> list[Any]:
        """Send request, return its replies; a reply that is an error is returned, not raised.

        Args:
            operation: For the error message.
            request: One or more packed commands.
            replies: How many.
            budget: Seconds to wait for a reply if less than the timeout is left.

        Raises:
            StoreError: Also as StoreTimeout or StoreBusy. The connection is gone then.
        """
        try:
            return self._exchange(request, replies, budget)
        except Exception as error:
            raise translate(error, self._label, operation, self._timeout) from error

    def _exchange(self, request: bytes, replies: int, budget: float | None) -> list[Any]:
        connection, is_reused = self._take()
        is_sound = False
        if budget is not None and not is_reused:
            # Log in no longer than that either. Such a connection is not kept.
            connection.socket_timeout = connection.socket_connect_timeout = budget
        try:
            try:
                answer = self._talk(connection, request, replies, budget, is_reused)
            except self._lost as error:
                if not is_reused or isinstance(error, TimeoutError):
                    raise
                connection.disconnect()
                self._drop_idle()  # they died of the same cause, most likely
                answer = self._talk(connection, request, replies, budget, False)
            is_sound = is_reused or budget is None
            return answer
        finally:
            self._give_back(connection, is_sound)

    def _talk(
        self, connection: Any, request: bytes, replies: int, budget: float | None, is_reused: bool
    ) -> list[Any]:
        # A new connection needs no PING; an idle one gets it after 30 s.
        connection.send_packed_command((request,), check_health=is_reused)
        return [self._reply(connection, budget) for _ in range(replies)]

    def _reply(self, connection: Any, budget: float | None) -> Any:
        try:
            if budget is None or not self._takes_budget:
                return connection.read_response(True)
            return connection.read_response(True, timeout=budget)
        except self._refusal as refusal:
            return refusal

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
                        raise StoreBusy(f"{self._label}: all {self._limit} connections are in use")
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
            return
        self._idle.append(connection)
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

    def close(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""
        self._is_closed = True
        self._drop_idle()
