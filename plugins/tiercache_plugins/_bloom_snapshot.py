"""A series as bytes, and a file that holds them.

::

    magic (7) | "1" if complete (1) | length of all (8) | length of head (4) | digest (32)
    | head | bits

Digest (BLAKE2b) of everything after it; head is JSON: what the keys are, the error rate, and the
filters' shapes. Nothing is parsed before length and digest are right, and no memory is taken that
the bytes themselves do not show to be needed.

*Complete* says that no key has been added since it was written. Who adds one sets the flag back,
in place, before it returns, so that a file which a crash leaves behind does not claim too much.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ._bloom_series import Series, Shape

MAGIC = b"TCBLM1\n"  # with the version
_HEAD = struct.Struct("<7ssQI32s")


class NotASnapshot(ValueError):
    """Bytes that are truncated, damaged, foreign, or of other keys."""


class Snapshot(NamedTuple):
    """What bytes hold."""

    series: Series
    is_complete: bool


def encode(series: Series, keys: str, *, is_complete: bool) -> bytes:
    """Return a series as bytes; ``keys`` says what its keys are."""
    shapes, bits = series.dump()
    head = json.dumps({"keys": keys, "rate": series.error_rate, "filters": shapes}).encode()
    body = b"".join([head, *bits])
    flag = b"1" if is_complete else b"0"
    digest = hashlib.blake2b(body, digest_size=32).digest()
    return _HEAD.pack(MAGIC, flag, _HEAD.size + len(body), len(head), digest) + body


def decode(data: bytes, keys: str, error_rate: float) -> Snapshot:
    """Return the series in bytes.

    Raises:
        NotASnapshot: If it is none, or not of these keys and this error rate.
    """
    if len(data) < _HEAD.size:
        raise NotASnapshot(f"it has {len(data)} bytes, fewer than its head")
    magic, flag, length, head_length, digest = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise NotASnapshot("it is of another kind or version")
    if length != len(data) or head_length > length - _HEAD.size:
        raise NotASnapshot(f"it has {len(data)} bytes instead of {length}")
    body = memoryview(data)[_HEAD.size :]
    if hashlib.blake2b(body, digest_size=32).digest() != digest:
        raise NotASnapshot("its digest is wrong")
    series = _series(json.loads(bytes(body[:head_length])), body[head_length:], keys, error_rate)
    return Snapshot(series, flag == b"1")


def _series(head: dict[str, Any], bits: memoryview, keys: str, error_rate: float) -> Series:
    if (head["keys"], head["rate"]) != (keys, error_rate):
        raise NotASnapshot(f"it is of {head['keys']!r} at {head['rate']}")
    shapes = [Shape(*each) for each in head["filters"]]
    if sum(shape.size for shape in shapes) != len(bits):
        raise NotASnapshot("its bits do not fit its filters")
    pieces = []
    for shape in shapes:
        pieces.append(bytes(bits[: shape.size]))
        bits = bits[shape.size :]
    return Series.restore(error_rate, shapes, pieces)


class SnapshotFile:
    """The file: written atomically, read with suspicion.

    Args:
        path: Where; the directory has to exist.
        keys: What the keys in it are, so that another template's is not believed.
        error_rate: Of the series, likewise.
    """

    def __init__(self, path: Path, keys: str, error_rate: float) -> None:
        self.path = path
        self._keys = keys
        self._error_rate = error_rate

    def read(self) -> Snapshot | None:
        """Return what it holds, or None if there is none.

        Raises:
            NotASnapshot: If it is not ours, or damaged.
            OSError: If it cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                head = file.read(_HEAD.size)
                if not head.startswith(MAGIC):  # not a byte more of what may be anything
                    raise NotASnapshot("it is of another kind or version")
                data = head + file.read()
        except FileNotFoundError:
            return None
        return decode(data, self._keys, self._error_rate)

    def write(self, series: Series, *, is_complete: bool) -> None:
        """Put a series in its place, whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        data = encode(series, self._keys, is_complete=is_complete)
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(name).replace(self.path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise

    def outdate(self) -> None:
        """Say in it that it is not complete any more; if that fails, remove it.

        Raises:
            OSError: If neither is possible.
        """
        try:
            with self.path.open("r+b") as file:
                if file.read(len(MAGIC) + 1) != MAGIC + b"1":
                    return
                file.seek(len(MAGIC))
                file.write(b"0")
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        except OSError:
            self.path.unlink(missing_ok=True)
