"""Links: how the Redis store gets commands to wherever they belong, and the replies back.

A link hides what Redis is made of. ``exchange`` takes commands in the order they are to be done
and returns their replies in the same order, in one round trip, whether they went to one server, to
the master that sentinels named, or to several nodes of a cluster. One `Link` serves all threads; a
`LoopLink` serves one event loop.

An error reply comes back as an exception object in its place: what a refusal means, the store
knows. A server that says it is not fit to serve at all (read-only, loading, down) is no refusal
but trouble, and raised as StoreError, with the connection dropped.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from tiercache.tiers._redis_settings import AnyEndpoint, ClusterEndpoint

if TYPE_CHECKING:
    import asyncio

    import redis

    from tiercache.errors import StoreError

Told: TypeAlias = "Callable[[list[Any] | StoreError | None], None]"
NodeName: TypeAlias = Hashable  # opaque outside of the link that named it


_importing = threading.RLock()


class Command(NamedTuple):
    """One command, and what decides where it goes."""

    key: bytes | None  # the physical key whose slot it belongs to; None: any node will do
    data: bytes  # packed


class Link(Protocol):
    """All blocking connections of one store, for any number of threads."""

    def exchange(
        self,
        operation: str,
        commands: Sequence[Command],
        budget: float | None = None,
        node: NodeName | None = None,
    ) -> list[Any]:
        """Send commands, return their replies; a reply that is an error is returned, not raised.

        Args:
            operation: For the error message.
            commands: At least one. Those of one key are done in this order.
            budget: Seconds to wait if less than the timeout is left.
            node: One of `nodes`, where all commands are to go, whatever their keys.

        Raises:
            StoreError: Also as StoreTimeout or StoreBusy. Some of the commands may have been done.
        """

    def nodes(self) -> list[NodeName]:
        """Return every server that holds keys of its own, for what each of them must do."""

    def dedicated(self, key: bytes | None, timeout: float) -> redis.Connection:
        """Return an unconnected connection to the server of a key; the caller's to close.

        Whoever loses it should ask for another one: the key may have moved.

        Args:
            key: A physical key.
            timeout: Seconds it waits for a reply.

        Raises:
            StoreError: If nobody can say where the key is.
        """

    def close(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""


class LoopLink(Protocol):
    """All asyncio connections of one store in one event loop."""

    async def exchange(
        self,
        operation: str,
        commands: Sequence[Command],
        budget: float | None = None,
        node: NodeName | None = None,
    ) -> list[Any]:
        """Do what Link.exchange does; budget bounds the whole exchange."""

    def start(
        self, operation: str, request: bytes, replies: int, budget: float | None, done: Told
    ) -> bool:
        """Send a request without waiting, if that can be done at once; else return False.

        Args:
            operation: For the error message.
            request: Commands, packed.
            replies: How many replies they have.
            budget: Seconds to wait if less than the timeout is left.
            done: Called in a later turn of the loop, with the replies or what went wrong; with None
                if a connection was lost that had been idle, so that it is worth another try.
        """

    async def nodes(self) -> list[NodeName]:
        """Do what Link.nodes does."""

    async def aclose(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""

    def close_from_outside(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close as well as can be without awaiting, from any thread; loop is the link's own."""

    def abandon(self) -> None:
        """Close the sockets of a loop that runs no more, without a word."""


def open_blocking(endpoint: AnyEndpoint, limit: int, timeout: float, label: str) -> Link:
    """Return the link for threads that suits the endpoint; it connects when it is used.

    Args:
        endpoint: Where Redis is.
        limit: Connections to each server.
        timeout: Seconds for a round trip.
        label: Names the store in errors.
    """
    _import_redis()
    if isinstance(endpoint, ClusterEndpoint):
        from tiercache.tiers._redis_cluster import BlockingCluster

        return BlockingCluster(endpoint, limit, timeout, label)
    from tiercache.tiers._redis_blocking import BlockingLink

    make, open_one = endpoint.blocking(timeout), endpoint.blocking_opener(timeout)
    return BlockingLink(make, limit, timeout, label, endpoint.secrets, open_one)


def open_asyncio(endpoint: AnyEndpoint, limit: int, timeout: float, label: str) -> LoopLink:
    """Return the link for the running event loop that suits the endpoint; args as above."""
    _import_redis()
    if isinstance(endpoint, ClusterEndpoint):
        from tiercache.tiers._redis_cluster import AsyncCluster

        return AsyncCluster(endpoint, limit, timeout, label)
    from tiercache.tiers._redis_async import AsyncLink

    make, open_one = endpoint.asyncio(timeout), endpoint.asyncio_opener(timeout)
    return AsyncLink(make, limit, timeout, label, endpoint.secrets, open_one)


if hasattr(os, "register_at_fork"):  # a child must not inherit it held
    os.register_at_fork(
        before=_importing.acquire,
        after_in_parent=_importing.release,
        after_in_child=_importing.release,
    )


def _import_redis() -> None:
    """Import redis-py in one thread at a time: its modules import one another in a circle."""
    with _importing:
        import redis  # noqa: F401
