"""Operations as the user's writer sees them, and the bytes by which a journal carries them."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tiercache.tiers.journal import OpKind, Record

if TYPE_CHECKING:
    from tiercache.codec import Codec

_ID_BYTES: Final = 10
_ITEM_SIZE: Final = struct.Struct(">I")
_HEAD_BYTES: Final = _ID_BYTES + _ITEM_SIZE.size


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


def new_head(codec: Codec, key: str, item: Any) -> bytes:
    """Return the beginning of an operation's body: a new id, and the item.

    Raises:
        EncodeError: If the item has no bytes.
    """
    packed = _packed_plainly(item) or codec.encode(key, item)
    return os.urandom(_ID_BYTES) + _ITEM_SIZE.pack(len(packed)) + packed


def _packed_plainly(item: Any) -> bytes:
    """Return the bytes of what most items are, a number or a text; b"" for all else."""
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
    (size,) = _ITEM_SIZE.unpack_from(record.body, _ID_BYTES)
    return record.body[_HEAD_BYTES + size :]


def operation_of(codec: Codec, key: str, record: Record) -> Operation:
    """Return an operation from a journal's record.

    Raises:
        DecodeError: If its value is of a class that this process does not know.
    """
    packed, payload = record.body[_HEAD_BYTES:], payload_of(record)
    item = _item_of(codec, key, packed[: len(packed) - len(payload)])
    value = codec.decode(key, payload).value if payload else None
    number = record.body[:_ID_BYTES].hex()
    return Operation(number, record.kind, key, item, value, record.version)
