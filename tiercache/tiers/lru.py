"""L1: entries in this process's memory, bounded, in least-recently-used order.

A hit takes no lock and moves nothing: it stores the current *tick* on its entry. Order is caught
up when something must go. Entries wait in *generations*, each begun at a tick and holding what was
inserted, or placed there again, since. In the oldest generation

- an entry used after the generation ended goes to the generation of its last use;
- the others have all been used before anything in a later generation, so the least recently
  used of them, the generation being sorted once, is the least recently used of all.

So eviction follows exact LRU order but for hits between two insertions, which share a tick. A hit
costs one store, an eviction O(1) amortised (a generation is at most 1/64 of the cache, and 1,024
entries, so sorting it never takes long). Bytes per entry: one dict slot, the Entry, its
deadline, and eight for its place in a generation; an OrderedDict or a linked list cost twice that.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter

from tiercache.entry import DEAD, Entry, RemovalCause

from ._memory import DEAD_ALLOWANCE, Memory, Removed

GENERATIONS = 64  # resolution of the order: a generation is this share of maxsize
GENERATION_CAP = 1024  # entries; bounds the time to sort one

_last_use = attrgetter("used")
_start = attrgetter("start")
_FOR_SIZE = RemovalCause.SIZE  # looking an enum's member up takes as long as a dict's item


class _Generation:
    __slots__ = ("places", "start")

    def __init__(self, start: int) -> None:
        self.start = start  # the tick at which it began
        self.places: deque[Entry] = deque()


class LRU(Memory):
    """An L1 that keeps the most recently used entries.

    Args:
        maxsize: Entries, or weight where ``weigh`` is given; > 0.
        weigh: Weight of a value, >= 0: a function of the value, or of key and value. A value
            heavier than ``maxsize`` is not stored, and what stood under its key is dropped.

    Raises:
        ConfigurationError: If ``maxsize`` is not a positive whole number.
    """

    def __init__(self, maxsize: int, *, weigh: Callable[..., int] | None = None) -> None:
        super().__init__(maxsize, weigh=weigh)
        self._resized(1.0)

    def admit(self, entry: Entry) -> Sequence[Removed]:
        """Do what ``place`` does, in an L1 that does not weigh: a part of every plain miss.

        Where a new key takes the place of the oldest, that is here in one function; else it is
        ``place`` that does it.
        """
        key = entry.key
        with self._lock:
            table, oldest, newest = self.table, self._oldest.places, self._generations[-1].places
            if (
                oldest
                and self._weight == self.maxsize
                and len(newest) < self._span
                and key not in table
                and not self._clearing
                and hash(key) >= self._observed_below
            ):
                victim = oldest[0]
                if victim.used < self._oldest_end and victim.fresh_until != DEAD:
                    oldest.popleft()
                    del table[victim.key]
                    victim.fresh_until = DEAD
                    self._retired_hits += victim.hits
                    self._evictions += 1
                    entry.used = self.tick
                    newest.append(entry)
                    table[key] = entry
                    return ((victim, _FOR_SIZE),)
            return self.place(entry, 1)

    # The lock is held.

    def _resized(self, factor: float) -> None:
        self._span = max(self.shortest_run, min(self.maxsize // GENERATIONS, GENERATION_CAP))

    def _reset_order(self) -> None:
        self._generations: deque[_Generation] = deque([_Generation(self.tick)])
        self._oldest = _Generation(self.tick)  # that is being evicted from: sorted, or empty
        self._oldest_end = self.tick
        self._dead_places = 0

    def _use(self, entry: Entry) -> None:
        entry.hits += 1
        self.tick += 1
        entry.used = self.tick
        self.tick += 1

    def _insert(self, entry: Entry, weight: float) -> None:
        newest = self._generations[-1]
        if len(newest.places) >= self._span:
            newest = self._begin_generation()
        entry.used = self.tick
        newest.places.append(entry)

    def _begin_generation(self) -> _Generation:
        self.tick += 1
        generation = _Generation(self.tick)
        self._generations.append(generation)
        return generation

    def _evict(self) -> Entry:
        """Remove the least recently used entry, and its place."""
        while True:
            places, end, table = self._oldest.places, self._oldest_end, self.table
            while places:
                entry = places.popleft()
                if table.get(entry.key) is not entry:
                    self._dead_places -= 1
                elif entry.used < end:
                    self._drop_for_room(entry)
                    return entry
                else:
                    self._place_again(entry)
            self._open_next_generation()

    def _open_next_generation(self) -> None:
        """Turn to the oldest generation that still has places, and sort it, once."""
        generations = self._generations
        while len(generations) > 1 and not generations[0].places:
            generations.popleft()
        if len(generations) == 1:  # what is used from now on belongs to a later one
            self._begin_generation()
        oldest = generations[0]
        oldest.places = deque(sorted(oldest.places, key=_last_use))
        self._oldest, self._oldest_end = oldest, generations[1].start

    def _place_again(self, entry: Entry) -> None:
        """Move an entry to the generation of its last use, which is a later one."""
        later = bisect_right(self._generations, entry.used, key=_start)
        self._generations[max(0, later - 1)].places.append(entry)

    def _vacate(self, entry: Entry, weight: float) -> None:
        """Leave the place of an entry in its generation behind; it is met later."""
        self._dead_places += 1
        if self._dead_places > len(self.table) + DEAD_ALLOWANCE:
            for generation in (self._oldest, *self._generations):
                generation.places = deque(filter(self._stands, generation.places))
            newest = self._generations[-1]
            self._generations = deque(g for g in self._generations if g.places or g is newest)
            self._dead_places = 0
