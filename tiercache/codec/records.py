"""Dataclasses and attrs classes: an instance is its declared fields, in order.

One that lacks a field, or holds more than them (set in ``__post_init__``, say), is written in the
*loose* form: a dict of all it holds, and the names of the fields it lacks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from keyword import iskeyword
from types import MemberDescriptorType
from typing import Any, Final

from msgpack import ExtType

from tiercache.codec import wire
from tiercache.codec.describe import class_digest, name_of
from tiercache.codec.shapes import Build, ClassSpec, shape_spec
from tiercache.errors import DecodeError

_CACHED_HASH: Final = "_attrs_cached_hash"  # attrs puts it in; made of process-bound str hashes
_new: Any = object.__new__
_set: Any = object.__setattr__


def record_spec(cls: type, names: tuple[str, ...]) -> ClassSpec:
    """Return how a dataclass or attrs class with the fields ``names`` is written and built."""
    ident = class_digest(cls)
    marker, loose_marker = ExtType(wire.SHAPE, ident), ExtType(wire.SHAPE, ident + b"+")
    slots = _slots(cls)
    dropped = recomputed(cls)

    def write_loose(value: Any) -> list[Any]:
        state = _state(value, slots, dropped)
        if tuple(state) == names:
            return [*state.values(), marker]
        return [state, absent_names(state, names), loose_marker]

    def build_loose(parts: list[Any]) -> object:
        state, absent = parts
        if absent_names(state, names) != absent:
            raise DecodeError(f"fields of {name_of(cls)} are lacking")
        return _restore(cls, state)

    builds = {ident: _compile_build(cls, names), ident + b"+": build_loose}
    write = _compile_write(names, marker, _fields_only_check(cls, names, slots), write_loose)
    return shape_spec(name_of(cls), write, builds)


def absent_names(state: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Return the fields that were never set; written down, as no other may be lacking."""
    return [name for name in names if name not in state]


def recomputed(cls: type) -> frozenset[str]:
    """Return the names of what the class computes again when asked."""
    return frozenset(
        name
        for base in cls.__mro__
        for name, value in vars(base).items()
        if isinstance(value, functools.cached_property)
    )


def _slots(cls: type) -> dict[str, MemberDescriptorType]:
    return {
        name: member
        for base in reversed(cls.__mro__)
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType)
    }


def _fields_only_check(
    cls: type, names: tuple[str, ...], slots: dict[str, MemberDescriptorType]
) -> str:
    """Return the source of a cheap predicate: has ``value`` no more attributes than its fields?"""
    if not slots.keys() <= set(names):
        return "False"
    if not any("__dict__" in vars(base) for base in cls.__mro__):
        return "True"
    size = sum(name not in slots for name in names)
    return f"len(value.__dict__) == {size}"  # an unset field shows in reading it


def _state(
    value: Any, slots: dict[str, MemberDescriptorType], dropped: frozenset[str]
) -> dict[str, Any]:
    """Return what an instance holds, except what Python or attrs keep there for themselves."""
    held: dict[str, Any] = {}
    for name, member in slots.items():
        try:
            held[name] = member.__get__(value)
        except AttributeError:
            continue
    held.update(getattr(value, "__dict__", ()))
    if _CACHED_HASH in held:
        held[_CACHED_HASH] = None  # computed again when asked
    return {name: part for name, part in held.items() if not (_is_dunder(name) or name in dropped)}


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _restore(cls: type, state: dict[str, Any]) -> object:
    value: object = _new(cls)
    for name, part in state.items():
        if _is_dunder(name):
            raise DecodeError(f"a payload may not set {name}")
        _set(value, name, part)
    return value


def _compile_write(
    names: tuple[str, ...],
    marker: ExtType,
    has_fields_only: str,
    write_loose: Callable[[Any], list[Any]],
) -> Callable[[Any], list[Any]]:
    """Return a function that lists the fields of an instance, and the marker.

    Compiled, as dataclasses do for ``__init__``: a loop over the names takes several times as long.
    """
    reads = "".join(f"{_read_source(name)}, " for name in names)
    source = f"""
def f(value):
    if {has_fields_only}:
        try:
            return [{reads}marker]
        except AttributeError:
            pass  # a field was never set
    return write_loose(value)
"""
    write: Callable[[Any], list[Any]] = _define(source, marker=marker, write_loose=write_loose)
    return write


def _compile_build(cls: type, names: tuple[str, ...]) -> Build:
    """Return a function that makes an instance of the list of its fields."""
    is_plain = cls.__setattr__ is _set  # else it is frozen, or checks what is set
    parts = [f"v{number}" for number in range(len(names))]
    lines = [f"[{', '.join(parts)}] = parts", "self = new(cls)"]
    for name, part in zip(names, parts, strict=True):
        lines.append(
            f"self.{name} = {part}"
            if is_plain and _is_identifier(name)
            else f"set(self, {name!r}, {part})"
        )
    body = "\n ".join([*lines, "return self"])
    build: Build = _define(f"def f(parts):\n {body}", cls=cls, new=_new, set=_set)
    return build


def _read_source(name: str) -> str:
    return f"value.{name}" if _is_identifier(name) else f"getattr(value, {name!r})"


def _is_identifier(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def _define(source: str, **scope: Any) -> Any:
    exec(source, scope)  # noqa: S102 - the names are those of a class in hand, never of bytes
    return scope["f"]
