"""Many payloads at once: the same values as one by one, or no answer."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec import samples
from tiercache.codec import Codec
from tiercache.entry import Record

codec = Codec(types=samples.CLASSES)
USUAL = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4),
    max_leaves=12,
)


def payloads(values: dict[str, Any], **options: Any) -> list[bytes]:
    return [codec.encode(key, value, **options) for key, value in values.items()]


@given(st.dictionaries(st.text(), USUAL, min_size=1, max_size=20))
def test_the_same_values(values: dict[str, Any]) -> None:
    """Values of the usual kind come out equal, long ones and odd texts too."""
    found = codec.decode_many(list(values), payloads(values))
    assert found is not None
    assert repr(list(found)) == repr(list(values.values()))


def test_long_payloads() -> None:
    """Longer ones are looked through before they are parsed, as each alone would be."""
    values = {f"k{n}": {"text": "x" * 300, "n": n} for n in range(5)}
    assert codec.decode_many(list(values), payloads(values)) == tuple(values.values())


HEAD = b"\x97\x01" + msgpack.packb("b") + b"\x00\x00\xc0"


@pytest.mark.parametrize(
    "odd",
    [
        codec.encode("other", 1),  # of another key
        codec.encode("b", 1, tags=("t",)),
        codec.encode("b", 1, stale_for=2.0),
        codec.encode("b", 1, record=Record(5.0)),
        codec.encode("b", (1, 2)),  # of a shape
        Codec(compress_above=0).encode("b", ["x" * 100]),
        codec.encode("b", 1)[:-1],  # cut off
        codec.encode("b", 1) + b"\x90",  # and too long
        b"\x97\x02" + codec.encode("b", 1)[2:],  # of another version
        HEAD + b"\x01\x90\x90"[:2] + b"\x90",
        HEAD + b"\xc1\x90",
        b"\x97",
        b"",
        b"\x90",
        msgpack.packb("seven77"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_one_that_is_not_as_usual(odd: bytes, place: int) -> None:
    """Then there is no answer, whichever of them it is; and nothing is raised."""
    others = {f"k{n}": n for n in range(3)}
    keys, all_payloads = list(others), payloads(others)
    keys.insert(place, "b")
    all_payloads.insert(place, odd)
    assert codec.decode_many(keys, all_payloads) is None


def test_of_another_return_type() -> None:
    """What a function with another return type wrote is left to be refused one by one."""
    ints, texts = codec.schema(int), codec.schema(str)
    values = {"a": 1, "b": 2}
    written = payloads(values, schema=ints)
    assert codec.decode_many(list(values), written, schema=ints) == (1, 2)
    assert codec.decode_many(list(values), written) == (1, 2)
    assert codec.decode_many(list(values), written, schema=texts) is None
    assert codec.decode_many(list(values), payloads(values), schema=ints) is None


def test_too_long() -> None:
    """The bound on payloads holds here, too."""
    small = Codec(max_bytes=30)
    written = [codec.encode("a", 1), codec.encode("b", "x" * 40)]
    assert small.decode_many(["a"], written[:1]) == (1,)
    assert small.decode_many(["a", "b"], written) is None
