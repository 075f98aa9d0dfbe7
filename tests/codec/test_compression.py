"""zstd above a size: smaller bytes, the same values, no bombs, and no need to have it installed."""

from __future__ import annotations

import sys

import msgpack
import pytest
import zstandard

from tests.codec import samples
from tiercache.codec import Codec
from tiercache.codec.wire import COMPRESSED
from tiercache.errors import ConfigurationError, DecodeError

TEXT = "a page of text that repeats itself. " * 200


def forged(frame: bytes) -> bytes:
    return b"\x97\x01\xa3key\x00\x00\xc0" + msgpack.packb(frame) + bytes([COMPRESSED])


def test_large_bodies_become_small() -> None:
    """Above the size, and only where it helps; any codec reads both."""
    packing, plain = Codec(compress_above=1_000), Codec(types=samples.CLASSES)
    for value in (TEXT, samples.Plain(1, TEXT), [(TEXT,)], {"é": TEXT.encode()}):
        payload = packing.encode("key", value, stale_for=2, tags=("t",))
        assert len(payload) < 500
        decoded = plain.decode("key", payload)
        assert (decoded.value, decoded.stale_for, decoded.tags) == (value, 2.0, ("t",))


def test_small_and_random_bodies_stay_as_they_are() -> None:
    """The bytes are those of a codec without compression."""
    packing, plain = Codec(compress_above=1_000), Codec()
    noise = bytes(range(256)) + zstandard.compress(TEXT.encode()) * 9
    for value in ("x" * 900, noise, (1, 2), samples.Plain(1), None):
        assert packing.encode("key", value, tags=("t",)) == plain.encode("key", value, tags=("t",))


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    """The declared size is compared with the bound; a frame without one is refused."""
    codec = Codec(max_bytes=1_000_000)
    packed = msgpack.packb([b"\0" * 5_000_000, []])
    with pytest.raises(DecodeError, match="max_bytes is 1000000"):
        codec.decode("key", forged(zstandard.compress(packed)))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(packed)
    with pytest.raises(DecodeError, match="max_bytes"):
        codec.decode("key", forged(silent))


def test_damaged_frames_are_refused() -> None:
    """Cut, extended, empty, of another content, or no frame at all."""
    codec = Codec()
    good = zstandard.compress(msgpack.packb([1, []]))
    assert codec.decode("key", forged(good)).value == 1
    again = zstandard.compress(msgpack.packb([good, True]))
    for frame in (
        good[:-1],
        good + b"x",
        b"",
        b"frame",
        zstandard.compress(b""),
        zstandard.compress(b"\x90"),
    ):
        with pytest.raises(DecodeError):
            codec.decode("key", forged(frame))
    with pytest.raises(DecodeError):
        codec.decode("key", forged(again))


def test_without_zstandard_the_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install; reading compressed bytes is a miss."""
    payload = Codec(compress_above=10).encode("key", TEXT)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'tiercache-toolkit\[zstd\]'"):
        Codec(compress_above=10)
    with pytest.raises(DecodeError, match="zstandard is missing"):
        Codec().decode("key", payload)
    assert Codec().decode("key", Codec().encode("key", TEXT)).value == TEXT
