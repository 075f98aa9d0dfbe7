"""How the values of one class are written and built again.

Nothing here calls a class's ``__init__``, ``__post_init__`` or validators: what was stored comes
back as it was, and reading cannot fail on a rule that has changed since.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from msgpack import ExtType

from tiercache.codec import wire
from tiercache.codec.describe import class_digest, name_of
from tiercache.codec.kinds import field_names
from tiercache.codec.scalars import Unsupported
from tiercache.errors import DecodeError

Build = Callable[[list[Any]], object]


class Shape:
    """What an array's marker is read as: builds a value of the parts that stood before it."""

    __slots__ = ("build",)

    def __init__(self, build: Build) -> None:
        self.build = build


class ClassSpec(NamedTuple):
    """All a registry has to know of one class."""

    name: str
    write: Callable[[Any], object]  # to an ExtType, or to a list that ends with a marker
    shapes: dict[bytes, Shape]  # by the marker's data; empty for an enum
    members: dict[bytes, Callable[[bytes], object]]  # by id; empty unless an enum


def shape_spec(name: str, write: Callable[[Any], object], builds: dict[bytes, Build]) -> ClassSpec:
    """Return the spec of a class whose values are arrays that end with a marker."""
    return ClassSpec(name, write, {data: Shape(build) for data, build in builds.items()}, {})


def _container(cls: type, data: bytes) -> ClassSpec:
    marker = ExtType(wire.SHAPE, data)
    return shape_spec(cls.__name__, lambda value: [*value, marker], {data: cls})


CONTAINERS: Final[dict[type, ClassSpec]] = {
    tuple: _container(tuple, b"t"),
    set: _container(set, b"s"),
    frozenset: _container(frozenset, b"f"),
}


def named_tuple_spec(cls: type) -> ClassSpec:
    """Write the elements; restore without the class's own ``__new__``."""
    ident = class_digest(cls)
    marker = ExtType(wire.SHAPE, ident)
    size = len(field_names(cls) or ())

    def write(value: tuple[Any, ...]) -> list[Any]:
        if len(value) != size or getattr(value, "__dict__", None):
            raise Unsupported("it carries more than its fields")
        return [*value, marker]

    def build(parts: list[Any]) -> object:
        if len(parts) != size:
            raise DecodeError(f"{len(parts)} fields for {name_of(cls)}, which has {size}")
        return tuple.__new__(cls, parts)

    return shape_spec(name_of(cls), write, {ident: build})


def enum_spec(cls: type[enum.Enum]) -> ClassSpec:
    """Write a member as its name; look it up among the members of this process's class."""
    if issubclass(cls, enum.Flag):
        return _flag_spec(cls)
    ident = class_digest(cls)
    members = {name.encode(): member for name, member in cls.__members__.items()}
    written = {id(member): ExtType(wire.ENUM, ident + name) for name, member in members.items()}

    def write(member: enum.Enum) -> ExtType:
        try:
            return written[id(member)]
        except KeyError:
            raise Unsupported("it is not among the members its class declares") from None

    return ClassSpec(name_of(cls), write, {}, {ident: members.__getitem__})


def _flag_spec(cls: type[enum.Flag]) -> ClassSpec:
    """Write a combination as its number; its class's identity covers the members' numbers."""
    ident = class_digest(cls)

    def write(member: enum.Flag) -> ExtType:
        return ExtType(wire.ENUM, ident + b"%d" % member.value)

    def read(text: bytes) -> enum.Flag:
        member = cls(int(text))
        if type(member) is not cls:
            raise DecodeError(f"{text!r} is no value of {name_of(cls)}")
        return member

    return ClassSpec(name_of(cls), write, {}, {ident: read})
