"""What kind of class a class is, told without importing the library it was made with."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
from typing import Any, Final, cast

_HEAP_TYPE: Final = 1 << 9  # CPython's flag of classes made by a class statement


def is_named_tuple(cls: type) -> bool:
    """Tell a named tuple, typing's or collections'."""
    return (
        issubclass(cls, tuple)
        and isinstance(getattr(cls, "_fields", None), tuple)
        and hasattr(cls, "_make")
    )


def is_pydantic(cls: type) -> bool:
    """Tell a model of pydantic 2: with a model in hand, pydantic is loaded."""
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and issubclass(cls, pydantic.BaseModel)
        and hasattr(cls, "__pydantic_fields__")
    )


def is_attrs(cls: type) -> bool:
    """Tell a class made by attrs."""
    return hasattr(cls, "__attrs_attrs__")


def is_supported(cls: type) -> bool:
    """Tell whether instances of ``cls`` can be written and restored."""
    if issubclass(cls, enum.Enum):
        return True
    if is_named_tuple(cls):
        return True
    return field_names(cls) is not None and _is_all_python(cls)


def field_names(cls: type) -> tuple[str, ...] | None:
    """Return the declared fields of a dataclass, attrs class, model or named tuple, else None."""
    made: Any = cls
    if is_named_tuple(cls):
        return cast("tuple[str, ...]", made._fields)
    if is_pydantic(cls):
        return tuple(made.__pydantic_fields__)
    if is_attrs(cls):
        return tuple(field.name for field in made.__attrs_attrs__)
    if dataclasses.is_dataclass(cls):
        return tuple(field.name for field in dataclasses.fields(cls))
    return None


def raw_annotation(cls: type, name: str) -> tuple[type, object] | None:
    """Return the class of the MRO that annotates ``name``, and the annotation, unevaluated."""
    for base in cls.__mro__:
        annotations = inspect.get_annotations(base)
        if name in annotations:
            return base, annotations[name]
    return None


def _is_all_python(cls: type) -> bool:
    """Tell whether no part of an instance's state is a builtin's: an exception, a dict, a str."""
    return all(base.__flags__ & _HEAP_TYPE for base in cls.__mro__[:-1])
