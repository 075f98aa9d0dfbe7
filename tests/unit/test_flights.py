"""Flights: who boards, what detaches them, and what may still fill L1 afterwards. No cache here."""

from __future__ import annotations

import random

import pytest

from tiercache import singleflight as singleflight_module
from tiercache.entry import TaggedEntry
from tiercache.singleflight import Deck, Flight, Flights


@pytest.fixture
def flights():
    return Flights()


def board(flights, key="k", deck=Deck.BLOCKING):
    return flights.board(key, deck, 60)


def ignore(key, alone):
    """Bring nothing in line."""


def entry(flights, *tags):
    """Return an entry that is born now."""
    return TaggedEntry("k", "value", 1.0, tags, flights.era)


CHANGES = {
    "a write": lambda flights: (flights.fence(["k"]), flights.unfence(["k"], ignore)),
    "a clear": lambda flights: (flights.fence_all(), flights.unfence_all(lambda: None)),
    "another's write": lambda flights: flights.hear(["k"]),
    "anything": lambda flights: flights.hear_all(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_detaches(flights, change):
    """Flights of either deck serve who boarded, fill nothing, and are joined no more."""
    early = [board(flights, deck=deck)[0] for deck in Deck]
    era = flights.era
    assert flights.lasts(era, "k")
    CHANGES[change](flights)
    assert not any(flights.is_current(flight) for flight in early)
    assert not flights.lasts(era, "k")
    assert flights.lasts(flights.era, "k")
    for deck in Deck:
        late, leads = board(flights, deck=deck)
        assert leads
        assert flights.is_current(late)
    for flight in early:
        flights.land(flight, "old")
        assert flight.result() == "old"
    assert len(flights) == 2


@pytest.mark.parametrize("change", ["a write", "another's write"])
def test_a_change_of_one_key_leaves_the_others(flights, change):
    """Their flights are current, and what was read of them may be kept."""
    other, _ = board(flights, "other")
    era = flights.era
    CHANGES[change](flights)
    assert flights.is_current(other)
    assert flights.lasts(era, "other")


def test_while_a_key_is_written_nothing_fills_it(flights):
    """Neither a flight that begins meanwhile, nor a read."""
    flights.fence(["k"])
    flight, _ = board(flights)
    era = flights.era
    assert not flights.is_current(flight)
    assert not flights.lasts(era, "k")
    flights.unfence(["k"], ignore)
    assert not flights.is_current(flight)
    assert not flights.lasts(era, "k")


def test_overlapping_writes_are_told(flights):
    """Each of two is; one alone is not; and what other processes write counts as well."""
    told = []

    def settle(key, alone):
        told.append(alone)

    flights.fence(["k"])
    flights.unfence(["k"], settle)
    flights.fence(["k"])
    flights.fence(["k"])
    flights.unfence(["k"], settle)
    flights.unfence(["k"], settle)
    for hear in (lambda: flights.hear(["k"]), flights.hear_all):
        flights.fence(["k"])
        hear()
        flights.unfence(["k"], settle)
    flights.hear(["k"])
    flights.fence(["k"])
    flights.unfence(["k"], settle)
    assert told == [True, False, False, False, False, True]
    assert not flights.fences
    assert not flights._overlaps


def test_tags_outdate_what_was_born_before(flights):
    """An entry with one of them is outdated; one born later, or without it, is not."""
    early = entry(flights, "a", "b")
    without = entry(flights, "c")
    assert not flights.is_outdated(early)
    flights.outdate(["b"])
    assert flights.is_outdated(early)
    assert not flights.is_outdated(without)
    late = entry(flights, "a", "b")
    assert not flights.is_outdated(late)
    flights.outdate(["x", "a"])
    assert flights.is_outdated(late)


def test_tags_detach_the_flights_that_may_carry_them(flights):
    """Those whose tags are not known yet may carry any."""
    carrying, other, unknown = (board(flights, key)[0] for key in "abc")
    carrying.tags, other.tags = ("t", "u"), ("v",)
    era = flights.era
    flights.outdate(["t"])
    assert [flights.is_current(flight) for flight in (carrying, other, unknown)] == [
        False,
        True,
        False,
    ]
    assert not flights.lasts(era, "a")  # a read without a flight knows no tags either


def fly_without_the_lock(flights, key):
    """Begin a flight as the short ways do; return the one that has the key then."""
    flight = Flight(key, Deck.BLOCKING, 60)
    return flights.decks[Deck.BLOCKING].setdefault(key, flight)


class Overtaken(Flight):
    """While it is looked at, another thread begins flights, which takes no lock."""

    def __init__(self, flights, key):
        super().__init__(key, Deck.BLOCKING, 60)
        self._flights = flights

    @property
    def tags(self):
        for number in range(100):
            fly_without_the_lock(self._flights, f"{self.key}-{number}")
        return ("t",)


def test_flights_begin_while_tags_are_invalidated(flights):
    """What has begun by then is detached, what begins meanwhile is not; nothing is raised."""
    for key in "ab":
        flights.decks[Deck.BLOCKING][key] = Overtaken(flights, key)
    flights.outdate(["t"])
    assert not {"a", "b"} & {flight.key for flight in flights.under_way()}
    assert len(flights) == 200


@pytest.mark.parametrize("replaces", [False, True])
def test_a_flight_begins_without_the_lock_while_another_boards(flights, monkeypatch, replaces):
    """There is one leader: who has it boarded joins it, unless he is to replace it."""
    overtaking = []

    def now():
        if not overtaking:
            overtaking.append(None)
            overtaking.append(fly_without_the_lock(flights, "k"))
        return 0.0

    monkeypatch.setattr(singleflight_module, "monotonic", now)
    if replaces:
        flight = flights.replace("k", Deck.BLOCKING, 60)
        assert not flights.is_current(overtaking[1])
    else:
        flight, leads = board(flights)
        assert (flight, leads) == (overtaking[1], False)
        assert flight.passengers == 2
    assert flights.is_current(flight)


def test_few_changes_are_remembered(monkeypatch):
    """Past the bound more is taken for changed than was; never less."""
    monkeypatch.setattr(singleflight_module, "CHANGED_KEYS", 8)
    monkeypatch.setattr(singleflight_module, "TAGS", 8)
    flights, rng = Flights(), random.Random(2)
    eras, changed, invalidated = [flights.era], {}, {}
    for _ in range(300):
        name = str(rng.randrange(30))
        if rng.random() < 0.5:
            flights.hear([name])
            changed[name] = flights.era
        else:
            flights.outdate([name])
            invalidated[name] = flights.era
        eras.append(flights.era)
        assert len(flights._changed._eras) <= 8
        assert len(flights._tags._eras) <= 8
        for name in map(str, range(30)):
            era = rng.choice(eras)
            if flights.lasts(era, name):
                assert changed.get(name, 0) <= era
            if not flights.is_outdated(TaggedEntry("k", 1, 1.0, (name,), era)):
                assert invalidated.get(name, 0) <= era
        assert flights.lasts(flights.era, "0")
        assert not flights.is_outdated(entry(flights, "0"))


def test_the_last_one_to_leave_ends_it(flights):
    """It is cancelled once, and its key is free."""
    cancelled = []
    flight, _ = board(flights)
    board(flights)
    flight.cancel = lambda: cancelled.append(1)
    flights.leave(flight)
    assert (cancelled, flights.is_current(flight)) == ([], True)
    flights.leave(flight)
    assert (cancelled, flights.is_current(flight)) == ([1], False)


def test_landing_twice(flights):
    """What comes first counts, and wakes each waiter once."""
    woken = []
    flight, _ = board(flights)
    assert flights.on_landing(flight, lambda: woken.append(1))
    flights.land(flight, "first")
    flights.land(flight, "second")
    flights.fail(flight, KeyError())
    assert flight.result() == "first"
    assert woken == [1]
    assert not flights.on_landing(flight, lambda: woken.append(2))
