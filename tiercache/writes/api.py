"""What a cache offers of writing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tiercache.options import Tags
from tiercache.ttl import TTL, Duration

if TYPE_CHECKING:
    from tiercache.cache import Cache
    from tiercache.spec import Spec
    from tiercache.writes.behind import WriteBehind
    from tiercache.writes.worker import Writer
    from tiercache.writing import Writing


class Behind:
    """A cache's writers."""

    _writing: Writing
    _behinds: list[WriteBehind]

    if TYPE_CHECKING:

        def _spec(self, ttl: TTL, tags: Tags, base: Spec | None = None) -> Spec: ...

    def write_behind(
        self,
        writer: Writer,
        *,
        key: str,
        name: str | None = None,
        ttl: TTL = None,
        tags: Tags = (),
        max_batch: int = 100,
        max_delay: Duration = "100ms",
        merge: bool = True,
        max_pending: int = 10_000,
        when_full: str = "wait",
        max_wait: Duration = "30s",
        max_attempts: int | None = 8,
        backoff: Duration | tuple[Duration, Duration] = ("100ms", "1m"),
        claim_timeout: Duration = "15s",
        durable: bool = True,
        workers: int = 1,
        on_sigterm: bool = False,
        deleted: Any = None,
    ) -> WriteBehind:
        """Return what accepts writes at once, and has them made in batches later.

        ``put`` returns when a write is in the journal and every reader sees it. Workers, here and
        in every process that makes the same call, hand what is pending to ``writer``: each
        operation at least once, those of one key in their order and never to two workers at once.

        Args:
            writer: Gets a list of ``Operation``; returns when they are in the database, or raises.
                Blocking, called in a thread of a worker; or ``async def``, in a loop of its own
                there. It may see an operation twice: compare versions, or ids.
            key: A template of one or more fields: ``"user:{}"``.
            name: Of the journal; by default the template. The same in every process and release. A
                cache has one write-behind of a template, whatever its name.
            ttl: Of the entries that puts make, by default the cache's.
            tags: Of the entries that puts make.
            max_batch: How many operations the writer gets at most; as many, or ``max_pending`` if
                that is less, are handed over at once.
            max_delay: How long fewer wait for more.
            merge: Whether only the newest operation of a key is written; False: all, in order.
            max_pending: How many keys (operations, without merge) may wait, and as many dead
                letters.
            when_full: Then ``put`` waits for room, or raises JournalFull.
            max_wait: How long it waits, then it raises, too.
            max_attempts: After how many in vain an operation becomes a dead letter; None: never.
            backoff: The first delay between attempts, which triples each time, and the longest.
            claim_timeout: How long a batch may take; then another worker gets it. That counts as an
                attempt where the process has died meanwhile.
            durable: Whether the journal is in L2, and outlives this process; else in memory.
            workers: Threads of this process; 0: only other processes write, and this one reads what
                is pending: one that loads such keys without this call may bring back older rows,
                until what is pending is written.
            on_sigterm: Whether SIGTERM closes this before the process ends.
            deleted: What a key reads as, to loads, whose row is to be deleted; an exception, or a
                class of exceptions, is raised.

        Raises:
            ConfigurationError: If an option is illegal, two do not go together, or there is no L2
                to be durable in.
        """
        from tiercache.writes.making import make_write_behind

        behind = make_write_behind(
            cast("Cache", self),
            *(self._writing, self._behinds, writer, key, name, self._spec(ttl, tags)),
            max_batch=max_batch,
            max_delay=max_delay,
            max_pending=max_pending,
            when_full=when_full,
            max_wait=max_wait,
            max_attempts=max_attempts,
            backoff=backoff,
            claim_timeout=claim_timeout,
            merge=merge,
            durable=durable,
            on_sigterm=on_sigterm,
            workers=workers,
            deleted=deleted,
        )
        self._behinds.append(behind)
        return behind

    def writers(self) -> tuple[WriteBehind, ...]:
        """Return what ``write_behind`` has returned, and was not closed with the cache."""
        return tuple(self._behinds)

    def close_writers(self) -> None:
        """Write what is pending, and end the workers."""
        while self._behinds:
            self._behinds.pop().close()

    async def aclose_writers(self) -> None:
        """Do what ``close_writers`` does, awaited."""
        while self._behinds:
            await self._behinds.pop().aclose()

    def fork_writers(self) -> None:
        """Leave the parent's pending writes to it, in a forked child."""
        for behind in self._behinds:
            behind.after_fork()
