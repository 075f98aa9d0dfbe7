"""What goes over the wire to Redis: commands, the frame of an entry, the server's clock.

Commands are packed here rather than by redis-py: reads in a few steps of C, and a pipeline as one
buffer. Arguments are bytes; replies are what redis-py's parsers return undecoded.

A *frame* is what stands under an entry's key: a header of 16 bytes, a block of tags if it has any,
and the payload. The header is a mark (2 bytes), the moment the entry expires (6 bytes, in
milliseconds of the *server's* clock, 0: never), and the token of the namespace's *generation*
(8 bytes). So a plain read tells the remaining life, with no local wall clock, and an entry of
another generation is not valid. The block holds each tag with its token, likewise.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from operator import add
from typing import Any, Final, NamedTuple

from tiercache.tiers.columns import Columns
from tiercache.tiers.store import Kind, Message, Stored

PLAIN: Final = 0x7C02  # marks; bump them when the frame changes: others read it as a miss
TAGGED: Final = 0x7C03  # claim.lua knows its last byte, expire.lua both
MARK_BYTES: Final = 2
TOKEN_BYTES: Final = 8
HEADER_BYTES: Final = 16
_DEADLINE: Final = struct.Struct(">Q")  # with the mark above it
_COUNT: Final = struct.Struct(">H")
_DEADLINE_BITS: Final = 48
_SMALL_BYTES: Final = 2048
_MAX_TTL_MS: Final = 100 * 365 * 86_400 * 1000  # a century; keeps deadlines within 48 bits

LEASE: Final = b":lease"  # what a lease's name has after that of its entry
TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
RESYNC_SECONDS: Final = 30.0


def pack(*args: bytes) -> bytes:
    """Return one command in the Redis protocol."""
    return b"*%d\r\n" % len(args) + bulks(args)


def bulks(args: Iterable[bytes]) -> bytes:
    """Return a part of a command."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])


class KeySpace:
    """From a namespace's keys to Redis keys, and the command that reads them.

    An entry is ``prefix:{name:key}``, its lease ``prefix:{name:key}:lease``. The braces make a hash
    tag: in Cluster an entry and its lease are in one slot, wherever that is. What all entries share
    begins with ``prefix:{name}:`` and is in one slot, too.
    """

    __slots__ = ("_entry", "_heads", "_shared", "fence", "generation", "log", "read_tail")

    def __init__(self, prefix: str, name: str) -> None:
        name = name.replace("%", "%25").replace("{", "%7B").replace("}", "%7D").replace(":", "%3A")
        self._entry = f"{prefix}:{{{name}:"
        self._shared = f"{prefix}:{{{name}}}:"
        self._heads = _Heads(self._entry)
        self.generation = encode(f"{self._shared}generation")
        self.log = encode(f"{self._shared}log")
        self.fence = encode(f"{self._shared}fence")
        self.read_tail = _bulk(self.generation)

    def entry(self, key: str) -> bytes:
        return encode(f"{self._entry}{key}}}")

    def lease(self, key: str) -> bytes:
        return encode(f"{self._entry}{key}}}") + LEASE

    def token(self, tag: str) -> bytes:
        return encode(f"{self._shared}tag:{tag}")

    def lock(self, name: str) -> bytes:
        return encode(f"{self._shared}lock:{name}")

    def journal(self, name: str, part: str) -> bytes:
        return encode(f"{self._shared}writes:{name}:{part}")

    def pattern(self, prefix: str) -> bytes:
        """Return a glob that matches the entries and leases whose keys begin so, and no others."""
        literal = f"{self._entry}{prefix}"
        return encode(re.sub(r"([*?\[\]^\\-])", r"\\\1", literal)) + b"*"

    def pack_mget(self, keys: Sequence[str], tags: Sequence[str]) -> bytes:
        """Return the MGET of entries, of the generation, and of tags' tokens: the hot path.

        Text is put together as text and encoded once. That gives wrong lengths where a character
        takes several bytes, which is rare and found out in one look.
        """
        count = len(keys) + len(tags) + 2
        words = "}\r\n".join(map(add, map(self._heads.__getitem__, map(len, keys)), keys))
        if words.isascii():
            body = words.encode() + b"}\r\n"
        else:
            body = b"".join([_bulk(self.entry(key)) for key in keys])
        tokens = b"".join([_bulk(self.token(tag)) for tag in tags]) if tags else b""
        return b"*%d\r\n$4\r\nMGET\r\n%b%b%b" % (count, body, self.read_tail, tokens)


def _bulk(arg: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(arg), arg)


class _Heads(dict[int, str]):
    """By a key's length, what goes before it on the wire: the Redis key's length and head."""

    def __init__(self, head: str) -> None:
        self._head = head
        self._added = len(encode(head)) + 1  # and the closing brace

    def __missing__(self, length: int) -> str:
        head = self[length] = f"${length + self._added}\r\n{self._head}"
        return head


