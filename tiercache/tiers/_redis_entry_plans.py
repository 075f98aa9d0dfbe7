"""What to send to Redis for the entries of a namespace, and what its replies mean. No I/O.

A *plan* is a generator: it yields the commands of one round trip, is sent their replies, and
returns the operation's result. Blocking and asyncio callers drive the same plans
(``_redis_namespace``).

Where everything is on one node, an operation is one round trip: commands of one connection run in
order, so an entry is gone before the log says so. In Cluster the entries are on other nodes than
what they share (generation, tokens, log), and the steps follow one another.
"""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from tiercache.errors import StoreError
from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_errors import refusal_text
from tiercache.tiers._redis_link import Command
from tiercache.tiers._redis_scripts import Run, run_all
from tiercache.tiers.store import Fill, Item, Kind, Message, Stored, StoreRefused

T = TypeVar("T")
Plan = Generator[Sequence[Command], list[Any], T]

NAMES_PER_MESSAGE: Final = 500
_MOST_TOKENS: Final = 10_000  # kept in mind
_COMMANDS: Final = (
    "MGET, GET, SET, UNLINK, TIME, EVAL, EVALSHA, XADD, XRANGE, XREVRANGE, XREAD, SCAN"
)
_IDLE_TOKEN_MS: Final = 3_600_000  # of a tag that no entry carries: longer than any load takes
_SCAN_COUNT: Final = b"1000"  # keys per step of clear(prefix)


class Stamp(NamedTuple):
    """The tokens as they were before a load."""

    generation: bytes
    tokens: Mapping[str, bytes]  # of the tags known then
    since: str  # a position in the log at that time, or earlier


