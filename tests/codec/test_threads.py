"""One codec, many threads, and calls within calls."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.codec import samples
from tests.codec.samples import same
from tiercache.codec import Codec
from tiercache.errors import DecodeError, EncodeError


@pytest.fixture
def _switching() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("options", [{}, {"compress_above": 200}], ids=["plain", "compressed"])
def test_threads_do_not_disturb_one_another(options: dict[str, Any]) -> None:
    """Eight threads write, fail and read values of their own through one codec."""
    codec = Codec(**options)
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        value = [samples.Plain(number, (number, {"text": str(number) * 99}))] * (number + 1)
        barrier.wait()
        for turn in range(150):
            payload = codec.encode(f"key {number}", value, tags=(str(number),))
            if turn % 10 == 0:
                with pytest.raises(EncodeError):
                    codec.encode("key", [value, object()])
                with pytest.raises(DecodeError):
                    codec.decode(f"key {number}", payload[:-3])
            decoded = codec.decode(f"key {number}", payload)
            assert same(decoded.value, value)
            assert decoded.tags == (str(number),)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.usefixtures("_switching")
def test_threads_may_meet_a_class_at_once() -> None:
    """The first values of a class, written by all at the same moment."""
    for _ in range(30):
        codec = Codec()
        barrier = threading.Barrier(4)

        def write(number: int, codec: Codec = codec, barrier: threading.Barrier = barrier) -> bytes:
            barrier.wait()
            return codec.encode("key", samples.Plain(number, samples.Colour.RED))

        with ThreadPoolExecutor(4) as pool:
            for number, payload in enumerate(pool.map(write, range(4))):
                expected = samples.Plain(number, samples.Colour.RED)
                assert codec.decode("key", payload).value == expected


class Nosy(samples.Plain):
    """Its field uses the codec while the codec reads it."""

    codec = Codec()

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            return Nosy.codec.decode("k", Nosy.codec.encode("k", (1, samples.Plain(2)))).value
        return super().__getattribute__(name)


def test_user_code_may_use_the_codec_during_a_call() -> None:
    """A writer in use is not taken by a call inside of it."""
    payload = Nosy.codec.encode("key", [Nosy(1), (Nosy(2),)])
    restored: Any = Nosy.codec.decode("key", payload).value
    assert vars(restored[1][0])["value"] == (1, samples.Plain(2))
