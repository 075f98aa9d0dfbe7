"""L1 against a slow, obvious model, over random histories."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.effort import part_of
from tiercache import LRU
from tiercache.entry import make_entry

KEYS = st.integers(0, 12).map(str)


class L1Machine(RuleBasedStateMachine):
    """Puts, uses, removals and clears; the model is a list in order of use."""

    @initialize(maxsize=st.integers(1, 9), weighs=st.booleans())
    def start(self, maxsize: int, weighs: bool) -> None:
        self.memory = LRU(maxsize, weigh=(lambda value: value) if weighs else None)
        self.maxsize, self.weighs = maxsize, weighs
        self.model: list[tuple[str, int]] = []  # least recently used first
        self.uses = 0

    def _weight(self) -> int:
        return sum(value if self.weighs else 1 for _, value in self.model)

    @rule(key=KEYS, value=st.integers(1, 11))
    def put(self, key: str, value: int) -> None:
        """A value goes last; the first ones give way; one too heavy leaves nothing."""
        stored = self.memory.put(make_entry(key, value, 1.0))
        self.model = [pair for pair in self.model if pair[0] != key]
        fits = not self.weighs or value <= self.maxsize
        if fits:
            self.model.append((key, value))
        while self._weight() > self.maxsize:
            self.model.pop(0)
        assert stored == fits

    @rule(key=KEYS)
    def use(self, key: str) -> None:
        """A use makes an entry the last."""
        entry = self.memory.get(key)
        pair = next((pair for pair in self.model if pair[0] == key), None)
        assert (entry is None) == (pair is None)
        if entry is not None and pair is not None:
            assert entry.value == pair[1]
            self.memory.touch(entry)
            self.uses += 1
            self.model.remove(pair)
            self.model.append(pair)

    @rule(key=KEYS)
    def remove(self, key: str) -> None:
        """A removal takes that entry only."""
        removed = self.memory.remove(key)
        assert (removed is not None) == any(pair[0] == key for pair in self.model)
        self.model = [pair for pair in self.model if pair[0] != key]

    @rule()
    def clear(self) -> None:
        """A clear takes all."""
        self.memory.clear()
        self.model = []

    @invariant()
    def same_as_the_model(self) -> None:
        """Contents, weight, and hits are the model's."""
        if hasattr(self, "memory"):
            assert set(self.memory) == {key for key, _ in self.model}
            assert self.memory.weight == self._weight() <= self.maxsize
            assert self.memory.hits == self.uses


TestL1 = L1Machine.TestCase
TestL1.settings = settings(max_examples=part_of(60), stateful_step_count=60, deadline=None)
