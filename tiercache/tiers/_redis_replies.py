"""Replies of the Redis protocol (RESP2), parsed as their bytes arrive.

With hiredis it does the work; without, `ReplyReader` has the same methods. Both keep what is
not complete yet, and return an error reply as an exception in its place. Bulk texts are bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Protocol

hiredis: Any = None
with suppress(ImportError):
    hiredis = import_module("hiredis")

_DEEPEST: Final = 32  # arrays within arrays; ours answer with three
_END: Final = b"\r\n"
_BULK, _ARRAY, _INTEGER, _TEXT, _ERROR = b"$*:+-"

MakeError = Callable[[str], Exception]


class Replies(Protocol):
    """What both readers do."""

    def feed(self, data: bytes, /) -> None:
        """Take in bytes."""

    def gets(self) -> Any:
        """Return the next reply; False, which no reply is: it has not arrived in full.

        Raises:
            Exception: If it is none.
        """

    def has_data(self) -> bool:
        """Say whether there is more than was returned, if only a part of a reply."""


def new_reader(make_error: MakeError) -> Replies:
    """Return a reader for one connection; ``make_error`` makes exceptions of error replies."""
    if hiredis is None:
        return ReplyReader(make_error)
    reader: Replies = hiredis.Reader(protocolError=ValueError, replyError=make_error)
    return reader


class ReplyReader:
    """Parses replies in Python, each byte once however small the pieces are that it comes in."""

    def __init__(self, make_error: MakeError) -> None:
        self._make_error = make_error
        self._data = b""
        self._at = 0  # where in it the next element begins
        self._missing = 0  # bytes without which that one cannot be read
        self._pieces: list[bytes] = []  # what has come since
        self._open: list[tuple[list[Any], int]] = []  # arrays under way and their lengths

    def feed(self, data: bytes, /) -> None:
        """Take in bytes."""
        self._pieces.append(data)
        self._missing -= len(data)

    def gets(self) -> Any:
        """Return the next reply; False: it has not arrived in full.

        Raises:
            ValueError: If it is none.
        """
        if self._missing > 0:
            return False
        if self._pieces:
            self._data = b"".join([self._data[self._at :], *self._pieces])
            self._at = 0
            self._pieces.clear()
        return self._parse(self._data, self._at)

    def has_data(self) -> bool:
        """Say whether there is more than was returned, if only a part of a reply."""
        return bool(self._pieces) or self._at < len(self._data)

    def _parse(self, data: bytes, at: int) -> Any:
        while True:
            end = data.find(_END, at)
            if end < 0:
                return self._wait(at, 1)
            kind, rest = data[at], end + 2
            value: Any = None
            if kind == _BULK:
                size = int(data[at + 1 : end])
                if size >= 0:
                    end = rest + size
                    if len(data) < end + 2:
                        return self._wait(at, end + 2 - len(data))
                    value = data[rest:end]
                    rest = end + 2
            elif kind == _ARRAY:
                if (count := int(data[at + 1 : end])) > 0:
                    self._open_array(count)
                    at = rest
                    continue
                value = [] if count == 0 else None
            else:
                value = self._simple(kind, data[at + 1 : end])
            at = rest
            if not self._open or (value := self._put(value)) is not False:
                self._at = at
                return value

    def _open_array(self, length: int) -> None:
        self._open.append(([], length))
        if len(self._open) > _DEEPEST:
            raise ValueError("arrays nested too deep")

    def _put(self, value: Any) -> Any:
        """Put a value into the array under way; return what that completes, or False."""
        arrays = self._open
        while arrays:
            items, length = arrays[-1]
            items.append(value)
            if len(items) < length:
                return False
            arrays.pop()
            value = items
        return value

    def _wait(self, at: int, missing: int) -> bool:
        self._at, self._missing = at, missing
        return False

    def _simple(self, kind: int, line: bytes) -> Any:
        if kind == _INTEGER:
            return int(line)
        if kind == _TEXT:
            return line
        if kind == _ERROR:
            return self._make_error(line.decode("utf-8", "replace"))
        raise ValueError(f"a reply of kind {bytes([kind])!r}")
