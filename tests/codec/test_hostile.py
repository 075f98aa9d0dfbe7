"""Bytes are not trusted: whatever they are, a DecodeError or a value, in bounded memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codec import samples
from tiercache.codec import Codec, wire
from tiercache.errors import DecodeError

codec = Codec(types=samples.CLASSES)
KEY = "users:user:42"

# A payload with one of everything: what the mutations start from.
RICH = codec.encode(
    KEY,
    [
        samples.Model(id=1, value=(1, {2})),
        samples.Plain(1, samples.Frozen(2**80)),
        samples.Colour.RED,
        {"k": samples.Point(1.5, b"bytes")},
        samples.Derived(3),
        samples.Access(3),
        frozenset({(1,)}),
        None,
        "é",
    ],
    stale_for=3,
    tags=("a", "b"),
)
COMPRESSED = Codec(compress_above=0, types=samples.CLASSES).encode(KEY, [("x" * 50,)] * 9)


def body(packed: bytes, *, holds: bytes = b"\x90", head: bytes = b"") -> bytes:
    """Return a payload whose body is the given msgpack text."""
    head = head or b"\x97\x01" + msgpack.packb(KEY) + b"\x00\x00\xc0"
    return head + packed + holds


SHAPED = b"\x91\xc0"  # a holds that is not empty: read with the hooks for shapes


@contextmanager
def traced() -> Iterator[list[int]]:
    """Fill in the most memory that the block held at once, in bytes."""
    peak = [0]
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak[0] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def refused(payload: bytes, key: str = KEY) -> str:
    with pytest.raises(DecodeError) as caught:
        codec.decode(key, payload)
    return str(caught.value)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a payload with bytes flipped, cut, inserted or repeated."""
    data = bytearray(draw(st.sampled_from([RICH, COMPRESSED])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "cut", "drop", "insert", "copy"]))
        if kind == "flip" and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 9))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


@settings(max_examples=800, deadline=None)
@given(mutated())
def test_mutated_bytes_are_refused_or_read(payload: bytes) -> None:
    """Damage never shows as another exception, nor as a value of the codec's own insides."""
    try:
        decoded = codec.decode(KEY, payload)
    except DecodeError:
        return
    assert "Shape" not in repr(decoded)
    assert type(decoded.tags) is tuple
    assert decoded.stale_for >= 0


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_read(data: bytes) -> None:
    """Noise, alone and as a body, with the hooks for shapes and without."""
    refused(data)
    for payload in (body(data), body(data, holds=SHAPED)):
        try:
            codec.decode(KEY, payload)
        except DecodeError:
            continue


@settings(max_examples=200, deadline=None)
@given(mutated())
def test_a_payload_never_answers_for_another_key(payload: bytes) -> None:
    """However damaged, it is not read for a key it was not written for."""
    refused(payload, "users:user:43")


def test_planted_pickle_is_refused() -> None:
    """A pickle is not looked into, neither as the payload nor as the body's bytes."""
    planted = pickle.dumps(os.getcwd)
    assert "malformed" in refused(planted)
    assert codec.decode(KEY, body(msgpack.packb(planted))).value == planted


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x97",
        b"\xc0",
        b"\x90",
        b"\x97\x01",
        RICH[:-1],
        RICH + b"\x00",
        b"\x98" + RICH[1:],
        b"\x97\x02" + RICH[2:],
        b"null",
        b"{}",
        msgpack.packb({"v": 1}),
        msgpack.packb([1] * 7),
        b"\xc1" * 50,
    ],
)
def test_what_is_no_payload_is_refused(payload: bytes) -> None:
    """Empty, cut, longer, of another version, or plain msgpack of somebody else."""
    refused(payload)


@pytest.mark.parametrize(
    "head",
    [
        b"\x97\x01\xa1k\x00\xff\xc0",
        b"\x97\x01\xa1k\x00\xc3\xc0",
        b"\x97\x01\xa1k\x00\xa1x\xc0",
        b"\x97\x01\xa1k\x00\x00\x91\x01",
        b"\x97\x01\xa1k\x00\x00\xa1x",
        b"\x97\x01\xc0\x00\x00\xc0",
    ],
    ids=[
        "negative stale_for",
        "bool stale_for",
        "text stale_for",
        "int as tag",
        "text as tags",
        "no key",
    ],
)
def test_a_header_of_other_types_is_refused(head: bytes) -> None:
    """Each field of the envelope is checked for its type."""
    refused(body(b"\x01", head=head), "k")


def test_a_marker_outside_its_array_does_not_reach_the_caller() -> None:
    """Markers are the codec's own; a stray one is damage, wherever it stands."""
    marker = msgpack.packb(msgpack.ExtType(wire.SHAPE, b"t"))
    assert codec.decode(KEY, body(b"\x91" + marker, holds=SHAPED)).value == ()
    for stray in (
        marker,
        b"\x92" + marker + b"\x01",
        b"\x81\x01" + marker,
        b"\x81" + marker + b"\x01",
    ):
        assert "marker" in refused(body(stray, holds=SHAPED))
        refused(body(stray))
    assert codec.decode(KEY, RICH)  # no reader was left with a wrong count


def test_foreign_ext_objects_are_refused() -> None:
    """An ext code that this version does not have is not guessed at."""
    for code in (0, 1, 0x4F, 0x5B, 127):
        refused(body(msgpack.packb(msgpack.ExtType(code, b"data"))))


