"""What every L1 is, whatever order it evicts in: a bounded table, weights, causes, and counts.

A policy is a subclass that keeps the order. It says where a new entry goes (``_insert``), which
one must go (``_evict``), and what an entry that left otherwise leaves behind (``_vacate``). None
of them is told of hits: the wrappers of hit.py count a hit on its entry and copy ``tick`` to it,
without a lock, and a policy reads both when something must go.
"""

from __future__ import annotations

import heapq
import inspect
import logging
import math
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from operator import attrgetter
from typing import Any, Protocol

from tiercache.entry import DEAD, Entry, LastingEntry, RemovalCause
from tiercache.errors import ConfigurationError
from tiercache.logs import trace_of

log = logging.getLogger(__name__)

AT_ONCE = 1000  # entries taken apart before others get a turn
DEAD_ALLOWANCE = 64  # places of removed entries that are not worth a clean-up

_LEAST_HASH = -(1 << sys.hash_info.width - 1)

_hits: Callable[[Entry], int] = attrgetter("hits")

Removed = tuple[Entry, RemovalCause]


def hash_limit(share: int) -> int:
    """Return below which hash a key is one of each ``share``: by the upper bits; tables use others.

    Of twice the share only keys are chosen that were before.
    """
    return _LEAST_HASH - 2 * _LEAST_HASH // share


class Observer(Protocol):
    """Who is told, while the lock is held, of what becomes of some keys in an L1."""

    def entered(self, entry: Entry, weight: float) -> None:
        """An entry has been stored."""

    def left(self, entry: Entry, cause: RemovalCause) -> None:
        """An entry has been removed, but by an eviction: of that it is not told."""

    def passed(self) -> None:
        """The slow path has served a hit, of whatever key."""

    def cleared(self) -> None:
        """Everything has been dropped."""


