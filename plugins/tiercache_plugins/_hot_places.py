"""Where hot keys are remembered: in L2, beside the cache's own entries, or in a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tiercache import Codec, DecodeError, EncodeError, HotKey, Store

KEY = "hot-keys"
KEPT_SECONDS = 14 * 86_400.0  # in L2, after the last process has ended
MOST_BYTES = 64 * 2**20  # that are read from a file

_codec = Codec()


class Place(Protocol):
    """Keeps one piece of bytes. Methods raise StoreError or OSError."""

    def load(self) -> bytes | None: ...
    def save(self, data: bytes) -> None: ...


class InStore:
    """In a namespace of a cache's store that no cache can have: names have no colon."""

    def __init__(self, store: Store, cache: str) -> None:
        self._space = store.namespace(f"{cache}:{KEY}")

    def load(self) -> bytes | None:
        stored = self._space.read(KEY)
        return None if stored is None else bytes(stored.payload)

    def save(self, data: bytes) -> None:
        self._space.write(KEY, data, KEPT_SECONDS)


class InFile:
    """In a file, replaced as a whole: a crash leaves the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> bytes | None:
        try:
            with self._path.open("rb") as file:
                return file.read(MOST_BYTES)
        except FileNotFoundError:
            return None

    def save(self, data: bytes) -> None:
        folder = self._path.parent
        number, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=folder)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            Path(name).replace(self._path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise


def to_bytes(hot: Sequence[HotKey]) -> bytes:
    """Return hot keys as bytes; arguments that have none are left out."""
    rows = [tuple(each) for each in hot]
    try:
        return _codec.encode(KEY, rows)
    except EncodeError:
        return _codec.encode(KEY, [(*row[:3], _encodable(row[3])) for row in rows])


def from_bytes(data: bytes | None) -> list[HotKey]:
    """Return the hot keys in bytes; none where these are damaged or foreign."""
    if data is None:
        return []
    try:
        rows = _codec.decode(KEY, data).value
    except DecodeError:
        return []
    return [HotKey(*row) for row in rows if _is_hot_key(row)] if isinstance(rows, list) else []


def _encodable(args: Any) -> Any:
    try:
        _codec.encode(KEY, args)
    except EncodeError:
        return None
    return args


def _is_hot_key(row: Any) -> bool:
    if not isinstance(row, tuple) or len(row) != len(HotKey._fields):
        return False
    key, hits, function, args = row
    return (
        isinstance(key, str)
        and isinstance(hits, int | float)
        and hits == hits  # noqa: PLR0124 - not NaN: it would have no place in an order
        and isinstance(function, str)
        and isinstance(args, tuple | None)
    )
