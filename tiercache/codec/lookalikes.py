"""What packers take for bytes without asking, though it is none: a bytearray, a memoryview.

They are looked for after packing, and only where a header of bytes shows in the payload. Numbers
show one by chance, so looking has to be cheap: it goes level by level, each in a few steps of C,
and not part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, Final

from tiercache.codec.scalars import SCALARS

_HEADERS: Final = b"\xc4\xc5\xc6"
_SHORT: Final = 256  # bytes
_LONG: Final = 64  # parts

Write = Callable[[Any], Any]


def shows_bytes(payload: bytes) -> bool:
    """Tell cheaply whether ``payload`` may hold bytes: whether a header of theirs shows.

    For short ones one pass in C, for others three faster ones. (``in`` costs thrice as much as
    ``find`` on CPython 3.11.)
    """
    if len(payload) < _SHORT:
        return len(payload.translate(None, _HEADERS)) != len(payload)
    return payload.find(b"\xc4") >= 0 or payload.find(b"\xc5") >= 0 or payload.find(b"\xc6") >= 0


def has_lookalikes(value: object, writers: Mapping[type, tuple[Write, str | None]]) -> bool:
    """Tell whether a value that was packed holds what was packed as if it were bytes.

    Args:
        value: What contains itself was not packed: this ends.
        writers: How instances become lists of parts and a marker: ``Registry.writers``.
    """
    level = [value]
    while level:
        below: list[Any] = []
        for kind in set(map(type, level)) - SCALARS:
            alike: list[Any] = [part for part in level if type(part) is kind]
            if kind is list:
                below.extend(chain.from_iterable(each for each in alike if not _is_done(each)))
            elif kind is dict:
                below.extend(chain.from_iterable(map(dict.values, alike)))
                if not is_plain(chain.from_iterable(alike)):
                    below.extend(chain.from_iterable(alike))
            elif kind in writers:
                below.extend(_parts(alike, *writers[kind]))
            else:
                return True
        level = below
    return False


def is_plain(values: Any) -> bool:
    """Tell whether all of them are of msgpack's own scalar types."""
    return SCALARS.issuperset(map(type, values))


def _is_done(values: list[Any]) -> bool:
    """Tell whether a list that is long enough for a look of its own is plain."""
    return len(values) > _LONG and is_plain(values)


def _parts(values: list[Any], write: Write, shape: str | None) -> list[Any]:
    return [] if shape is None else [part for value in values for part in write(value)[:-1]]
