"""The wire format: what the bytes of version 1 look like, and all packing and unpacking.

A payload is one msgpack array of seven elements::

    [version, key, fingerprint, stale_for_ms, tags, body, holds]

In the place of ``stale_for_ms`` may stand ``[stale_for_ms, ttl_ms, load_ms, state, reason]``, how
the value came about; ``ttl_ms`` is nil where it does not expire.

``tags`` is nil where there are none. ``body`` is the value. What msgpack has itself (None, bool,
int up to 64 bits, float, str, bytes, list, dict) is written as such. A *scalar* it lacks (a
datetime, a Decimal, an enum member) is one ext object. A *shape* (a tuple, a set, an instance of a
registered class) is an array whose last element is the ext ``SHAPE``, which names the class: the
parts stand inline, so reading never recurses in Python, and one pass of the C parser does nearly
all the work.

``holds`` names the shapes that the body holds, for error messages. Being last, it also says how
to read: an empty one (a last byte of 0x90) means that no array needs a second look; ``True``
(0xc3) means that ``body`` is a zstd frame of the msgpack array ``[body, holds]``.

Long plain values go another way to the same bytes where there is one: ``quick``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgpack import Packer, Unpacker, unpackb

VERSION: Final = 1
EMPTY_HOLDS: Final = 0x90  # the last byte of a payload without shapes
COMPRESSED: Final = 0xC3

# Ext codes. Written once, never given another meaning; far from 0, where applications' own are.
SHAPE: Final = 0x50
INT: Final = 0x51
DATETIME: Final = 0x52
DATE: Final = 0x53
TIME: Final = 0x54
TIMEDELTA: Final = 0x55
DECIMAL: Final = 0x56
UUID: Final = 0x57
COMPLEX: Final = 0x58
BYTEARRAY: Final = 0x59
ENUM: Final = 0x5A

# msgpack allocates an array at its declared length, up to the payload's own, before it reads an
# element: nested, that is quadratic. So a larger payload with more headers of long arrays (or
# bytes that look like them) is first walked without building anything.
UNCHECKED_BYTES: Final = 256
_UNCHECKED_ARRAYS: Final = 16


def new_packer(default: Callable[[Any], object], *, surrogates: bool = False) -> Packer:
    """Return a packer that sends to ``default`` whatever msgpack would degrade or refuse.

    ``surrogates`` lets lone surrogates pass; it makes every str slower.
    """
    return Packer(
        default=default,
        strict_types=True,
        buf_size=8192,
        unicode_errors="surrogatepass" if surrogates else None,
    )


def unpack(
    data: bytes,
    ext_hook: Callable[[int, bytes], object],
    list_hook: Callable[[list[Any]], object] | None = None,
) -> Any:
    """Parse ``data`` with memory in proportion to its length: under 200 times, at worst."""
    if len(data) > UNCHECKED_BYTES:
        _check_lengths(data)
    return unpackb(
        data,
        ext_hook=ext_hook,
        list_hook=list_hook,
        strict_map_key=False,
        unicode_errors="surrogatepass",
    )


def unpack_many(
    payloads: Sequence[bytes], longest: int, ext_hook: Callable[[int, bytes], object]
) -> list[Any]:
    """Parse each of some payloads, the longest of so many bytes, as ``unpack`` does."""
    if longest > UNCHECKED_BYTES:
        return [unpack(payload, ext_hook) for payload in payloads]
    return [
        unpackb(payload, ext_hook=ext_hook, strict_map_key=False, unicode_errors="surrogatepass")
        for payload in payloads
    ]


def _check_lengths(data: bytes) -> None:
    """Raise unless every declared length is backed by bytes."""
    if data.count(b"\xdc") + data.count(b"\xdd") > _UNCHECKED_ARRAYS:
        unpacker = Unpacker(max_buffer_size=len(data))
        unpacker.feed(data)
        unpacker.skip()
