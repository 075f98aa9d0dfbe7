"""The thread that takes operations from a journal and hands them to the user's writer.

A batch is acknowledged only after the writer has returned. If it raises, its operations are tried
one by one, so that one that always fails does not keep others from being written; and what has
failed alone is tried alone from then on. But after
``ENOUGH_FAILURES`` in a row without a success it is the database that is at fault, and the rest of
the batch is put off untried. Only an attempt alone counts towards ``max_attempts``.

**Claims.** A ticket is the worker's for ``claim_timeout``. The worker begins no call after that,
by the monotonic clock, which goes on while a process is frozen; and gives back what it will not
get to. What is still outstanding in a writer's call when its claim ends may be given to another
worker: the writer then sees it twice, with the same id and version. An abandoned ticket counts as
an attempt, and is tried alone: it may be what killed its worker. Not where that one is in this
process, and still in the writer: see ``in_hand.py``.

The journal refuses an acknowledgement of what is not the worker's any more, so a worker that thaws
can do no harm there. In the database it can, unless the writer compares versions: see the docs.
"""

from __future__ import annotations

import inspect
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tiercache.errors import CacheError, StoreError, WriteFailed
from tiercache.logs import trace_of
from tiercache.tiers.journal import Burial, Journal, JournalMismatch, Retry, Ticket
from tiercache.writes.backoff import Backoff
from tiercache.writes.bell import Bell
from tiercache.writes.figures import Counts
from tiercache.writes.in_hand import InHand
from tiercache.writes.operation import Operation, mark_of, operation_of, payload_of

if TYPE_CHECKING:
    import asyncio

    from tiercache.codec import Codec
    from tiercache.telemetry import Step

log = logging.getLogger(__name__)

