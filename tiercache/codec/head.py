"""What an envelope says beside the value: how long it is stale, its tags, how it came about."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tiercache.entry import Record
from tiercache.errors import DecodeError, EncodeError

_MAX_SECONDS: Final = 100 * 366 * 86400


class Decoded(NamedTuple):
    """What a payload said.

    ``stale_for`` is how many seconds at the end of its life in the store it is stale.
    """

    value: object
    stale_for: float
    tags: tuple[str, ...]
    record: Record | None = None


def milliseconds(seconds: float) -> int:
    """Return a duration in seconds as the envelope has it. Raises EncodeError."""
    if not 0 <= seconds < _MAX_SECONDS:
        raise EncodeError(f"stale_for must be 0 to {_MAX_SECONDS} seconds, got {seconds}")
    return round(seconds * 1000)


def checked_tags(tags: tuple[str, ...]) -> list[str]:
    """Return tags as the envelope has them. Raises EncodeError."""
    for tag in tags:
        if type(tag) is not str:
            raise EncodeError(f"a tag must be a str, got {tag!r}")
    return list(tags)


def read_lasting(value: object, stale: Any, tags: Any) -> Decoded:
    """Return what a payload said that has more than a value. Raises DecodeError."""
    stale_ms, record = (stale, None) if type(stale) is int else _read_record(stale)
    return Decoded(
        value,
        _read_milliseconds(stale_ms) if stale_ms else 0.0,
        _read_tags(tags) if tags else (),
        record,
    )


def _read_tags(tags: object) -> tuple[str, ...]:
    if type(tags) is list and all(type(tag) is str for tag in tags):
        return tuple(tags)
    raise DecodeError("tags are no array of texts")


def _read_milliseconds(stale_ms: object) -> float:
    if type(stale_ms) is not int or stale_ms < 0:
        raise DecodeError("stale_for_ms is no whole number")
    return stale_ms / 1000


def written_record(record: Record) -> list[Any]:
    """Return what stands after ``stale_for_ms``."""
    ttl_ms = None if record.ttl is None else milliseconds(min(record.ttl, _MAX_SECONDS - 1))
    return [ttl_ms, milliseconds(record.load_seconds), record.state, record.reason]


def _read_record(parts: object) -> tuple[object, Record | None]:
    """Return the milliseconds that a value is stale for, and how it came about."""
    if parts is None:
        return 0, None
    if type(parts) is not list or len(parts) != 5 or type(parts[4]) is not str:
        raise DecodeError("the record of how a value came about is malformed")
    stale_ms, ttl_ms, load_ms, state, reason = parts
    ttl = None if ttl_ms is None else _read_milliseconds(ttl_ms)
    return stale_ms, Record(ttl, _read_milliseconds(load_ms), state, reason)
