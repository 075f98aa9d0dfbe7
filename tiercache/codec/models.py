"""Pydantic 2 models: fields, which of them were set, extras and private attributes."""

from __future__ import annotations

import sys
from typing import Any, Final

from msgpack import ExtType

from tiercache.codec import wire
from tiercache.codec.describe import class_digest, name_of
from tiercache.codec.records import absent_names, recomputed
from tiercache.codec.shapes import ClassSpec, shape_spec
from tiercache.errors import DecodeError

_DICT_OR_NONE: Final = (dict, type(None))


def model_spec(cls: Any, names: tuple[str, ...]) -> ClassSpec:
    """Return how a model with the fields ``names`` is written and built."""
    ident = class_digest(cls)
    marker, loose_marker = ExtType(wire.SHAPE, ident), ExtType(wire.SHAPE, ident + b"+")
    dropped = recomputed(cls)
    restore = _restorer(cls, names)

    def write(model: Any) -> list[Any]:
        rest = (_set_names(model, names), model.__pydantic_extra__, _private(model))
        values = model.__dict__
        if tuple(values) != names:
            values = {name: part for name, part in values.items() if name not in dropped}
            if tuple(values) != names:
                return [values, absent_names(values, names), *rest, loose_marker]
        return [*values.values(), *rest, marker]

    def build(parts: list[Any]) -> object:
        *values, set_names, extra, private = parts
        return restore(dict(zip(names, values, strict=True)), set_names, extra, private)

    def build_loose(parts: list[Any]) -> object:
        values, absent, set_names, extra, private = parts
        if absent_names(values, names) != absent:
            raise DecodeError(f"fields of {name_of(cls)} are lacking")
        return restore(values, set_names, extra, private)

    return shape_spec(name_of(cls), write, {ident: build, ident + b"+": build_loose})


def _restorer(cls: Any, names: tuple[str, ...]) -> Any:
    # The slots themselves: a RootModel hides two of them behind class attributes.
    slots = vars(sys.modules["pydantic"].BaseModel)
    put_set_names = slots["__pydantic_fields_set__"].__set__
    put_extra = slots["__pydantic_extra__"].__set__
    put_private = slots["__pydantic_private__"].__set__

    def restore(values: dict[str, Any], set_names: Any, extra: Any, private: Any) -> object:
        if not isinstance(extra, _DICT_OR_NONE) or not isinstance(private, _DICT_OR_NONE):
            raise DecodeError(f"malformed state of {name_of(cls)}")
        model = object.__new__(cls)
        object.__setattr__(model, "__dict__", values)
        put_set_names(model, _read_set_names(set_names, names))
        put_extra(model, extra)
        put_private(model, private)
        return model

    return restore


def _set_names(model: Any, names: tuple[str, ...]) -> int | list[str]:
    """Write the names of the fields that were set: a bit per field, or where extras are, a list."""
    set_names = model.__pydantic_fields_set__
    bits = sum(1 << number for number, name in enumerate(names) if name in set_names)
    return bits if bits.bit_count() == len(set_names) else sorted(set_names)


def _read_set_names(written: int | list[str], names: tuple[str, ...]) -> set[str]:
    if isinstance(written, list):
        return set(written)
    return {name for number, name in enumerate(names) if written >> number & 1}


def _private(model: Any) -> dict[str, Any] | None:
    private = model.__pydantic_private__
    if private is None:
        return None
    undefined = sys.modules["pydantic_core"].PydanticUndefined
    return {name: part for name, part in private.items() if part is not undefined}
