"""Values of the standard library that are one ext object: to bytes and back, exactly.

Readers may raise anything on malformed bytes; the codec turns it into a DecodeError.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, SafeUUID

from msgpack import ExtType

from tiercache.codec import wire
from tiercache.errors import DecodeError


class Unsupported(Exception):
    """A value has no exact form in bytes; the text says why and what to do."""


# What msgpack has itself, and takes for nothing else.
SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})

_DATE = struct.Struct(">HBB")
_DATETIME = struct.Struct(">HBBBBBIBB")  # ..., microsecond, fold, kind of tzinfo
_TIME = struct.Struct(">BBBIBB")
_TIMEDELTA = struct.Struct(">iii")
_COMPLEX = struct.Struct(">dd")
_OFFSET = struct.Struct(">q")  # microseconds

_NAIVE, _UTC, _FIXED, _ZONE, _PYDANTIC = range(5)
# A zone is a file looked up by name: only names of the tz database's own form are looked up.
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,3}")
_PYDANTIC_ZONE: Final = ("pydantic_core", "TzInfo")  # which its parsed datetimes carry
_MICROSECOND = timedelta(microseconds=1)


def _write_int(value: int) -> ExtType:
    size = value.bit_length() // 8 + 1
    return ExtType(wire.INT, value.to_bytes(size, "big", signed=True))


def _read_int(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _write_zone(zone: tzinfo | None) -> tuple[int, bytes]:
    """Return the kind of a tzinfo and the bytes that restore it."""
    if zone is None:
        return _NAIVE, b""
    if zone is UTC:
        return _UTC, b""
    if type(zone) is timezone:
        offset, *names = zone.__getinitargs__()  # type: ignore[attr-defined]
        named = b"".join(b"=" + name.encode("utf-8", "surrogatepass") for name in names)
        return _FIXED, _pack_offset(offset) + named
    if type(zone) is _loaded("zoneinfo", "ZoneInfo"):
        key: str | None = zone.key  # type: ignore[attr-defined]
        if _ZONE_KEY.fullmatch(key or ""):
            return _ZONE, str(key).encode()
    if type(zone) is _loaded(*_PYDANTIC_ZONE):
        return _PYDANTIC, _pack_offset(zone.utcoffset(None) or timedelta(0))
    raise Unsupported(
        f"its tzinfo is a {type(zone).__module__}.{type(zone).__qualname__}; "
        "use datetime.timezone or zoneinfo.ZoneInfo"
    )


def _read_zone(kind: int, data: bytes) -> tzinfo | None:
    if kind == _UTC:
        return UTC
    if kind == _NAIVE:
        return None
    if kind == _FIXED:
        return _read_fixed(data)
    if kind == _ZONE:
        from zoneinfo import ZoneInfo  # late: it looks for the tz database

        key = data.decode("ascii")
        if _ZONE_KEY.fullmatch(key):
            return ZoneInfo(key)
    elif kind == _PYDANTIC and (restore := _loaded(*_PYDANTIC_ZONE)) is not None:
        (offset,) = _OFFSET.unpack(data)
        restored: tzinfo = restore(offset // 1_000_000)
        return restored
    raise DecodeError(f"cannot restore a tzinfo of kind {kind}")


def _read_fixed(data: bytes) -> timezone:
    (offset,) = _OFFSET.unpack_from(data)
    named = data[_OFFSET.size :].decode("utf-8", "surrogatepass")
    delta = timedelta(microseconds=offset)
    return timezone(delta, named[1:]) if named else timezone(delta)


def _pack_offset(offset: timedelta) -> bytes:
    return _OFFSET.pack(offset // _MICROSECOND)


def _loaded(module: str, name: str) -> Any:
    """Return a class that a value in hand may be of, None if its module is not even loaded."""
    return getattr(sys.modules.get(module), name, None)


def _write_datetime(value: datetime) -> ExtType:
    kind, zone = _write_zone(value.tzinfo)
    head = _DATETIME.pack(
        value.year, value.month, value.day, value.hour, value.minute, value.second,
        value.microsecond, value.fold, kind,
    )  # fmt: skip
    return ExtType(wire.DATETIME, head + zone)


def _read_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, micro, fold, kind = _DATETIME.unpack_from(data)
    zone = _read_zone(kind, data[_DATETIME.size :])
    return datetime(year, month, day, hour, minute, second, micro, zone, fold=fold)


def _write_date(value: date) -> ExtType:
    return ExtType(wire.DATE, _DATE.pack(value.year, value.month, value.day))


def _read_date(data: bytes) -> date:
    return date(*_DATE.unpack(data))


def _write_time(value: time) -> ExtType:
    kind, zone = _write_zone(value.tzinfo)
    head = _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold, kind)
    return ExtType(wire.TIME, head + zone)


def _read_time(data: bytes) -> time:
    hour, minute, second, micro, fold, kind = _TIME.unpack_from(data)
    return time(hour, minute, second, micro, _read_zone(kind, data[_TIME.size :]), fold=fold)


def _write_timedelta(value: timedelta) -> ExtType:
    return ExtType(wire.TIMEDELTA, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds))


def _read_timedelta(data: bytes) -> timedelta:
    return timedelta(*_TIMEDELTA.unpack(data))


def _write_decimal(value: Decimal) -> ExtType:
    return ExtType(wire.DECIMAL, str(value).encode("ascii"))


def _read_decimal(data: bytes) -> Decimal:
    return Decimal(data.decode("ascii"))


def _write_uuid(value: UUID) -> ExtType:
    known = value.is_safe is not SafeUUID.unknown
    return ExtType(wire.UUID, value.bytes + (str(value.is_safe.value).encode() if known else b""))


def _read_uuid(data: bytes) -> UUID:
    if len(data) == 16:
        return UUID(bytes=data)
    return UUID(bytes=data[:16], is_safe=SafeUUID(int(data[16:])))


def _write_complex(value: complex) -> ExtType:
    return ExtType(wire.COMPLEX, _COMPLEX.pack(value.real, value.imag))


def _read_complex(data: bytes) -> complex:
    return complex(*_COMPLEX.unpack(data))


def write_bytearray(value: bytearray) -> ExtType:
    """Write what msgpack would take for bytes without asking."""
    return ExtType(wire.BYTEARRAY, bytes(value))


WRITERS: Final[Mapping[type, Callable[[Any], ExtType]]] = MappingProxyType({
    int: _write_int,  # called beyond 64 bits only
    datetime: _write_datetime,
    date: _write_date,
    time: _write_time,
    timedelta: _write_timedelta,
    Decimal: _write_decimal,
    UUID: _write_uuid,
    complex: _write_complex,
})  # fmt: skip

READERS: Final[Mapping[int, Callable[[bytes], object]]] = MappingProxyType({
    wire.INT: _read_int,
    wire.DATETIME: _read_datetime,
    wire.DATE: _read_date,
    wire.TIME: _read_time,
    wire.TIMEDELTA: _read_timedelta,
    wire.DECIMAL: _read_decimal,
    wire.UUID: _read_uuid,
    wire.COMPLEX: _read_complex,
    wire.BYTEARRAY: bytearray,
})  # fmt: skip
