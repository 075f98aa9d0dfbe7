"""A value that cannot be written says so: which part, of what type, and what to do."""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest

from tests.codec import samples
from tiercache.codec import Codec
from tiercache.errors import ConfigurationError, EncodeError

codec = Codec()


def refused(value: object, **options: Any) -> EncodeError:
    with pytest.raises(EncodeError) as caught:
        codec.encode("key", value, **options)
    assert codec.decode("key", codec.encode("key", [1])).value == [1]  # no state is left behind
    return caught.value


class Text(str):
    """A subclass: writing it as a str would lose its class."""

    __slots__ = ()


class Unfixed(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(hours=1)


class Failure(Exception):
    """A user's exception."""


class Record(dict[str, int]):
    """A subclass of a builtin container."""


@dataclasses.dataclass
class DictRecord(dict[str, int]):
    """Half of its state is a dict's."""

    id: int = 0


class WithState(samples.Point):
    """A named tuple that carries more than its fields."""


@pytest.mark.parametrize(
    "value",
    [
        object(),
        Text("x"),
        Record(),
        DictRecord(),
        collections.OrderedDict(),
        collections.defaultdict(int),
        memoryview(b"x"),
        len,
        type,
        iter([]),
        Failure(),
        range(3),
        datetime(2024, 1, 1, tzinfo=Unfixed()),
        enum.IntEnum("Odd", "A").A.__class__,
        (number for number in []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_refused_wherever_they_stand(value: object) -> None:
    """Nothing is written as something similar: not a subclass, not a view, not an iterator."""
    for nested in (value, [value], {"key": (value,)}, samples.Plain(1, [value])):
        assert type(value).__qualname__ in str(refused(nested))


def test_the_message_names_the_path_the_type_and_the_remedy() -> None:
    """The reader of a log finds the culprit."""
    message = str(refused({"owner": samples.Plain(1, [samples.Point(1, {"x": Text("x")})])}))
    assert message.startswith("value['owner'].value[0][1]['x']: cannot encode a ")
    assert "Text" in message
    assert "supported are dataclasses" in message
    assert "ZoneInfo" in str(refused([datetime(2024, 1, 1, tzinfo=Unfixed())]))
    assert "bytes" in str(refused(memoryview(b"x")))


def test_a_bytearray_is_not_mistaken_for_bytes() -> None:
    """The packer packs what is like bytes as bytes, without asking: found beside anything."""
    for beside in (b"", 1.0, "é", samples.Colour.RED, {1, 2}, -1):
        value = [beside, {"deep": samples.Plain(1, (bytearray(b"x"), b"x"))}]
        restored: Any = codec.decode("key", codec.encode("key", value)).value
        assert [type(part) for part in restored[1]["deep"].value] == [bytearray, bytes]
        assert "memoryview" in str(refused([beside, {memoryview(b"x"): 1}]))


def test_what_contains_itself_is_refused() -> None:
    """By a list, a dict, a tuple or an instance."""
    loop: list[object] = []
    loop.append(loop)
    table: dict[str, object] = {}
    table["me"] = [table]
    node = samples.Plain(1)
    node.value = (node,)
    through_bytes: list[object] = [b"bytes", bytearray()]
    through_bytes.append(through_bytes)
    for value in (loop, table, node, ([loop],), through_bytes):
        assert "contains itself or is nested too deep" in str(refused(value))


def test_too_deep_is_refused() -> None:
    """Beyond what the reader could take, writing fails already."""
    value: object = 1
    for _ in range(2_000):
        value = [value]
    assert "nested too deep" in str(refused(value))


def test_too_large_is_refused() -> None:
    """Over ``max_bytes`` nothing is written: it could not be read."""
    small = Codec(max_bytes=1_000)
    with pytest.raises(EncodeError, match="over max_bytes=1000; raise max_bytes"):
        small.encode("key", "x" * 1_000)
    packed = Codec(max_bytes=1_000, compress_above=10)
    with pytest.raises(EncodeError, match="over max_bytes=1000"):
        packed.encode("key", "x" * 1_000)


@dataclasses.dataclass
class Failing:
    """Its field is a property that raises."""

    error: dataclasses.InitVar[Exception]

    def __post_init__(self, error: Exception) -> None:
        self._error = error


class Lazy(samples.Plain):
    """Reading a field runs the user's code."""

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise Failure("no database")
        return super().__getattribute__(name)


class Mute(Exception):
    """Cannot even be printed."""

    def __repr__(self) -> str:
        raise self


class Rude(samples.Plain):
    def __getattribute__(self, name: str) -> Any:
        raise Mute(self) if name == "value" else AttributeError(name)


def test_an_error_of_user_code_is_chained() -> None:
    """What a property raises while it is read shows as the cause."""
    error = refused([Lazy(1)])
    assert isinstance(error.__cause__, Failure)
    assert "no database" in str(error)


def test_an_enum_member_its_class_does_not_declare_is_refused() -> None:
    """A pseudo-member made on the fly could not be found again."""

    class Loose(enum.Enum):
        KNOWN = 1

        @classmethod
        def _missing_(cls, value: object) -> Loose:
            member = object.__new__(cls)
            member._name_, member._value_ = f"NEW{value}", value
            return member

    assert "not among the members" in str(refused(Loose(9)))


def test_a_named_tuple_with_attributes_is_refused() -> None:
    """They would be lost."""
    value = WithState(1, 2)
    assert codec.decode("key", codec.encode("key", value)).value == value
    value.more = 1  # type: ignore[attr-defined]
    assert "more than its fields" in str(refused(value))


@pytest.mark.parametrize("stale_for", [-1, math.nan, math.inf, 1e300])
def test_a_stale_for_that_is_no_duration_is_refused(stale_for: float) -> None:
    """What decode would refuse, encode does not write."""
    assert "stale_for" in str(refused(1, stale_for=stale_for))


def test_a_tag_that_is_no_text_is_refused() -> None:
    """A tag has to come back as it was."""
    assert "a tag must be a str, got 7" in str(refused(1, tags=("a", 7)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 0}, "max_bytes must be positive, got 0"),
        ({"compress_above": -1}, "compress_above must not be negative, got -1; use None for never"),
        ({"types": [object]}, "cannot register <class 'object'>"),
        ({"types": [Text]}, "supported are dataclasses"),
        ({"types": [DictRecord]}, "cannot register"),
    ],
)
def test_illegal_options_are_named(options: dict[str, Any], message: str) -> None:
    """At construction, with the value and the remedy."""
    with pytest.raises(ConfigurationError) as caught:
        Codec(**options)
    assert message in str(caught.value)
