"""One value at a time to msgpack: the hooks that write what msgpack lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgpack import ExtType

from tiercache.codec.lookalikes import is_plain
from tiercache.codec.registry import Registry
from tiercache.codec.scalars import Unsupported, write_bytearray
from tiercache.codec.wire import new_packer

_FOREIGN: Final = (memoryview, ExtType)


class Unencodable(Exception):
    """Raised inside a packer: which part of the value cannot be written, and why."""

    def __init__(self, culprit: object, reason: str) -> None:
        super().__init__(reason)
        self.culprit = culprit


class Writer:
    """A packer and the record of one payload's shapes. Not to be shared while in use.

    Drop it after an error: its packer's state is then undefined.
    """

    __slots__ = ("_registry", "_writers", "holds", "pack")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._writers = registry.writers
        self.holds: list[str] = []  # packed after the body, so it is complete by then
        self.pack: Callable[[object], bytes] = new_packer(self.default).pack

    def default(self, value: Any) -> object:
        """Return what to write for a value that is none of msgpack's own: msgpack's hook."""
        kind = type(value)
        try:
            write, shape = self._writers.get(kind) or self._registry.writer(kind)
            written = write(value)
        except Unsupported as error:
            raise Unencodable(value, str(error)) from None
        if shape is not None and shape not in self.holds:
            self.holds.append(shape)
        return written


class CarefulWriter(Writer):
    """Writes what a Writer cannot: bytearrays, and text with lone surrogates.

    msgpack packs a bytearray or memoryview as if it were bytes, without asking, and a str with
    lone surrogates only in a slower mode. Used once a Writer has shown that it matters.
    """

    __slots__ = ()

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.pack = new_packer(self.default, surrogates=True).pack

    def default(self, value: Any) -> object:
        """Return what to write, with the bytearrays in it written."""
        written = super().default(value)
        if type(written) is not list:
            return written
        *parts, marker = written
        return [*map(careful, parts), marker]


def careful(value: Any) -> Any:
    """Return ``value`` with its bytearrays written, down to where the hook takes over."""
    kind = type(value)
    if kind is list:
        return value if is_plain(value) else [careful(part) for part in value]
    if kind is dict:
        if is_plain(value) and is_plain(value.values()):
            return value
        return {careful(key): careful(part) for key, part in value.items()}
    if kind is bytearray:
        return write_bytearray(value)
    if kind in _FOREIGN:
        raise Unencodable(value, "convert it to bytes")
    return value
