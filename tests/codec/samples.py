"""Classes of every supported kind, values made of them, and a comparison that sees types."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pydantic
from hypothesis import assume
from hypothesis import strategies as st


@dataclasses.dataclass
class Plain:
    """The everyday dataclass."""

    id: int
    value: object = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Hashable: may be a dict key."""

    id: object


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slotted:
    """No ``__dict__`` at all."""

    left: object
    right: object = None


@dataclasses.dataclass
class Child(Plain):
    """A subclass with a field more."""

    extra: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Derived:
    """What ``__post_init__`` makes is not a field; loading again must not run it."""

    id: int
    computed: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.computed = f"made once from {self.id}"
        self.note = "an attribute without a field"

    @functools.cached_property
    def heavy(self) -> object:
        return object()


@attrs.define(frozen=True)
class FrozenAttrs:
    """Slotted, frozen, with a private field."""

    id: object
    _secret: object = None


@attrs.define(slots=False)
class DictAttrs:
    """The kind of attrs class that has a ``__dict__``."""

    id: object


@attrs.frozen(cache_hash=True)
class HashedAttrs:
    """Keeps its hash, which is another in each process."""

    id: object


class Model(pydantic.BaseModel):
    """Fields, a private attribute and a rule that stored values may break."""

    id: int
    value: Any = None
    children: list[Model] = []
    _private: object = pydantic.PrivateAttr(default=None)

    @pydantic.field_validator("id")
    @classmethod
    def _is_positive(cls, number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return number


class Open(pydantic.BaseModel, extra="allow"):
    """Keeps what it was not asked for."""

    id: int = 0


class Numbers(pydantic.RootModel[list[int]]):
    """A model that is its only field."""


class Point(NamedTuple):
    """A named tuple of typing."""

    x: object
    y: object = 0


Pair = collections.namedtuple("Pair", ["left", "right"])


class Colour(enum.Enum):
    """Members with values of all sorts, one an alias."""

    RED = "red"
    GREEN = (0, 255, 0)
    ROUGE = "red"  # noqa: PIE796 - an alias


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    HELLO = "hello"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


CLASSES = (
    Plain,
    Frozen,
    Slotted,
    Child,
    Derived,
    FrozenAttrs,
    DictAttrs,
    HashedAttrs,
    Model,
    Open,
    Numbers,
    Point,
    Pair,
    Colour,
    Level,
    Word,
    Access,
)


def same(left: Any, right: Any) -> bool:
    """Tell whether two values are alike in every type, order and bit; NaN is like NaN."""
    if type(left) is not type(right):
        return False
    kind = type(left)
    if kind in CLASSES and not isinstance(left, (tuple, enum.Enum)):
        return same(state_of(left), state_of(right))
    for base, compare in _COMPARISONS.items():
        if isinstance(left, base):
            return compare(left, right)
    return bool(left == right)


def _same_order(left: Any, right: Any) -> bool:
    return len(left) == len(right) and all(map(same, left, right))


def _same_members(left: Any, right: Any) -> bool:
    return len(left) == len(right) and all(any(same(a, b) for b in right) for a in left)


def _same_time(left: Any, right: Any) -> bool:
    zones_alike = type(left.tzinfo) is type(right.tzinfo)
    return repr(left) == repr(right) and left.fold == right.fold and zones_alike


_COMPARISONS: dict[Any, Callable[[Any, Any], bool]] = {
    enum.Enum: lambda left, right: left is right,
    float: lambda left, right: repr(left) == repr(right),  # -0.0, nan
    complex: lambda left, right: repr(left) == repr(right),
    Decimal: lambda left, right: left.as_tuple() == right.as_tuple(),
    (datetime, time): _same_time,
    UUID: lambda left, right: left == right and left.is_safe is right.is_safe,
    (list, tuple): _same_order,
    dict: lambda left, right: _same_order(list(left.items()), list(right.items())),
    (set, frozenset): _same_members,
}


def state_of(value: Any) -> dict[str, Any]:
    """Return all that an instance holds, whatever made its class."""
    state = dict(getattr(value, "__dict__", {}))
    names = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    for name in names:
        if name not in {"__weakref__", "__dict__", "_attrs_cached_hash"} and hasattr(value, name):
            state[name] = getattr(value, name)
    state.pop("heavy", None)
    return state


zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.integers(-86_399, 86_399).map(lambda seconds: timezone(timedelta(seconds=seconds))),
    st.just(timezone(timedelta(hours=1, microseconds=7), "odd")),
    st.sampled_from(["Europe/Paris", "America/Argentina/Ushuaia", "UTC", "Etc/GMT+5"]).map(
        ZoneInfo
    ),
)
texts = st.text(st.characters(), max_size=8)  # lone surrogates among them
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**300),
    st.floats(),
    st.complex_numbers(),
    texts,
    st.binary(max_size=8),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.sampled_from([*Colour, *Level, *Word]),
    st.sampled_from([Access(0), Access.READ, Access.READ | Access.WRITE]),
)


# As functions, since hypothesis tells of a strategy by all that it is made of, and warns of itself.


@st.composite
def scalars(draw: Any) -> Any:
    return draw(_scalars)


@st.composite
def hashables(draw: Any) -> Any:
    value = draw(_scalars)
    assume(not (isinstance(value, Decimal) and value.is_snan()))
    return value


keys = st.recursive(
    hashables(),
    lambda inner: st.one_of(
        st.tuples(inner, inner),
        st.frozensets(inner, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Frozen, inner),
        st.builds(Slotted, left=inner, right=inner),
        st.builds(HashedAttrs, inner),
    ),
    max_leaves=4,
)
values = st.recursive(
    st.one_of(scalars(), st.binary(max_size=8).map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
        st.builds(Plain, st.integers(), inner),
        st.builds(Child, st.integers(), inner, st.lists(inner, max_size=2)),
        st.builds(Derived, st.integers()),
        st.builds(FrozenAttrs, inner, inner),
        st.builds(DictAttrs, inner),
        st.builds(Pair, inner, inner),
        st.builds(lambda value: Model.model_construct(id=-1, value=value), inner),
        st.builds(Open, id=st.integers(), more=inner),
        st.lists(st.integers(), max_size=3).map(Numbers),
    ),
    max_leaves=12,
)
