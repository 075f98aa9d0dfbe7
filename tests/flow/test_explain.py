"""What stands under a key, told to people."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kinds import Kind
from tiercache import Cache, Freshness, Load, Plugin
from tiercache.testing import DictStore, FakeClock


class Short(Plugin):
    """Gives every value five seconds, and says why."""

    def ttl(self, load: Load) -> float | None:
        load.reason = "it changes often"
        return 5.0


def test_in_no_tier(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Of what no tier has there is nothing to say."""
    cache = make_cache(l2=DictStore())
    f = cache.cached("k:{x}")(kind.function(lambda x: x))
    said = kind.call(f.explain, 1)
    assert (said.tier, str(said)) == ("", "k:1: in no tier")


def test_in_l1_and_l2(kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock) -> None:
    """The TTL and its reason, the age, and what is left of it, in the tier that has it first."""
    store = DictStore(clock=clock)
    options = {"l2": store, "plugins": [Short()], "stale_if_error": 60}
    one, two = make_cache(**options), make_cache(**options | {"plugins": [Short()]})
    f, g = (c.cached("k:{x}", tags=["t"])(kind.function(lambda x: x)) for c in (one, two))
    kind.call(f, 1)
    clock.advance(2)
    for function, tier in ((f, "L1"), (g, "L2")):
        said = kind.call(function.explain, 1)
        assert (said.tier, said.freshness, said.why) == (tier, Freshness.FRESH, "it changes often")
        assert (said.ttl, said.age, said.fresh_for) == (5, pytest.approx(2), pytest.approx(3))
        assert said.kept_for == pytest.approx(63)
        assert said.tags == ("t",)
        assert "of 5 s (it changes often)" in str(said)
    clock.advance(4)
    assert kind.call(f.explain, 1).freshness is Freshness.STALE
    assert two.stats().hits == two.stats().misses == 0


def test_of_a_plain_value(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """Where nothing is kept of how a value came about, what is left of it is told."""
    kind.do(cache, "set", "k", 1, ttl=10)
    clock.advance(4)
    said = kind.do(cache, "explain", "k")
    assert (said.tier, said.fresh_for, said.ttl, said.age) == ("L1", pytest.approx(6), None, None)
