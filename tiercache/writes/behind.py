"""``WriteBehind``: what ``cache.write_behind(...)`` returns."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from tiercache.errors import CacheError, ConfigurationError, JournalFull, StoreError
from tiercache.runtime import run
from tiercache.telemetry import NO_STEP, Step
from tiercache.tiers.journal import Accepted, Journal, JournalMismatch, Level, Ticket
from tiercache.tiers.store import Kind
from tiercache.ttl import Duration, seconds
from tiercache.writes.bell import Bell
from tiercache.writes.crew import Crew
from tiercache.writes.dead import DeadLetters
from tiercache.writes.entering import Entering, Write
from tiercache.writes.figures import Counts, WriteBehindStats, figures
from tiercache.writes.in_hand import InHand
from tiercache.writes.mending import Mending
from tiercache.writes.overlay import Layer, Overlay
from tiercache.writes.worker import Rules, Worker, Writer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from tiercache.cache import Cache
    from tiercache.key_template import KeyTemplate
    from tiercache.runtime import Port
    from tiercache.spec import Spec
    from tiercache.writes.options import Options
    from tiercache.writing import Writing

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.05  # between two looks at a journal that others work on, too
GRACE_SECONDS: Final = 1.0  # after the deadline of close(), for a writer to return


class WriteBehind(DeadLetters):
    """Writes that readers see at once and that reach the database in batches.

    Made by ``cache.write_behind``. Safe for threads and event loops.
    """

    def __init__(
        self,
        cache: Cache,
        writing: Writing,
        overlay: Overlay,
        name: str,
        template: KeyTemplate,
        writer: Writer,
        spec: Spec,
        options: Options,
    ) -> None:
        self.name = name
        self.key = template
        self._cache = cache
        self._codec = cache.codec
        self._writing = writing
        self._overlay = overlay
        self._writer = writer
        self._spec = spec
        self._options = options
        self._most_dead = options.max_pending
        self._news = f"\0writes:{name}"  # what those wait for who wait for room, or for a flush
        self._is_closed = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        options = self._options
        self._lock = threading.Lock()
        self._under_way = 0  # writes on their way into the journal; guarded by _lock
        self._counts = Counts()
        self._in_hand = InHand()
        self.journal = self._make_journal()
        self._entering = Entering(self._cache.flow, self._writing, self.journal, self._spec)
        self._mending = Mending(self._writing, self.journal)
        self._overlay.add(Layer(self.key, self.journal, options.deleted))
        merges = not options.keeps_all
        self._bell = Bell(options.max_batch, options.max_delay, merges=merges)
        self._crew = Crew(
            self.name, options.workers, self._bell, options.claim_seconds, self._make_worker
        )

    def _make_journal(self) -> Journal:
        options, l2 = self._options, self._cache.flow.l2
        if not options.is_durable:
            from tiercache.tiers.memory_journal import MemoryJournal

            return MemoryJournal(self.name, keeps_all=options.keeps_all)
        make = None if l2 is None else getattr(l2.namespace, "journal", None)
        if make is None:
            what = "has no L2" if l2 is None else f"has an L2 without journals ({l2.label})"
            raise ConfigurationError(
                f"cache {self._cache.name!r} {what} to keep pending writes in; "
                "give it l2=Redis(...) or SQLite(...), or say durable=False: a crash loses them"
            )
        journal: Journal = make(self.name, keeps_all=options.keeps_all)
        return journal

    def _make_worker(self) -> Worker:
        options = self._options
        rules = Rules(
            max_batch=options.max_batch,
            claim_seconds=options.claim_seconds,
            max_attempts=options.max_attempts,
            max_dead=options.max_pending,
            backoff=options.backoff,
        )
        return Worker(
            *(self.journal, self._codec, self._writer, rules, self._bell, self._counts),
            *(self._tell, self.withdraw, self._flushing, self._mend, self._in_hand),
        )

    # Writing

    def put(self, item: Any, value: Any) -> int:
        """Accept a value for a key; return the operation's version.

        When this returns, the write is in the journal and every reader sees the value.

        Args:
            item: What the template makes a key of; several in a tuple.
            value: Anything that the cache can keep in L2.

        Raises:
            JournalFull: If max_pending are waiting, and went on to for ``max_wait``.
            WriteFailed: If the journal is out of reach: it was not accepted, or may not have been.
            EncodeError: If the value has no bytes. Nothing has changed.
            UncacheableArguments: If the item does not fit the template.
        """
        key = self.key.key(item)
        with self._step(key):
            write = self._entering.put(key, item, value)
            return run(self._write(self._cache.blocking, write))

    async def aput(self, item: Any, value: Any) -> int:
        """Do what ``put`` does, awaited."""
        key = self.key.key(item)
        with self._step(key):
            write = self._entering.put(key, item, value)
            return await self._write(self._cache.asyncio, write)

    def delete(self, item: Any) -> int:
        """Accept that a key's row is to be deleted; return the operation's version.

        As of ``put``; until the row is gone the key reads as ``deleted``.
        """
        key = self.key.key(item)
        with self._step(key):
            write = self._entering.delete(key, item)
            return run(self._write(self._cache.blocking, write))

    async def adelete(self, item: Any) -> int:
        """Do what ``delete`` does, awaited."""
        key = self.key.key(item)
        with self._step(key):
            write = self._entering.delete(key, item)
            return await self._write(self._cache.asyncio, write)

    def _step(self, key: str) -> Step:
        spans = self._cache.flow.telemetry.notice()
        return NO_STEP if spans is None else spans.put_behind(self.name, key)

    async def _write(self, port: Port, write: Write) -> int:
        self._crew.start()
        accepted = await self._offer(port, write)
        if accepted.version is None:
            accepted = await self._write_when_there_is_room(port, write, accepted.depth)
        assert accepted.version is not None
        self._counts.add("puts")
        if self._crew.size:  # else nobody would hear it
            self._bell.ring(write.draft.key)
        return accepted.version

    async def _offer(self, port: Port, write: Write) -> Accepted:
        with self._lock:
            if self._is_closed:
                raise CacheError(f"write-behind {self.name!r} is closed; nothing was accepted")
            self._under_way += 1
        try:
            return await self._entering.make(port, write, self._options.max_pending)
        finally:
            with self._lock:
                self._under_way -= 1

    async def _write_when_there_is_room(self, port: Port, write: Write, depth: int) -> Accepted:
        options = self._options
        deadline = time.monotonic() + (options.max_wait if options.waits_when_full else 0.0)
        with _Expecting(self, port) as expected:
            while time.monotonic() < deadline:
                self._bell.force()
                await port.news(expected, LOOK_SECONDS)
                accepted = await self._offer(port, write)
                if accepted.version is not None:
                    return accepted
        raise JournalFull(
            f"{depth} operations of {self.name!r} wait to be written, max_pending is "
            f"{options.max_pending}; this one was not accepted: does the writer keep up?"
        )

    # Waiting

    def flush(self, timeout: Duration = 30) -> int:
        """Have everything written that was accepted before, and wait for it.

        Args:
            timeout: How long to wait at most. Operations that fail wait between their attempts.

        Returns:
            0 if all is written, or given up; else how many operations are left in the journal.

        Raises:
            StoreError: If the journal is out of reach.
        """
        return run(self._flush(self._cache.blocking, seconds(timeout, name="timeout")))

    async def aflush(self, timeout: Duration = 30) -> int:
        """Do what ``flush`` does, awaited."""
        return await self._flush(self._cache.asyncio, seconds(timeout, name="timeout"))

    async def _flush(self, port: Port, limit: float) -> int:
        self._crew.start()
        deadline = time.monotonic() + limit
        self._bell.hurry()
        try:
            with _Expecting(self, port) as expected:
                level = await self._level(port)
                mark = level.newest
                while level.oldest is not None and level.oldest <= mark:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return level.depth
                    await port.news(expected, min(left, LOOK_SECONDS))
                    level = await self._level(port)
        finally:
            self._bell.calm()
        return 0

    async def _level(self, port: Port) -> Level:
        l2 = self._cache.flow.l2
        if l2 is None or not self.journal.writes_entries:
            return self.journal.level()
        level: Level = await l2.demand(port, self.journal, "level")
        return level

    # Life

    def close(self, timeout: Duration = 10) -> int:
        """Accept nothing more, write what is pending, and end the workers. May be called again.

        Args:
            timeout: How long to write at most. What is left stays in the journal: the next process
                with this writer goes on with it. With ``durable=False`` it is lost.

        Returns:
            How many operations are left.
        """
        return run(self._close(self._cache.blocking, seconds(timeout, name="timeout")))

    async def aclose(self, timeout: Duration = 10) -> int:
        """Do what ``close`` does, awaited."""
        return await self._close(self._cache.asyncio, seconds(timeout, name="timeout"))

    async def _close(self, port: Port, limit: float) -> int:
        with self._lock:
            was_open, self._is_closed = not self._is_closed, True
        deadline = time.monotonic() + limit
        left = 0
        try:
            await self._let_in(port, min(limit, GRACE_SECONDS))
            if was_open and self._crew.size:
                left = await self._flush(port, limit)
        except (StoreError, JournalMismatch) as error:
            log.warning("write-behind %r was closed without its journal: %s", self.name, error)
        finally:
            self._crew.end()
        with _Expecting(self, port) as expected:
            while self._crew.is_at_work and time.monotonic() < deadline + GRACE_SECONDS:
                await port.news(expected, 0.005)
        self._overlay.remove(self.journal)
        self._say_what_is_left(left)
        return left

    async def _let_in(self, port: Port, seconds: float) -> None:
        """Wait for writes that are being accepted, so that they are flushed, too."""
        deadline = time.monotonic() + seconds
        with _Expecting(self, port) as expected:
            while self._under_way and time.monotonic() < deadline:
                await port.news(expected, 0.005)

    def _say_what_is_left(self, left: int) -> None:
        if left and self._options.is_durable:
            log.warning(
                "write-behind %r was closed with %d operations left in %s: the next process that "
                "has it writes them",
                *(self.name, left, self.journal.label),
            )
        elif left:
            log.error("write-behind %r was closed and LOST %d operations", self.name, left)

    def start(self) -> None:
        """Have the workers run."""
        self._crew.start()

    def after_fork(self) -> None:
        """Be another process, in a forked child: what the parent accepted, the parent writes.

        Workers start with the first write.
        """
        self._overlay.remove(self.journal)
        if not self._is_closed:
            self._start_afresh()

    def wake(self) -> None:
        """Have workers take what is there."""
        if not self._is_closed:
            self._crew.start()
            self._bell.force()

    def withdraw(self, key: str) -> None:
        """Have the tiers forget a value that is not to be written, or not yet."""
        run(self._writing.delete(self._cache.blocking, [key]))

    def _mend(self, tickets: Sequence[Ticket], payloads: Sequence[bytes]) -> None:
        run(self._mending.mend(self._cache.blocking, tickets, payloads))

    def _flushing(self, count: int, marks: Sequence[bytes]) -> Step:
        spans = self._cache.flow.telemetry.notice()
        return NO_STEP if spans is None else spans.flush_behind(self.name, count, marks)

    def _tell(self) -> None:
        self._cache.flow.waits.tell([self._news], Kind.NEWS)

    # Looking

    def stats(self) -> WriteBehindStats:
        """Return a snapshot."""
        return run(self._stats(self._cache.blocking))

    async def astats(self) -> WriteBehindStats:
        """Do what ``stats`` does, awaited."""
        return await self._stats(self._cache.asyncio)

    async def _stats(self, port: Port) -> WriteBehindStats:
        level: Level | None = None
        try:
            level = await self._level(port)
        except (StoreError, JournalMismatch) as error:
            log.debug("the journal cannot be looked at: %s", error)
        return figures(level, self._counts, self._crew.stuck)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<WriteBehind {self.name!r} of cache {self._cache.name!r}>"


class _Expecting:
    """The time in which a caller expects news of a writer."""

    def __init__(self, behind: WriteBehind, port: Port) -> None:
        self._waits = behind._cache.flow.waits  # noqa: SLF001 - a part of it
        self._name = behind._news  # noqa: SLF001
        self._expectation = port.expectation()

    def __enter__(self) -> Any:
        self._waits.add(self._name, self._expectation)
        return self._expectation

    def __exit__(self, *_: object) -> None:
        self._waits.remove(self._name, self._expectation)
