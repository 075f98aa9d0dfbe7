"""One msgpack text at a time to a value: the hooks that restore what msgpack lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiercache.codec.registry import Registry, UnknownType
from tiercache.codec.shapes import Shape
from tiercache.codec.wire import SHAPE, unpack
from tiercache.errors import DecodeError

Read = Callable[[bytes], Any]


def new_reader(registry: Registry) -> Read:
    """Return a function that reads a text that may hold shapes. Not to be shared while in use.

    A marker is read as a Shape; the array that ends with it becomes the value. Drop the reader
    after an error: its count of markers is then off. (Closures over a local, as they run once per
    object: methods take half as long again.)
    """
    shapes = registry.shapes
    read_scalar = registry.read_scalar
    pending = 0  # markers that have not met their array; a stray one must not reach the caller

    def read_ext(code: int, data: bytes) -> object:
        nonlocal pending
        if code != SHAPE:
            return read_scalar(code, data)
        shape = shapes.get(data)
        if shape is None:
            raise UnknownType("a class that is not registered, or whose fields have changed")
        pending += 1
        return shape

    def read_array(items: list[Any]) -> object:
        nonlocal pending
        if items and type(items[-1]) is Shape:
            pending -= 1
            return items.pop().build(items)
        return items

    def read(data: bytes) -> Any:
        value = unpack(data, read_ext, read_array)
        if pending:
            raise DecodeError("a marker stands outside its array")
        return value

    return read
