"""No order of events breaks a promise of coherence: random histories of a world of three processes.

The world, what may happen in it, and the model it is checked against are in coherence_world.py; how
histories are made and cut down, in histories.py. A failure names its seed, and tells the shortest
history found that breaks the same promise. To look longer: ``COHERENCE_SECONDS=600 pytest -s
tests/properties/test_coherence_machine.py -k seeded``.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.effort import part_of
from tests.properties.coherence_line import TROUBLES
from tests.properties.coherence_model import PREFIXES, ROWS, TAGS, WRITTEN, Violation
from tests.properties.coherence_world import World
from tests.properties.histories import PROFILES, READS, Move, Profile, play, tell
from tiercache.claims import Claims
from tiercache.coherence.bus import Bus
from tiercache.coherence.debts import Debts
from tiercache.entry import Entry
from tiercache.hearing import Hearing
from tiercache.lookup import Lookup
from tiercache.singleflight import Flights
from tiercache.spec import MISS
from tiercache.testing.dict_store import DictNamespace
from tiercache.tiers.store import Kind
from tiercache.waits import Waits

SECONDS = float(os.environ.get("COHERENCE_SECONDS", part_of(10)))
LEAST = 20  # histories of each profile, however slow the machine is


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep a thousand outages out of the log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_seeded_histories(profile: Profile) -> None:
    """Histories from seeds keep every promise; what the profile is about has come about."""
    deadline = time.monotonic() + SECONDS / len(PROFILES)
    counts: Counter[str] = Counter()
    seed = int(os.environ.get("COHERENCE_SEED", "0"))
    while time.monotonic() < deadline or counts["histories"] < LEAST:
        try:
            counts += play(seed, profile).counts
        except Violation as violation:
            pytest.fail(f"seed {seed}: {tell(violation, profile)}")
        counts["histories"] += 1
        seed += 1
    print(f"\n{profile.name}: {dict(sorted(counts.items()))}")  # noqa: T201 - with -s
    assert counts["values checked"] > counts["histories"]
    assert counts["loads"]


class CoherenceMachine(RuleBasedStateMachine):
    """The same world, driven by Hypothesis, which looks for trouble in ways of its own."""

    world: World | None = None

    @initialize(log_length=st.sampled_from((2, 1000)), late=st.booleans(), forgetful=st.booleans())
    def start(self, log_length: int, late: bool, forgetful: bool) -> None:
        """Make a world."""
        self.world = World(log_length=log_length, sends_late=late, is_forgetful=forgetful)

    @rule(process=st.integers(0, 2), how=st.sampled_from(READS), row=st.sampled_from(ROWS))
    def read(self, process: int, how: str, row: str) -> None:
        """Have a caller read."""
        self.world.read(process, how, row)

    @rule(
        process=st.integers(0, 2),
        how=st.sampled_from(("delete", "expire", "refresh")),
        row=st.sampled_from(ROWS),
        bumps=st.booleans(),
    )
    def update(self, process: int, how: str, row: str, bumps: bool) -> None:
        """Have a caller invalidate a row."""
        self.world.update(process, how, row, bumps)

    @rule(process=st.integers(0, 2), row=st.sampled_from(sorted(WRITTEN)))
    def write(self, process: int, row: str) -> None:
        """Have a caller write a row to the database and to the cache."""
        self.world.update(process, "set", row, True)

    @rule(process=st.integers(0, 2), tags=st.sampled_from(TAGS), bumps=st.booleans())
    def invalidate_tags(self, process: int, tags: tuple[str, ...], bumps: bool) -> None:
        """Have a caller invalidate tags."""
        self.world.update(process, "tags", " ".join(tags), bumps)

    @rule(process=st.integers(0, 2), prefix=st.sampled_from(PREFIXES), bumps=st.booleans())
    def clear(self, process: int, prefix: str, bumps: bool) -> None:
        """Have a caller clear a prefix, or everything."""
        self.world.update(process, "clear", prefix, bumps)

    @rule(
        process=st.integers(0, 2),
        how=st.sampled_from(("delete", "expire", "set")),
        row=st.sampled_from(sorted(WRITTEN)),
        interludes=st.lists(st.integers(0, 400), max_size=10),
    )
    def block(self, process: int, how: str, row: str, interludes: list[int]) -> None:
        """Have a thread invalidate or write a row, while others go on."""
        self.world.block(process, how, row, interludes)

    @precondition(lambda self: self.world is not None and self.world.loop.ready())
    @rule(picks=st.lists(st.integers(0, 30), min_size=1, max_size=12))
    def steps(self, picks: list[int]) -> None:
        """Let some of what is ready take a step each."""
        for pick in picks:
            self.world.step(pick)

    @rule(process=st.integers(0, 2), most=st.integers(1, 3))
    def deliver(self, process: int, most: int) -> None:
        """Let messages arrive."""
        self.world.deliver(process, most)

    @rule(pick=st.integers(0, 30))
    def cancel(self, pick: int) -> None:
        """Cancel a caller."""
        self.world.cancel(pick)

    @rule(process=st.integers(0, 2), how=st.sampled_from(("", *TROUBLES)))
    def trouble(self, process: int, how: str) -> None:
        """Begin or end trouble of a line."""
        self.world.trouble(process, how)

    @rule(process=st.integers(0, 2))
    def go_blind(self, process: int) -> None:
        """Have a process hear nothing for too long."""
        self.world.go_blind(process)

    @rule(seconds=st.sampled_from((0.1, 1.0, 3.5)), renewing=st.integers(0, 7))
    def pass_time(self, seconds: float, renewing: int) -> None:
        """Let time pass; who does not renew is frozen."""
        self.world.pass_time(seconds, renewing)

    @rule(count=st.integers(1, 2))
    def fail_loads(self, count: int) -> None:
        """Have loads fail."""
        self.world.fail_loads(count)

    def teardown(self) -> None:
        """Heal everything, and check what must hold at the end."""
        if self.world is not None:
            try:
                self.world.finish()
            finally:
                self.world.close()


TestCoherence = CoherenceMachine.TestCase
TestCoherence.settings = settings(
    max_examples=part_of(100),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


# That the world notices


def be_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are read, and nothing is done about them to L1."""
    for name in ("hear_keys", "hear_tags", "hear_clear"):
        monkeypatch.setattr(Hearing, name, lambda *args: None)


