"""Which classes may be written and read: by class in hand one way, by id the other."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final

from tiercache.codec import wire
from tiercache.codec.kinds import field_names, is_named_tuple, is_pydantic, is_supported
from tiercache.codec.models import model_spec
from tiercache.codec.records import record_spec
from tiercache.codec.scalars import READERS, WRITERS, Unsupported
from tiercache.codec.shapes import CONTAINERS, ClassSpec, Shape, enum_spec, named_tuple_spec
from tiercache.errors import DecodeError

_ID_SIZE: Final = 8
_NEED_NOTHING: Final = frozenset({type(None), bool, float, str, bytes, bytearray, list, dict})
_REMEDY: Final = (
    "supported are dataclasses, attrs classes, pydantic 2 models, named tuples, enums "
    "and the exact builtin types"
)


# To an ExtType, or to a list that ends with a marker; the name is a shape's, None for a scalar.
Writer = tuple[Callable[[Any], object], str | None]


class UnknownType(DecodeError):
    """Bytes name a class that is not registered, or one whose fields have changed."""


class Registry:
    """The classes of one codec.

    Filled by annotations, by hand, and by encoding; never by bytes. Of two classes of one name
    the newer stands, so the table is bounded by the number of names. No lock: adding a class
    twice, from two threads, gives the same result.
    """

    def __init__(self) -> None:
        self.writers: dict[type, Writer] = {cls: (write, None) for cls, write in WRITERS.items()}
        self.shapes: dict[bytes, Shape] = {}
        self._members: dict[bytes, Callable[[bytes], object]] = {}
        self._newest: dict[str, tuple[type, ClassSpec]] = {}
        for cls, spec in CONTAINERS.items():
            self._add(cls, spec)

    def add(self, cls: type) -> None:
        """Register a class. Raises Unsupported."""
        if cls not in _NEED_NOTHING:
            self.writer(cls)

    def writer(self, cls: type) -> Writer:
        """Return how to write values of a class in hand, which registers it."""
        known = self.writers.get(cls)
        return self._add(cls, _spec_of(cls)) if known is None else known

    def read_scalar(self, code: int, data: bytes) -> object:
        """Restore an ext object that is no shape: msgpack's hook."""
        if code == wire.ENUM:
            read = self._members.get(data[:_ID_SIZE])
            if read is None:
                raise UnknownType("an enum that is not registered, or whose members have changed")
            return read(data[_ID_SIZE:])
        if code not in READERS:
            raise DecodeError(f"an ext object of code {code}")
        return READERS[code](data)

    def knows(self, name: str) -> bool:
        """Tell whether a class of this name is registered."""
        return name in self._newest

    def _add(self, cls: type, spec: ClassSpec) -> Writer:
        """Register a class; nothing that it and its forerunner share is ever missing meanwhile."""
        forerunner = self._newest.get(spec.name)
        self._newest[spec.name] = cls, spec
        self.shapes.update(spec.shapes)
        self._members.update(spec.members)
        writer = self.writers[cls] = spec.write, spec.name if spec.shapes else None
        if forerunner is not None:
            self._forget(*forerunner, cls, spec)
        return writer

    def _forget(self, cls: type, spec: ClassSpec, heir: type, kept: ClassSpec) -> None:
        if cls is not heir:
            self.writers.pop(cls, None)
        for data in spec.shapes.keys() - kept.shapes.keys():
            self.shapes.pop(data, None)
        for ident in spec.members.keys() - kept.members.keys():
            self._members.pop(ident, None)


def _spec_of(cls: type) -> ClassSpec:
    if not is_supported(cls):
        raise Unsupported(_REMEDY)
    if issubclass(cls, enum.Enum):
        return enum_spec(cls)
    if is_named_tuple(cls):
        return named_tuple_spec(cls)
    names = field_names(cls) or ()
    return model_spec(cls, names) if is_pydantic(cls) else record_spec(cls, names)
