"""The quick way writes the same bytes and reads the same values as msgpack, or says None."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import struct
import sys
import types
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.codec import samples
from tests.codec.samples import same
from tests.codec.test_hostile import HOSTILE, KEY, RICH, body, mutated, traced
from tiercache.codec import Codec, envelope, quick, wire
from tiercache.codec.quick import Habits, QuickWay
from tiercache.errors import DecodeError, EncodeError

ormsgpack = pytest.importorskip("ormsgpack")
library = quick.quick_way()
assert library is not None, "ormsgpack is installed, and refused"
QUICK: QuickWay = library


@pytest.fixture(autouse=True, scope="module")
def way() -> None:
    """Both ways at once are what this is about."""


def packed_by_msgpack(value: object) -> bytes:
    """Return what a codec without ormsgpack writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "quick_way", lambda: None)
        return Codec().encode(KEY, value)


def packed_quickly(value: object) -> bytes | None:
    return QUICK.pack([wire.VERSION, KEY, 0, 0, None, value, []], Habits())


def read_quickly(data: bytes) -> Any:
    return QUICK.unpack(data, Habits())


def read_by_msgpack(data: bytes) -> Any:
    return wire.unpack(data, Codec(types=samples.CLASSES)._read_scalar)


texts = st.text(st.characters(codec="utf-8"), max_size=40)
plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        texts,
        st.binary(max_size=300),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.dictionaries(texts, inner, max_size=20)
    ),
    max_leaves=30,
)
containers = plain.filter(lambda value: type(value) in (list, dict))


@settings(max_examples=400, deadline=None)
@given(containers)
@example([0, 1, -1, 127, 128, 255, 256, -32, -33, -128, -129, 65535, 65536, 2**32, 2**63, -(2**63)])
@example([5e-324, -0.0, float("inf"), float("nan"), 1.0, 0.1])
@example(["x" * size for size in (0, 31, 32, 255, 256, 65535, 65536)])
@example([b"x" * size for size in (0, 255, 256, 65535, 65536)])
@example([list(range(size)) for size in (15, 16, 65535, 65536)])
@example([dict.fromkeys(map(str, range(size))) for size in (15, 16, 65535, 65536)])
def test_plain_values_are_written_and_read_alike(value: object) -> None:
    """The same bytes, and from them the same value: in both directions, and without giving up."""
    payload = packed_by_msgpack(value)
    assert packed_quickly(value) == payload
    assert same(read_quickly(payload)[-2], value)


@settings(max_examples=400, deadline=None)
@given(st.lists(samples.values, max_size=3))
def test_any_value_is_written_alike_or_not_at_all(value: object) -> None:
    """Of all that the codec supports, what is not plain is left to msgpack."""
    assert packed_quickly(value) in (None, packed_by_msgpack(value))


@settings(max_examples=400, deadline=None)
@given(samples.values)
def test_any_payload_is_read_alike_or_not_at_all(value: object) -> None:
    """Of payloads without shapes: as only those are read quickly."""
    payload = packed_by_msgpack(value)
    if payload[-1] == wire.EMPTY_HOLDS:
        found = read_quickly(payload)
        assert found is None or same(found, read_by_msgpack(payload))


@settings(max_examples=800, deadline=None)
@given(st.one_of(mutated(), st.binary(max_size=200).map(body), st.binary(max_size=99)))
@example(body(b"\x81\x91\x01\x02"))  # an array as a key, which ormsgpack could read as a tuple
@example(body(b"\x92\x01") + b"\x02\x90")
@example(RICH + b"\x90")
@example(body(b"\xa3\xed\xa0\x80"))  # a lone surrogate
@example(body(b"\xd6\xff\x00\x00\x00\x00"))  # msgpack's own ext, a Timestamp
@example(body(b"\x82\xa1k\x01\xa1k\x02"))  # a key twice
@example(body(b"\xca\x7f\xc0\x00\x00"))  # a float of 32 bits
@example(body(b"\xd3\x00\x00\x00\x00\x00\x00\x00\x01"))  # an int longer than it need be
def test_hostile_bytes_are_read_alike_or_not_at_all(data: bytes) -> None:
    """What ormsgpack takes, msgpack takes, too, and for the same."""
    found = read_quickly(data)
    if found is not None:
        assert same(found, read_by_msgpack(data))


