"""S3FIFO against a slow, obvious model, over random histories.

The model counts hits at once and caps them at three, and keeps its queues as lists without gaps;
S3FIFO does neither. Only the memory of departed keys is a twin of the real one, which has tests of
its own: which keys it forgets depends on their hashes.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.effort import part_of
from tiercache import S3FIFO
from tiercache.entry import make_entry
from tiercache.tiers._ghost import FROM_MAIN, FROM_SMALL, OTHERWISE, Ghost

KEYS = st.integers(0, 14).map(str)


@dataclass
class Item:
    key: str
    value: int
    weight: int
    count: int = 0


class Model:
    """The policy as it would be told to somebody."""

    def __init__(self, maxsize: int, weighs: bool) -> None:
        self.maxsize, self.weighs = maxsize, weighs
        self.clear()

    def clear(self) -> None:
        self.young: list[Item] = []
        self.old: list[Item] = []
        self.main: list[Item] = []
        self.target = max(1.0, 0.1 * self.maxsize)
        self.ghost = Ghost(0.9)
        self.cold = 0

    def items(self) -> list[Item]:
        return [*self.young, *self.old, *self.main]

    def weight(self) -> int:
        return sum(item.weight for item in self.items())

    def find(self, key: str) -> Item | None:
        return next((item for item in self.items() if item.key == key), None)

    def hit(self, item: Item) -> None:
        item.count = min(3, item.count + 1)

    def remove(self, item: Item) -> None:
        if item in self.main:
            self.ghost.note(item.key, OTHERWISE, len(self.items()))
        self._take_out(item)

    def put(self, key: str, value: int) -> None:
        item = Item(key, value, value if self.weighs else 1)
        if (same := self.find(key)) is not None:
            self.remove(same)
        if item.weight > self.maxsize:
            return
        while self.weight() + item.weight > self.maxsize:
            self.evict()
        left = self.ghost.recall(key)
        self.resize({FROM_SMALL: 1, FROM_MAIN: -3}.get(left, 0))
        if left in {FROM_SMALL, OTHERWISE}:
            self.main.append(item)
            return
        while self.young and len(self.young) >= max(1.0, 0.3 * self.target) / self.mean_weight():
            self.age()
        has_room = self.weight() + item.weight < self.maxsize
        self.young.append(item)
        while has_room and self.old and self.small_weight() > self.target:
            self.promote(self.old[0])

    def mean_weight(self) -> float:
        return self.weight() / len(self.items()) if self.weighs and self.items() else 1.0

    def resize(self, entries: int) -> None:
        target = max(1.0, 0.1 * self.maxsize, self.target + entries * self.mean_weight())
        self.target = min(max(1.0, 0.9 * self.maxsize), target)

    def small_weight(self) -> int:
        return sum(item.weight for item in (*self.young, *self.old))

    def age(self) -> None:
        item = self.young.pop(0)
        item.count = 0
        self.old.append(item)

    def promote(self, item: Item) -> None:
        self._take_out(item)
        item.count = 0
        self.main.append(item)

    def evict(self) -> None:
        while self.young or self.old:
            if self.weight() - self.small_weight() > self.maxsize - self.target:
                break
            if not self.old:
                self.age()
            if not self.old[0].count:
                self.evict_cold(self.old[0])
                return
            self.promote(self.old[0])
        while self.main[0].count:
            self.recycle()
        self.let_go(self.main[0], FROM_MAIN)

    def evict_cold(self, item: Item) -> None:
        self.cold += 1
        if self.cold % 32 == 0 and self.main:
            if not self.main[0].count:
                rival = self.main[0]
                self.promote(item)
                self.let_go(rival, FROM_MAIN)
                return
            self.recycle()
        self.let_go(item, FROM_SMALL)

    def recycle(self) -> None:
        item = self.main.pop(0)
        item.count -= 1
        self.main.append(item)

    def let_go(self, item: Item, left: int) -> None:
        self.ghost.note(item.key, left, len(self.items()))
        self._take_out(item)

    def _take_out(self, item: Item) -> None:
        for queue in (self.young, self.old, self.main):
            queue[:] = [other for other in queue if other is not item]


class S3FIFOMachine(RuleBasedStateMachine):
    """Puts, bursts of hits, removals and clears."""

    @initialize(maxsize=st.integers(1, 12), weighs=st.booleans())
    def start(self, maxsize: int, weighs: bool) -> None:
        self.memory = S3FIFO(maxsize, weigh=(lambda value: value) if weighs else None)
        self.model = Model(maxsize, weighs)
        self.hits = 0

    @rule(key=KEYS, value=st.integers(1, 4) | st.integers(1, 14))
    def put(self, key: str, value: int) -> None:
        """A value is stored unless it is too heavy; the same entries give way."""
        stored = self.memory.put(make_entry(key, value, 1.0))
        self.model.put(key, value)
        assert stored == (self.model.find(key) is not None)

    @rule(keys=st.lists(KEYS, min_size=1, max_size=60))
    def read(self, keys: list[str]) -> None:
        """Keys are read, and put where they are missing: a cache at work."""
        for key in keys:
            if self.memory.get(key) is None:
                self.put(key, 1)
            else:
                self.use(key, 1)

    @rule(key=KEYS, times=st.integers(1, 6))
    def use(self, key: str, times: int) -> None:
        """Hits through a shortcut, which count on the entry, or the slow path."""
        entry, item = self.memory.get(key), self.model.find(key)
        assert (entry is None) == (item is None)
        if entry is None or item is None:
            return
        assert entry.value == item.value
        self.memory.touch(entry)
        entry.hits += times - 1
        entry.used = self.memory.tick
        for _ in range(times):
            self.model.hit(item)
        self.hits += times

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        """A removal takes that entry only."""
        removed, item = self.memory.remove(key), self.model.find(key)
        assert (removed is None) == (item is None)
        if item is not None:
            self.model.remove(item)

    @rule()
    def clear(self) -> None:
        """A clear takes all, and what was learnt."""
        self.memory.clear()
        self.model.clear()

    @invariant()
    def same_as_the_model(self) -> None:
        """Contents, queues, weight, hits and the learnt share are the model's."""
        if not hasattr(self, "memory"):
            return
        memory, model = self.memory, self.model
        standing = {key: entry.value for key, entry in memory.table.items()}
        assert standing == {item.key: item.value for item in model.items()}
        assert memory._small == {item.key for item in (*model.young, *model.old)}
        assert memory.weight == model.weight() <= model.maxsize
        assert memory._small_weight == model.small_weight()
        assert memory._target == model.target
        assert memory.hits == self.hits


TestS3FIFO = S3FIFOMachine.TestCase
TestS3FIFO.settings = settings(max_examples=part_of(80), stateful_step_count=60, deadline=None)
