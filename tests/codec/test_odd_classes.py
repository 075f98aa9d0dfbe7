"""Classes as people write them: generic, abstract, inherited, lazy, mangled, generated."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import typing
from typing import Any, Generic, TypeVar

import attrs
import pydantic
import pytest

from tiercache.codec import Codec

T = TypeVar("T")


@dataclasses.dataclass
class Box(Generic[T]):
    """``Box[int](1)`` leaves ``__orig_class__`` in the instance."""

    content: T


class HasId(typing.Protocol):
    id: int


@dataclasses.dataclass(slots=True, weakref_slot=True)
class Weak(abc.ABC, HasId):
    """A slot that is no state, and bases that make theirs."""

    id: int


@dataclasses.dataclass
class Mangled:
    __hidden: int = 1


@pydantic.dataclasses.dataclass
class Checked:
    id: int
    items: list[int] = pydantic.Field(default_factory=list)


class Inherited(Checked):
    """No dataclass of its own right."""


class Envelope(pydantic.BaseModel, Generic[T]):
    content: T


class Key(pydantic.BaseModel, frozen=True):
    id: int = 0


class Computed(pydantic.BaseModel):
    id: int

    @functools.cached_property
    def heavy(self) -> object:
        return object()

    @pydantic.computed_field
    def double(self) -> int:
        return self.id * 2


@attrs.define
class LazyAttrs:
    id: int

    @functools.cached_property
    def double(self) -> int:
        return self.id * 2


class Planet(enum.Enum):
    EARTH = (5.97e24, 6.37e6)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass, self.radius = mass, radius


class Bits(enum.IntFlag):
    A = 1
    B = 2


def used(value: Any, name: str) -> Any:
    """Return ``value`` after one of its lazy attributes was asked for."""
    getattr(value, name)
    return value


VALUES = [
    Box[int](1),
    Box([Box("x")]),
    Weak(1),
    Mangled(7),
    Checked(1, [2]),
    Inherited(3),
    Envelope[int](content=1),
    Envelope[list[Key]](content=[Key(id=2)]),
    {Key(id=1): "as a key"},
    used(Computed(id=1), "heavy"),
    used(LazyAttrs(2), "double"),
    Planet.EARTH,
    Bits.A | Bits.B,
    Bits(8),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_it_comes_back(value: object) -> None:
    """Equal, of the very class, and usable as before."""
    codec = Codec()
    restored = codec.decode("key", codec.encode("key", value)).value
    assert type(restored) is type(value)
    assert restored == value
    assert repr(restored) == repr(value)
    again = codec.decode("key", codec.encode("key", restored)).value
    assert again == value


def test_a_model_that_names_a_later_one_is_read() -> None:
    """Pydantic completes such a model when the other exists; so does the schema."""
    scope: dict[str, Any] = {"pydantic": pydantic, "__name__": __name__}
    exec("class First(pydantic.BaseModel):\n    later: 'list[Second]'\n", scope)
    codec = Codec()
    schema = codec.schema(scope["First"])
    assert not schema.is_complete
    exec("class Second(pydantic.BaseModel):\n    id: int\n", scope)
    scope["First"].model_rebuild(_types_namespace=scope)
    value = scope["First"](later=[{"id": 1}])
    writer = Codec()
    payload = writer.encode("key", value, schema=writer.schema(scope["First"]))
    codec.register(scope["Second"])
    assert codec.decode("key", payload, schema=schema).value == value