@pytest.mark.parametrize("code", range(wire.INT, wire.ENUM + 1))
def test_malformed_scalars_are_refused_or_read(code: int) -> None:
    """Each reader, given bytes of every length and extreme, fails as DecodeError only."""
    for size in range(24):
        for byte in (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"9", b"E", b"/", b"."):
            try:
                codec.decode(KEY, body(msgpack.packb(msgpack.ExtType(code, byte * size))))
            except DecodeError:
                continue


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "os", "a" * 500, "Europe/../UTC", "é", ""]
)
def test_a_zone_is_looked_up_by_proper_names_only(name: str) -> None:
    """The name of a zone is a path below the tz database and must not lead elsewhere."""
    before = set(sys.modules)
    data = struct.pack(">HBBBBBIBB", 2024, 1, 1, 0, 0, 0, 0, 0, 3) + name.encode()
    refused(body(msgpack.packb(msgpack.ExtType(wire.DATETIME, data))))
    assert not any(module.endswith(("passwd", ".os")) for module in set(sys.modules) - before)


def test_a_loose_instance_cannot_set_what_python_owns() -> None:
    """An attacker may not swap the class or the dict of an instance."""
    loose = codec.encode(KEY, samples.Derived(1))
    for name in ("__class__", "__dict__"):
        forged = loose.replace(b"\xa4note", bytes([0xA0 + len(name)]) + name.encode())
        assert forged != loose
        refused(forged)


def test_a_model_gets_no_state_of_another_kind() -> None:
    """Extras and private attributes are dicts or nothing; else a later ``repr`` would fail."""
    payload = codec.encode(KEY, samples.Open(id=7))
    state = b"\x07\x01\x80\xc0"  # id, the fields set, extras, private attributes
    assert state in payload
    for forged in (b"\x07\x01\x00\xc0", b"\x07\x01\x80\x90", b"\x07\xc0\x80\xc0"):
        refused(payload.replace(state, forged))


def test_a_class_gets_exactly_its_fields() -> None:
    """Bytes with a field too many or too few make no instance."""
    ident = codec.encode(KEY, samples.Frozen(7))
    at = ident.index(b"\x92\x07")
    refused(ident[:at] + b"\x91" + ident[at + 2 :])
    refused(ident[:at] + b"\x93\x07" + ident[at + 1 :])


SMALL = 2**16
HOSTILE = {
    "empty arrays": b"\xdd" + struct.pack(">I", SMALL) + b"\x90" * SMALL,
    "empty maps": b"\xdd" + struct.pack(">I", SMALL) + b"\x80" * SMALL,
    "maps of one": b"\xdd" + struct.pack(">I", SMALL // 3) + b"\x81\x00\x00" * (SMALL // 3),
    "declared long, nested": (b"\xdd" + struct.pack(">I", SMALL)) * 1000 + b"\x00" * SMALL,
    "declared long, nested, unpadded": (b"\xdc\xff\xff") * (SMALL // 3),
    "declared long, twelve deep": (b"\xdd" + struct.pack(">I", SMALL)) * 12 + b"\x00" * SMALL,
    "declared 4 Gi array": b"\xdd\xff\xff\xff\xff" + b"\x00" * SMALL,
    "declared 4 Gi map": b"\xdf\xff\xff\xff\xff" + b"\x00" * SMALL,
    "declared 4 Gi text": b"\xdb\xff\xff\xff\xff" + b"\x00" * SMALL,
    "declared 4 Gi bytes": b"\xc6\xff\xff\xff\xff" + b"\x00" * SMALL,
    "declared 4 Gi ext": b"\xc9\xff\xff\xff\xff\x51" + b"\x00" * SMALL,
    "deep arrays": b"\x91" * SMALL,
    "deep maps": b"\x81\x00" * (SMALL // 2),
    "deep map keys": b"\x81" * SMALL,
    "sets": b"\xdd" + struct.pack(">I", SMALL // 4) + b"\x91\xd4\x50s" * (SMALL // 4),
    "a huge int": b"\xc9" + struct.pack(">I", SMALL) + b"\x51" + b"\x7f" * SMALL,
    "a huge Decimal": b"\xc9" + struct.pack(">I", SMALL) + b"\x56" + b"9" * SMALL,
}


@pytest.mark.parametrize("packed", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("holds", [b"\x90", SHAPED], ids=["plain", "shaped"])
def test_hostile_bytes_take_memory_in_proportion(packed: bytes, holds: bytes) -> None:
    """64 KB never become more than 200 times that, nor any error but DecodeError."""
    payload = body(packed, holds=holds)
    with traced() as peak, contextlib.suppress(DecodeError):
        codec.decode(KEY, payload)
    assert peak[0] < 200 * len(payload)


def test_small_hostile_bytes_stay_small() -> None:
    """Below the size that is checked first, what one header can allocate is bounded by itself."""
    payload = body(b"\xdc\x00\xe0" * 78)
    assert len(payload) <= 256
    with traced() as peak:
        refused(payload)
    assert peak[0] < 500_000


def test_too_long_is_refused_before_it_is_read() -> None:
    """The cap comes before any parsing or copying."""
    small = Codec(max_bytes=100)
    payload = body(msgpack.packb("x" * 5_000_000))
    for form in (payload, memoryview(payload)):
        with traced() as peak, pytest.raises(DecodeError, match="max_bytes is 100"):
            small.decode(KEY, form)
        assert peak[0] < 100_000
