"""Payloads committed with this wire version are read, and written, byte for byte, by this code.

A failure here means that a deploy would lose the whole cache, or worse, misread it: a change of
the format needs a new wire version.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.codec.samples import same
from tests.golden import make, models
from tiercache.codec import Codec

WIRE1 = Path(__file__).parent / "wire1"
codec = Codec(types=models.CLASSES)


def golden(name: str) -> bytes:
    return (WIRE1 / f"{name}.msgpack").read_bytes()


def alike(left: object, right: object) -> bool:
    """Compare by type and repr, which for all golden values shows everything."""
    return same(left, right) or (type(left) is type(right) and repr(left) == repr(right))


@pytest.mark.parametrize("name", models.VALUES)
def test_golden_payloads_are_read(name: str) -> None:
    """Each committed file gives the value it was made of, and its tags and stale_for."""
    value, stale_for, tags, _ = codec.decode(models.KEY, golden(name))
    assert alike(value, models.VALUES[name])
    assert (stale_for, tags) == (models.STALE_FOR, models.TAGS)


def test_golden_payloads_of_other_settings_are_read() -> None:
    """Without tags, with a schema, compressed."""
    user = models.User(1, "Ada", ("a", "b"))
    assert codec.decode("k", golden("bare"))[:3] == (42, 0.0, ())
    assert codec.decode("k", golden("with_schema"), schema=codec.schema(models.User)).value == user
    assert codec.decode("k", golden("compressed")).value == [user] * 20


@pytest.mark.parametrize("name", sorted(set(make.payloads()) - {"compressed"}))
def test_the_same_bytes_are_written(name: str) -> None:
    """Older processes read what is written now. Frames of zstd differ between its versions."""
    assert make.payloads()[name] == golden(name)


def test_every_golden_file_is_used() -> None:
    """A file that nothing reads guards nothing."""
    assert {path.stem for path in WIRE1.iterdir()} == set(make.payloads())
