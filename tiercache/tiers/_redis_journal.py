"""A journal in Redis: what to send, and what its replies mean; see journal.py and lua/journal.lua.

Its tickets are a stream with a consumer group. All its keys share the hash tag of what the
namespace shares, so a script may touch them all in Cluster, too. Where entries are on other nodes
(Cluster), a put invalidates the entry along with the journal's script, and stores the new one
after it, in a second round trip. See also _redis_journal_put.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tiercache.errors import ConfigurationError, StoreError
from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_journal_put import Puts
from tiercache.tiers._redis_link import Command
from tiercache.tiers._redis_scripts import Run, is_unknown, run_all
from tiercache.tiers.journal import (
    FORMAT,
    Accepted,
    Burial,
    Buried,
    Change,
    Draft,
    JournalMismatch,
    Level,
    OpKind,
    Record,
    Retry,
    Taken,
    Ticket,
)
from tiercache.tiers.store import Kind, StoreRefused

if TYPE_CHECKING:
    from tiercache.tiers._redis_entry_plans import Plan
    from tiercache.tiers._redis_namespace import RedisNamespace

_PARTS: Final = (*("state", "dirty", "queue", "later", "attempts", "backlog", "dead", "graves"),)
_KINDS: Final = {b"c": OpKind.CREATE, b"u": OpKind.UPDATE, b"d": OpKind.DELETE}
_CODES: Final = {kind: code for code, kind in _KINDS.items()}
_HEAD_BYTES: Final = 18  # of a record: its kind, whether the row exists, its version
_PER_KEY: Final = 100  # records that a ticket comes with, where all are kept
_IDLE_MS: Final = 3_600_000  # after which a worker that holds nothing is forgotten
_YES, _NO = b"1", b""


class JournalPlans:
    """The operations of a journal, as plans (see ``_redis_entry_plans``)."""

    def __init__(self, namespace: RedisNamespace, name: str, *, keeps_all: bool) -> None:
        self._plans = namespace.plans
        self._names = [self._plans.keys.journal(name, part) for part in _PARTS]
        self._format = FORMAT.encode()
        self._keeps_all = _YES if keeps_all else _NO
        self._puts = Puts(self._plans, self._names, (self._format, self._keeps_all))
        self.label = f"the journal {name!r} in {namespace.label}"

    # Accepting

    def put(self, draft: Draft, change: Change | None, most: int) -> Plan[Accepted]:
        """Accept an operation and bring its entry in line."""
        if change is None:
            (reply,) = yield from run_all([self._puts.alone(draft, change, most)])
            return self._accepted(reply)
        if self._plans.is_cluster:
            return (yield from self._put_in_cluster(draft, change, most))
        (reply,) = yield from run_all([self._puts.full(draft, change.item, most)])
        return self.put_as_usual(reply)

    def usual(self, draft: Draft, change: Change | None, most: int) -> Command | None:
        """Return the one command of most puts; None where it takes the plan."""
        plans = self._plans
        if change is None or plans.is_cluster or not plans.clock.is_known:
            return None
        if change.item is not None and change.item.tags:
            return None
        return self._puts.usual(draft, change.item, most)

    def put_as_usual(self, reply: Any) -> Accepted:
        """Return what the reply to the usual command means."""
        if reply.__class__ is list and reply[0] == 1:
            self._plans.said = reply[2]
            return Accepted(int(reply[1]))
        return self._accepted(reply)

    def _put_in_cluster(self, draft: Draft, change: Change, most: int) -> Plan[Accepted]:
        keys = self._plans.keys
        names = keys.entry(draft.key), keys.lease(draft.key)
        gone = [Command(name, wire.pack(b"UNLINK", name)) for name in names]
        run = self._puts.alone(draft, change, most)
        reply, *removed = yield from run_all([run], gone)
        accepted = self._accepted(reply)
        self._check(removed, "put")
        if accepted.version is None:
            return accepted
        if change.item is not None:
            yield from self._plans.write([change.item])
        else:
            yield from self._plans.announce(change.kind, [draft.key])
        return accepted

    def _accepted(self, reply: Any) -> Accepted:
        answer, *rest = self._answer(reply, "put")
        if answer == 0:
            return Accepted(None, rest[0])
        return Accepted(int(rest[0]))

    def pending(self, keys: Sequence[str]) -> Plan[list[Record | None]]:
        """Return the newest operation of each key that is not written yet."""
        state = self._names[0]
        fields = b"format", *(b"k" + wire.encode(key) for key in keys)
        (reply,) = yield [Command(state, wire.pack(b"HMGET", state, *fields))]
        found, *records = self._list(reply, "pending")
        self._check_format(found)
        return [None if raw is None else _record(raw) for raw in records]

    def level(self) -> Plan[Level]:
        """Return how full it is."""
        state, dirty, queue, later, _, backlog, dead, _ = self._names
        asked = [
            (state, wire.pack(b"HMGET", state, b"format", b"last")),
            (dirty, wire.pack(b"ZRANGE", dirty, b"0", b"0", b"WITHSCORES")),
            (dirty, wire.pack(b"ZCARD", backlog if self._keeps_all else dirty)),
            (queue, wire.pack(b"XLEN", queue)),
            (queue, wire.pack(b"XPENDING", queue, b"writers")),
            (later, wire.pack(b"ZCARD", later)),
            (dead, wire.pack(b"XLEN", dead)),
            (state, wire.TIME),
        ]
        replies = yield [Command(key, data) for key, data in asked]
        about, first, depth, _, held, put_off, buried, time = replies
        if _is_no_group(held):
            held = [0]
        self._check([about, first, depth, held, put_off, buried, time], "level")
        self._check_format(about[0])
        last = about[1]
        oldest = _score(first)
        now = int(time[0]) * 1_000_000 + int(time[1])
        lag = 0.0 if oldest is None else max(0.0, (now - oldest) / 1e6)
        return Level(depth, oldest, int(last or 0), held[0], put_off, buried, lag)

    # For workers

    def take(self, worker: str, most: int, claim_seconds: float, patience: float) -> Plan[Taken]:
        """Give a worker tickets."""
        args = [
            *(self._format, worker.encode(), b"%d" % most, b"%d" % wire.ttl_ms(claim_seconds)),
            b"%d" % (patience * 1000),
            b"%d" % min(most, _PER_KEY) if self._keeps_all else b"",
        ]
        reply = yield from self._one("take", args)
        _, wait, found = self._answer(reply, "take")
        tickets = [_ticket(raw) for raw in found]
        return Taken(tickets, None if int(wait) < 0 else int(wait) / 1000)

    def done(
        self, worker: str, tickets: Sequence[Ticket], payloads: Sequence[bytes]
    ) -> Plan[Sequence[str]]:
        """Take out what was written, and mend its entries."""
        keys, names = self._plans.keys, list(self._names)
        if payloads and self._plans.is_cluster:
            yield from self._mend_in_cluster(tickets, payloads)
        elif payloads:
            names.append(keys.log)
            for ticket in tickets:
                names += keys.entry(ticket.key), keys.lease(ticket.key)
        args = [worker.encode(), self._keeps_all, self._plans.log_length]
        for ticket, size in zip(tickets, map(len, payloads or [b""] * len(tickets)), strict=True):
            last = ticket.records[-1]
            exists = b"0" if last.kind is OpKind.DELETE else b"1"
            args += (*_named(ticket), _version(last), exists, b"%d" % size)
        (reply,) = yield from run_all([Run("journal_done", names, args)])
        return [each.decode() for each in self._list(reply, "done")]

    def _mend_in_cluster(self, tickets: Sequence[Ticket], payloads: Sequence[bytes]) -> Plan[None]:
        """Mend entries on other nodes.

        Before tickets are given back: should this process die between, another does it again. What
        is put meanwhile loses its entry, and nothing else.
        """
        newest = yield from self.pending([ticket.key for ticket in tickets])
        runs, names = [], []
        for ticket, payload, record in zip(tickets, payloads, newest, strict=True):
            if record is None or record.version <= ticket.records[-1].version:
                place = self._plans.keys.entry(ticket.key), self._plans.keys.lease(ticket.key)
                runs.append(Run("mend_entry", place, [payload]))
                names.append(ticket.key)
        replies = yield from run_all(runs)
        self._check(replies, "done")
        for kind in (Kind.DELETE, Kind.LANDED):
            told = [
                name for name, said in zip(names, replies, strict=True) if said == kind.encode()
            ]
            if told:
                yield from self._plans.announce(kind, told, origin=b"")

    def retry(self, worker: str, retries: Sequence[Retry]) -> Plan[int]:
        """Put tickets off."""
        args = [worker.encode()]
        for ticket, seconds, attempts in retries:
            args += (*_named(ticket), _version(ticket.records[0]))
            args += (b"%d" % attempts, b"%d" % wire.ttl_ms(seconds))
        return self._count((yield from self._one("retry", args)), "retry")

    def bury(
        self, worker: str, burials: Sequence[Burial], most: int
    ) -> Plan[Sequence[bool | None]]:
        """Move operations to the dead letters."""
        args = [worker.encode(), self._keeps_all, b"%d" % most]
        for ticket, error in burials:
            args += (*_named(ticket), _packed(ticket.records[0]))
            args += (b"%d" % (ticket.attempts + 1), wire.encode(error))
        reply = self._list((yield from self._one("bury", args)), "bury")
        return [None if answer < 0 else bool(answer) for answer in reply]

    def leave(self, worker: str) -> Plan[None]:
        """Forget workers."""
        reply = yield from self._one("leave", [worker.encode(), b"%d" % _IDLE_MS])
        self._check([reply], "leave")

    # Dead letters

    def dead(self, most: int) -> Plan[Sequence[Buried]]:
        """Return the oldest dead letters."""
        state, name = self._names[0], self._names[6]
        asked = wire.pack(b"HGET", state, b"format")
        command = wire.pack(b"XRANGE", name, b"-", b"+", b"COUNT", b"%d" % most)
        found, reply = yield [Command(state, asked), Command(name, command)]
        self._check([found], "dead")
        self._check_format(found)
        return [_buried(raw) for raw in self._list(reply, "dead")]

    def revive(self, ids: Sequence[str]) -> Plan[Sequence[str]]:
        """Have dead letters written after all; return the ids of those that will be."""
        args = [self._format, self._keeps_all, *(each.encode() for each in ids)]
        reply = yield from self._one("revive", args)
        return [each.decode() for each in self._answer(reply, "revive")[1]]

    def discard(self, ids: Sequence[str]) -> Plan[int]:
        """Remove dead letters."""
        reply = yield from self._one("discard", [each.encode() for each in ids])
        return self._count(reply, "discard")

    # Replies

    def _one(self, script: str, args: Sequence[bytes]) -> Plan[Any]:
        (reply,) = yield from run_all([Run(f"journal_{script}", self._names, args)])
        return reply

    def _answer(self, reply: Any, operation: str) -> list[Any]:
        answer = self._list(reply, operation)
        if answer[0] == -1:
            self._check_format(answer[1])
        return answer

    def _check_format(self, found: bytes | None) -> None:
        if found is not None and found != self._format:
            raise JournalMismatch(
                f"{self.label} is of format {found.decode()!r}, this tiercache keeps "
                f"{FORMAT!r}: drain it with the version that wrote it; nothing was changed"
            )

    def _list(self, reply: Any, operation: str) -> list[Any]:
        self._check([reply], operation)
        if not isinstance(reply, list):
            kind = type(reply).__name__
            raise StoreError(f"{self.label} answered {operation} with an unexpected {kind}")
        return reply

    def _count(self, reply: Any, operation: str) -> int:
        self._check([reply], operation)
        return int(reply)

    def _check(self, replies: Sequence[Any], operation: str) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreRefused(f"{self.label} refused {operation}: {str(reply)[:200]}")


class RedisJournal:
    """A journal in Redis: drives its plans."""

    writes_entries = True

    def __init__(self, namespace: RedisNamespace, name: str, *, keeps_all: bool) -> None:
        self._namespace = namespace
        self._plans = JournalPlans(namespace, name, keeps_all=keeps_all)
        self.label = self._plans.label
        self._is_checked = False

    def put(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Accept an operation."""
        if not self._is_checked:
            self._check_eviction(self._namespace.drive("put", _memory_info()))
        command = self._plans.usual(draft, change, most)
        if command is not None:  # most of what happens: it is done without the plan
            reply = self._namespace.ask("put", command)
            if not is_unknown(reply):
                return self._plans.put_as_usual(reply)
        return self._namespace.drive("put", self._plans.put(draft, change, most))

    async def aput(self, draft: Draft, change: Change | None, most: int) -> Accepted:
        """Accept an operation."""
        if not self._is_checked:
            self._check_eviction(await self._namespace.adrive("put", _memory_info()))
        command = self._plans.usual(draft, change, most)
        if command is not None:
            reply = await self._namespace.aask("put", command)
            if not is_unknown(reply):
                return self._plans.put_as_usual(reply)
        return await self._namespace.adrive("put", self._plans.put(draft, change, most))

    def _check_eviction(self, reply: Any) -> None:
        """Refuse a server that may throw the journal away; one that will not say is believed."""
        text = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
        found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        policy = found.get("maxmemory_policy", "")
        if policy.startswith("allkeys") and found.get("maxmemory", "0") != "0":
            raise ConfigurationError(
                f"{self.label} would be evicted: the server's maxmemory-policy is {policy}; "
                "set it to volatile-lru (the journal has no TTL, entries have), or durable=False"
            )
        self._is_checked = True

    def pending(self, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""
        return self._namespace.drive("pending", self._plans.pending(keys))

    async def apending(self, keys: Sequence[str]) -> list[Record | None]:
        """Return the newest operation of each key that is not written yet."""
        return await self._namespace.adrive("pending", self._plans.pending(keys))

    def level(self) -> Level:
        """Return how full it is."""
        return self._namespace.drive("level", self._plans.level())

    async def alevel(self) -> Level:
        """Return how full it is."""
        return await self._namespace.adrive("level", self._plans.level())

    def take(self, worker: str, most: int, claim_seconds: float, patience: float) -> Taken:
        """Give a worker tickets."""
        plan = self._plans.take(worker, most, claim_seconds, patience)
        return self._namespace.drive("take", plan)

    def done(
        self, worker: str, tickets: Sequence[Ticket], payloads: Sequence[bytes] = ()
    ) -> Sequence[str]:
        """Take out what was written, and mend its entries."""
        return self._namespace.drive("done", self._plans.done(worker, tickets, payloads))

    def retry(self, worker: str, retries: Sequence[Retry]) -> int:
        """Put tickets off."""
        return self._namespace.drive("retry", self._plans.retry(worker, retries))

    def bury(self, worker: str, burials: Sequence[Burial], most: int) -> Sequence[bool | None]:
        """Move operations to the dead letters."""
        return self._namespace.drive("bury", self._plans.bury(worker, burials, most))

    def leave(self, worker: str) -> None:
        """Forget workers."""
        self._namespace.drive("leave", self._plans.leave(worker))

    def dead(self, most: int) -> Sequence[Buried]:
        """Return the oldest dead letters."""
        return self._namespace.drive("dead", self._plans.dead(most))

    def revive(self, ids: Sequence[str]) -> Sequence[str]:
        """Have dead letters written after all."""
        return self._namespace.drive("revive", self._plans.revive(ids))

    def discard(self, ids: Sequence[str]) -> int:
        """Remove dead letters."""
        return self._namespace.drive("discard", self._plans.discard(ids))


def _memory_info() -> Plan[Any]:
    """Ask a server how it evicts; in a cluster, any node."""
    (reply,) = yield [Command(None, wire.pack(b"INFO", b"memory"))]
    return reply


def _ticket(raw: bytes) -> Ticket:
    head, _, rest = raw.partition(b"\n")
    number, is_suspect, attempts, at, *sizes = head.split()
    begin = int(at)
    records = []
    for size in map(int, sizes):
        records.append(_record(rest[begin : begin + size]))
        begin += size
    key = wire.decode(rest[: int(at)])
    return Ticket(number.decode(), key, tuple(records), int(attempts), is_suspect == b"1")


def _named(ticket: Ticket) -> tuple[bytes, bytes]:
    return ticket.id.encode(), wire.encode(ticket.key)


def _version(record: Record) -> bytes:
    return b"%016d" % record.version


def _packed(record: Record) -> bytes:
    return record.head + record.body


def _record(raw: bytes) -> Record:
    head, body = raw[:_HEAD_BYTES], raw[_HEAD_BYTES:]
    return Record(int(head[2:]), _KINDS[head[:1]], body, head)


def _buried(raw: Any) -> Buried:
    number, fields = raw
    _, key, _, record, _, attempts, _, error = fields
    decoded = wire.decode(error) if isinstance(error, bytes) else str(error)
    return Buried(number.decode(), wire.decode(key), _record(record), int(attempts), decoded)


def _score(first: Any) -> int | None:
    """Return the score of a lone member: flat in RESP2, a pair in RESP3."""
    if not first:
        return None
    score = first[0][1] if isinstance(first[0], list) else first[1]
    return int(float(score))


def _is_no_group(reply: object) -> bool:
    text = f"{type(reply).__name__} {reply}".upper()
    return isinstance(reply, Exception) and ("NOGROUP" in text or "NO SUCH KEY" in text)
