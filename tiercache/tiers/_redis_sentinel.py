"""Finding the master that sentinels name: asked anew for each connection.

A connection is opened in three steps: ask a sentinel where the master is, connect there, and ask
that server for its role. The last catches what sentinels have not heard of yet, and a master that
has just been demoted. The sentinel that answered last is asked first the next time, so one that
is dead costs its share of the timeout once.

While a failover is under way every attempt fails at once, or within the timeout; as soon as the
sentinels name the new master the next connection goes there. Whoever finds a connection lost drops
the idle ones, too (``_redis_blocking``), and sentinels close those of a master they demote.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from tiercache.errors import StoreError
from tiercache.tiers._redis_address import Address
from tiercache.tiers._redis_asking import (
    ASK_SHARE,
    Consultation,
    Useless,
    aask_in_turn,
    ask_in_turn,
    consult,
)
from tiercache.tiers._redis_wire import encode, pack

if TYPE_CHECKING:
    from tiercache.tiers._redis_settings import SentinelEndpoint

_ROLE: Final = b"*1\r\n$4\r\nROLE\r\n"
_MIN_CONNECT_SECONDS: Final = 0.01


class Sentinels:
    """Whom to ask for the master of a service, in which order. Shared by threads and loops."""

    def __init__(self, addresses: tuple[Address, ...], service: str, label: str) -> None:
        self._order = addresses  # replaced as a whole
        self._service = service
        self._label = label
        self.question = pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", encode(service))

    def consultation(self, seconds: float, secrets: frozenset[str]) -> Consultation[Address]:
        """Return the asking, to be driven."""
        complaint = f"{self._label}: no sentinel could name the master"
        return consult(self._order, seconds, self._understand, complaint, secrets)

    def _understand(self, reply: Any, place: Address) -> Address:
        if reply is None:
            raise Useless(f"knows no master {self._service!r}")
        try:
            host, port = reply
            master = Address(bytes(host).decode(), int(port))
        except (TypeError, ValueError):
            raise Useless("gave no address") from None
        if self._order[0] != place:
            self._order = (place, *(one for one in self._order if one != place))
        return master


class BlockingOpener:
    """Opens blocking connections to the master, wherever it is."""

    def __init__(self, endpoint: SentinelEndpoint, timeout: float) -> None:
        import redis.exceptions as theirs

        self._endpoint = endpoint
        self._timeout = timeout
        self._connect = endpoint.blocking_to_sentinel(timeout)
        self._refusal = theirs.ResponseError

    def aim(self, connection: Any) -> None:
        """Tell a connection where to go."""
        sentinels = self._endpoint.sentinels
        steps = sentinels.consultation(self._timeout * ASK_SHARE, self._endpoint.secrets)
        master = ask_in_turn(steps, self._connect, sentinels.question)
        connection.host, connection.port = master

    def open(self, connection: Any) -> None:
        """Connect to the master, and make sure that it is one."""
        began = time.monotonic()
        self.aim(connection)
        spent = time.monotonic() - began
        usual = connection.socket_connect_timeout
        connection.socket_connect_timeout = max(_MIN_CONNECT_SECONDS, (usual or 0) - spent)
        try:
            connection.send_packed_command((_ROLE,), check_health=False)
        finally:
            connection.socket_connect_timeout = usual
        try:
            role = connection.read_response(True)
        except self._refusal:  # perhaps not permitted to us: READONLY will tell
            return
        _check_role(role, connection)


class AsyncOpener:
    """Opens asyncio connections to the master, wherever it is."""

    def __init__(self, endpoint: SentinelEndpoint, timeout: float) -> None:
        import redis.exceptions as theirs

        self._endpoint = endpoint
        self._timeout = timeout
        self._connect = endpoint.asyncio_to_sentinel(timeout)
        self._refusal = theirs.ResponseError

    async def open(self, connection: Any) -> None:
        """Connect to the master, and make sure that it is one."""
        sentinels = self._endpoint.sentinels
        steps = sentinels.consultation(self._timeout * ASK_SHARE, self._endpoint.secrets)
        master = await aask_in_turn(steps, self._connect, sentinels.question)
        connection.host, connection.port = master
        await connection.send_packed_command(_ROLE, check_health=False)
        try:
            role = await connection.read_response(True)
        except self._refusal:  # perhaps not permitted to us: READONLY will tell
            return
        _check_role(role, connection)


def _check_role(role: Any, connection: Any) -> None:
    if not isinstance(role, list) or role[:1] != [b"master"]:
        place = Address(connection.host, connection.port)
        raise StoreError(f"{place}, which the sentinels name, is not a master (any more)")
