"""Operations as the user's writer sees them, and the bytes by which a journal carries them."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tiercache.tiers.journal import OpKind, Record

if TYPE_CHECKING:
    from tiercache.codec import Codec

_ID_BYTES: Final = 10
_SIZES: Final = struct.Struct(">BI")  # of the mark, of the item
_HEAD_BYTES: Final = _ID_BYTES + _SIZES.size


@dataclass(frozen=True, slots=True)
class Operation:
    """A write to be made.

    It carries the whole value, so a later operation of a key makes an earlier one superfluous.
    """

    #: The same whenever this operation is handed over again, and of no other operation.
    id: str
    kind: OpKind  # "create", "update" or "delete", as far as the cache knows: see the docs
    key: str  # in the cache
    item: Any  # what ``put`` or ``delete`` was given for the key
    value: Any  # None for a delete
    #: Greater than that of every earlier operation of the key, for ever.
    version: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An operation that was given up after ``max_attempts``."""

    id: str  # for ``replay`` and ``discard``
    operation: Operation
    attempts: int
    error: str  # the last one, its class first


def new_head(codec: Codec, key: str, item: Any, mark: bytes = b"") -> bytes:
    """Return the beginning of an operation's body: a new id, the mark of a span, and the item.

    Raises:
        EncodeError: If the item has no bytes.
    """
    packed = _packed_plainly(item) or codec.encode(key, item)
    number = random.randbytes(_ID_BYTES)  # noqa: S311 - unique, not secret; no system call
    return number + _SIZES.pack(len(mark), len(packed)) + mark + packed


def _packed_plainly(item: Any) -> bytes:
    """Return the bytes of what most items are, a number or a text; b"" for all else.

    No payload of the codec begins with one of these letters: its first byte is above 127.
    """
    if item.__class__ is int:
        return b"i%d" % item
    if item.__class__ is str:
        return b"s" + item.encode("utf-8", "surrogatepass")
    return b""


def _item_of(codec: Codec, key: str, packed: bytes) -> Any:
    if packed[:1] == b"i":
        return int(packed[1:])
    if packed[:1] == b"s":
        return packed[1:].decode("utf-8", "surrogatepass")
    return codec.decode(key, packed).value


def payload_of(record: Record) -> bytes:
    """Return the bytes of an operation's value; b"" for a delete."""
    mark_size, item_size = _SIZES.unpack_from(record.body, _ID_BYTES)
    return record.body[_HEAD_BYTES + mark_size + item_size :]


def mark_of(record: Record) -> bytes:
    """Return the mark of the span that an operation was accepted in; b"" if there was none."""
    mark_size, _ = _SIZES.unpack_from(record.body, _ID_BYTES)
    return record.body[_HEAD_BYTES : _HEAD_BYTES + mark_size]


def operation_of(codec: Codec, key: str, record: Record) -> Operation:
    """Return an operation from a journal's record.

    Raises:
        DecodeError: If its value is of a class that this process does not know.
    """
    body = record.body
    mark_size, item_size = _SIZES.unpack_from(body, _ID_BYTES)
    at = _HEAD_BYTES + mark_size
    item, payload = _item_of(codec, key, body[at : at + item_size]), body[at + item_size :]
    value = codec.decode(key, payload).value if payload else None
    number = record.body[:_ID_BYTES].hex()
    return Operation(number, record.kind, key, item, value, record.version)
