"""One cache's part of Redis: the plans of ``_redis_plans``, driven over connections.

Single reads are in ``_redis_reads``.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tiercache.errors import StoreError
from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_journal import RedisJournal
from tiercache.tiers._redis_link import Command
from tiercache.tiers._redis_log import RedisTail
from tiercache.tiers._redis_plans import Plan, Plans
from tiercache.tiers._redis_reads import MergedReads
from tiercache.tiers.store import (
    Claim,
    Fill,
    Grant,
    Item,
    Kind,
    LeaseMode,
    Stored,
    Tail,
)

if TYPE_CHECKING:
    from tiercache.tiers._redis_link import Link, LoopLink
    from tiercache.tiers.redis import Redis

T = TypeVar("T")


class RedisNamespace(MergedReads):
    """One cache's part of Redis: drives the plans of ``_redis_plans``."""

    def __init__(self, store: Redis, name: str, origin: str) -> None:
        self.plans = Plans(
            store.label,
            wire.KeySpace(store.prefix, name),
            origin,
            store.log_length,
            is_cluster=store.is_cluster,
        )
        self._store = store
        self.start_afresh()

    # Entries

    def read_many(self, keys: Sequence[str], tags: Sequence[str] = ()) -> Sequence[Stored | None]:
        """Return the valid entry of each key; one MGET."""
        return self._run("read", self.plans.read(keys, tags)) if keys else []

    async def aread_many(
        self, keys: Sequence[str], tags: Sequence[str] = ()
    ) -> Sequence[Stored | None]:
        """Return the valid entry of each key; one MGET."""
        return await self._arun("read", self.plans.read(keys, tags)) if keys else []

    def write(
        self, key: str, payload: bytes, ttl: float | None, tags: tuple[str, ...] = ()
    ) -> None:
        """Store a payload."""
        self.write_many((Item(key, payload, ttl, tags),))

    async def awrite(
        self, key: str, payload: bytes, ttl: float | None, tags: tuple[str, ...] = ()
    ) -> None:
        """Store a payload."""
        await self.awrite_many((Item(key, payload, ttl, tags),))

    def write_many(self, items: Sequence[Item]) -> None:
        """Store all items; one pipeline."""
        if items:
            self._meet()
            self._run("write", self.plans.write(items))

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Store all items; one pipeline."""
        if items:
            await self._ameet()
            await self._arun("write", self.plans.write(items))

    def delete(self, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Remove keys and end their leases."""
        return self._run("delete", self.plans.delete(keys, kind)) if keys else 0

    async def adelete(self, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Remove keys and end their leases."""
        return await self._arun("delete", self.plans.delete(keys, kind)) if keys else 0

    def expire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Have entries live for at most so many seconds more; one pipeline."""
        if not keys:
            return 0
        self._meet()
        return self._run("expire", self.plans.expire(keys, seconds))

    async def aexpire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Have entries live for at most so many seconds more; one pipeline."""
        if not keys:
            return 0
        await self._ameet()
        return await self._arun("expire", self.plans.expire(keys, seconds))

    def invalidate_tags(self, tags: Sequence[str]) -> None:
        """Give tags other tokens."""
        if tags:
            self._run("invalidate_tags", self.plans.invalidate_tags(tags))

    async def ainvalidate_tags(self, tags: Sequence[str]) -> None:
        """Give tags other tokens."""
        if tags:
            await self._arun("invalidate_tags", self.plans.invalidate_tags(tags))

    def clear(self, prefix: str = "") -> None:
        """Give the namespace another generation; or remove a prefix's keys, step by step.

        With a prefix each step, of a thousand keys, has the timeout to itself.
        """
        if not prefix:
            self._run("clear", self.plans.clear())
            return
        link = self._store.link()
        for node in link.nodes():
            self._run("clear", self.plans.clear_on_node(prefix), node=node)
        self._run("clear", self.plans.cleared(prefix))

    async def aclear(self, prefix: str = "") -> None:
        """Do what clear does."""
        if not prefix:
            await self._arun("clear", self.plans.clear())
            return
        link = self._store.loop_link()
        for node in await link.nodes():
            await self._arun("clear", self.plans.clear_on_node(prefix), node=node)
        await self._arun("clear", self.plans.cleared(prefix))

    # Leases

    def claim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        *,
        seconds: float,
        tags: Sequence[str] = (),
        mode: LeaseMode = LeaseMode.EXCLUSIVE,
        anew: bool = False,
    ) -> list[Claim]:
        """Ask for the leases of keys."""
        return self._run("claim", self.plans.claim(keys, nonces, seconds, tags, mode, anew))

    async def aclaim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        *,
        seconds: float,
        tags: Sequence[str] = (),
        mode: LeaseMode = LeaseMode.EXCLUSIVE,
        anew: bool = False,
    ) -> list[Claim]:
        """Ask for the leases of keys."""
        return await self._arun("claim", self.plans.claim(keys, nonces, seconds, tags, mode, anew))

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Store loaded values where their leases still stand."""
        self._meet()
        return self._run("fill", self.plans.fill(fills))

    async def afill(self, fills: Sequence[Fill]) -> list[bool]:
        """Store loaded values where their leases still stand."""
        await self._ameet()
        return await self._arun("fill", self.plans.fill(fills))

    def renew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        """Prolong leases."""
        return self._run("renew", self.plans.renew(self._leases(leases), seconds))

    async def arenew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        """Prolong leases."""
        return await self._arun("renew", self.plans.renew(self._leases(leases), seconds))

    def _leases(self, leases: Sequence[tuple[str, bytes]]) -> list[tuple[bytes, bytes]]:
        return [(self.plans.keys.lease(key), nonce) for key, nonce in leases]

    def release(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """End leases without a fill."""
        self._run("release", self.plans.release(leases, kind))

    async def arelease(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """End leases without a fill."""
        await self._arun("release", self.plans.release(leases, kind))

    # Locks

    def lock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Ask for a lock."""
        return self._run("lock", self.plans.lock(name, nonce, seconds))

    async def alock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Ask for a lock."""
        return await self._arun("lock", self.plans.lock(name, nonce, seconds))

    def renew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Prolong a lock."""
        lock = self.plans.keys.lock(name)
        return self._run("renew_lock", self.plans.renew([(lock, nonce)], seconds))[0]

    async def arenew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Prolong a lock."""
        lock = self.plans.keys.lock(name)
        return (await self._arun("renew_lock", self.plans.renew([(lock, nonce)], seconds)))[0]

    def unlock(self, name: str, nonce: bytes) -> bool:
        """End a lock."""
        return self._run("unlock", self.plans.unlock(name, nonce))

    async def aunlock(self, name: str, nonce: bytes) -> bool:
        """End a lock."""
        return await self._arun("unlock", self.plans.unlock(name, nonce))

    # The log

    def announce(self, kind: Kind, names: Sequence[str]) -> None:
        """Append a message to the log."""
        self._run("announce", self.plans.announce(kind, names))

    async def aannounce(self, kind: Kind, names: Sequence[str]) -> None:
        """Append a message to the log."""
        await self._arun("announce", self.plans.announce(kind, names))

    def log_end(self) -> str:
        """Return the position of the log's end."""
        return self._run("log_end", self.plans.log_end())

    async def alog_end(self) -> str:
        """Return the position of the log's end."""
        return await self._arun("log_end", self.plans.log_end())

    def tail(self, position: str | None) -> Tail:
        """Return a reader of the log."""
        return RedisTail(self._store, self, position)

    # Writes to be made later

    @property
    def label(self) -> str:
        """The server, for errors."""
        return self._store.label

    def journal(self, name: str, *, keeps_all: bool) -> RedisJournal:
        """Return the journal of a writer."""
        return RedisJournal(self, name, keeps_all=keeps_all)

    def drive(self, operation: str, plan: Plan[T]) -> T:
        """Return what a plan results in; the server's clock is known by then."""
        self._meet()
        return self._run(operation, plan)

    async def adrive(self, operation: str, plan: Plan[T]) -> T:
        """Await what drive does."""
        await self._ameet()
        return await self._arun(operation, plan)

    def ask(self, operation: str, command: Command) -> Any:
        """Return the reply to one command, which is an exception where it was refused."""
        return self._exchange(self._store.link(), operation, (command,), None, None)[0]

    async def aask(self, operation: str, command: Command) -> Any:
        """Await what ask does."""
        link = self._store.loop_link()
        return (await self._aexchange(link, operation, (command,), None, None))[0]

    # Driving plans

    def _run(
        self, operation: str, plan: Plan[T], budget: float | None = None, node: Any = None
    ) -> T:
        link = self._store.link()
        try:
            replies = self._exchange(link, operation, next(plan), budget, node)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        return self._go_on(operation, plan, replies, budget, node)

    def _go_on(
        self,
        operation: str,
        plan: Plan[T],
        replies: list[Any],
        budget: float | None = None,
        node: Any = None,
    ) -> T:
        link = self._store.link()
        try:
            while True:
                commands = plan.send(replies)
                replies = self._exchange(link, operation, commands, budget, node)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _exchange(
        self,
        link: Link,
        operation: str,
        commands: Sequence[Command],
        budget: float | None,
        node: Any,
    ) -> list[Any]:
        if node is not None or not self.plans.clock.is_due():
            return link.exchange(operation, commands, budget, node) if commands else []
        sent = time.monotonic()
        replies = link.exchange(operation, [*commands, self._time], budget, node)
        self._set_clock(replies.pop(), sent)
        return replies

    async def _arun(
        self, operation: str, plan: Plan[T], budget: float | None = None, node: Any = None
    ) -> T:
        link = self._store.loop_link()
        try:
            replies = await self._aexchange(link, operation, next(plan), budget, node)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        return await self._ago_on(operation, plan, replies, budget, node)

    async def _ago_on(
        self,
        operation: str,
        plan: Plan[T],
        replies: list[Any],
        budget: float | None = None,
        node: Any = None,
    ) -> T:
        link = self._store.loop_link()
        try:
            while True:
                commands = plan.send(replies)
                replies = await self._aexchange(link, operation, commands, budget, node)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _aexchange(
        self,
        link: LoopLink,
        operation: str,
        commands: Sequence[Command],
        budget: float | None,
        node: Any,
    ) -> list[Any]:
        if node is not None or not self.plans.clock.is_due():
            return await link.exchange(operation, commands, budget, node) if commands else []
        sent = time.monotonic()
        replies = await link.exchange(operation, [*commands, self._time], budget, node)
        self._set_clock(replies.pop(), sent)
        return replies

    @property
    def _time(self) -> Command:
        # Of the node that has the log: in Cluster, all must go by the clock of one node.
        return Command(self.plans.keys.log, wire.TIME)

    def _set_clock(self, reply: Any, sent: float) -> None:
        clock = self.plans.clock
        try:
            clock.learn(reply, sent, time.monotonic())
        except (TypeError, ValueError):
            if not clock.is_known:
                raise StoreError(
                    f"{self._store.label} answered TIME with {str(reply)[:100]!r}"
                ) from None

    def _meet(self) -> None:
        """Learn the server's clock, if no call has yet: a deadline cannot be written before."""
        if not self.plans.clock.is_known:
            self._run("TIME", _nothing())

    async def _ameet(self) -> None:
        if not self.plans.clock.is_known:
            await self._arun("TIME", _nothing())


def _nothing() -> Generator[Sequence[Command], list[Any], None]:
    """Make one round trip, for what goes along with it."""
    yield []