ENOUGH_FAILURES: Final = 3
GIVE_BACK_SHARE: Final = 0.5  # of the claim, after which nothing more is begun of a split batch
TROUBLE_SECONDS: Final = 0.5  # between two attempts to reach the journal
Writer = Callable[[list[Operation]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a worker goes by."""

    max_batch: int
    claim_seconds: float
    max_attempts: int | None
    max_dead: int
    backoff: Backoff


class Worker:
    """One thread of one writer.

    Args:
        journal: Where operations wait.
        codec: What makes values of bytes.
        writer: The user's; blocking or ``async def``.
        rules: What it goes by.
        bell: What it waits for.
        counts: What it counts in.
        told: Called when something was written or given up.
        withdrawn: Called with the key of an operation that was given up, if nothing newer of it is
            pending.
        flushing: Returns the span of a call of the writer, for how many operations, and the marks
            of the spans in which they were accepted.
        mend: Called with tickets that are written, and the payloads of their entries, before they
            are acknowledged.
        in_hand: What this process's workers are in the writer with.
    """

    def __init__(
        self,
        journal: Journal,
        codec: Codec,
        writer: Writer,
        rules: Rules,
        bell: Bell,
        counts: Counts,
        told: Callable[[], None],
        withdrawn: Callable[[str], None],
        flushing: Callable[[int, Sequence[bytes]], Step],
        mend: Callable[[Sequence[Ticket], Sequence[bytes]], None],
        in_hand: InHand,
    ) -> None:
        self.name = secrets.token_hex(8)
        self._journal = journal
        self._codec = codec
        self._writer = writer
        self._rules = rules
        self._bell = bell
        self._counts = counts
        self._told = told
        self._withdrawn = withdrawn
        self._flushing = flushing
        self._mend = mend
        self._in_hand = in_hand
        self._runner: asyncio.Runner | None = None  # of an asyncio writer
        self._claimed_at = 0.0  # monotonic time of the last take
        self._is_in_trouble = False
        self.calling_since: float | None = None  # monotonic time; read by others
        self.is_abandoned = False  # another has taken its place: set by others
        self.thread = threading.Thread(target=self._run, name="tiercache-writes", daemon=True)

    # The loop

    def _run(self) -> None:
        try:
            while self._bell.wait(TROUBLE_SECONDS if self._is_in_trouble else 0.0):
                self.work()
                if self.is_abandoned:
                    break
            self._leave()
        finally:
            if self._runner is not None:
                self._runner.close()

    def work(self) -> int:
        """Take once, and write what was taken; return how many tickets there were."""
        rules = self._rules
        self._claimed_at = time.monotonic()
        try:
            if self._is_in_trouble:  # else what it could not be told of waits for its claim's end
                self._journal.leave(self.name)
            taken = self._journal.take(
                self.name, rules.max_batch, rules.claim_seconds, self._bell.patience
            )
            self._bell.took(taken.wait)
            self._write([self._in_hand.seen(ticket) for ticket in taken.tickets])
        except Exception as error:  # whatever it is: nobody writes if this thread ends
            self._has_trouble(error)
            return 0
        if self._is_in_trouble:
            self._is_in_trouble = False
            log.warning("%s is in reach again", self._journal.label)
        return len(taken.tickets)

    def _has_trouble(self, error: Exception) -> None:
        if not self._is_in_trouble:
            self._is_in_trouble = True
            is_known = isinstance(error, StoreError | JournalMismatch)
            log.warning("writes behind wait: %s", error if is_known else trace_of(error))

    def _leave(self) -> None:
        try:
            self._journal.leave(self.name)
        except (StoreError, JournalMismatch) as error:
            log.debug("a worker could not take its leave: %s", error)

    # A batch

    def _write(self, tickets: Sequence[Ticket]) -> None:
        written = [part for ticket in tickets if (part := self._in_hand.written(ticket))]
        if written:
            self._acknowledge(written)
            names = {ticket.id for ticket in written}  # what is left of them has another ticket
            tickets = [ticket for ticket in tickets if ticket.id not in names]
        alone = [ticket for ticket in tickets if ticket.is_suspect or ticket.attempts]
        fresh = [ticket for ticket in tickets if not (ticket.is_suspect or ticket.attempts)]
        for some in _batches(fresh, self._rules.max_batch):
            if self._give_back_if_late(some):
                continue
            if (len(some) == 1 and len(some[0].records) == 1) or not self._try(some):
                self._write_singly(some)
        self._write_singly(alone)

    def _write_singly(self, tickets: Sequence[Ticket]) -> None:
        """Write the first operation of each ticket by itself; the rest gets another ticket."""
        failures, successes = 0, 0
        for number, ticket in enumerate(tickets):
            if self._give_back_if_late(tickets[number:]):
                return
            if failures >= ENOUGH_FAILURES and not successes:
                self._put_off(tickets[number:], self._rules.backoff.after(1))
                return
            if self._in_hand.is_enough(ticket):
                self._put_off([ticket], self._rules.claim_seconds)
            elif self._try_alone(ticket._replace(records=ticket.records[:1])):
                successes += 1
            else:
                failures += 1

    def _give_back_if_late(self, tickets: Sequence[Ticket]) -> bool:
        """Give back tickets that there is not time enough for."""
        late = time.monotonic() - self._claimed_at
        if late < self._rules.claim_seconds * GIVE_BACK_SHARE:
            return False
        if tickets:
            self._retry([Retry(each, 0.0, each.attempts) for each in tickets])
        return True

    def _put_off(self, tickets: Sequence[Ticket], seconds: float) -> None:
        """Put tickets off that were not tried."""
        self._retry([Retry(each, seconds, each.attempts) for each in tickets])
        self._counts.add("retries", len(tickets))

    def _retry(self, retries: Sequence[Retry]) -> None:
        self._journal.retry(self.name, retries)
        self._in_hand.recorded([each.ticket for each in retries])

    def _try(self, tickets: Sequence[Ticket]) -> bool:
        """Hand over tickets as one batch; False if it was not written."""
        with self._in_hand.holding(tickets):
            try:
                self._hand_over(tickets)
            except BaseException as error:  # a CancelledError, or SystemExit, is the writer's own
                kind = type(error).__name__  # what it says may name keys and values
                log.info("%d operations could not be written together: %s", len(tickets), kind)
                return False
            self._counts.add("batches", self._acknowledge(tickets))
        return True

    def _try_alone(self, ticket: Ticket) -> bool:
        """Hand over one operation; put it off, or bury it, if it was not written."""
        most = self._rules.max_attempts
        if ticket.is_suspect and most is not None and ticket.attempts >= most:
            self._bury(
                ticket._replace(attempts=ticket.attempts - 1), "the worker did not survive it"
            )
            return False
        with self._in_hand.holding([ticket]):
            try:
                self._hand_over([ticket])
            except BaseException as error:
                self._failed(ticket, _named(error))
                return False
            self._counts.add("batches", self._acknowledge([ticket]))
        return True

    def _hand_over(self, tickets: Sequence[Ticket]) -> None:
        """Call the writer with the operations of tickets."""
        found = [(ticket.key, record) for ticket in tickets for record in ticket.records]
        marks = [mark for _, record in found if (mark := mark_of(record))]
        with self._flushing(len(found), marks):
            self._call([operation_of(self._codec, key, record) for key, record in found])

    def _failed(self, ticket: Ticket, error: str) -> None:
        attempts = ticket.attempts + 1
        most = self._rules.max_attempts
        if most is not None and attempts >= most and self._bury(ticket, error):
            return
        retry = Retry(ticket, self._rules.backoff.after(attempts), attempts)
        self._retry([retry])
        self._counts.add("retries")

    def _bury(self, ticket: Ticket, error: str) -> bool:
        """Give an operation up; False where that cannot be."""
        (is_last,) = self._journal.bury(self.name, [Burial(ticket, error)], self._rules.max_dead)
        if is_last is None:
            return False
        self._in_hand.settled([ticket])
        self._counts.add("buried")
        kind = error.partition(":")[0]  # the rest may name keys and values
        log.error("an operation was given up after %d attempts: %s", ticket.attempts + 1, kind)
        if is_last:
            self._withdrawn(ticket.key)
        self._told()
        return True

    def _acknowledge(self, tickets: Sequence[Ticket]) -> bool:
        """Have the journal forget what is written; say whether any of it still was this worker's.

        By then nothing older stands in L2: the database has the row, so a load brings it.
        """
        payloads = [payload_of(ticket.records[-1]) for ticket in tickets]
        try:
            self._mend(tickets, payloads)
            lost = set(self._journal.done(self.name, tickets, payloads))
        except StoreError:
            self._in_hand.wrote_late(tickets)  # when they come again they are not written again
            raise
        own = [ticket for ticket in tickets if ticket.id not in lost]
        self._in_hand.settled(own)
        self._counts.add("written", sum(len(ticket.records) for ticket in own))
        if lost:
            self._lost([ticket for ticket in tickets if ticket.id in lost])
        self._told()
        return bool(own)

    def _lost(self, tickets: Sequence[Ticket]) -> None:
        self._in_hand.wrote_late(tickets)
        self._counts.add("lost", len(tickets))
        log.warning(
            "%d operations were held past claim_timeout, and written after their claim had ended: "
            "the writer may see them twice; give it more time, or smaller batches",
            len(tickets),
        )

    # The user's writer

    def _call(self, operations: list[Operation]) -> None:
        self.calling_since = time.monotonic()
        try:
            result = self._writer(operations)
            if inspect.isawaitable(result):
                self._await(result)
            else:
                _check_result(result)
        except BaseException:
            self._counts.add("failures")
            raise
        finally:
            self.calling_since = None

    def _await(self, awaitable: Any) -> None:
        import asyncio

        if self._runner is None:
            self._runner = asyncio.Runner()
        left = self._claimed_at + self._rules.claim_seconds - time.monotonic()

        async def within() -> None:
            async with asyncio.timeout(max(0.0, left)):
                _check_result(await awaitable)

        try:
            self._runner.run(within())
        except TimeoutError as error:
            if error.args:
                raise
            raise WriteFailed("the writer took longer than claim_timeout") from error


def _check_result(result: object) -> None:
    """Raise if what the writer returned says that it has written nothing."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise CacheError("the writer is a generator, which has not run; remove its yield")
    if result is False:
        raise CacheError("the writer returned False; it is to raise where it has not written")


def _batches(tickets: Sequence[Ticket], most: int) -> list[list[Ticket]]:
    """Part tickets in lists of up to ``most`` operations, or of one ticket."""
    batches: list[list[Ticket]] = []
    room = 0
    for ticket in tickets:
        count = len(ticket.records)
        if not batches or count > room:
            batches.append([])
            room = most
        batches[-1].append(ticket)
        room -= count
    return batches


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