@pytest.mark.parametrize("packed", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_take_memory_in_proportion(packed: bytes) -> None:
    """The bound that holds for msgpack holds here, and nothing is left behind."""
    payload = body(packed)
    read_quickly(payload)  # whatever is made once
    with traced() as peak:
        read_quickly(payload)
    assert peak[0] < 200 * len(payload)


def test_refusing_leaks_nothing() -> None:
    """A thousand refused payloads of 8 KB hold no memory: older releases of ormsgpack kept it."""
    payload = body(b"\xdd" + struct.pack(">I", 1000) + b"\xa7a text." * 999)
    kept = {"a": 1}
    with traced() as peak:
        for _ in range(1_000):
            assert read_quickly(payload) is None
    assert peak[0] < 500_000
    assert kept


class Text(str):
    """A subclass of what is plain."""

    __slots__ = ()


class Odd(enum.StrEnum):
    ONE = "one"


Record = dataclasses.make_dataclass("Record", ["id"])

NATIVE: dict[str, Callable[[], Any]] = {
    "tuple": lambda: (1, 2),
    "dataclass": lambda: Record(1),
    "StrEnum": lambda: Odd.ONE,
    "IntEnum": lambda: samples.Level.LOW,
    "Enum": lambda: samples.Colour.RED,
    "datetime": lambda: datetime(2024, 1, 1),
    "date": lambda: datetime(2024, 1, 1).date(),
    "time": lambda: datetime(2024, 1, 1).time(),
    "UUID": lambda: UUID(int=7),
    "subclass of str": lambda: Text("x"),
    "subclass of dict": lambda: collections.OrderedDict(x=1),
    "pydantic model": lambda: samples.Model(id=1),
    "int of 65 bits": lambda: 2**64,
    "negative int of 64 bits": lambda: -(2**63) - 1,
    "bytearray": lambda: bytearray(b"x"),
    "empty bytearray": bytearray,
    "memoryview": lambda: memoryview(b"x"),
    "its Fragment": lambda: ormsgpack.Fragment(b"\x01"),
    "its Ext": lambda: ormsgpack.Ext(5, b"x"),
    "lone surrogate": lambda: "\ud800",
}


@pytest.mark.parametrize("make", NATIVE.values(), ids=NATIVE.keys())
def test_what_ormsgpack_would_write_in_its_own_way_is_left_to_msgpack(
    make: Callable[[], Any],
) -> None:
    """Wherever it stands; as a key of a map, too."""
    value = make()
    places: list[Any] = [[value], {"deep": [{"deeper": value}]}, [1, 2.5, value, 3], [0, value]]
    with contextlib.suppress(TypeError):
        places.append({value: 1})
    for place in places:
        assert packed_quickly(place) is None
    del value, place, places
    assert packed_quickly([1]) is not None


@pytest.mark.parametrize("key", [1, True, None, 1.5, b"k", (1,), UUID(int=7), Odd.ONE, Text("x")])
def test_keys_are_texts_or_left_to_msgpack(key: Any) -> None:
    """For keys ormsgpack knows no passing on."""
    assert packed_quickly([{key: 1}]) is None


def test_depth_is_left_to_msgpack() -> None:
    """Its limits lie within msgpack's: it never takes what msgpack would not."""
    for levels in (100, 300, 600, 1_100, 5_000):
        value: list[Any] = [1]
        for _ in range(levels):
            value = [value]
        mine = packed_quickly(value)
        assert mine is None or mine == packed_by_msgpack(value)
        read_quickly(body(b"\x91" * levels + b"\x01"))
    loop: list[Any] = []
    loop.append(loop)
    assert packed_quickly(loop) is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List which way was tried, and how that went, from here on."""
    log: list[str] = []

    class Watched(QuickWay):
        def pack(self, parts: list[Any], habits: Habits) -> bytes | None:
            return self._note("pack", super().pack(parts, habits))

        def unpack(self, data: bytes, habits: Habits) -> Any:
            return self._note("unpack", super().unpack(data, habits))

        def _note(self, what: str, found: Any) -> Any:
            log.append(what if found is not None else f"{what} in vain")
            return found

    watched = Watched(ormsgpack)
    monkeypatch.setattr(envelope, "quick_way", lambda: watched)
    return log


DOCUMENTS = [{"id": number, "name": "Ada", "score": number / 7} for number in range(100)]


def test_documents_go_the_quick_way_once_one_was_seen(asked: list[str]) -> None:
    """The first one tells what the others will be like."""
    codec = Codec()
    schema = codec.schema(list)
    payload = b""
    for expected in ([], ["pack", "unpack"], ["pack", "unpack"]):
        asked.clear()
        payload = codec.encode(KEY, DOCUMENTS, schema=schema)
        assert codec.decode(KEY, payload, schema=schema).value == DOCUMENTS
        assert asked == expected
    fresh = Codec()
    by_msgpack = fresh.encode(KEY, DOCUMENTS, schema=fresh.schema(list))
    assert payload == by_msgpack


def test_what_is_not_plain_is_tried_now_and_then_only(asked: list[str]) -> None:
    """Of 64 attempts two are made: one in 32."""
    codec = Codec()
    schema = codec.schema(list)
    value = [*DOCUMENTS, {"at": datetime(2024, 1, 1)}]
    for _ in range(65):
        payload = codec.encode(KEY, value, schema=schema)
        assert codec.decode(KEY, payload, schema=schema).value == value
    assert asked.count("unpack in vain") == 2
    assert set(asked) == {"unpack in vain", "pack in vain"}


def test_numbers_and_short_values_are_read_by_msgpack(asked: list[str]) -> None:
    """It reads them faster."""
    codec = Codec()
    schema = codec.schema(list)
    for value in (list(range(1_000)), {"id": 1}, [1.5] * 200):
        for _ in range(3):
            payload = codec.encode(KEY, value, schema=schema)
            assert codec.decode(KEY, payload, schema=schema).value == value
    assert "unpack" not in asked


def test_a_shape_in_a_long_value_is_found_and_written(asked: list[str]) -> None:
    """A value of a function that was plain so far may not be."""
    codec = Codec()
    schema = codec.schema(list)
    for value in (DOCUMENTS, DOCUMENTS, [*DOCUMENTS, {"at": (1, bytearray(b"x"))}]):
        payload = codec.encode(KEY, value, schema=schema)
        assert same(codec.decode(KEY, payload, schema=schema).value, value)
    assert asked == ["pack", "unpack", "pack in vain"]


def test_errors_are_those_of_msgpack(asked: list[str]) -> None:
    """For values, and for bytes, whichever way was tried first."""
    codec = Codec()
    payload = codec.encode(KEY, DOCUMENTS)
    codec.decode(KEY, payload)
    with pytest.raises(EncodeError, match=r"value\[100\]\['x'\]: cannot encode a .*Text"):
        codec.encode(KEY, [*DOCUMENTS, {"x": Text("x")}])
    with pytest.raises(DecodeError, match="malformed payload"):
        codec.decode(KEY, payload[:-9] + b"\x90")
    assert asked == ["pack in vain", "unpack in vain"]


def fake(version: str, **more: Any) -> types.ModuleType:
    module = types.ModuleType("ormsgpack")
    vars(module).update({**vars(ormsgpack), "__version__": version, **more})
    return module


@pytest.fixture
def _looking_anew() -> Iterator[None]:
    quick.quick_way.cache_clear()
    yield
    quick.quick_way.cache_clear()


@pytest.mark.usefixtures("_looking_anew")
@pytest.mark.parametrize(
    "make",
    [lambda: None, lambda: fake("1.13.0"), lambda: fake("odd"), lambda: fake("2.0", Ext=int)],
    ids=["absent", "too old", "without a number", "of other types"],
)
def test_without_a_fitting_ormsgpack_all_goes_by_msgpack(
    make: Callable[[], types.ModuleType | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, too old, or not what was tested: values are written and read all the same."""
    monkeypatch.setitem(sys.modules, "ormsgpack", make())
    assert quick.quick_way() is None
    codec = Codec()
    for _ in range(3):
        assert codec.decode(KEY, codec.encode(KEY, DOCUMENTS)).value == DOCUMENTS


@pytest.mark.usefixtures("_looking_anew")
def test_without_a_gil_all_goes_by_msgpack(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what keeps a value still while ormsgpack packs it."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert quick.quick_way() is None
