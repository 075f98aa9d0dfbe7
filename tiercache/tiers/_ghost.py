"""Keys that left an L1 lately, remembered by their hashes in 8 bytes each.

A table of buckets with two slots. A slot packs 30 bits of the key's hash that do not choose the
bucket, how the entry left, and when: a count of the departures of that kind. So what has become
too old needs no removal: it is compared when it is found, and overwritten when a bucket is full,
the older of its two first.

Bounds: a key that never left is recalled with a probability of about 2**-29; of those that left
within the window 9 to 25 % are forgotten too soon, where a bucket got a third key (measured in
tests/unit/test_memory_ghost.py), which costs no trace more than 0.1 points of its hit ratio. An
OrderedDict of hashes forgets none and costs 140 bytes a key.
"""

from __future__ import annotations

from array import array

_FEWEST_SLOTS = 128
_AGE = 0xFFFF_FFFF  # departures are counted modulo 2**32
_KIND_AT, _PRINT_AT = 32, 34
_PRINT = (1 << 30) - 1


# How an entry left. Plain numbers: each miss and each eviction handles one.
NOT = 0  # the answer for a key that is not remembered
FROM_SMALL = 1  # evicted, never asked for again
FROM_MAIN = 2  # evicted, asked for no more
OTHERWISE = 3  # expired, invalidated or replaced, while it stood in the main queue


class Ghost:
    """Keys that left, each kind for as long as ``window`` more of its kind have not left."""

    def __init__(self, share: float) -> None:
        self._share = share  # the window, as a share of the most entries there were
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._most = 0  # entries there were at once
        self._departures = [0, 0, 0, 0]  # by kind
        self._make_slots(_FEWEST_SLOTS)

    def note(self, key: str, kind: int, entries: int) -> None:
        """Remember a key that has left so many entries behind."""
        if entries > self._most:
            self._make_room(entries)
        self._departures[kind] = when = self._departures[kind] + 1
        code = hash(key)
        place = (code & self._mask) << 1
        slots = self._slots
        if slots[place]:
            slots[place + 1] = slots[place]
        mark = (code >> 32) & _PRINT
        slots[place] = mark << _PRINT_AT | kind << _KIND_AT | (when & _AGE)

    def recall(self, key: str) -> int:
        """Say how a key left, if it did lately, and forget it."""
        code = hash(key)
        mark = (code >> 32) & _PRINT
        place = (code & self._mask) << 1
        slots = self._slots
        if slots[place] >> _PRINT_AT == mark:
            return self._judge(place)
        if slots[place + 1] >> _PRINT_AT == mark:
            return self._judge(place + 1)
        return NOT

    def _judge(self, place: int) -> int:
        """Empty a slot, and return the kind of what it held unless that is too old."""
        word = self._slots[place]
        self._slots[place] = 0
        kind = word >> _KIND_AT & 3  # NOT, where the slot was empty
        age = (self._departures[kind] - word) & _AGE
        return kind if age < self._share * self._most else NOT

    def _make_room(self, entries: int) -> None:
        """Have two slots for each entry; what was remembered in too few is forgotten."""
        self._most = entries
        if 2 * entries > len(self._slots):
            self._make_slots(1 << (2 * entries - 1).bit_length())

    def _make_slots(self, count: int) -> None:
        self._slots = array("Q", bytes(8 * count))
        self._mask = (count >> 1) - 1
