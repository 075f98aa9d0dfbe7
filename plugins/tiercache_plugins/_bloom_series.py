"""A Bloom filter that grows: a series of plain filters at tightening error rates.

A plain filter of capacity ``n`` keeps its rate up to ``n`` keys. When the last one is full, another
of twice its capacity follows. A key is in the series if it is in any of them, so their rates add
up: the i-th has ``rate * (1 - q) * q**i``, whose sum over all i is ``rate``, however far the series
grows (Almeida et al., Scalable Bloom Filters, 2007; measured up to 1.05 times that, since the
hashes of a small filter are a little uneven). A small ``q`` makes the first filter nearly as small
as a plain one, and each that follows two hashes slower; a rebuild makes one of many.

Only ``pybloom_live.BloomFilter``: its ``ScalableBloomFilter`` lets the rates add up past the
nominal one. A plain filter takes keys beyond its capacity, and then raises IndexError; this never
asks it to.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pybloom_live import BloomFilter

TIGHTENING = 0.25  # q
GROWTH = 2  # capacity of a filter over that of the one before


class Shape(NamedTuple):
    """What a plain filter is made from, and what is in it."""

    capacity: int
    error_rate: float
    keys: int  # that it holds

    @property
    def size(self) -> int:
        """Its bits in bytes, as ``BloomFilter`` makes them; without making it."""
        slices = math.ceil(math.log2(1 / self.error_rate))
        bits = math.ceil(
            self.capacity * abs(math.log(self.error_rate)) / (slices * math.log(2) ** 2)
        )
        return (slices * bits + 7) // 8


class Series:
    """Keys that were added; some that were not seem to be in it, at most at ``error_rate``.

    Args:
        capacity: Of the first filter, in keys.
        error_rate: Of the whole series, in (0, 1).
        filters: To go on with, instead of a first one.
    """

    def __init__(
        self, capacity: int, error_rate: float, filters: tuple[BloomFilter, ...] = ()
    ) -> None:
        self.error_rate = error_rate
        self._lock = threading.Lock()  # held by those who add; who looks up holds nothing
        #: Replaced as a whole when the series grows; the last is the one that is filled.
        self.filters = filters
        self.publication = ""  # the shared filter that has all of this, together with its adds
        if not filters:
            self._grow(capacity)

    def _grow(self, capacity: int) -> None:
        rate = self.error_rate * (1 - TIGHTENING) * TIGHTENING ** len(self.filters)
        self.filters = (*self.filters, BloomFilter(capacity, rate))

    def __contains__(self, key: str) -> bool:
        try:
            for each in self.filters:
                if key in each:
                    return True
        except UnicodeEncodeError:
            return _encodable(key) in self
        return False

    def add(self, key: str) -> bool:
        """Add a key; return whether it seemed to be there already."""
        with self._lock:
            if key in self:
                return True
            last = self.filters[-1]
            if last.count >= last.capacity:
                self._grow(last.capacity * GROWTH)
                last = self.filters[-1]
            try:
                last.add(key, skip_check=True)
            except UnicodeEncodeError:
                last.add(_encodable(key), skip_check=True)
            return False

    @property
    def count(self) -> int:
        """How many keys were added, but for those that seemed to be there."""
        return sum(each.count for each in self.filters)

    @property
    def capacity(self) -> int:
        """How many keys its filters take before it grows again."""
        return sum(each.capacity for each in self.filters)

    @property
    def size(self) -> int:
        """Memory of the bits, in bytes."""
        return sum((each.num_bits + 7) // 8 for each in self.filters)

    @property
    def expected_rate(self) -> float:
        """The share of foreign keys that seem to be in it, expected at its present load.

        A slice of m bits that n keys each set one of has ``1 - (1 - 1/m)**n`` of them set; a
        foreign key passes a filter if it hits such a bit in every slice.
        """
        none = 1.0
        for each in self.filters:
            share = -math.expm1(each.count * math.log1p(-1 / each.bits_per_slice))
            none *= 1 - share**each.num_slices
        return 1 - none

    # As bytes

    def dump(self) -> tuple[list[Shape], list[bytes]]:
        """Return the filters' shapes and bits, with every key in them whose add has returned."""
        with self._lock:
            shapes = [Shape(f.capacity, f.error_rate, f.count) for f in self.filters]
            return shapes, [f.bitarray.tobytes() for f in self.filters]

    @classmethod
    def restore(cls, error_rate: float, shapes: Iterable[Shape], bits: Sequence[bytes]) -> Series:
        """Return a series of filters that were dumped.

        Raises:
            ValueError: If the bits are not of these shapes.
        """
        filters = tuple(_restored(shape, each) for shape, each in zip(shapes, bits, strict=True))
        if not filters:
            raise ValueError("a series of no filter")
        return cls(0, error_rate, filters)


def _encodable(key: str) -> str:
    """Return a text for a key with lone surrogates, which the filter cannot encode."""
    return key.encode("utf-8", "surrogatepass").decode("latin-1")


def _restored(shape: Shape, data: bytes) -> BloomFilter:
    if shape.size != len(data):  # before a filter of that capacity takes memory
        raise ValueError(f"{len(data)} bytes for a filter of {shape.size}")
    restored = BloomFilter(shape.capacity, shape.error_rate)
    bits = type(restored.bitarray)(endian="little")
    bits.frombytes(data)
    restored.bitarray = bits[: restored.num_bits]
    restored.count = shape.keys
    return restored
