"""Links to a Redis cluster: one pool per node, one exchange over several nodes in one round trip.

An exchange sends to all of its nodes before it waits for the first of them, so that it takes as
long as the slowest. Where a node says MOVED or ASK, the command follows, a few times at most and
within the same budget. If a node fails, its error names it, the exchange as a whole fails, and
the map of slots is asked for again by the next exchange, ``_redis_slots`` permitting.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers._redis_address import Address
from tiercache.tiers._redis_asking import (
    ASK_SHARE,
    Consultation,
    aask_in_turn,
    ask_in_turn,
    consult,
)
from tiercache.tiers._redis_async import AsyncLink
from tiercache.tiers._redis_blocking import BlockingLink, Turn
from tiercache.tiers._redis_channel import AsyncTurn
from tiercache.tiers._redis_errors import translate
from tiercache.tiers._redis_slots import Journey, Stop
from tiercache.tiers.store import StoreBusy

if TYPE_CHECKING:
    import redis

    from tiercache.tiers._redis_link import Command, NodeName, Told
    from tiercache.tiers._redis_settings import ClusterEndpoint

_MAX_ROUNDS: Final = 6  # the first, and redirections
_GRACE_SECONDS: Final = 0.01  # for a reply that has most likely come while we waited for another
_QUESTION: Final = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n"

L = TypeVar("L", BlockingLink, AsyncLink)


class _Nodes(Generic[L]):
    """What both kinds of link are made of: a pool for each node, and what is said of failures."""

    def __init__(
        self,
        endpoint: ClusterEndpoint,
        limit: int,
        timeout: float,
        label: str,
        kind: type[L],
        make: Callable[..., Any],
    ) -> None:
        self._limit: int = limit
        self._timeout: float = timeout
        self._label: str = label
        self._scheme = endpoint.scheme
        self._secrets = endpoint.secrets
        self._topology = endpoint.topology
        self._make = make
        self._kind: type[L] = kind
        self._is_closed = False  # guarded by _lock
        self._pools: dict[Address, L] = {}  # guarded by _lock; read without
        self._lock = threading.Lock()
        # Why the first map could not be had, the last time; guarded by the subclass's _learning.
        self._why_unknown: tuple[type[StoreError], str] | None = None

    def _pool(self, node: Address) -> L:
        pool = self._pools.get(node)
        if pool is not None:
            return pool
        with self._lock:
            if node not in self._pools:
                self._pools[node] = self._kind(
                    lambda: self._make(host=node.host, port=node.port),
                    self._limit,
                    self._timeout,
                    f"{self._scheme}://{node}",
                    self._secrets,
                )
                if self._is_closed:
                    self._pools[node].retire()
            return self._pools[node]

    def _retire(self) -> list[L]:
        """Have no pool keep connections from now on; return those there are."""
        with self._lock:
            self._is_closed = True
            return list(self._pools.values())

    def _must_learn(self) -> bool:
        """Tell whether there is still no map; raise, if others have just been told why."""
        if self._topology.is_known:
            return False
        if not self._topology.is_due() and self._why_unknown is not None:
            kind, text = self._why_unknown
            raise kind(text)
        return True

    def _take_strangers(self) -> list[L]:
        """Return the pools of nodes that left the cluster, to be closed."""
        with self._lock:
            gone = self._pools.keys() - set(self._topology.masters)
            return [self._pools.pop(node) for node in gone]

    def _consultation(self, seconds: float) -> Consultation[None]:
        complaint = f"{self._label}: no node could tell who serves which slot"
        nodes, learn = self._topology.candidates(), self._topology.learn
        return consult(nodes, seconds, learn, complaint, self._secrets)

    def _failure(self, error: BaseException, node: Address, operation: str) -> StoreError:
        """Return the error that names the node, and have the map looked at again."""
        if not isinstance(error, StoreBusy):
            self._topology.suspect(node)
        label = f"{self._scheme}://{node}"
        return translate(error, label, operation, self._timeout, self._secrets)

    def _lost_its_way(self, operation: str) -> StoreError:
        return StoreError(f"{self._label} redirected {operation} {_MAX_ROUNDS} times")


class BlockingCluster(_Nodes[BlockingLink]):
    """All blocking connections of one store to a cluster, for any number of threads."""

    def __init__(self, endpoint: ClusterEndpoint, limit: int, timeout: float, label: str) -> None:
        make = endpoint.blocking(timeout)
        super().__init__(endpoint, limit, timeout, label, BlockingLink, make)
        self._learning = threading.Lock()  # held by who asks for the first map

    def exchange(
        self,
        operation: str,
        commands: Sequence[Command],
        budget: float | None = None,
        node: NodeName | None = None,
    ) -> list[Any]:
        """Do what Link.exchange says; budget bounds the whole exchange, roughly."""
        deadline = self._deadline(budget)
        try:
            self._look_at_map(deadline)
            journey = Journey(commands, self._topology, cast("Address | None", node))
            for _ in range(_MAX_ROUNDS):
                self._visit(journey, operation, deadline, budget)
                if journey.is_done:
                    return journey.replies
                self._look_at_map(deadline)
            failure = self._lost_its_way(operation)
        except Exception as error:
            failure = translate(error, self._label, operation, self._timeout, self._secrets)
        raise failure

    def nodes(self) -> list[NodeName]:
        """Return the masters."""
        self._look_at_map(self._deadline(None))
        return list(self._topology.masters)

    def dedicated(self, key: bytes | None, timeout: float) -> redis.Connection:
        """Return an unconnected connection to the master of a key, by a map just looked at."""
        try:
            self._topology.suspect()
            self._look_at_map(self._deadline(None))
            node = self._topology.owner(key)
            connection = self._make(host=node.host, port=node.port)
            connection.socket_timeout = timeout
            return cast("redis.Connection", connection)
        except Exception as error:
            failure = translate(error, self._label, "connect", self._timeout, self._secrets)
        raise failure

    def close(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""
        for pool in self._retire():
            pool.close()

    def _deadline(self, budget: float | None) -> float:
        return time.monotonic() + (self._timeout if budget is None else budget)

    def _visit(
        self, journey: Journey, operation: str, deadline: float, budget: float | None
    ) -> None:
        """Go to all stops at once; then raise the first failure, if any."""
        under_way: list[tuple[Stop, BlockingLink, Turn]] = []
        failure = None
        try:
            for stop in journey.stops():
                try:
                    left = _left(deadline)
                    pool = self._pool(stop.node)
                    turn = pool.begin(
                        stop.request, stop.replies, left if budget is not None else None
                    )
                    under_way.append((stop, pool, turn))
                except Exception as error:
                    failure = self._failure(error, stop.node, operation)
                    break
            under_way.reverse()
            while under_way:
                stop, pool, turn = under_way.pop()
                try:
                    left = max(_GRACE_SECONDS, deadline - time.monotonic())
                    journey.take(stop, pool.finish(turn, left))
                except Exception as error:
                    failure = failure or self._failure(error, stop.node, operation)
        finally:
            for _, pool, turn in under_way:
                pool.forget(turn)
        if failure is not None:
            raise failure

    def _look_at_map(self, deadline: float) -> None:
        """Ask for the map of slots if there is none, or if it is due."""
        if not self._topology.is_known:
            self._learn_first(deadline)
        elif self._topology.is_due():
            with suppress(StoreError):  # what we have may do; what does not will say so
                self._learn(deadline)

    def _learn_first(self, deadline: float) -> None:
        if not self._learning.acquire(timeout=_left(deadline)):
            raise StoreTimeout(f"{self._label}: still asking who serves which slot")
        try:
            if self._must_learn():
                self._learn(deadline)
        except StoreError as error:
            self._why_unknown = type(error), str(error)
            raise
        finally:
            self._learning.release()

    def _learn(self, deadline: float) -> None:
        steps = self._consultation((deadline - time.monotonic()) * ASK_SHARE)
        ask_in_turn(steps, self._make, _QUESTION)
        for pool in self._take_strangers():
            pool.close()


class AsyncCluster(_Nodes[AsyncLink]):
    """All asyncio connections of one store to a cluster, in one event loop."""

    def __init__(self, endpoint: ClusterEndpoint, limit: int, timeout: float, label: str) -> None:
        make = endpoint.asyncio(timeout)
        super().__init__(endpoint, limit, timeout, label, AsyncLink, make)
        self._learning = asyncio.Lock()  # held by who asks for the first map

    async def exchange(
        self,
        operation: str,
        commands: Sequence[Command],
        budget: float | None = None,
        node: NodeName | None = None,
    ) -> list[Any]:
        """Do what LoopLink.exchange says."""
        deadline = self._deadline(budget)
        try:
            await self._look_at_map(deadline)
            journey = Journey(commands, self._topology, cast("Address | None", node))
            for _ in range(_MAX_ROUNDS):
                await self._visit(journey, operation, deadline)
                if journey.is_done:
                    return journey.replies
                await self._look_at_map(deadline)
            failure = self._lost_its_way(operation)
        except Exception as error:
            failure = translate(error, self._label, operation, self._timeout, self._secrets)
        raise failure

    def start(
        self, operation: str, request: bytes, replies: int, budget: float | None, done: Told
    ) -> bool:
        """Start nothing: a read visits several nodes."""
        return False

    async def nodes(self) -> list[NodeName]:
        """Return the masters."""
        await self._look_at_map(self._deadline(None))
        return list(self._topology.masters)

    async def aclose(self) -> None:
        """Disconnect what is idle now, and what is in use when it comes back."""
        for pool in self._retire():
            await pool.aclose()

    def close_from_outside(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close as well as can be without awaiting, from any thread; loop is the link's own."""
        for pool in self._retire():
            pool.close_from_outside(loop)

    def abandon(self) -> None:
        """Close the sockets of a loop that runs no more, without a word."""
        for pool in self._retire():
            pool.abandon()

    def _deadline(self, budget: float | None) -> float:
        return asyncio.get_running_loop().time() + (self._timeout if budget is None else budget)

    async def _visit(self, journey: Journey, operation: str, deadline: float) -> None:
        """Go to all stops at once; then raise the first failure, if any."""
        under_way: list[tuple[Stop, AsyncLink, AsyncTurn]] = []
        failure = None
        try:
            for stop in journey.stops():
                try:
                    pool = self._pool(stop.node)
                    async with asyncio.timeout_at(deadline):
                        turn = await pool.begin(stop.request, stop.replies)
                    under_way.append((stop, pool, turn))
                except Exception as error:
                    failure = self._failure(error, stop.node, operation)
                    break
            under_way.reverse()
            while under_way:
                stop, pool, turn = under_way.pop()
                try:
                    async with asyncio.timeout_at(self._at_least_grace(deadline)):
                        journey.take(stop, await pool.finish(turn))
                except Exception as error:
                    failure = failure or self._failure(error, stop.node, operation)
        finally:
            for _, pool, turn in under_way:
                await pool.forget(turn)
        if failure is not None:
            raise failure

    def _at_least_grace(self, deadline: float) -> float:
        return max(deadline, asyncio.get_running_loop().time() + _GRACE_SECONDS)

    async def _look_at_map(self, deadline: float) -> None:
        """Ask for the map of slots if there is none, or if it is due."""
        if not self._topology.is_known:
            await self._learn_first(deadline)
        elif self._topology.is_due():
            with suppress(StoreError):  # what we have may do; what does not will say so
                await self._learn(deadline)

    async def _learn_first(self, deadline: float) -> None:
        async with asyncio.timeout_at(deadline), self._learning:
            try:
                if self._must_learn():
                    await self._learn(deadline)
            except StoreError as error:
                self._why_unknown = type(error), str(error)
                raise

    async def _learn(self, deadline: float) -> None:
        left = deadline - asyncio.get_running_loop().time()
        steps = self._consultation(left * ASK_SHARE)
        await aask_in_turn(steps, self._make, _QUESTION)
        for pool in self._take_strangers():
            await pool.aclose()


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())
