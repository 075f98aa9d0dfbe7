"""One msgpack text at a time to a value: the hooks that restore what msgpack lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tiercache.codec.registry import Registry, UnknownType
from tiercache.codec.shapes import Shape
from tiercache.codec.wire import SHAPE, unpack
from tiercache.errors import DecodeError

Read = Callable[[bytes], Any]
_STRAY: Final = "a marker stands outside its array"


def new_reader(registry: Registry) -> Read:
    """Return a function that reads a text that may hold shapes. Not to be shared while in use.

    A marker is read as a Shape; as it is the last of its array, the array is the next thing that
    ends, and becomes the value. Drop the reader after an error: a marker may then be left over.
    (Closures over a local, as they run once per object: methods take half as long again.)
    """
    shapes = registry.shapes
    read_scalar = registry.read_scalar
    marker: Shape | None = None  # one whose array has not ended; it must not reach the caller

    def read_ext(code: int, data: bytes) -> object:
        nonlocal marker
        if code != SHAPE:
            return read_scalar(code, data)
        if marker is not None:
            raise DecodeError(_STRAY)
        try:
            marker = shapes[data]
        except KeyError:
            raise UnknownType(
                "a class that is not registered, or whose fields have changed"
            ) from None
        return marker

    def read_array(items: list[Any]) -> object:
        nonlocal marker
        if marker is None:
            return items
        shape, marker = marker, None
        if not items or items.pop() is not shape:
            raise DecodeError(_STRAY)
        return shape.build(items)

    def read(data: bytes) -> Any:
        value = unpack(data, read_ext, read_array)
        if marker is not None:
            raise DecodeError(_STRAY)
        return value

    return read
