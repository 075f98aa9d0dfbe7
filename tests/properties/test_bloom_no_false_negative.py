"""No false negative of the Bloom filter: not at any size, not while it is built and added to."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.effort import part_of
from tests.waiting import until
from tiercache import Cache
from tiercache_plugins import BloomGuard
from tiercache_plugins._bloom_members import Build, Members
from tiercache_plugins._bloom_series import Series
from tiercache_plugins._bloom_snapshot import decode, encode

KEYS = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates, too


@settings(deadline=None, max_examples=part_of(60))
@given(
    keys=st.sets(KEYS, max_size=200),
    capacity=st.integers(1, 50),
    rate=st.floats(0.0001, 0.9),
)
def test_a_series(keys: set[str], capacity: int, rate: float) -> None:
    """Every key that was added is in it, and in what is restored from its bytes."""
    series = Series(capacity, rate)
    for key in keys:
        series.add(key)
    again = decode(encode(series, "k", is_complete=True), "k", rate).series
    assert all(key in series and key in again for key in keys)


class Table(RuleBasedStateMachine):
    """Rows that come and go, builds that begin, read and land, and messages that are missed.

    A build reads as a query does: the rows as they were when it began.
    """

    @initialize(first=st.sets(st.integers(0, 6), max_size=3))
    def begin(self, first: set[int]) -> None:
        self.rows = set(first)
        self.members = Members()
        self.build: Build | None = None
        self.snapshot: set[int] = set()

    def _keys(self, rows: set[int]) -> list[str]:
        return [f"k:{row}" for row in rows]

    @rule(row=st.integers(0, 6))
    def create(self, row: int) -> None:
        self.rows.add(row)
        self.members.add(self._keys({row}))

    @rule(row=st.integers(0, 6))
    def create_unheard(self, row: int) -> None:
        """Another process creates a row, and its message is lost, which is noticed."""
        self.rows.add(row)
        self.members.forget()

    @rule(row=st.integers(0, 6))
    def delete(self, row: int) -> None:
        self.rows.discard(row)

    @rule()
    def begin_build(self) -> None:
        self.build = self.members.begin(self.members.era)
        self.snapshot = set(self.rows)

    @rule()
    def read(self) -> None:
        if self.build is not None and self.build.series is None:
            self.build.use(Series(4, 0.001))
            for key in self._keys(self.snapshot):
                self.build.series.add(key)

    @rule()
    def land(self) -> None:
        if self.build is not None and self.build.series is not None:
            self.members.land(self.build)
            self.build = None

    @invariant()
    def rules_out_nothing_that_is_there(self) -> None:
        live = self.members.live if hasattr(self, "members") else None
        assert live is None or all(key in live for key in self._keys(self.rows))


Table.TestCase.settings = settings(deadline=None, max_examples=part_of(150), stateful_step_count=30)
TestTable = Table.TestCase


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads that are switched as often as it goes."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_under_concurrent_adds_and_rebuilds(switching: None) -> None:
    """What was created is never ruled out, whatever is rebuilt and grown meanwhile."""
    rows: list[int] = []  # what the ids are read from
    created: list[int] = []  # those whose writer has returned
    numbers = itertools.count()
    wrong: list[int] = []
    is_over = threading.Event()
    guard = BloomGuard(lambda: list(rows), key="k:{x}", capacity=50, rebuild_every="1ms")
    with Cache("no-false-negative", plugins=[guard], l1=None) as cache:
        assert guard.wait_until_ready(10)

        def create_and_look() -> None:
            while not is_over.is_set():
                number = next(numbers)
                rows.append(number)
                cache.delete(f"k:{number}")
                created.append(number)
                some = created[:: max(1, len(created) // 20)]
                wrong.extend(x for x in (number, *some) if not guard.admits(f"k:{x}"))

        threads = [threading.Thread(target=create_and_look) for _ in range(4)]
        builds = guard.stats().builds
        began = time.monotonic()
        for thread in threads:
            thread.start()
        until(lambda: guard.stats().builds > builds + 20 and time.monotonic() > began + 0.5, 30)
        is_over.set()
        for thread in threads:
            thread.join()
        assert guard.stats().adds > 100
        assert not guard.contains(-1)  # it does rule something out
    assert wrong == []
