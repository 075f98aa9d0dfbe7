"""``WriteBehind``: what ``cache.write_behind(...)`` returns."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tiercache.coherence.keeper import keeper
from tiercache.errors import CacheError, ConfigurationError, DecodeError, JournalFull, StoreError
from tiercache.runtime import run
from tiercache.tiers.journal import Accepted, Buried, Journal, JournalMismatch, Level
from tiercache.tiers.store import Kind
from tiercache.ttl import Duration, seconds
from tiercache.writes.bell import Bell
from tiercache.writes.entering import Entering, Write
from tiercache.writes.operation import DeadLetter, Operation, operation_of
from tiercache.writes.overlay import Layer, Overlay
from tiercache.writes.worker import Counts, Rules, Worker, Writer

if TYPE_CHECKING:
    from tiercache.cache import Cache
    from tiercache.coherence.keeper import Handle
    from tiercache.key_template import KeyTemplate
    from tiercache.runtime import Port
    from tiercache.spec import Spec
    from tiercache.writes.options import Options
    from tiercache.writing import Writing

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.05  # between two looks at a journal that others work on, too
MOST_STUCK: Final = 8  # threads that may hang in the writer, each of which was replaced
MOST_SHOWN: Final = 1000  # dead letters


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBehindStats:
    """A snapshot of a writer: of its journal, and of what this process has done."""

    # Of the journal, whoever filled it; None where it is out of reach
    depth: int | None  # keys with pending writes; with merge=False: operations
    lag_seconds: float | None  # age of the oldest of them
    held: int | None  # keys that workers are at
    put_off: int | None  # keys that wait for another attempt
    dead: int | None  # dead letters

    # Of this process, since it began
    puts: int  # operations accepted
    written: int  # operations acknowledged
    batches: int  # calls of the writer that succeeded
    failures: int  # calls that raised
    retries: int  # operations put off
    buried: int  # operations given up
    lost_claims: int  # keys that were written when their claim had ended
    stuck: int  # threads that hang in the writer


class WriteBehind:
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
        self._writing = writing
        self._overlay = overlay
        self._writer = writer
        self._spec = spec
        self._options = options
        self._news = f"\0writes:{name}"  # what those wait for who wait for room, or for a flush
        self._is_closed = False
        self._counts = Counts()
        self._puts = 0  # guarded by the lock of _counts
        self._starting = threading.Lock()
        self._start_afresh()

    def _start_afresh(self) -> None:
        options = self._options
        self.journal = self._make_journal()
        flow = self._cache.flow
        self._entering = Entering(flow, self._writing, self.journal, self._spec)
        self._overlay.add(Layer(self.key, self.journal, options.deleted))
        self._bell = Bell(options.max_batch, options.max_delay)
        self._workers: list[Worker] = []  # guarded by _starting, as is all below
        self._stuck: list[Worker] = []
        self._watch: Handle | None = None

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
        write = self._entering.put(self.key.key(item), item, value)
        return run(self._write(self._cache.blocking, write))

    async def aput(self, item: Any, value: Any) -> int:
        """Do what ``put`` does, awaited."""
        write = self._entering.put(self.key.key(item), item, value)
        return await self._write(self._cache.asyncio, write)

    def delete(self, item: Any) -> int:
        """Accept that a key's row is to be deleted; return the operation's version.

        As of ``put``; until the row is gone the key reads as ``deleted``.
        """
        write = self._entering.delete(self.key.key(item), item)
        return run(self._write(self._cache.blocking, write))

    async def adelete(self, item: Any) -> int:
        """Do what ``delete`` does, awaited."""
        write = self._entering.delete(self.key.key(item), item)
        return await self._write(self._cache.asyncio, write)

    async def _write(self, port: Port, write: Write) -> int:
        if self._is_closed:
            raise CacheError(f"write-behind {self.name!r} is closed; nothing was accepted")
        self.start()
        most = self._options.max_pending
        accepted = await self._entering.make(port, write, most)
        if accepted.version is None:
            accepted = await self._write_when_there_is_room(port, write, accepted.depth)
        assert accepted.version is not None
        with self._counts.lock:
            self._puts += 1
        self._bell.ring(accepted.depth)
        return accepted.version

    async def _write_when_there_is_room(self, port: Port, write: Write, depth: int) -> Accepted:
        options = self._options
        deadline = time.monotonic() + (options.max_wait if options.waits_when_full else 0.0)
        with _Expecting(self, port) as expected:
            while time.monotonic() < deadline:
                self._bell.ring(depth)
                await port.news(expected, LOOK_SECONDS)
                accepted = await self._entering.make(port, write, options.max_pending)
                if accepted.version is not None:
                    return accepted
        raise JournalFull(
            f"{depth} operations of {self.name!r} wait to be written, max_pending is "
            f"{options.max_pending}; this one was not accepted: is the writer keeping up?"
        )

    # Waiting

    def flush(self, timeout: Duration = 30) -> int:
        """Have everything written that was accepted before, and wait for it.

        Args:
            timeout: How long to wait at most. Operations that fail wait between their attempts.

        Returns:
            0 if all is written, or given up; else how many operations are left in the journal.
        """
        return run(self._flush(self._cache.blocking, seconds(timeout, name="timeout")))

    async def aflush(self, timeout: Duration = 30) -> int:
        """Do what ``flush`` does, awaited."""
        return await self._flush(self._cache.asyncio, seconds(timeout, name="timeout"))

    async def _flush(self, port: Port, limit: float) -> int:
        if not self._is_closed:
            self.start()
        deadline = time.monotonic() + limit
        bell = self._bell
        bell.hurry()
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
            bell.calm()
        return 0

    async def _level(self, port: Port) -> Level:
        l2 = self._cache.flow.l2
        if l2 is None or not self.journal.writes_entries:
            return self.journal.level()
        level: Level = await l2.demand(port, self.journal, "level")
        return level

    # Life

    def start(self) -> None:
        """Start the workers, if they do not run: after a fork, the first write does."""
        if len(self._workers) == self._options.workers:
            return
        with self._starting:
            while len(self._workers) < self._options.workers and not self._is_closed:
                self._workers.append(self._start_one())
            if self._watch is None and self._workers:
                interval = self._options.claim_seconds / 2
                self._watch = keeper.keep(interval, self._replace_stuck)

    def _start_one(self) -> Worker:
        options = self._options
        rules = Rules(
            max_batch=options.max_batch,
            claim_seconds=options.claim_seconds,
            max_attempts=options.max_attempts,
            max_dead=options.max_pending,
            backoff=options.backoff,
        )
        worker = Worker(
            *(self.journal, self._cache.codec, self._writer, rules, self._bell, self._counts),
            *(self._tell, self._withdraw),
        )
        worker.thread.start()
        return worker

    def _replace_stuck(self) -> None:
        """Have another thread go on where one hangs in the writer: its claim has ended."""
        with self._starting:
            self._stuck = [worker for worker in self._stuck if worker.thread.is_alive()]
            for number, worker in enumerate(self._workers):
                since = worker.calling_since
                late = 0.0 if since is None else time.monotonic() - since
                if late <= self._options.claim_seconds or len(self._stuck) >= MOST_STUCK:
                    continue
                log.error(
                    "the writer of %r has not returned for %.0f s, longer than claim_timeout: "
                    "its operations are given to another worker",
                    *(self.name, late),
                )
                worker.is_abandoned = True
                self._stuck.append(worker)
                self._workers[number] = self._start_one()

    def _tell(self) -> None:
        self._cache.flow.waits.tell([self._news], Kind.NEWS)

    def _withdraw(self, key: str) -> None:
        """Have a value forgotten that will not be written: readers get the database's."""
        run(self._writing.delete(self._cache.blocking, [key]))

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
        is_first = not self._is_closed
        if is_first:
            self.start()
        self._is_closed = True
        deadline = time.monotonic() + limit
        left = 0
        try:
            if is_first and self._options.workers:
                left = await self._flush(port, limit)
        except (StoreError, JournalMismatch) as error:
            log.warning("write-behind %r was closed without its journal: %s", self.name, error)
        finally:
            self._end_workers()
        await self._see_them_end(port, deadline)
        self._overlay.remove(self.journal)
        self._say_what_is_left(left)
        return left

    def _end_workers(self) -> None:
        self._bell.stop()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _see_them_end(self, port: Port, deadline: float) -> None:
        with _Expecting(self, port) as expected:
            while any(worker.thread.is_alive() for worker in self._workers):
                if time.monotonic() > deadline + 1.0:
                    return  # it hangs in the writer; a daemon, so the process can end
                await port.news(expected, 0.005)
        for worker in self._workers:
            worker.thread.join()
        self._workers = []

    def _say_what_is_left(self, left: int) -> None:
        if left <= 0:
            return
        if self._options.is_durable:
            log.warning(
                "write-behind %r was closed with %d operations left in %s: the next process that "
                "has it writes them",
                *(self.name, left, self.journal.label),
            )
        else:
            log.error("write-behind %r was closed and LOST %d operations", self.name, left)

    def after_fork(self) -> None:
        """Be another process, in a forked child: what the parent has accepted, the parent writes."""
        self._starting = threading.Lock()
        self._counts = Counts()
        self._overlay.remove(self.journal)
        if not self._is_closed:
            self._start_afresh()

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
        counts = self._counts
        with counts.lock:
            return WriteBehindStats(
                depth=None if level is None else level.depth,
                lag_seconds=None if level is None else level.lag_seconds,
                held=None if level is None else level.held,
                put_off=None if level is None else level.put_off,
                dead=None if level is None else level.dead,
                puts=self._puts,
                written=counts.written,
                batches=counts.batches,
                failures=counts.failures,
                retries=counts.retries,
                buried=counts.buried,
                lost_claims=counts.lost,
                stuck=len(self._stuck),
            )

    # Dead letters

    def dead_letters(self, limit: int = MOST_SHOWN) -> list[DeadLetter]:
        """Return the oldest operations that were given up. They stay until replayed or discarded.

        At most max_pending are kept; beyond that an operation is tried on and on.
        """
        return [self._dead_letter(each) for each in self.journal.dead(limit)]

    def _dead_letter(self, buried: Buried) -> DeadLetter:
        try:
            operation = operation_of(self._cache.codec, buried.key, buried.record)
        except DecodeError:  # which may be why it was given up
            record = buried.record
            operation = Operation("", record.kind, buried.key, None, None, record.version)
        return DeadLetter(buried.id, operation, buried.attempts, buried.error)

    def replay(self, *letters: DeadLetter) -> int:
        """Have dead letters written after all, or all of them; return how many will be.

        They keep their ids and versions, and are visible to readers again. One whose key has been
        written since is out of date and stays where it is: see ``discard``.
        """
        chosen = letters or self.dead_letters(self._options.max_pending)
        revived = set(self.journal.revive([letter.id for letter in chosen]))
        for letter in chosen:
            if letter.id in revived:
                self._withdraw(letter.operation.key)  # the overlay answers until it is written
        if revived and not self._is_closed:
            self.start()
            self._bell.ring(len(revived))
        return len(revived)

    def discard(self, *letters: DeadLetter) -> int:
        """Remove dead letters for good; return how many there were."""
        return self.journal.discard([letter.id for letter in letters])

    async def adead_letters(self, limit: int = MOST_SHOWN) -> list[DeadLetter]:
        """Do what ``dead_letters`` does, awaited."""
        return await _in_thread(self.dead_letters, limit)

    async def areplay(self, *letters: DeadLetter) -> int:
        """Do what ``replay`` does, awaited."""
        return await _in_thread(self.replay, *letters)

    async def adiscard(self, *letters: DeadLetter) -> int:
        """Do what ``discard`` does, awaited."""
        return await _in_thread(self.discard, *letters)

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> WriteBehind:
        return self

    async def __aexit__(self, *_: object) -> None:
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


async def _in_thread(do: Callable[..., Any], *args: Any) -> Any:
    """Await what is done seldom, and blocks."""
    import asyncio

    return await asyncio.to_thread(do, *args)