def encode(text: str) -> bytes:
    """Return any str as bytes, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    """Return what ``encode`` was given."""
    return data.decode("utf-8", "surrogatepass")


class ServerClock:
    """How far the server's clock is from our monotonic one, in milliseconds.

    ``is_due`` says when to send TIME along with a command: at first, then each 30 s. The estimate
    errs by at most half of the round trip that brought it. Attributes are replaced as a whole, so
    threads need no lock; two of them sending TIME at once does no harm.
    """

    __slots__ = ("_next_sync", "_offset_ms")

    def __init__(self) -> None:
        self._offset_ms: float | None = None
        self._next_sync = float("-inf")

    @property
    def is_known(self) -> bool:
        return self._offset_ms is not None

    @property
    def is_late(self) -> bool:
        """Whether somebody should send TIME; for whoever cannot."""
        return time.monotonic() >= self._next_sync

    def is_due(self) -> bool:
        """Tell whether the caller should send TIME; only one of many callers is told so."""
        now = time.monotonic()
        if now < self._next_sync:
            return False
        if self._offset_ms is not None:
            self._next_sync = now + RESYNC_SECONDS
        return True

    def learn(self, reply: object, sent: float, received: float) -> None:
        """Take in TIME's reply; sent and received are time.monotonic() around the round trip.

        Raises:
            ValueError: If that is not what TIME answers.
        """
        if not isinstance(reply, list) or len(reply) != 2:
            raise ValueError("TIME answers with two numbers")
        server_ms = int(reply[0]) * 1000 + int(reply[1]) / 1000
        self._offset_ms = server_ms - (sent + received) * 500
        self._next_sync = received + RESYNC_SECONDS

    def now_ms(self) -> float:
        """Return the server's time; meaningless until ``is_known``."""
        return time.monotonic() * 1000 + (self._offset_ms or 0.0)


def ttl_ms(ttl: float) -> int:
    """Return a life in whole milliseconds, within what the header can say."""
    return max(1, int(min(ttl * 1000 + 0.5, _MAX_TTL_MS)))


def header(ttl: float | None, clock: ServerClock, *, tagged: bool) -> bytes:
    """Return the mark and the deadline of an entry written now; the generation follows it."""
    return header_until(0.0 if ttl is None else clock.now_ms() + ttl_ms(ttl), tagged=tagged)


def header_until(deadline_ms: float, *, tagged: bool) -> bytes:
    """Return the mark and the deadline of an entry, by the server's clock; 0: none."""
    return _DEADLINE.pack((TAGGED if tagged else PLAIN) << _DEADLINE_BITS | int(deadline_ms))


def life_arg(ttl: float | None) -> bytes:
    """Return a TTL as the scripts take it: milliseconds, or nothing."""
    return b"" if ttl is None else b"%d" % ttl_ms(ttl)


def tag_block(tokens: Mapping[str, bytes]) -> bytes:
    """Return the block that stands between header and payload of an entry with tags."""
    if not tokens:
        return b""
    parts = [_COUNT.pack(len(tokens))]
    for tag, token in tokens.items():
        name = encode(tag)
        parts += (_COUNT.pack(len(name)), name, token)
    return b"".join(parts)


class Unpacked(NamedTuple):
    """What entries turned out to be."""

    found: Sequence[Stored | None]
    foreign: int  # that no tiercache of this version wrote
    unsure: set[str]  # tags whose tokens must be known to tell whether entries are valid


def unpack(
    raws: Sequence[bytes | None],
    generation: bytes | None,
    tokens: Mapping[str, bytes | None],
    clock: ServerClock,
) -> Unpacked:
    """Return the valid entries among frames, as far as the tokens given can tell.

    A small payload is copied, which takes half as long as a view of it; a big one is not.
    """
    now = int(clock.now_ms())
    usual = _unpack_usual(raws, generation, now)
    if usual is not None:
        return Unpacked(usual, 0, set())
    foreign, unsure = 0, set[str]()
    found: list[Stored | None] = []
    for raw in raws:
        try:
            found.append(None if raw is None else _unpack_one(raw, generation, tokens, now))
        except _Unsure as need:
            unsure |= need.tags
            found.append(None)
        except (TypeError, ValueError, struct.error):
            foreign += 1
            found.append(None)
    return Unpacked(found, foreign, unsure)


def unpack_plain(raw: Any, generation: Any, clock: ServerClock) -> Stored | None:
    """Return a small valid entry without tags; None if it is not that. As _unpack_one."""
    if raw.__class__ is not bytes or not HEADER_BYTES <= len(raw) <= _SMALL_BYTES:
        return None
    (first,) = _DEADLINE.unpack_from(raw)
    left = first - (PLAIN << _DEADLINE_BITS) - int(clock.now_ms())
    if raw[8:16] != generation or not 0 < left <= _MAX_TTL_MS:
        return None
    stored: Stored = tuple.__new__(Stored, (raw[HEADER_BYTES:], left * 0.001, ()))
    return stored