def have_no_fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was read or loaded fills L1."""
    monkeypatch.setattr(Flights, "is_current", lambda self, flight: True)


def have_no_eras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was read without a flight fills L1."""
    monkeypatch.setattr(Flights, "lasts", lambda self, era, key: True)


def ignore_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are not held against the eras of their tags."""
    monkeypatch.setattr(Flights, "is_outdated", lambda self, entry: False)


def take_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads do not ask for the lease."""

    async def bring(*args: Any) -> Any:
        return MISS

    monkeypatch.setattr(Claims, "bring", bring)


def fill_without_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """L2 takes what it is given."""

    def end_lease(self: Any, key: str, nonce: bytes) -> Any:
        held = self._space.leases.pop(key, None)
        return held or type("Held", (), {"has_waiters": False, "is_shared": False})

    monkeypatch.setattr(DictNamespace, "_end_lease", end_lease)


def owe_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What L2 did not take is forgotten."""
    monkeypatch.setattr(Debts, "owe", lambda self, kind, names: None)


def trust_what_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put in L1 while the bus is blind lives on."""

    def schedule(self: Lookup, entry: Entry, *_: object) -> None:
        entry.fresh_until = math.inf

    monkeypatch.setattr(Lookup, "schedule", schedule)


def wake_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """News of a fill reaches nobody who waits for it."""
    monkeypatch.setattr(Waits, "tell", lambda self, names, kind: None)


def end_no_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that brought nothing is left to end by itself."""

    async def give_up(self: Any, port: Any, flights: Any, kind: Kind | None) -> None:
        for flight in flights:
            flight.lease = None
            flight.stop_renewing()

    monkeypatch.setattr(Claims, "give_up", give_up)


def stay_at_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """That messages were missed makes no difference."""
    monkeypatch.setattr(Bus, "gap", lambda self: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutate", "profile"),
    [
        (be_deaf, "calm"),
        (have_no_fences, "looking"),
        (have_no_eras, "looking"),
        (ignore_tags, "calm"),
        (take_no_lease, "only reads"),
        (fill_without_lease, "calm"),
        (owe_nothing, "troubled"),
        (trust_what_is_blind, "troubled and forgetful"),
        (wake_nobody, "only reads"),
        (end_no_lease, "failing"),
        (stay_at_a_gap, "forgetful"),
    ],
)
def test_mutants_are_caught(
    mutate: Callable[[pytest.MonkeyPatch], None], profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine with one part taken out breaks a promise within some hundred histories."""
    mutate(monkeypatch)
    chosen = next(each for each in PROFILES if each.name == profile)
    for seed in range(3000):
        try:
            play(seed, chosen)
        except Violation:
            return
    pytest.fail("nobody noticed")


@pytest.mark.slow
def test_failures_are_cut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that breaks a promise is told by the few moves that it takes."""
    ignore_tags(monkeypatch)
    profile = next(each for each in PROFILES if each.name == "calm")
    text = ""
    for seed in range(3000):
        try:
            play(seed, profile)
        except Violation as violation:
            text = tell(violation, profile)
            break
    moves = [line for line in text.splitlines() if line[:1].islower()]
    assert "had been promised" in text
    assert len(moves) < 40
    assert any(line.startswith(("update", "block")) for line in moves)


def test_histories_can_be_repeated() -> None:
    """One seed makes one history, move for move and count for count."""

    def history(seed: int) -> tuple[list[Move], Counter[str]]:
        moves: list[Move] = []
        world = play(seed, PROFILES[-1], moves)
        return moves, world.counts

    for seed in range(5):
        assert history(seed) == history(seed)
