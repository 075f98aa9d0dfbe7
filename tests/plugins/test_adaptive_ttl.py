"""AdaptiveTTL in a cache: what it makes of loads, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import Cache, ConfigurationError, Load, Plugin, Previous, current_load
from tiercache.testing import DictStore, FakeClock
from tiercache_plugins import AdaptiveTTL


class Seen(Plugin):
    """Notes each load, after the plugin before it has chosen its TTL."""

    def __init__(self) -> None:
        self.loads: list[Load] = []

    def ttl(self, load: Load) -> None:
        self.loads.append(load)

    @property
    def ttls(self) -> list[float | None]:
        return [load.ttl for load in self.loads]


class Source:
    """A value that changes when told, behind a cached function."""

    def __init__(self, kind: Kind, clock: FakeClock, cache: Cache, **options: Any) -> None:
        self.kind, self.clock = kind, clock
        self.value: Any = 0
        self.read = cache.cached("it:{key}", **options)(kind.function(self._load))

    def _load(self, key: int = 1) -> Any:
        return self.value

    def ask(self, *, hits: int = 0) -> None:
        for _ in range(hits + 1):
            assert self.kind.call(self.read, 1) == self.value

    def expire(self, ttl: float | None) -> None:
        assert ttl is not None
        self.clock.advance(ttl + 0.01)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def source(kind: Kind, clock: FakeClock, make_cache: Callable[..., Cache], seen: Seen) -> Source:
    cache = make_cache(ttl=30, plugins=[AdaptiveTTL(10, 1000), seen])
    return Source(kind, clock, cache)


@pytest.mark.parametrize("hits", [0, 1, 20])
def test_unchanged_grows(source: Source, seen: Seen, hits: int) -> None:
    """Each load that finds the same value is followed by a longer TTL, up to max, hot or not."""
    source.ask(hits=hits)
    for _ in range(60):
        source.expire(seen.ttls[-1])
        source.ask(hits=hits)
    assert seen.ttls[0] == 30 and seen.ttls[-1] == 1000
    below = [ttl for ttl in seen.ttls if ttl is not None and ttl < 1000]
    assert below == sorted(set(below)) and len(seen.ttls) == 61


def test_changed_shrinks(source: Source, seen: Seen) -> None:
    """Each load that finds another value is followed by a shorter TTL, down to min."""
    source.ask(hits=3)
    for number in range(20):
        source.expire(seen.ttls[-1])
        source.value = number + 1
        source.ask(hits=3)
    assert seen.ttls[0] == 30 and seen.ttls[-1] == 10
    above = [ttl for ttl in seen.ttls if ttl is not None and ttl > 10]
    assert above == sorted(set(above), reverse=True) and len(seen.ttls) == 21


def test_a_change_after_growth_shrinks(source: Source, seen: Seen) -> None:
    """What has grown comes down again with the first change."""
    for _ in range(10):
        source.ask(hits=5)
        source.expire(seen.ttls[-1])
    source.value = "other"
    source.ask()
    grown, after = seen.ttls[-2], seen.ttls[-1]
    assert grown is not None and after is not None and after < grown / 2


def test_it_says_why(source: Source, seen: Seen) -> None:
    """The reason names changes, interval and requests, as they were."""
    source.ask(hits=9)
    assert seen.loads[0].reason == "new: nothing is known of its changes yet"
    source.expire(30)
    source.ask(hits=9)
    source.expire(seen.ttls[-1])
    source.value = 5
    source.ask()
    assert seen.loads[-1].reason.startswith("changed 1 of the last 2 loads; every ")
    assert seen.loads[-1].reason.endswith(" requests/min")
    explanation = source.kind.call(source.read.explain, 1)
    assert explanation.why == seen.loads[-1].reason and explanation.ttl == seen.ttls[-1]


def test_a_loaders_own_ttl_stands(
    kind: Kind, clock: FakeClock, make_cache: Callable[..., Cache], seen: Seen
) -> None:
    """What the loader chooses is not overridden, and its changes are learned all the same."""
    cache = make_cache(ttl=30, plugins=[AdaptiveTTL(10, 1000), seen])
    calls = []

    def load() -> int:
        if len(calls) < 3:
            current_load().ttl = 5
        calls.append(clock())
        return 1

    read = cache.cached("own")(kind.function(load))
    for _ in range(4):
        kind.call(read)
        clock.advance(5.01)
    assert seen.ttls[:3] == [5, 5, 5]
    assert seen.loads[3].state["h"] == 0b1000 and seen.ttls[3] > 10


def test_a_value_that_is_set_keeps_its_ttl(
    kind: Kind, clock: FakeClock, cache_with: Callable[..., Cache], seen: Seen
) -> None:
    """``set(ttl=)`` is obeyed, and the next load is compared with what was set."""
    cache = cache_with()
    kind.do(cache, "set", "it:1", 0, ttl=3)
    clock.advance(3.01)
    source = Source(kind, clock, cache)
    source.ask()
    assert len(seen.loads) == 2 and seen.loads[1].state["h"] == 0b10


@pytest.fixture
def cache_with(make_cache: Callable[..., Cache], seen: Seen) -> Callable[..., Cache]:
    def make(**options: Any) -> Cache:
        return make_cache(ttl=30, plugins=[AdaptiveTTL(10, 1000, **options), seen])

    return make


def test_nothing_there_is_for_negative_ttl_to_say(
    kind: Kind, clock: FakeClock, cache_with: Callable[..., Cache], seen: Seen
) -> None:
    """None keeps the TTL that is configured for it."""
    source = Source(kind, clock, cache_with(), negative_ttl=2)
    source.value = None
    for _ in range(3):
        source.ask()
        clock.advance(2.01)
    assert seen.ttls == [2, 2, 2]


def test_same_decides(
    kind: Kind, clock: FakeClock, cache_with: Callable[..., Cache], seen: Seen
) -> None:
    """``same=`` may overlook what does not matter, and sees the old value and the new."""
    pairs = []

    def same(old: Any, new: Any) -> bool:
        pairs.append((old, new))
        return bool(old["price"] == new["price"])

    source = Source(kind, clock, cache_with(same=same))
    source.value = {"price": 1, "seen_at": 1}
    source.ask()
    source.expire(30)
    source.value = {"price": 1, "seen_at": 2}
    source.ask()
    source.expire(seen.ttls[-1])
    source.value = {"price": 9, "seen_at": 2}
    source.ask()
    assert [load.state["h"] for load in seen.loads] == [0b1, 0b10, 0b101]
    assert pairs[0] == ({"price": 1, "seen_at": 1}, {"price": 1, "seen_at": 2})


def test_not_modified_is_unchanged(
    kind: Kind, clock: FakeClock, cache_with: Callable[..., Cache], seen: Seen
) -> None:
    """A loader that asks "has it changed?" and hears no need not bring the value."""
    cache, calls = cache_with(same=lambda old, new: False), []

    def load() -> Any:
        calls.append(1)
        return "value" if len(calls) == 1 else current_load().not_modified()

    read = cache.cached("page")(kind.function(load))
    assert kind.call(read) == "value"
    clock.advance(30.01)
    assert kind.call(read) == "value"
    assert seen.loads[1].state["h"] == 0b10


class Opaque:
    """Has no bytes, and is like no other."""


@pytest.mark.filterwarnings("ignore::tiercache.UncacheableValueWarning")
@pytest.mark.parametrize(
    ("old", "new", "history"),
    [
        ([1, 2], [1, 2], 0b10),
        ([1, 2], [2, 1], 0b11),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 0b10),
        ({8, 16, 0}, {0, 16, 8}, 0b10),
        (1, True, 0b11),
        (1, 1.0, 0b11),
        ("1", 1, 0b11),
        (Opaque(), Opaque(), 0b11),
        (float("nan"), float("nan"), 0b10),
    ],
)
def test_what_is_compared(old: Any, new: Any, history: int) -> None:
    """Bytes, then equality: equal in another order is unchanged; another type is a change."""
    plugin = AdaptiveTTL(10, 1000)
    first = Load("k", "f", old)
    plugin.ttl(first)
    again = Load("k", "f", new, previous=Previous(old, 10.0, 10.0, 1, first.state))
    plugin.ttl(again)
    assert again.state["h"] == history


def test_a_value_changed_in_place_is_changed() -> None:
    """The old object is the new one; the digest of its bytes is not."""
    plugin, value = AdaptiveTTL(10, 1000), [1]
    first = Load("k", "f", value)
    plugin.ttl(first)
    value.append(2)
    again = Load("k", "f", value, previous=Previous(value, 10.0, 10.0, 1, first.state))
    plugin.ttl(again)
    assert again.state["h"] == 0b11


def test_what_cannot_be_compared_teaches_nothing() -> None:
    """One object without bytes, loaded twice: it may or may not have changed."""
    plugin, value = AdaptiveTTL(10, 1000), Opaque()
    first = Load("k", "f", value)
    plugin.ttl(first)
    again = Load("k", "f", value, previous=Previous(value, 10.0, 10.0, 1, first.state))
    assert plugin.ttl(again) == 10 and again.state["h"] == 0b1


def test_what_was_learned_goes_through_l2(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """A second process continues with what the first has learned of a key."""
    store, histories = DictStore(clock=clock), []
    for _ in range(3):
        seen = Seen()
        cache = make_cache(l2=store, ttl=30, plugins=[AdaptiveTTL(10, 1000), seen])
        source = Source(kind, clock, cache)
        source.ask()
        source.expire(seen.ttls[-1])
        histories.append(seen.loads[-1].state["h"])
        kind.do(cache, "close")
    assert histories == [0b1, 0b10, 0b100]


def test_only_one_may_choose(make_cache: Callable[..., Cache]) -> None:
    """Two of them in one cache would undo one another."""
    with pytest.raises(ConfigurationError, match="both claim to be the cache's 'adaptive ttl'"):
        make_cache(plugins=[AdaptiveTTL(1, 2), AdaptiveTTL(1, 2)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min": 3, "max": 2}, "min must not be above max, got 3 and 2"),
        ({"min": "1h", "max": "1m"}, "min must not be above max, got '1h' and '1m'"),
        ({"min": 0, "max": 2}, "min must be positive, got 0"),
        ({"min": "soon", "max": 2}, "min is not a duration: 'soon'"),
        ({"min": 1, "max": None}, "max must be a duration, got None"),
        ({"min": 1, "max": True}, "max must be a duration, got True"),
        ({"min": 1, "max": float("inf")}, "max must be finite"),
        ({"min": 1, "max": 2, "staleness": 1}, "staleness must be above 0 and below 1, got 1"),
        ({"min": 1, "max": 2, "staleness": 0.0}, "staleness must be above 0 and below 1"),
        ({"min": 1, "max": 2, "same": 3}, "same must be a function same(old, new), got 3"),
        ({"min": 1, "max": 2, "hot": 3}, "hot must be True or False, got 3"),
        ({"min": 1, "max": 2, "start": -1}, "start must be positive, got -1"),
        ({"min": 1, "max": 2, "remember": -1}, "remember must be positive, got -1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    """Each illegal value is named, with the remedy."""
    with pytest.raises(ConfigurationError) as error:
        AdaptiveTTL(**options)
    assert message in str(error.value) and str(error.value).count("\n") < 2


@pytest.mark.parametrize(("own", "first"), [(30, 30), (5, 10), (5000, 10), (None, 10)])
def test_where_it_starts(
    kind: Kind,
    clock: FakeClock,
    make_cache: Callable[..., Cache],
    seen: Seen,
    own: float | None,
    first: float,
) -> None:
    """At the function's own TTL, if that lies between min and max, else at min."""
    cache = make_cache(ttl=own, plugins=[AdaptiveTTL(10, 1000), seen])
    Source(kind, clock, cache).ask()
    assert seen.ttls == [first]


def test_a_failing_same_leaves_the_ttl(
    kind: Kind, clock: FakeClock, make_cache: Callable[..., Cache], seen: Seen
) -> None:
    """A mistake in ``same=`` is counted, and the read goes on with the function's TTL."""

    def same(old: Any, new: Any) -> bool:
        raise RuntimeError

    cache = make_cache(ttl=30, plugins=[AdaptiveTTL(10, 1000, same=same), seen])
    source = Source(kind, clock, cache)
    source.ask()
    source.expire(30)
    source.ask()
    assert seen.ttls == [30, 30] and cache.stats().plugin_errors == 1
