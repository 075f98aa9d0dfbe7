"""A text for a value such that different values have different texts, in every process.

Types count: ``1``, ``1.0``, ``True`` and ``"1"`` all differ. Nothing here depends on memory
addresses, hash seeds or the order of a dict or set. What has no such text raises
``NoCanonicalText``.
"""

from __future__ import annotations

import dataclasses
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+|\bid='?\d{9,}")


class NoCanonicalText(Exception):
    """A value that cannot be told apart from others by a text."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


def canonical(value: Any) -> str:
    """Return the text of a value; equal texts mean equal values of equal types.

    Raises:
        NoCanonicalText: If the value, or something in it, has none.
    """
    try:
        return (_BY_CLASS.get(value.__class__) or _writer_for(type(value)))(value)
    except RecursionError:
        raise NoCanonicalText(value) from None


def plain_text(value: Any) -> str:
    """Return the text a template shows for a value: ``str(value)`` where that says what it is.

    Raises:
        NoCanonicalText: If the value has no text but its address in memory.
    """
    kind = type(value)
    if hasattr(kind, "__cache_key__"):
        return plain_text(value.__cache_key__())
    if kind in _CONTAINERS or getattr(kind, "__str__") is object.__str__:  # noqa: B009 - mypy
        return canonical(value)
    return refuse_address(str(value), value)


def refuse_address(text: str, value: Any) -> str:
    """Return a text made of a value, unless it shows where the value lies in memory.

    Raises:
        NoCanonicalText: If it does.
    """
    if _ADDRESS.search(text):
        raise NoCanonicalText(value)
    return text


class _Numbers:
    """Numbers of the classes of one name, in the order in which they were first seen."""

    def __init__(self) -> None:
        self.last = 0
        self.given: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


_numbers: dict[str, _Numbers] = {}  # guarded by _numbers_lock
_numbers_lock = threading.RLock()


def stable_name(thing: Any) -> str:
    """Return module and qualified name of a class, told apart from others of the same name.

    Classes made by calling a function twice share a qualified name: the second gets ``#2``.
    """
    name = f"{thing.__module__}.{thing.__qualname__}"
    if "<locals>" not in name:
        return name
    with _numbers_lock:
        numbers = _numbers.setdefault(name, _Numbers())
        number = numbers.given.get(thing)
        if number is None:
            number = numbers.last = numbers.last + 1
            numbers.given[thing] = number
    return name if number == 1 else f"{name}#{number}"


def _writer_for(kind: type) -> Callable[[Any], str]:
    """Find how to write instances of a class seen for the first time."""
    if hasattr(kind, "__cache_key__"):
        return _write_own_key
    if issubclass(kind, Enum):
        return _write_enum
    if issubclass(kind, type):
        return _write_class
    if writer := _record_writer(kind):
        return _refuse if issubclass(kind, _BUILTIN_CONTAINERS) else writer
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _write_named_tuple
    if issubclass(kind, OrderedDict):
        return _write_ordered_dict
    if hasattr(kind, "__fspath__"):
        return _write_text
    for base in kind.__mro__[1:]:
        if base in _BY_CLASS and base is not object:
            return _subclass_writer(_BY_CLASS[base])
    return _refuse


def _record_writer(kind: type) -> Callable[[Any], str] | None:
    if dataclasses.is_dataclass(kind):
        return _write_dataclass
    if hasattr(kind, "__attrs_attrs__"):
        return _write_attrs
    if hasattr(kind, "__pydantic_fields__"):
        return _write_pydantic
    return None


def _refuse(value: Any) -> str:
    raise NoCanonicalText(value)


def _joined(values: Iterable[Any]) -> str:
    return ",".join([canonical(value) for value in values])


def _write_tuple(value: tuple[Any, ...]) -> str:
    return f"({_joined(value)})"


def _write_list(value: list[Any]) -> str:
    return f"[{_joined(value)}]"


def _write_dict(value: dict[Any, Any]) -> str:
    return "{" + ",".join(sorted(f"{canonical(k)}:{canonical(v)}" for k, v in value.items())) + "}"


def _write_set(value: set[Any] | frozenset[Any]) -> str:
    return f"{type(value).__name__}({','.join(sorted(map(canonical, value)))})"


def _write_datetime(value: datetime) -> str:
    zone = value.tzinfo
    fold = ",fold" if value.fold else ""
    return f"datetime({value.isoformat()}{fold}{'' if zone is None else ',' + _zone(zone)})"


def _write_time(value: time) -> str:
    zone = value.tzinfo
    fold = ",fold" if value.fold else ""
    return f"time({value.isoformat()}{fold}{'' if zone is None else ',' + _zone(zone)})"


def _zone(zone: tzinfo) -> str:
    return refuse_address(str(zone), zone)


def _write_text(value: Any) -> str:
    return f"{type(value).__name__}({str(value)!r})"


def _write_class(value: type) -> str:
    return f"<class {stable_name(value)}>"


def _write_enum(value: Enum) -> str:
    return f"{stable_name(type(value))}.{value.name or canonical(value.value)}"


def _write_own_key(value: Any) -> str:
    if isinstance(value, type):  # the class itself, not an instance of it
        return _write_class(value)
    return f"{stable_name(type(value))}({canonical(value.__cache_key__())})"


def _write_named_tuple(value: Any) -> str:
    return _named(value, value._fields)


def _write_ordered_dict(value: OrderedDict[Any, Any]) -> str:
    return f"{stable_name(type(value))}({_joined(value.items())})"


def _named(value: Any, names: Iterable[str]) -> str:
    fields = ",".join([f"{name}={canonical(getattr(value, name))}" for name in names])
    return f"{stable_name(type(value))}({fields})"


def _write_dataclass(value: Any) -> str:
    names = [field.name for field in dataclasses.fields(value)]
    return _named(value, [*names, *_undeclared(value, "__dataclass_fields__", names)])


def _write_attrs(value: Any) -> str:
    names = [field.name for field in type(value).__attrs_attrs__]
    return _named(value, [*names, *_undeclared(value, "__attrs_attrs__", names)])


def _undeclared(value: Any, declaration: str, names: list[str]) -> list[str]:
    """Return what an instance holds beyond its class's fields, where a subclass added no more.

    A class that declares its fields itself may keep what it derives from them, such as a
    cached_property, elsewhere in the instance.
    """
    if declaration in type(value).__dict__:
        return []
    return sorted(set(getattr(value, "__dict__", ())).difference(names))


def _write_pydantic(value: Any) -> str:
    extra = getattr(value, "__pydantic_extra__", None) or {}
    private = getattr(value, "__pydantic_private__", None) or {}
    return _named(value, [*type(value).__pydantic_fields__, *sorted(extra), *sorted(private)])


def _subclass_writer(write_base: Callable[[Any], str]) -> Callable[[Any], str]:
    def write(value: Any) -> str:
        if getattr(value, "__dict__", None):  # state that the base's text does not show
            raise NoCanonicalText(value)
        return f"{stable_name(type(value))}({write_base(value)})"

    return write


_BUILTIN_CONTAINERS = (tuple, list, dict, set, frozenset)
_CONTAINERS = frozenset({tuple, list, dict, set, frozenset, bytes, bytearray})

_BY_CLASS: dict[type, Callable[[Any], str]] = {
    int: int.__repr__,
    str: str.__repr__,
    bool: bool.__repr__,
    float: float.__repr__,
    type(None): repr,
    bytes: bytes.__repr__,
    bytearray: bytearray.__repr__,
    complex: complex.__repr__,
    tuple: _write_tuple,
    list: _write_list,
    dict: _write_dict,
    set: _write_set,
    frozenset: _write_set,
    Decimal: Decimal.__repr__,
    UUID: UUID.__repr__,
    datetime: _write_datetime,
    date: date.__repr__,
    time: _write_time,
    timedelta: timedelta.__repr__,
    range: range.__repr__,
    type: _write_class,
}
