"""S3-FIFO: an L1 that scans and loops do not flush, with hits as cheap as those of ``LRU``.

Most keys of most workloads are never asked for again. A new entry therefore stands in a *small*
queue first, and gets into the *main* one only if it is hit there; one that is not leaves after a
tenth of the insertions that it would have survived in an LRU. Its key is remembered for a while
(the *ghost*): should it be loaded again, it was evicted too soon and goes to the main queue.

  insertion ─► small ──── hit? ──► main ◄── hit? again: to the tail, its count one less
                 │ no               │ no
                 ▼                  ▼
               gone; its key ─► ghost ─► main, if it is loaded again soon

All queues are first in, first out, so a hit moves nothing. An entry counts up to three hits, and
each pass of the main queue's hand takes one. That *count* is not stored: with an entry in its
queue stands a *mark*, such that ``min(3, hits - mark)`` is the count, exactly as if it had been
kept at three. So the wrappers of hit.py count without knowing.

On top of Yang et al. ("FIFO queues are all you need for cache eviction", SOSP '23), by what the
traces of benchmarks/l1_hit_ratio.py say:

- The small queue's first 30 % are *young*: hits there are forgotten, since uses in one burst say
  nothing of later ones (as in 2Q's correlated references, Johnson & Shasha, VLDB '94).
- While L1 fills up, what overflows the small queue goes to the main one: nothing has to leave.
- Each 32nd entry that the small queue would evict challenges the head of the main queue. If that
  has no hits left it goes instead. So a main queue that nobody asks for any more does not stay.
- The small queue's share is learnt (the idea of ARC, Megiddo & Modha, FAST '03): a key recalled
  from the small queue makes it grow by one entry, one recalled from the main queue shrink by
  three; within 10 % and 90 %.
- What leaves the main queue because it expired, or was invalidated or replaced, comes back to it.

Measured over ten traces at 1, 5, 10 and 25 % of their keys: 7.0 points below Belady's optimum in
the mean (LRU: 10.8; the paper's: 8.3), and never more than 0.6 points below LRU but on
llm-prefix-conv at 25 %: 3.6 points. There the whole trace is six cachefuls, it is all recency, and
the small queue has not yet grown when it ends (ARC, which learns the same, loses 1.8).

Bounds: an eviction looks at no more than 64 entries of the main queue with hits left, then it takes
the next as it comes; amortised it is O(1). Insertion and eviction take about 2.6 times as long as
those of ``LRU``. Bytes per entry above key and value: some 40 more than LRU's
(180 to 225 against 140 to 185, as its dict happens to be filled): 8 for the mark, 16 to 32 for the
ghost, and about 50 for each entry that stands in the small queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tiercache.entry import Entry

from ._ghost import FROM_MAIN, FROM_SMALL, OTHERWISE, Ghost
from ._memory import DEAD_ALLOWANCE, Memory

SMALLEST, LARGEST = 0.1, 0.9  # share of maxsize for the small queue
YOUNG = 0.3  # share of the small queue where hits are not counted yet
GHOST = 0.9  # keys remembered, as a share of the entries
MOST_COUNTED = 3  # hits
CHALLENGE_EACH = 32  # evictions from the small queue
PATIENCE = 64  # entries with hits left that one eviction looks at
GROW, SHRINK = 1, 3  # entries by which a recalled key changes the small queue's share


class _Queue:
    """Entries with their marks, first in, first out."""

    __slots__ = ("entries", "marks")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.marks: deque[int] = deque()

    def push(self, entry: Entry, mark: int) -> None:
        self.entries.append(entry)
        self.marks.append(mark)

    def pop(self) -> tuple[Entry, int]:
        return self.entries.popleft(), self.marks.popleft()

    def sift(self, stands: Callable[[Entry], bool]) -> None:
        """Keep only entries that still stand."""
        kept = [pair for pair in zip(self.entries, self.marks, strict=True) if stands(pair[0])]
        self.entries = deque(entry for entry, _ in kept)
        self.marks = deque(mark for _, mark in kept)


class S3FIFO(Memory):
    """An L1 that keeps what is asked for again, and lets the rest go quickly.

    Args:
        maxsize: Entries, or weight where ``weigh`` is given; > 0.
        weigh: Weight of a value, >= 0: a function of the value, or of key and value. A value
            heavier than ``maxsize`` is not stored, and what stood under its key is dropped.

    Raises:
        ConfigurationError: If ``maxsize`` is not a positive whole number.
    """

    # The lock is held. ``used`` and ``tick`` are not needed: all hits have the tick 0.

    def _reset_order(self) -> None:
        self._young: deque[Entry] = deque()
        self._old = _Queue()
        self._main = _Queue()
        self._small: set[str] = set()  # keys of the entries that stand in _young or _old
        self._small_weight: float = 0
        self._target = 0.0  # weight of the small queue
        self._most_young = 0.0  # weight of the young entries
        self._resize_small(0)
        self._ghost = Ghost(GHOST)
        self._cold = 0  # entries that the small queue would have evicted
        self._dead_places = 0

    def _resized(self, factor: float) -> None:
        self._target *= factor
        self._resize_small(0)

    def _use(self, entry: Entry) -> None:
        entry.hits += 1

    def _insert(self, entry: Entry, weight: float) -> None:
        left = self._ghost.recall(entry.key)
        if left == FROM_SMALL:
            self._resize_small(GROW)
        elif left == FROM_MAIN:
            self._resize_small(-SHRINK)
        if left in {FROM_SMALL, OTHERWISE}:
            self._main.push(entry, entry.hits)
        else:
            self._insert_young(entry, weight)

    def _insert_young(self, entry: Entry, weight: float) -> None:
        # Not in the table yet, it would be taken for dead if it aged at once.
        most = self._most_young if self._weigh is None else self._most_young / self._mean_weight
        young = self._young
        while young and len(young) >= most:
            self._age()
        young.append(entry)
        self._small.add(entry.key)
        self._small_weight += weight
        if self._weight + weight < self.maxsize:  # nothing has to leave
            while self._small_weight > self._target and self._old.entries:
                self._promote_oldest()

    @property
    def _mean_weight(self) -> float:
        if self._weigh is None or not self.table or self._weight <= 0:
            return 1.0
        return self._weight / len(self.table)

    def _resize_small(self, entries: int) -> None:
        target = max(1.0, SMALLEST * self.maxsize, self._target + entries * self._mean_weight)
        self._target = min(max(1.0, LARGEST * self.maxsize), target)
        self._most_young = max(1.0, YOUNG * self._target)

    def _evict(self) -> Entry:
        while self._small and self._weight - self._small_weight <= self.maxsize - self._target:
            entry, mark = self._pop_small()
            if entry.hits == mark:
                return self._evict_cold(entry)
            self._promote(entry)
        return self._evict_main()

    def _evict_cold(self, entry: Entry) -> Entry:
        """Evict an entry of the small queue, or in its stead one of the main queue."""
        self._cold += 1
        if self._cold % CHALLENGE_EACH == 0:
            rival = self._challenge()
            if rival is not None:
                self._promote(entry)
                return self._let_go(rival, FROM_MAIN)
        self._small.remove(entry.key)
        self._ghost.note(entry.key, FROM_SMALL, len(self.table))
        self._small_weight -= self._drop_for_room(entry)
        return entry

    def _challenge(self) -> Entry | None:
        """Return the head of the main queue, taken out, if it has no hits left."""
        head = self._pop_main()
        if head is None:
            return None
        entry, count = head
        if not count:
            return entry
        self._main.push(entry, entry.hits - count + 1)
        return None

    def _evict_main(self) -> Entry:
        patience = PATIENCE
        while (head := self._pop_main()) is not None:
            entry, count = head
            if not count or not patience:
                return self._let_go(entry, FROM_MAIN)
            patience -= 1
            self._main.push(entry, entry.hits - count + 1)
        return self._evict_cold(self._pop_small()[0])  # weights that do not add up: rounding

    def _let_go(self, entry: Entry, left: int) -> Entry:
        self._ghost.note(entry.key, left, len(self.table))
        self._drop_for_room(entry)
        return entry

    def _age(self) -> None:
        """Have the oldest young entry count its hits from now on."""
        entry = self._young.popleft()
        if self.table.get(entry.key) is entry:
            self._old.push(entry, entry.hits)
        else:
            self._dead_places -= 1

    def _pop_small(self) -> tuple[Entry, int]:
        """Take out the oldest entry of the small queue, of which there is one."""
        old, table = self._old, self.table
        while True:
            while not old.entries:
                self._age()
            entry, mark = old.entries.popleft(), old.marks.popleft()
            if table.get(entry.key) is entry:
                return entry, mark
            self._dead_places -= 1

    def _pop_main(self) -> tuple[Entry, int] | None:
        """Take out the head of the main queue, and say how many hits it has left."""
        while self._main.entries:
            entry, mark = self._main.pop()
            if self._stands(entry):
                return entry, min(MOST_COUNTED, entry.hits - mark)
            self._dead_places -= 1
        return None

    def _promote_oldest(self) -> None:
        entry, _ = self._old.pop()
        if self._stands(entry):
            self._promote(entry)
        else:
            self._dead_places -= 1

    def _promote(self, entry: Entry) -> None:
        self._leave_small(entry)
        self._main.push(entry, entry.hits)

    def _leave_small(self, entry: Entry) -> None:
        self._small.remove(entry.key)
        self._small_weight -= 1 if self._weigh is None else self._weights[entry.key]

    def _vacate(self, entry: Entry, weight: float) -> None:
        """Leave the place of an entry in its queue behind; it is met later."""
        if entry.key in self._small:
            self._small.remove(entry.key)
            self._small_weight -= weight
        else:
            self._ghost.note(entry.key, OTHERWISE, len(self.table) + 1)
        self._dead_places += 1
        if self._dead_places > len(self.table) + DEAD_ALLOWANCE:
            self._young = deque(filter(self._stands, self._young))
            self._old.sift(self._stands)
            self._main.sift(self._stands)
            self._dead_places = 0
