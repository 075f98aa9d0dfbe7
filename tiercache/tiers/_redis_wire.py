"""What goes over the wire to Redis, and the header in front of each payload.

Commands are packed here rather than by redis-py: reads in a few steps of C, and a pipeline as one
buffer. Arguments are bytes; replies are what redis-py's parsers return undecoded.

A stored value is an 8-byte header and the payload. The header is a 2-byte mark and the moment
the value expires, 6 bytes, in milliseconds of the *server's* clock (0: never). So a plain GET or
MGET tells the remaining life too, and no local wall clock takes part: ServerClock translates
between the server's clock and our monotonic one.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Sequence
from itertools import repeat
from operator import add
from typing import Any, Final

from tiercache.tiers.store import Stored

MARK: Final = 0x7C01  # bump when the header changes: other versions read each other as a miss
HEADER: Final = struct.Struct(">Q")
_DEADLINE_BITS: Final = 48
_DEADLINE_MASK: Final = (1 << _DEADLINE_BITS) - 1
_NEVER: Final = HEADER.pack(MARK << _DEADLINE_BITS)
_SMALL_BYTES: Final = 2048
_FOREIGN: Final = Stored(b"", 0.0)  # stands for a value that no tiercache wrote
_MAX_TTL_MS: Final = 100 * 365 * 86_400 * 1000  # a century; keeps deadlines within 48 bits

TIME: Final = b"*1\r\n$4\r\nTIME\r\n"
RESYNC_SECONDS: Final = 30.0


def pack(*args: bytes) -> bytes:
    """Return one command in the Redis protocol."""
    head = b"*%d\r\n" % len(args)
    return head + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args])


class KeySpace:
    """From the cache's keys to Redis keys, and the commands that read them.

    A physical key is ``prefix:{key}``. The braces make the key a hash tag: in Cluster whatever
    else belongs to an entry lands in its slot.
    """

    __slots__ = ("_heads", "_prefix")

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._heads = _Heads(prefix)

    def physical(self, key: str) -> bytes:
        return encode(f"{self._prefix}:{{{key}}}")

    def pattern(self, prefix: str) -> bytes:
        """Return a glob that matches the physical keys that begin so, and nothing else."""
        literal = f"{self._prefix}:{{{prefix}"
        return encode(re.sub(r"([*?\[\]^\\-])", r"\\\1", literal)) + b"*"

    def pack_read(self, keys: Sequence[str]) -> bytes:
        """Return GET or MGET packed, for one key or several: the command of the hot path.

        Text is put together as text and encoded once. That gives wrong lengths where a character
        takes several bytes, which is rare and found out in one look.
        """
        words = "}\r\n".join(map(add, map(self._heads.__getitem__, map(len, keys)), keys))
        name = "$3\r\nGET\r\n" if len(keys) == 1 else "$4\r\nMGET\r\n"
        command = f"*{len(keys) + 1}\r\n{name}{words}}}\r\n"
        if command.isascii():
            return command.encode()
        return pack(b"GET" if len(keys) == 1 else b"MGET", *map(self.physical, keys))


class _Heads(dict[int, str]):
    """By a key's length, what goes before it on the wire: the physical key's length and prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __missing__(self, length: int) -> str:
        added = len(f"{self._prefix}:{{}}")
        head = self[length] = f"${length + added}\r\n{self._prefix}:{{"
        return head


def encode(text: str) -> bytes:
    """Return any str as bytes, lone surrogates too."""
    return text.encode("utf-8", "surrogatepass")


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


def pack_set(physical: bytes, payload: bytes, ttl: float | None, clock: ServerClock) -> bytes:
    """Return the SET that stores payload behind its header."""
    if ttl is None:
        return pack(b"SET", physical, _NEVER + payload)
    life = ttl_ms(ttl)
    header = HEADER.pack(MARK << _DEADLINE_BITS | int(clock.now_ms() + life))
    return pack(b"SET", physical, header + payload, b"PX", b"%d" % life)


def unpack(raws: Sequence[bytes | None], clock: ServerClock) -> tuple[list[Stored | None], int]:
    """Return what was stored, None for what is missing or over, and how many were foreign.

    A small payload is copied, which takes half as long as a view of it; a big one is not.
    """
    now = int(clock.now_ms())
    found = _unpack_plain(raws, now)
    if found is not None:
        return found, 0
    odd = [_unpack_one(raw, now) for raw in raws]
    return [None if one is _FOREIGN else one for one in odd], odd.count(_FOREIGN)


def _unpack_plain(raws: Sequence[Any], now: int) -> list[Stored | None] | None:
    """Unpack the usual batch, of small live payloads only, at twice the speed; None if it is not.

    The same as _unpack_one for each.
    """
    zero = (MARK << _DEADLINE_BITS) + now
    try:
        if max(map(len, raws)) > _SMALL_BYTES:
            return None
        headers = struct.unpack(f">{len(raws)}Q", b"".join([raw[:8] for raw in raws]))
    except (TypeError, struct.error):  # a miss, or something foreign
        return None
    if min(headers) <= zero or max(headers) > zero + _MAX_TTL_MS:
        return None
    lives = [(header - zero) * 0.001 for header in headers]
    pairs = zip([raw[8:] for raw in raws], lives, strict=True)
    return list(map(tuple.__new__, repeat(Stored), pairs))


def _unpack_one(raw: bytes | None, now: int) -> Stored | None:
    if raw is None:
        return None
    try:
        (header,) = HEADER.unpack_from(raw)
    except (TypeError, struct.error):
        return _FOREIGN
    left = header - (MARK << _DEADLINE_BITS) - now  # ms to live, if the mark is ours
    payload = memoryview(raw)[8:]
    if left == -now:
        return Stored(payload, None)
    if 0 < left <= _MAX_TTL_MS:
        return Stored(payload, left * 0.001)
    return None if -now < left <= 0 else _FOREIGN
