"""Bytearrays and memoryviews are found wherever a packer took them for bytes; nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec import samples
from tiercache.codec import Codec
from tiercache.codec.lookalikes import has_lookalikes, shows_bytes
from tiercache.codec.registry import Registry

registry = Registry()
for _cls in samples.CLASSES:
    registry.add(_cls)

AROUND: list[Any] = [
    lambda part: [1, part],
    lambda part: (part, 2.5),
    lambda part: {"a": 1, "b": part},
    lambda part: {"a": {"b": [(part,)]}, "c": {1, 2}},
    lambda part: samples.Plain(1, [part]),
    lambda part: samples.Slotted(left=part),
    lambda part: samples.Point(1, part),
    lambda part: samples.FrozenAttrs(samples.Colour.RED, part),
    lambda part: samples.Model.model_construct(id=1, value=part),
    lambda part: samples.Open(id=1, more=part),
    lambda part: [samples.Plain(1, 2), samples.Plain(2, samples.Derived(3)), part],
]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("lookalike", [bytearray(), bytearray(b"x"), memoryview(b"x")])
def test_a_lookalike_is_found_in_whatever_holds_it(around: Any, lookalike: object) -> None:
    """In containers and in instances of every kind, beside bytes that are bytes."""
    assert has_lookalikes([b"x", around(lookalike)], registry.writers)
    assert not has_lookalikes([b"x", around(b"x")], registry.writers)


def test_a_lookalike_is_found_in_a_key() -> None:
    """A memoryview may be one, or a part of one."""
    for key in (memoryview(b"x"), (1, memoryview(b"x")), samples.Frozen(memoryview(b"x"))):
        assert has_lookalikes([{"a": 1, key: 2}], registry.writers)
    assert not has_lookalikes([{"a": 1, (1, b"x"): samples.Frozen(b"x")}], registry.writers)


@settings(max_examples=200, deadline=None)
@given(samples.values)
def test_values_without_one_are_not_suspected(value: Any) -> None:
    """Whatever else they hold: so nothing is packed twice for the looks of a number."""
    assert has_lookalikes(value, registry.writers) == ("bytearray(" in repr(value))


@given(st.binary(max_size=600))
def test_a_header_shows_wherever_it_is(data: bytes) -> None:
    """In short payloads and in long ones alike."""
    assert shows_bytes(data) == any(byte in data for byte in (0xC4, 0xC5, 0xC6))


class Restless(samples.Plain):
    """Its field is another each time it is read."""

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            return samples.Plain(1, [1.1 * 7, bytearray(b"x")])
        return super().__getattribute__(name)


def test_what_a_property_makes_is_looked_at_too() -> None:
    """The parts of an instance are what writing it gave."""
    codec = Codec()
    restored: Any = codec.decode("key", codec.encode("key", [Restless(1)])).value
    assert type(vars(restored[0])["value"].value[1]) is bytearray
