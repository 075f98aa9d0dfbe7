"""The quick way for long plain values: ormsgpack, where it is installed and gives the same.

Plain is what msgpack has itself, below texts as keys. For anything else, and for whatever
ormsgpack refuses, ``None`` says: go msgpack's way, which writes the same bytes, reads the same
values, and has the errors. So ormsgpack need not agree on what is wrong, only on what is right.

It is given no hook, and thus runs no Python: neither an exception of a hook (an interrupt, say) is
lost in it, as it would be, nor (it keeps the GIL) can a value change while it is packed, which it
does not survive.
Natively it also writes, or reads, what msgpack does not, and what is done about it:

- dataclasses, enums, tuples, datetimes, UUIDs, subclasses: options pass them on, to no hook;
- its own ``Fragment`` and ``Ext``: refused as long as there is any, which their count of
  references tells, as every instance holds one;
- arrays as keys of maps: only read with an option, which is not set;
- what follows the end: the text is read as one of two, of which the other cannot be foretold.

Numbers are read 1.1 to 1.3 times as slowly as msgpack reads them, documents (maps, lists of maps)
in 0.55 to 0.75 of the time. So a function's next payload is read quickly if its last was one.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from sys import getrefcount
from typing import Any, Final

from tiercache.codec.lookalikes import has_lookalikes, shows_bytes

# Older ones allocate lists at their declared lengths, which 64 KB of hostile bytes make 500 MB of,
# and leak them (1.12) or end the process (1.13.0).
_OLDEST: Final = (1, 13, 1)
_SIT_OUT: Final = 31  # calls, after one that was in vain
LONG: Final = 1024  # bytes, from which on trying is worth what failing costs: a microsecond
_OPTIONS: Final = ("BIG_INT", "DATACLASS", "DATETIME", "ENUM", "SUBCLASS", "TUPLE", "UUID")
_PAIR: Final = b"\x92"
_CONTAINERS: Final = frozenset({list, dict})
_NUMBERS: Final = frozenset({int, float})


class Habits:
    """What the values of one function are like, as far as seen: whether to try the quick way.

    Guesses, which change no result; so threads may lose one another's.
    """

    __slots__ = ("pack_rest", "packed", "reads_documents", "unpack_rest")

    def __init__(self) -> None:
        self.packed = 0  # bytes, the last time
        self.pack_rest = 0  # calls to sit out
        self.unpack_rest = 0
        self.reads_documents = False


class QuickWay:
    """ormsgpack, as far as it does what msgpack does."""

    def __init__(self, library: Any) -> None:
        self._packb: Callable[..., bytes] = library.packb
        self._unpackb: Callable[[bytes], Any] = library.unpackb
        names = [f"OPT_PASSTHROUGH_{name}" for name in _OPTIONS]
        self._options = functools.reduce(int.__or__, [getattr(library, name) for name in names])
        self._natives = library.Fragment, library.Ext
        self._references = [getrefcount(native) for native in self._natives]
        self._end_value = os.urandom(16)
        self._end = b"\xc4\x10" + self._end_value  # as msgpack's bytes

    def pack(self, parts: list[Any], habits: Habits) -> bytes | None:
        """Return the msgpack text of ``[..., value, holds]``, or None where it is not plain."""
        if type(parts[-2]) not in _CONTAINERS:
            return None
        if habits.pack_rest:
            habits.pack_rest -= 1
            return None
        if [getrefcount(native) for native in self._natives] != self._references:
            return None
        try:
            packed = self._packb(parts, None, self._options)
        except TypeError:
            packed = None
        if packed is None or (shows_bytes(packed) and _has_lookalikes(parts[-2])):
            habits.pack_rest = _SIT_OUT
            return None
        habits.packed = len(packed)
        return packed

    def unpack(self, data: bytes, habits: Habits) -> Any:
        """Return what the text ``data`` holds, or None: not plain, or not well-formed."""
        try:
            value, end = self._unpackb(b"".join((_PAIR, data, self._end)))
        except ValueError:
            value = end = None
        if end != self._end_value:
            habits.unpack_rest = _SIT_OUT
            return None
        return value


@functools.cache
def quick_way() -> QuickWay | None:
    """Return the quick way, None where there is none; looked for once, with the first codec."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return None  # a value could change while it is packed
    try:
        library = import_module("ormsgpack")
        version = tuple(map(int, library.__version__.split(".")[:3]))
        return QuickWay(library) if version >= _OLDEST and _tells(library) else None
    except Exception:  # not installed, or of another make
        return None


def _tells(library: Any) -> bool:
    """Tell whether instances of ormsgpack's own classes can be noticed."""
    before = getrefcount(library.Fragment), getrefcount(library.Ext)
    probes = library.Fragment(b"\xc0"), library.Ext(1, b"")
    after = getrefcount(library.Fragment), getrefcount(library.Ext)
    del probes
    return all(late == early + 1 for early, late in zip(before, after, strict=True))


def _has_lookalikes(value: Any) -> bool:
    return not _are_numbers(value) and has_lookalikes(value, {})


def _are_numbers(values: Any) -> bool:
    """Tell in a quarter of the time of a look at each, as nothing else of msgpack's adds up."""
    if type(values) is not list or not values:
        return False
    if type(values[0]) not in _NUMBERS or type(values[-1]) not in _NUMBERS:
        return False
    try:
        sum(values)
    except TypeError:
        return False
    return True


def is_document(value: Any) -> bool:
    """Tell whether a value is one that ormsgpack reads faster: a map, or maps."""
    kind = type(value)
    return kind is dict or (kind is list and bool(value) and type(value[0]) is dict)