def _unpack_usual(raws: Sequence[Any], generation: bytes | None, now: int) -> Columns | None:
    """Unpack the usual batch, of misses and small valid entries without tags, at thrice the speed.

    None if it is not that. The same as _unpack_one for each.
    """
    if None not in raws:
        return _unpack_plain(raws, generation, now)
    is_there = [raw is not None for raw in raws]
    found = _unpack_plain(list(compress(raws, is_there)), generation, now)
    return None if found is None else Columns(found.payloads, found.lives, is_there)


def _unpack_plain(raws: Sequence[Any], generation: bytes | None, now: int) -> Columns | None:
    zero = (PLAIN << _DEADLINE_BITS) + now
    try:
        if max(map(len, raws)) > _SMALL_BYTES:
            return None
        # The mark with the deadline, and the generation, of each in turn.
        numbers = struct.unpack(f">{2 * len(raws)}Q", b"".join([raw[:16] for raw in raws]))
        (expected,) = _DEADLINE.unpack(generation or b"")
    except (TypeError, ValueError, struct.error):  # something foreign, or nothing at all
        return None
    deadlines = numbers[::2]
    if numbers[1::2].count(expected) != len(raws):
        return None
    if min(deadlines) <= zero or max(deadlines) > zero + _MAX_TTL_MS:
        return None
    lives = [(deadline - zero) * 0.001 for deadline in deadlines]
    return Columns([raw[16:] for raw in raws], lives)


class _Unsure(Exception):
    def __init__(self, tags: set[str]) -> None:
        self.tags = tags


def _unpack_one(
    raw: bytes, generation: bytes | None, tokens: Mapping[str, bytes | None], now: int
) -> Stored | None:
    (first,) = _DEADLINE.unpack_from(raw)
    mark, deadline = first >> _DEADLINE_BITS, first & (1 << _DEADLINE_BITS) - 1
    if mark not in (PLAIN, TAGGED) or len(raw) < HEADER_BYTES:
        raise ValueError("no frame of ours")
    if raw[8:16] != generation or (deadline and deadline <= now):
        return None
    if deadline - now > _MAX_TTL_MS:
        raise ValueError("no deadline of ours")
    tags, at = _read_tags(raw) if mark == TAGGED else ({}, HEADER_BYTES)
    unknown = {tag for tag in tags if tag not in tokens}
    if any(tokens[tag] != token for tag, token in tags.items() if tag not in unknown):
        return None
    if unknown:
        raise _Unsure(unknown)
    remaining = (deadline - now) * 0.001 if deadline else None
    return Stored(memoryview(raw)[at:], remaining, tuple(tags))


def _read_tags(raw: bytes) -> tuple[dict[str, bytes], int]:
    """Return the tags of a frame with their tokens, and where its payload begins."""
    (count,) = _COUNT.unpack_from(raw, HEADER_BYTES)
    at = HEADER_BYTES + _COUNT.size
    tags: dict[str, bytes] = {}
    for _ in range(count):
        (length,) = _COUNT.unpack_from(raw, at)
        at += _COUNT.size
        tag, token = raw[at : at + length], raw[at + length : at + length + TOKEN_BYTES]
        if len(token) != TOKEN_BYTES:
            raise ValueError("a frame cut off")
        tags[decode(tag)] = token
        at += length + TOKEN_BYTES
    return tags, at


def pack_message(log: bytes, length: int, origin: bytes, kind: Kind, names: Iterable[str]) -> bytes:
    """Return the XADD of a message: field ``o`` is its origin, the others are kind and name."""
    fields = [part for name in names for part in (kind.encode(), encode(name))]
    return pack(b"XADD", log, b"MAXLEN", b"~", b"%d" % length, b"*", b"o", origin, *fields)


_KINDS: Final = {kind.encode(): kind for kind in Kind}


def read_message(fields: Sequence[bytes]) -> Message | None:
    """Return the message of a log entry; None if no tiercache of this version wrote it."""
    try:
        if len(fields) == 4 and fields[0] == b"o" and (known := _KINDS.get(fields[2])):
            return Message(known, decode(fields[1]), (decode(fields[3]),))  # most are like this
        if fields[0] != b"o":
            return None
        kinds = set(fields[2::2])
        kind = Kind(kinds.pop().decode()) if kinds else Kind.NEWS
        if kinds:
            return None
        return Message(kind, decode(fields[1]), tuple(map(decode, fields[3::2])))
    except (IndexError, TypeError, ValueError, AttributeError):
        return None
