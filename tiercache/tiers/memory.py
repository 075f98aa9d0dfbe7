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

import heapq
import inspect
import logging
import math
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any

from tiercache.entry import DEAD, Entry, LastingEntry, RemovalCause
from tiercache.errors import ConfigurationError
from tiercache.logs import trace_of

log = logging.getLogger(__name__)

GENERATIONS = 64  # resolution of the order: a generation is this share of maxsize
GENERATION_CAP = 1024  # entries; bounds the time to sort one
AT_ONCE = 1000  # entries taken apart before others get a turn
DEAD_ALLOWANCE = 64  # places of removed entries that are not worth a clean-up

_last_use = attrgetter("used")
_start = attrgetter("start")
_hits: Callable[[Entry], int] = attrgetter("hits")

Removed = tuple[Entry, RemovalCause]


class _Generation:
    __slots__ = ("places", "start")

    def __init__(self, start: int) -> None:
        self.start = start  # the tick at which it began
        self.places: deque[Entry] = deque()


class LRU:
    """An L1 that keeps the most recently used entries.

    Args:
        maxsize: Entries, or weight where ``weigh`` is given; > 0.
        weigh: Weight of a value, >= 0: a function of the value, or of key and value. A value
            heavier than ``maxsize`` is not stored, and what stood under its key is dropped.

    Raises:
        ConfigurationError: If ``maxsize`` is not a positive whole number.
    """

    def __init__(self, maxsize: int, *, weigh: Callable[..., int] | None = None) -> None:
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize <= 0:
            raise ConfigurationError(
                f"maxsize must be a positive whole number, got {maxsize!r}; use l1=None for no L1"
            )
        self.maxsize = maxsize
        self.tick = 0  # advanced by writers; hits copy it to their entry
        self.on_removal: Callable[[Entry, RemovalCause], None] | None = None
        self.on_clear: Callable[[], None] | None = None  # once everything has been dropped
        self._weigh = _of_key_and_value(weigh)
        self._span = max(1, min(maxsize // GENERATIONS, GENERATION_CAP))
        self._lock = threading.RLock()
        self._reset()
        self._removals: dict[RemovalCause, int] = dict.fromkeys(RemovalCause, 0)  # guarded by _lock
        self._retired_hits = 0  # of entries that have left; guarded by _lock
        self._cleared: list[dict[str, Entry]] = []  # tables to take apart; guarded by _lock

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key, whatever its age, without counting a use."""
        return self.table.get(key)

    def touch(self, entry: Entry) -> None:
        """Count a hit of an entry, later than everything before."""
        with self._lock:
            entry.hits += 1
            self.tick += 1
            entry.used = self.tick
            self.tick += 1

    def put(self, entry: Entry) -> bool:
        """Store an entry in place of its key's old one; say whether it was stored."""
        removed = self.place(entry, self.weigh(entry))
        if removed:
            self.bury(removed)
        return self.table.get(entry.key) is entry

    def place(self, entry: Entry, weight: float) -> list[Removed]:
        """Do what ``put`` does, and return what left, to be given to ``bury``.

        Values die in ``bury``, and are weighed in ``weigh``, and with both may run code of the
        user: for callers that hold a lock which that code might need.
        """
        fits = weight <= self.maxsize
        removed: list[Removed] = []
        with self._lock:
            old = self.table.get(entry.key)
            if old is not None:
                cause = RemovalCause.REPLACED if fits else RemovalCause.OVERSIZE
                removed.append(self._take(old, cause))
            if fits:
                self._insert(entry, weight)
                while self._weight > self.maxsize:
                    removed.append(self._evict())
        return removed

    def place_in_room(self, entry: Entry, weight: float) -> list[Removed] | None:
        """Do what ``place`` does if that evicts nothing; else change nothing, and return None."""
        with self._lock:
            old = self.table.get(entry.key)
            freed = 0.0 if old is None else self._weights.get(entry.key, 1)
            if self._weight - freed + weight > self.maxsize:
                return None
            removed = [] if old is None else [self._take(old, RemovalCause.REPLACED)]
            self._insert(entry, weight)
            return removed

    def place_all_in_room(
        self, entries: Sequence[tuple[Entry, float]]
    ) -> tuple[list[Removed], int]:
        """Do what ``place_in_room`` does for entries with their weights; count the refused."""
        left: list[Removed] = []
        refused = 0
        with self._lock:
            for entry, weight in entries:
                removed = self.place_in_room(entry, weight)
                if removed is None:
                    refused += 1
                elif removed:
                    left += removed
        return left, refused

    def hottest(self, count: int) -> list[Entry]:
        """Return the entries with most hits, at most so many, hottest first; O(n)."""
        hit = [entry for entry in list(self.table.values()) if entry.hits]
        return heapq.nlargest(count, hit, key=_hits)

    def remove(self, key: str, cause: RemovalCause = RemovalCause.INVALIDATED) -> Entry | None:
        """Drop the entry of a key; return it, or None where there was none."""
        removed = self.displace(key, cause)
        if not removed:
            return None
        self.bury(removed)
        return removed[0][0]

    def displace(self, key: str, cause: RemovalCause = RemovalCause.INVALIDATED) -> list[Removed]:
        """Do what ``remove`` does, and return what left, to be given to ``bury``."""
        with self._lock:
            entry = self.table.get(key)
            return [] if entry is None else [self._take(entry, cause)]

    def discard(self, entry: Entry, cause: RemovalCause) -> None:
        """Drop this very entry, unless another stands under its key by now."""
        with self._lock:
            if self.table.get(entry.key) is not entry:
                return
            removed = self._take(entry, cause)
        self.bury([removed])

    def let_rest(self, key: str, until: float) -> None:
        """Have the value of a key served without a thought until then, while it is fresh."""
        with self._lock:
            entry = self.table.get(key)
            if entry.__class__ is LastingEntry:
                entry.fresh_until = min(until, entry.stale_at)

    def make_stale(self, key: str, now: float) -> bool:
        """Have the value of a key be stale from now on; False where it would not be kept."""
        with self._lock:
            entry = self.table.get(key)
            if entry.__class__ is not LastingEntry or entry.kept_until <= entry.stale_at:
                return False
            keep = entry.kept_until - entry.stale_at
            entry.stale_at = min(entry.stale_at, now)
            entry.fresh_until = entry.stale_at
            entry.kept_until = entry.stale_at + keep
            return True

    def clear(self) -> None:
        """Drop every entry, in O(1). Many are taken apart by a thread, in small steps."""
        with self._lock:
            table = self.table
            self._cleared.append(table)
            self._reset()
        if self.on_clear is not None:
            self.on_clear()
        if len(table) > AT_ONCE:
            taker = threading.Thread(target=self._take_apart, name="tiercache-clear", daemon=True)
            with suppress(RuntimeError):  # no thread is to be had
                taker.start()
                return
        self._take_apart()

    def _take_apart(self) -> None:
        """Count and let go of what was cleared; values may run code of the user as they die.

        That code may clear again: each entry is taken out in one step, by whoever comes first.
        """
        while (table := next(iter(self._cleared), None)) is not None:
            some: list[Entry] = []
            with self._lock:
                while table and len(some) < AT_ONCE:
                    with suppress(KeyError):
                        entry = table.popitem()[1]
                        some.append(entry)
                        self._retired_hits += entry.hits
                        self._removals[RemovalCause.INVALIDATED] += 1
                if not table:
                    self._cleared = [each for each in self._cleared if each is not table]
            some.clear()

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys held now."""
        return iter(list(self.table))

    def __contains__(self, key: str) -> bool:
        return key in self.table

    def after_fork(self) -> None:
        """Take a new lock in a forked child; drop everything if the fork broke into a change."""
        held = not self._lock.acquire(blocking=False)
        self._lock = threading.RLock()
        if held:
            self._reset()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def weight(self) -> float:
        """Weight of all entries: their number, where there is no ``weigh``."""
        return self._weight

    @property
    def hits(self) -> int:
        """Hits so far, of present and past entries; O(n)."""
        with self._lock:
            held = (self.table, *self._cleared)
            return self._retired_hits + sum(sum(map(_hits, table.values())) for table in held)

    @property
    def removals(self) -> dict[str, int]:
        """Entries that left, by cause."""
        with self._lock:
            removals = {str(cause): count for cause, count in self._removals.items()}
            removals[str(RemovalCause.INVALIDATED)] += sum(map(len, self._cleared))
            return removals

    # Below, the lock is held.

    def _reset(self) -> None:
        self.table: dict[str, Entry] = {}  # read without the lock; written under it
        self._weights: dict[str, float] = {}  # only with weigh=
        self._weight: float = 0
        self._generations: deque[_Generation] = deque([_Generation(self.tick)])
        self._oldest = _Generation(self.tick)  # that is being evicted from: sorted, or empty
        self._oldest_end = self.tick
        self._dead_places = 0

    def _insert(self, entry: Entry, weight: float) -> None:
        newest = self._generations[-1]
        if len(newest.places) >= self._span:
            newest = self._begin_generation()
        entry.used = self.tick
        newest.places.append(entry)
        self.table[entry.key] = entry
        self._weight += weight
        if self._weigh is not None:
            self._weights[entry.key] = weight

    def _begin_generation(self) -> _Generation:
        self.tick += 1
        generation = _Generation(self.tick)
        self._generations.append(generation)
        return generation

    def _take(self, entry: Entry, cause: RemovalCause) -> Removed:
        """Remove an entry whose place in a generation stays behind."""
        self._drop(entry, cause)
        self._leave_dead_place()
        return entry, cause

    def _evict(self) -> Removed:
        """Remove the least recently used entry, and its place."""
        while True:
            places, end, table = self._oldest.places, self._oldest_end, self.table
            while places:
                entry = places.popleft()
                if table.get(entry.key) is not entry:
                    self._dead_places -= 1
                elif entry.used < end:
                    self._drop(entry, RemovalCause.SIZE)
                    return entry, RemovalCause.SIZE
                else:
                    self._place_again(entry)
            self._open_next_generation()

    def _drop(self, entry: Entry, cause: RemovalCause) -> None:
        entry.fresh_until = DEAD
        del self.table[entry.key]
        self._weight -= 1 if self._weigh is None else self._weights.pop(entry.key)
        self._removals[cause] += 1
        self._retired_hits += entry.hits

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

    def _leave_dead_place(self) -> None:
        self._dead_places += 1
        if self._dead_places > len(self.table) + DEAD_ALLOWANCE:
            for generation in (self._oldest, *self._generations):
                generation.places = deque(filter(self._stands, generation.places))
            newest = self._generations[-1]
            self._generations = deque(g for g in self._generations if g.places or g is newest)
            self._dead_places = 0

    def _stands(self, entry: Entry) -> bool:
        return self.table.get(entry.key) is entry

    # Below, it is not.

    def bury(self, removed: list[Removed]) -> None:
        """Tell of entries that left, and let go of their values."""
        for entry, cause in removed:
            if self.on_removal is not None:
                self.on_removal(entry, cause)
            entry.value = None  # after the deadline: a hit reads the value before it looks at it

    def weigh(self, entry: Entry) -> float:
        """Return an entry's weight; where the user's ``weigh`` fails, too much to be stored."""
        if self._weigh is None:
            return 1
        try:
            weight: float = self._weigh(entry.key, entry.value)
            fits = weight >= 0
        except Exception as error:
            log.error("weigh failed; the value is not kept in L1: %s", trace_of(error))  # noqa: TRY400 - see logs.py
            return math.inf
        return weight if fits else math.inf


def _of_key_and_value(weigh: Callable[..., int] | None) -> Callable[[str, Any], int] | None:
    if weigh is None:
        return None
    if not callable(weigh):
        raise ConfigurationError(f"weigh must be a function of a value, got {weigh!r}")
    if _takes_two(weigh):
        both: Callable[[str, Any], int] = weigh
        return both
    return lambda _key, value: weigh(value)


def _takes_two(function: Callable[..., int]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature: len, sys.getsizeof
        return False
    required = [p for p in parameters if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    return len(required) == 2