class EntryPlans:
    """The operations of one namespace object on entries, and what it knows of the namespace.

    What it knows may be outdated; it is used only where that does no harm: a value written under
    an outdated token is not valid.
    """

    def __init__(
        self, label: str, keys: wire.KeySpace, origin: str, log_length: int, *, is_cluster: bool
    ) -> None:
        self.keys = keys
        self.clock = wire.ServerClock()
        self.heard: str | None = None  # position up to which the log was read; None: nobody reads
        self.said: bytes | None = None  # position of the last message of our own, acknowledged
        self.foreign = 0  # values that no tiercache of this version wrote
        self._label = label
        self._origin = wire.encode(origin)
        self._log_length = log_length
        self._is_cluster = is_cluster
        self._era = 0  # advanced by every invalidation
        self._generation: bytes | None = None  # as last seen
        self._tokens: dict[str, bytes] = {}  # of tags that functions name, as last seen

    @property
    def is_cluster(self) -> bool:
        """Whether entries are on other nodes than what they share."""
        return self._is_cluster

    # Reading

    def read(self, keys: Sequence[str], tags: Sequence[str]) -> Plan[Sequence[Stored | None]]:
        """Read entries with the tokens that tell whether they are valid."""
        era = self._era
        if self._is_cluster:
            raws, shared = yield from self._read_in_cluster(keys, tags)
        else:
            (reply,) = yield [Command(None, self.keys.pack_mget(keys, tags))]
            raws, shared = self._parted(reply, keys, tags)
        return (yield from self._found(raws, shared, tags, era))

    def _found(
        self, raws: Sequence[Any], shared: Sequence[Any], tags: Sequence[str], era: int
    ) -> Plan[Sequence[Stored | None]]:
        generation, tokens = _token(shared[0]), self._learn(shared, tags, era)
        result = wire.unpack(raws, generation, tokens, self.clock)
        if result.unsure:
            more = list(result.unsure)
            tokens.update(zip(more, (yield from self._fetch_tokens(more)), strict=True))
            result = wire.unpack(raws, generation, tokens, self.clock)
        self.foreign += result.foreign
        return result.found

    def _parted(
        self, reply: Any, keys: Sequence[str], tags: Sequence[str]
    ) -> tuple[list[Any], list[Any]]:
        values = self._list(reply, len(keys) + len(tags) + 1, "read")
        return values[: len(keys)], values[len(keys) :]

    def _read_in_cluster(
        self, keys: Sequence[str], tags: Sequence[str]
    ) -> Plan[tuple[list[Any], list[Any]]]:
        get = [Command(name, wire.pack(b"GET", name)) for name in map(self.keys.entry, keys)]
        replies = yield [*get, self._mget_shared(tags)]
        raws = [None if _is_wrong_type(raw) else raw for raw in replies[:-1]]
        shared = self._list(replies[-1], len(tags) + 1, "read")
        for raw in raws:
            self._refuse(raw, "read")
        return raws, shared

    # The same where everything is on one node, and for entries whose usual kind needs no plan

    def question(self, keys: Sequence[str], tags: Sequence[str]) -> tuple[bytes, int]:
        """Return the command that reads entries, and the era in which it is sent."""
        return self.keys.pack_mget(keys, tags), self._era

    def answer(
        self, reply: Any, keys: Sequence[str], tags: Sequence[str], era: int
    ) -> Sequence[Stored | None] | Plan[Sequence[Stored | None]]:
        """Return the entries that the reply to a question tells, or the plan to find out more.

        Raises:
            StoreError: If the server refused.
        """
        if len(keys) == 1 and not tags and (stored := self.plain(reply)) is not None:
            return (stored,)
        raws, shared = self._parted(reply, keys, tags)
        result = wire.unpack(raws, _token(shared[0]), self._learn(shared, tags, era), self.clock)
        if result.unsure:
            return self._found(raws, shared, tags, era)
        self.foreign += result.foreign
        return result.found

    def plain(self, reply: Any) -> Stored | None:
        """Return the entry of a lone read, if it is a small and valid one without tags.

        None says nothing: the plan will.
        """
        if reply.__class__ is not list or len(reply) != 2:
            return None
        return wire.unpack_plain(reply[0], reply[1], self.clock)

    def _mget_shared(self, tags: Sequence[str]) -> Command:
        generation = self.keys.generation
        return Command(generation, wire.pack(b"MGET", generation, *map(self.keys.token, tags)))

    def _learn(
        self, shared: Sequence[Any], tags: Sequence[str], era: int
    ) -> dict[str, bytes | None]:
        """Take in the generation and the tokens of tags that a function names.

        Not where something has been invalidated since they were asked for: the answer may be from
        before that, and would be believed for as long as nobody reads.
        """
        tokens = {tag: _token(raw) for tag, raw in zip(tags, shared[1:], strict=True)}
        if era != self._era:
            return tokens
        self._generation = _token(shared[0])
        for tag, token in tokens.items():
            if token is None:
                self._tokens.pop(tag, None)
            else:
                self._tokens[tag] = token
        while len(self._tokens) > _MOST_TOKENS:
            with suppress(KeyError, StopIteration, RuntimeError):  # other threads do so, too
                self._tokens.pop(next(iter(self._tokens)))
        return tokens

    def heed(self, messages: Iterable[Message]) -> None:
        """Forget what messages say is outdated: not every claim comes after a read."""
        for kind, _, names in messages:
            if kind in (Kind.TAGS, Kind.CLEAR):
                self._era += 1  # before what it protects is forgotten
            if kind is Kind.TAGS:
                for tag in names:
                    self._tokens.pop(tag, None)
            elif kind is Kind.CLEAR and "" in names:
                self._generation = None

    def forget(self) -> None:
        """Forget all, where messages were missed."""
        self._era += 1
        self._generation = None
        self._tokens.clear()

    def _fetch_tokens(self, tags: Sequence[str]) -> Plan[list[bytes | None]]:
        names = list(map(self.keys.token, tags))
        (reply,) = yield [Command(names[0], wire.pack(b"MGET", *names))]
        return [_token(raw) for raw in self._list(reply, len(names), "read")]

    # Writing

    def write(self, items: Sequence[Item]) -> Plan[None]:
        """Store values; end their leases; tell."""
        said = self._messages(Kind.SET, [item.key for item in items])
        if self._is_cluster:
            yield from self._write_in_cluster(items)
            replies = yield said
        else:
            runs = [self._store_run(item, nonce=b"", generation=b"", since=b"") for item in items]
            replies = yield from run_all(runs, said)
        self._check(replies, "write")
        self.said = replies[-1]

    def _store_run(
        self,
        item: Item | Fill,
        *,
        nonce: bytes,
        generation: bytes,
        since: bytes,
        announce: bytes = b"",
    ) -> Run:
        keys, tags = self.keys, item.tags
        name = keys.entry(item.key)
        return Run(
            "store",
            [
                *(name, keys.lease(item.key), keys.log, keys.generation),
                *map(keys.token, tags),
            ],
            [
                *(nonce, generation, since, wire.life_arg(item.ttl)),
                wire.header(item.ttl, self.clock, tagged=bool(tags)),
                *(item.payload, announce, *self._log_args, wire.encode(item.key)),
                *(secrets.token_bytes(wire.TOKEN_BYTES), *map(wire.encode, tags)),
            ],
        )

    @property
    def log_length(self) -> bytes:
        """How many messages the log keeps, for a script."""
        return b"%d" % self._log_length

    @property
    def origin(self) -> bytes:
        """What marks our messages, for a script."""
        return self._origin

    @property
    def _log_args(self) -> tuple[bytes, bytes]:
        return self.log_length, self._origin

    def _write_in_cluster(self, items: Sequence[Item]) -> Plan[None]:
        tags = list({tag: None for item in items for tag in item.tags})
        longest = _longest([item.ttl for item in items])
        generation, tokens = yield from self._current_tokens(tags, longest)
        commands = []
        for item in items:
            name = self.keys.entry(item.key)
            frame = self._frame(item, generation, tokens)
            life = () if item.ttl is None else (b"PX", wire.life_arg(item.ttl))
            commands.append(Command(name, wire.pack(b"SET", name, frame, *life)))
            commands.append(Command(name, wire.pack(b"UNLINK", self.keys.lease(item.key))))
        self._check((yield commands), "write")

    def _current_tokens(
        self, tags: Sequence[str], ttl: float | None
    ) -> Plan[tuple[bytes, dict[str, bytes]]]:
        reply = yield from self._tokens_run(tags, b"", ttl)
        assert reply is not None
        return reply

    def _tokens_run(
        self, tags: Sequence[str], since: bytes, ttl: float | None
    ) -> Plan[tuple[bytes, dict[str, bytes]] | None]:
        """Return generation and tokens, made where there are none; None if refused."""
        fresh = secrets.token_bytes(wire.TOKEN_BYTES)
        run = Run(
            "tokens",
            [self.keys.log, self.keys.generation, *map(self.keys.token, tags)],
            [since, wire.life_arg(ttl), fresh, *map(wire.encode, tags)],
        )
        (reply,) = yield from run_all([run])
        if reply == 0:
            return None
        generation, *tokens = self._list(reply, len(tags) + 1, "write")
        return generation, dict(zip(tags, tokens, strict=True))

    def _frame(self, item: Item | Fill, generation: bytes, tokens: Mapping[str, bytes]) -> bytes:
        header = wire.header(item.ttl, self.clock, tagged=bool(item.tags))
        block = wire.tag_block({tag: tokens[tag] for tag in item.tags})
        return header + generation + block + item.payload

    # Removing

    def delete(self, keys: Sequence[str], kind: Kind) -> Plan[int]:
        """Remove entries and end their leases, then tell."""
        entries = self._unlink(list(map(self.keys.entry, keys)))
        leases = self._unlink(list(map(self.keys.lease, keys)))
        said = self._messages(kind, keys)
        if self._is_cluster:
            replies = yield [*entries, *leases]
            self._check(replies, "delete")
            replies += yield said
        else:
            replies = yield [*entries, *leases, *said]
        removed, told = replies[: -len(said)], replies[-len(said) :]
        self._check(removed, "delete")
        yield from self._check_told(told, (), "delete")
        return sum(replies[: len(entries)])

    def expire(self, keys: Sequence[str], seconds: Sequence[float]) -> Plan[int]:
        """Shorten the lives of entries and end their leases, then tell."""
        runs = [self._expire_run(key, life) for key, life in zip(keys, seconds, strict=True)]
        said = self._messages(Kind.EXPIRE, keys)
        if self._is_cluster:
            replies = yield from run_all(runs)
            self._check(replies, "expire")
            replies += yield said
        else:
            replies = yield from run_all(runs, said)
        if any(map(_is_out_of_memory, replies)):  # to remove them takes none
            return (yield from self.delete(keys, Kind.EXPIRE))
        self._check(replies, "expire")
        self.said = replies[-1]
        return sum(replies[: len(runs)])

    def _expire_run(self, key: str, seconds: float) -> Run:
        keys = [self.keys.entry(key), self.keys.lease(key)]
        if seconds <= 0:
            return Run("expire", keys, [b"0", b""])
        end = wire.header(seconds, self.clock, tagged=False)
        return Run("expire", keys, [wire.life_arg(seconds), end[wire.MARK_BYTES :]])

    def _unlink(self, names: Sequence[bytes]) -> list[Command]:
        if self._is_cluster:
            return [Command(name, wire.pack(b"UNLINK", name)) for name in names]
        return [Command(names[0], wire.pack(b"UNLINK", *names))]

    def invalidate_tags(self, tags: Sequence[str]) -> Plan[None]:
        """Give tags other tokens, and tell."""
        for start in range(0, len(tags), NAMES_PER_MESSAGE):
            yield from self._invalidate_tags(tags[start : start + NAMES_PER_MESSAGE])

    def _invalidate_tags(self, tags: Sequence[str]) -> Plan[None]:
        self._era += 1
        for tag in tags:
            self._tokens.pop(tag, None)
        run = Run(
            "tags",
            [self.keys.log, *map(self.keys.token, tags)],
            [
                *self._log_args,
                *(secrets.token_bytes(wire.TOKEN_BYTES), b"%d" % _IDLE_TOKEN_MS),
                *map(wire.encode, tags),
            ],
        )
        replies = yield from run_all([run])
        tokens = list(map(self.keys.token, tags))
        yield from self._check_told(replies, tokens, "invalidate_tags")

    def clear(self) -> Plan[None]:
        """Give the namespace another generation, and tell."""
        self._era += 1
        self._generation = None
        fresh, name = secrets.token_bytes(wire.TOKEN_BYTES), self.keys.generation
        renewed = Command(name, wire.pack(b"SET", name, fresh))
        replies = yield [renewed, *self._messages(Kind.CLEAR, [""])]
        yield from self._check_told(replies, [name], "clear")

    def _check_told(
        self, replies: Sequence[Any], tokens: Sequence[bytes], operation: str
    ) -> Plan[None]:
        """Check that everybody will hear of it.

        Where the server is too full for that, do it with commands that need no memory: without its
        token nothing is valid that was written under it, and without its log everybody finds a
        gap, and drops L1.
        """
        if any(map(_is_out_of_memory, replies)):
            names = [*tokens, self.keys.log]
            replies = yield [Command(name, wire.pack(b"UNLINK", name)) for name in names]
            self._check(replies, operation)
            self.said = None
            return
        self._check(replies, operation)
        self.said = replies[-1]

    def clear_on_node(self, prefix: str) -> Plan[None]:
        """Remove the entries and leases of a prefix from one node.

        Twice, since a load that was begun before may land between the steps of the first pass;
        it has no lease after that.
        """
        for _ in range(2):
            cursor = b"0"
            while True:
                cursor, found = self._scanned((yield [self._scan(prefix, cursor)])[0])
                if found:
                    yield self._unlink(found)
                if cursor == b"0":
                    break

    def cleared(self, prefix: str) -> Plan[None]:
        """Tell that a prefix was cleared."""
        replies = yield self._messages(Kind.CLEAR, [prefix])
        self._check(replies, "clear")
        self.said = replies[-1]

    def _scan(self, prefix: str, cursor: bytes) -> Command:
        pattern = self.keys.pattern(prefix)
        return Command(None, wire.pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_COUNT))

    def _scanned(self, reply: Any) -> tuple[bytes, list[bytes]]:
        cursor, found = self._list(reply, 2, "clear")
        return cursor, found

    # The log

    def _open(self, tags: Sequence[str]) -> Plan[Stamp]:
        """Learn, or make, the generation and the tokens of tags; learn where the log ends."""
        names = [self.keys.generation, *map(self.keys.token, tags)]
        make = [
            Command(name, wire.pack(b"SET", name, secrets.token_bytes(wire.TOKEN_BYTES), b"NX"))
            for name in names
        ]
        era = self._era
        replies = yield [*make, self._mget_shared(tags), Command(self.keys.log, self._end_request)]
        self._check(replies, "claim")
        shared = self._list(replies[-2], len(names), "claim")
        generation, tokens = _token(shared[0]), self._learn(shared, tags, era)
        end = replies[-1][0][0] if replies[-1] else (yield [self._hello])[0]
        self._refuse(end, "claim")
        if generation is None or None in tokens.values():
            raise StoreError(f"{self._label} does not keep what it is given: is its memory full?")
        known = {tag: token for tag, token in tokens.items() if token is not None}
        return Stamp(generation, known, end.decode())

    @property
    def _end_request(self) -> bytes:
        return wire.pack(b"XREVRANGE", self.keys.log, b"+", b"-", b"COUNT", b"1")

    @property
    def _hello(self) -> Command:
        """A message without names, so that a log is never empty and its end has a position."""
        data = wire.pack_message(self.keys.log, self._log_length, self._origin, Kind.NEWS, ())
        return Command(self.keys.log, data)

    def log_end(self) -> Plan[str]:
        """Return the position of the log's end, and learn what a first load will need."""
        return (yield from self._open(())).since

    def announce(self, kind: Kind, names: Sequence[str], origin: bytes | None = None) -> Plan[None]:
        """Append a message; one without an origin is heeded by this process, too."""
        self._check((yield self._messages(kind, names, origin)), "announce")

    def _messages(
        self, kind: Kind, names: Sequence[str], origin: bytes | None = None
    ) -> list[Command]:
        log, length = self.keys.log, self._log_length
        origin = self._origin if origin is None else origin
        return [
            Command(
                log,
                wire.pack_message(
                    log, length, origin, kind, names[start : start + NAMES_PER_MESSAGE]
                ),
            )
            for start in range(0, len(names) or 1, NAMES_PER_MESSAGE)
        ]

    # Replies

    def _list(self, reply: Any, length: int | None, operation: str) -> list[Any]:
        if isinstance(reply, list) and (length is None or len(reply) == length):
            return reply
        raise self._refusal(reply, operation)

    def _check(self, replies: Iterable[Any], operation: str) -> None:
        for reply in replies:
            self._refuse(reply, operation)

    def _refuse(self, reply: Any, operation: str) -> None:
        if isinstance(reply, Exception):
            raise self._refusal(reply, operation)

    def _refusal(self, reply: Any, operation: str) -> StoreError:
        if isinstance(reply, Exception):
            text = refusal_text(reply)
            return StoreRefused(f"{self._label} refused {operation}: {text}{_remedy(reply)}")
        kind = type(reply).__name__
        return StoreError(f"{self._label} answered {operation} with an unexpected {kind}")


def _token(raw: Any) -> bytes | None:
    return raw[: wire.TOKEN_BYTES] if isinstance(raw, bytes) and len(raw) >= 8 else None


def _is_wrong_type(reply: object) -> bool:
    """Whether Redis refused because a value of another type stands under the key: not ours."""
    return isinstance(reply, Exception) and str(reply).startswith("WRONGTYPE")


def _remedy(reply: Exception) -> str:
    """Return what a user can do about a refusal, where that is known."""
    text = f"{type(reply).__name__} {reply}"
    if "same slot" in text or "Moved" in text:
        return "; it is a node of a cluster: use Redis.cluster(...)"
    if "NoPermission" in text or "no permissions" in text:
        return "; tiercache needs " + _COMMANDS
    return ""


def _is_out_of_memory(reply: object) -> bool:
    text = f"{type(reply).__name__} {reply}" if isinstance(reply, Exception) else ""
    return "OutOfMemory" in text or "OOM" in text or "maxmemory" in text


def _longest(ttls: Iterable[float | None]) -> float | None:
    longest = 0.0
    for ttl in ttls:
        if ttl is None:
            return None
        longest = max(longest, ttl)
    return longest
