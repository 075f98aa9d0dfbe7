"""Classes change between deploys: bytes of the older one are a miss, never a half-filled object."""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import Any

import attrs
import pydantic
import pytest

from tiercache.codec import Codec
from tiercache.errors import DecodeError


def as_dataclass(name: str, /, **fields: Any) -> type:
    cls = dataclasses.make_dataclass(name, fields.items())
    cls.__module__ = "app.models"
    return cls


def as_slots(name: str, /, **fields: Any) -> type:
    cls = dataclasses.make_dataclass(name, fields.items(), slots=True, frozen=True)
    cls.__module__ = "app.models"
    return cls


def as_attrs(name: str, /, **fields: Any) -> type:
    made = attrs.make_class(name, {field: attrs.field(type=kind) for field, kind in fields.items()})
    made.__module__ = "app.models"
    made.__annotations__ = fields
    return made


def as_model(name: str, /, **fields: Any) -> type:
    definitions: dict[str, Any] = {field: (kind, ...) for field, kind in fields.items()}
    return pydantic.create_model(name, __module__="app.models", **definitions)


def as_named_tuple(name: str, /, **fields: Any) -> type:
    cls: Any = collections.namedtuple(name, fields)
    cls.__module__ = "app.models"
    cls.__annotations__ = fields
    return cls  # type: ignore[no-any-return]


MAKERS = [as_dataclass, as_slots, as_attrs, as_model, as_named_tuple]


def write(cls: Any, **values: Any) -> bytes:
    return Codec().encode("key", [cls(**values)])


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    "fields",
    [
        {"id": int, "name": str, "more": int},
        {"id": int},
        {"id": int, "title": str},
        {"name": str, "id": int},
        {"id": int, "name": bytes},
    ],
    ids=["gained", "lost", "renamed", "reordered", "retyped"],
)
def test_a_class_with_other_fields_is_a_miss(make: Any, fields: dict[str, Any]) -> None:
    """Whichever way the fields differ, both the old reader and the new one refuse."""
    old, new = make("User", id=int, name=str), make("User", **fields)
    payload = write(old, id=1, name="Ada")
    assert Codec(types=[old]).decode("key", payload).value == [old(id=1, name="Ada")]
    with pytest.raises(DecodeError, match=r"app\.models\.User"):
        Codec(types=[new]).decode("key", payload)


@pytest.mark.parametrize("make", MAKERS)
def test_of_two_classes_of_one_name_the_newer_stands(make: Any) -> None:
    """A class defined again, as in a notebook, takes over what was written with the same fields."""
    first, again, other = make("User", id=int), make("User", id=int), make("User", id=int, name=str)
    codec = Codec(types=[first])
    payload = codec.encode("key", first(id=1))
    codec.register(again)
    assert type(codec.decode("key", payload).value) is again
    codec.register(other)
    with pytest.raises(DecodeError):
        codec.decode("key", payload)
    for _ in range(3):  # values of both may still be written, in turn
        for value in (first(id=1), other(id=1, name="Ada")):
            restored = codec.decode("key", codec.encode("key", value)).value
            assert type(restored) is type(value)


def test_an_unknown_class_is_a_miss_until_it_is_registered_or_written() -> None:
    """Classes come from annotations, by hand, or with a value; never from the bytes."""
    cls = as_dataclass("User", id=int)
    payload = write(cls, id=1)
    codec = Codec()
    with pytest.raises(DecodeError, match=r"not registered.*app\.models\.User"):
        codec.decode("key", payload)
    codec.encode("other", cls(id=2))
    assert codec.decode("key", payload).value == [cls(id=1)]


def test_an_enum_may_gain_members_but_not_lose_the_stored_one() -> None:
    """A member is known by its name."""
    old = enum.Enum("Colour", ["RED", "GREEN"], module="app.models")
    more = enum.Enum("Colour", ["RED", "GREEN", "BLUE"], module="app.models")
    less = enum.Enum("Colour", ["RED"], module="app.models")
    payload = Codec().encode("key", old.GREEN)
    assert Codec(types=[more]).decode("key", payload).value is more["GREEN"]
    with pytest.raises(DecodeError):
        Codec(types=[less]).decode("key", payload)


def test_a_flag_whose_bits_have_moved_is_a_miss() -> None:
    """A combination is stored as its number, so the members' numbers must agree."""
    old = enum.Flag("Access", {"READ": 1, "WRITE": 2}, module="app.models")
    new = enum.Flag("Access", {"READ": 2, "WRITE": 1}, module="app.models")
    payload = Codec().encode("key", old.READ)
    with pytest.raises(DecodeError):
        Codec(types=[new]).decode("key", payload)


def test_a_class_that_changed_its_kind_is_a_miss() -> None:
    """A dataclass that has become a model, or a plain dict."""
    old, new = as_dataclass("User", id=int), as_model("User", id=int)
    with pytest.raises(DecodeError):
        Codec(types=[new]).decode("key", write(old, id=1))


def test_classes_of_one_name_in_a_loop_do_not_pile_up() -> None:
    """A function that makes a class per call does not grow the registry."""
    codec = Codec()
    for _ in range(50):
        cls = as_dataclass("Local", id=int)
        codec.encode("key", cls(id=1))
    registry = codec._registry
    assert sum(cls.__name__ == "Local" for cls in registry.writers) == 1
    assert len(registry.shapes) < 10