class Memory(ABC):
    """An L1 of some policy: use ``LRU`` or ``S3FIFO``."""

    def __init__(self, maxsize: int, *, weigh: Callable[..., int] | None = None) -> None:
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize <= 0:
            raise ConfigurationError(
                f"maxsize must be a positive whole number, got {maxsize!r}; use l1=None for no L1"
            )
        self.maxsize = maxsize
        self.tick = 0  # advanced by writers; hits copy it to their entry
        self.shortest_run = 1  # of insertions that a policy may lump together, to save memory
        self.on_removal: Callable[[Entry, RemovalCause], None] | None = None
        self.on_clear: Callable[[], None] | None = None  # once everything has been dropped
        self._observer: Observer | None = None
        self._observed_below = _LEAST_HASH  # of which keys the observer is told, by their hash
        self._weigh = _of_key_and_value(weigh)
        self._lock = threading.RLock()
        self._reset()
        self._evictions = 0  # removals to make room; guarded by _lock
        self._removals: dict[RemovalCause, int] = dict.fromkeys(RemovalCause, 0)  # others; by _lock
        self._retired_hits = 0  # of entries that have left; guarded by _lock
        # Tables that have been dropped, until ``on_clear`` is done; then to be taken apart.
        self._clearing: list[dict[str, Entry]] = []  # guarded by _lock
        self._cleared: list[dict[str, Entry]] = []  # guarded by _lock

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key, whatever its age, without counting a use."""
        return self.table.get(key)

    def touch(self, entry: Entry) -> None:
        """Count a hit of an entry, later than everything before."""
        with self._lock:
            self._use(entry)
            if self._observer is not None:
                self._observer.passed()

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
            if old is None:
                self._kill_cleared(entry.key)
            else:
                cause = RemovalCause.REPLACED if fits else RemovalCause.OVERSIZE
                removed.append(self._take(old, cause))
            if fits:
                while self._weight + weight > self.maxsize and self.table:
                    removed.append((self._evict(), RemovalCause.SIZE))
                self._enter(entry, weight)
        return removed

    def admit(self, entry: Entry) -> Sequence[Removed]:
        """Do what ``place`` does, in an L1 that does not weigh: a part of every plain miss."""
        return self.place(entry, 1)

    def place_in_room(self, entry: Entry, weight: float) -> list[Removed] | None:
        """Do what ``place`` does if that evicts nothing; else change nothing, and return None."""
        with self._lock:
            old = self.table.get(entry.key)
            self._kill_cleared(entry.key)
            freed = 0.0 if old is None else self._weights.get(entry.key, 1)
            if self._weight - freed + weight > self.maxsize:
                return None
            removed = [] if old is None else [self._take(old, RemovalCause.REPLACED)]
            self._enter(entry, weight)
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
            if entry is not None:
                return [self._take(entry, cause)]
            self._kill_cleared(key)
            return []

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
            self._kill_cleared(key)
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
            self._clearing.append(table)
            self._reset()
        try:
            if self.on_clear is not None:
                self.on_clear()
        finally:
            with self._lock:
                self._clearing = [each for each in self._clearing if each is not table]
                self._cleared.append(table)
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

    def resize(self, maxsize: int) -> None:
        """Take another ``maxsize``; what is too much leaves with the next insertion."""
        with self._lock:
            factor = maxsize / self.maxsize
            self.maxsize = maxsize
            self._resized(factor)

    def observe(self, observer: Observer, share: int) -> None:
        """Tell an observer of each ``share``-th key, chosen by hash: a power of two."""
        with self._lock:
            self._observer = observer
            self._observed_below = hash_limit(share)

    @property
    def loads(self) -> int:
        """Entries stored so far but in place of others: values that L1 did not hold."""
        with self._lock:
            gone = sum(self._removals.values()) - self._removals[RemovalCause.REPLACED]
            return gone + self._evictions + sum(map(len, self._dropped)) + len(self.table)

    def locked(self) -> AbstractContextManager[Any]:
        """Keep everything but hits from changing."""
        return self._lock

    @property
    def weighs(self) -> bool:
        """Whether ``maxsize`` is a weight."""
        return self._weigh is not None

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight by key; empty where each entry's is 1."""
        return self._weights

    @property
    def weight(self) -> float:
        """Weight of all entries: their number, where there is no ``weigh``."""
        return self._weight

    @property
    def hits(self) -> int:
        """Hits so far, of present and past entries; O(n)."""
        with self._lock:
            held = (self.table, *self._dropped)
            return self._retired_hits + sum(sum(map(_hits, table.values())) for table in held)

    @property
    def removals(self) -> dict[str, int]:
        """Entries that left, by cause."""
        with self._lock:
            removals = {str(cause): count for cause, count in self._removals.items()}
            removals[str(RemovalCause.SIZE)] = self._evictions
            removals[str(RemovalCause.INVALIDATED)] += sum(map(len, self._dropped))
            return removals

    # Below, the lock is held.

    @property
    def _dropped(self) -> list[dict[str, Entry]]:
        return [*self._clearing, *self._cleared]

    def _reset(self) -> None:
        self.table: dict[str, Entry] = {}  # read without the lock; written under it
        self._weights: dict[str, float] = {}  # only with weigh=
        self._weight: float = 0
        self._reset_order()
        if self._observer is not None:
            self._observer.cleared()

    def _enter(self, entry: Entry, weight: float) -> None:
        self._insert(entry, weight)
        self.table[entry.key] = entry
        self._weight += weight
        if self._weigh is not None:
            self._weights[entry.key] = weight
        if self._observer is not None and hash(entry.key) < self._observed_below:
            self._observer.entered(entry, weight)

    def _kill_cleared(self, key: str) -> None:
        """Have the entry of a key that a clear is just dropping served no more.

        Shortcuts lead to it until the clear is done; whoever writes the key is done before that.
        """
        for table in self._clearing:
            entry = table.get(key)
            if entry is not None:
                entry.fresh_until = DEAD

    def _take(self, entry: Entry, cause: RemovalCause) -> Removed:
        """Remove an entry for another cause than size."""
        self._vacate(entry, self._drop(entry))
        self._removals[cause] += 1
        if self._observer is not None and hash(entry.key) < self._observed_below:
            self._observer.left(entry, cause)
        return entry, cause

    def _drop(self, entry: Entry) -> float:
        """Take an entry out of the table, and return its weight."""
        entry.fresh_until = DEAD
        del self.table[entry.key]
        weight = 1 if self._weigh is None else self._weights.pop(entry.key)
        self._weight -= weight
        self._retired_hits += entry.hits
        return weight

    def _drop_for_room(self, entry: Entry) -> float:
        """Do what ``_drop`` does, of an entry that is evicted."""
        self._evictions += 1
        return self._drop(entry)

    def _stands(self, entry: Entry) -> bool:
        return self.table.get(entry.key) is entry

    # What a policy says, under the lock.

    @abstractmethod
    def _reset_order(self) -> None:
        """Begin anew, without entries."""

    @abstractmethod
    def _resized(self, factor: float) -> None:
        """Adapt to another ``maxsize``, which is so many times the old one."""

    @abstractmethod
    def _use(self, entry: Entry) -> None:
        """Count a hit that the slow path serves."""

    @abstractmethod
    def _insert(self, entry: Entry, weight: float) -> None:
        """Give an entry its place; it is put into the table afterwards."""

    @abstractmethod
    def _evict(self) -> Entry:
        """Drop the entry that must go, of one or more, and return it."""

    @abstractmethod
    def _vacate(self, entry: Entry, weight: float) -> None:
        """Take note that an entry has been dropped, for another cause than size."""

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
