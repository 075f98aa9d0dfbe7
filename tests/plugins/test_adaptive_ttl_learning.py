"""What AdaptiveTTL learns, apart from any cache: rates of change, and where loads are spent."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache import Load, Previous
from tiercache_plugins._budget import Budget
from tiercache_plugins._change_rate import Known, guess, learn, stale_share
from tiercache_plugins.adaptive_ttl import AdaptiveTTL, _reason, _State

positive = st.floats(1e-3, 1e6)
known = st.builds(Known, st.floats(0.2, 200), positive)


@given(known, positive)
def test_unchanged_lowers_the_rate_and_a_change_raises_it(known: Known, age: float) -> None:
    """For all that may be known, and any age: against what is left of it once it has faded."""
    faded = Known(max(0.2, known.changes * 0.98), known.seconds * 0.98).rate
    assert learn(known, age, changed=False).rate < faded
    assert learn(known, age, changed=True).rate >= faded * (1 - 1e-9)


@given(known, st.lists(st.tuples(positive, st.booleans()), max_size=60))
def test_what_is_known_stays_finite(known: Known, loads: list[tuple[float, bool]]) -> None:
    """No sequence of loads leads out of the numbers that can be kept."""
    for age, changed in loads:
        known = learn(known, age, changed=changed)
        assert math.isfinite(known.rate) and known.changes > 0 and known.seconds > 0


@pytest.mark.parametrize("age", [0.01, 1.0, 7.0, 300.0])
@pytest.mark.parametrize(("shape", "seconds"), [(0.5, 10.0), (3.0, 4.0), (40.0, 100.0)])
def test_a_change_is_learned_as_bayes_says(shape: float, seconds: float, age: float) -> None:
    """Mean and variance after it are those of prior times likelihood, integrated by steps."""
    faded = (shape * 0.98, seconds * 0.98)
    total = first = second = 0.0
    for step in range(1, 200_000):
        rate = math.exp(-18 + step * 1.5e-4)  # on a logarithmic scale: d rate = rate d log
        density = rate ** faded[0] * math.exp(-faded[1] * rate) * -math.expm1(-rate * age)
        total += density
        first += density * rate
        second += density * rate * rate
    mean, square = first / total, second / total
    learned = learn(Known(shape, seconds), age, changed=True)
    assert learned.rate == pytest.approx(mean, rel=1e-3)
    assert learned.changes / learned.seconds**2 == pytest.approx(square - mean**2, rel=1e-2)


@pytest.mark.parametrize("interval", [3.0, 60.0, 86_400.0])
@pytest.mark.parametrize("part", [0.1, 0.5, 1.5])
def test_a_steady_rate_is_found(interval: float, part: float) -> None:
    """A value that changes at random, loaded at ages around a part of its interval."""
    draw, known, rates = random.Random(7), guess(interval * 30), []
    for number in range(3000):
        age = interval * part * draw.uniform(0.5, 1.5)
        changed = draw.expovariate(1 / interval) < age
        known = learn(known, age, changed=changed)
        if number > 200:
            rates.append(known.rate)
    assert sum(rates) / len(rates) == pytest.approx(1 / interval, rel=0.15)


def test_a_value_that_begins_to_change_is_followed() -> None:
    """After a thousand quiet hours, ten changed loads are enough to expect one an hour again."""
    known = guess(3600)
    for _ in range(1000):
        known = learn(known, 3600, changed=False)
    quiet = known.rate
    for _ in range(10):
        known = learn(known, 3600, changed=True)
    assert quiet < 1 / 200_000 and known.rate > 1 / 24_000


@pytest.mark.parametrize(("changes", "share"), [(0.0, 0.5), (1e-6, 0.5), (0.2, 0.5166), (1e4, 1.0)])
def test_how_long_a_changed_value_was_stale(changes: float, share: float) -> None:
    """Half of the period for a rare change, all of it where changes are many."""
    assert stale_share(changes) == pytest.approx(share, abs=1e-3)


def test_stale_share_is_that_of_simulated_changes() -> None:
    """The first of many changes is early: counted by drawing it."""
    draw = random.Random(3)
    firsts = [first for _ in range(200_000) if (first := draw.expovariate(2.5)) < 1]
    simulated = sum(1 - first for first in firsts) / len(firsts)
    assert stale_share(2.5) == pytest.approx(simulated, abs=0.005)


@pytest.mark.parametrize("hot", [0.001, 0.1, 50.0])
@pytest.mark.parametrize("rate", [1e-5, 1e-2])
def test_the_ttl_costs_least(hot: float, rate: float) -> None:
    """Ten per cent more or less of it costs more, for the worth that the budget has come to."""
    budget = Budget(0.05)
    for _ in range(50):  # others have been seen
        budget.spend(age=100.0, hits=9, changed=False, hot=0.1, rate=1e-3)
    ttl = budget.spend(age=100.0, hits=int(hot * 100), changed=False, hot=hot, rate=rate)
    gap = 1 / hot
    worth = hot * rate / 2 * ((ttl + gap) ** 2 - gap**2)  # from the formula, solved for it

    def cost(ttl: float) -> float:
        return (1 + hot * rate * ttl**2 / (2 * worth)) / (ttl + gap)

    assert cost(ttl) < min(cost(ttl * 1.1), cost(ttl / 1.1))


def test_hotter_and_quicker_values_live_shorter_by_the_square_root() -> None:
    """Four times as often asked for, or changed: half the TTL, where gaps do not matter."""
    budget = Budget(0.05)
    for _ in range(100):
        budget.spend(age=1.0, hits=999, changed=False, hot=1000.0, rate=1e-3)
    period: dict[str, Any] = {"age": 1e-6, "hits": 0, "changed": False}  # weighs nothing
    one = budget.spend(**period, hot=1000.0, rate=1e-3)
    assert budget.spend(**period, hot=4000.0, rate=1e-3) == pytest.approx(one / 2, rel=0.05)
    assert budget.spend(**period, hot=1000.0, rate=4e-3) == pytest.approx(one / 2, rel=0.05)


@pytest.mark.parametrize("allowed", [0.02, 0.05, 0.1])
def test_the_budget_is_kept(allowed: float) -> None:
    """Thirty hot values that change at random: about as many answers are stale as are allowed."""
    plugin = AdaptiveTTL("1s", "10d", staleness=allowed)
    stale = answers = 0.0
    held: dict[int, tuple[float, float, Any]] = {}
    draw = random.Random(5)
    intervals = [10 ** draw.uniform(2.5, 4.5) for _ in range(30)]
    rates = [10 ** draw.uniform(-1.5, 0.5) for _ in range(30)]
    for number in range(400):
        for key in range(30):
            age, state, value = held.get(key, (0.0, None, 0))
            hits = int(age * rates[key])
            first = draw.expovariate(1 / intervals[key])
            changed = first < age
            if number > 150:
                answers += hits + 1
                stale += hits * max(0.0, 1 - first / age) if changed else 0.0
            previous = Previous(value, age, None, hits, state) if age else None
            value += changed
            load = Load(str(key), "f", value, previous=previous)
            ttl = plugin.ttl(load)
            assert ttl is not None
            held[key] = (ttl + 1 / rates[key], load.state, value)
    assert allowed * 0.6 < stale / answers < allowed * 1.3
    assert plugin.measures()["adaptive_ttl.stale_share"] == pytest.approx(allowed, rel=0.5)


def state_of(**changed: Any) -> _State:
    fields = {"digest": 7, "known": Known(1.5, 180.0), "requests": 28.0, "seconds": 120.0}
    return _State(**(fields | {"ttl": 30.0, "history": 0b1_0000100101} | changed))  # type: ignore[arg-type]


def test_a_state_survives_json_and_says_why() -> None:
    """What is kept with a value is plain, and explains itself."""
    state = _State.restore(json.loads(json.dumps(state_of().dump())))
    assert state == state_of()
    assert state is not None
    assert _reason(state) == ("changed 3 of the last 10 loads; every 2 min or so; 14 requests/min")


@pytest.mark.parametrize(
    "state",
    [
        None,
        7,
        "abc",
        [],
        {},
        {"d": 1},
        state_of().dump() | {"c": "x"},
        state_of().dump() | {"c": 0},
        state_of().dump() | {"s": -1.0},
        state_of().dump() | {"t": math.nan},
        state_of().dump() | {"n": math.inf},
        state_of().dump() | {"n": -1.0},
        state_of().dump() | {"h": 0},
        state_of().dump() | {"h": 1 << 20},
        state_of().dump() | {"d": math.inf},
    ],
)
def test_a_foreign_state_is_none(state: Any) -> None:
    """Another plugin's, or a broken one: the key begins anew, and nothing fails."""
    assert _State.restore(state) is None
    load = Load("k", "f", 1, previous=Previous(1, 10.0, 10.0, 3, state))
    assert AdaptiveTTL(5, 50).ttl(load) == 5


def test_a_state_is_bounded() -> None:
    """A thousand loads are remembered in as many bits as ten."""
    plugin, load = AdaptiveTTL(5, 50), Load("k", "f", -1)
    for number in range(1000):
        plugin.ttl(load)
        load = Load("k", "f", number % 3, previous=Previous(None, 10.0, 10.0, 3, load.state))
    plugin.ttl(load)
    assert load.state["h"] < 1 << 11 and len(json.dumps(load.state)) < 200
    assert load.reason.startswith("changed 10 of the last 10 loads; ")
