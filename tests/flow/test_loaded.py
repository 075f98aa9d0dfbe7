"""What a load brings: stored as asked, or not, and errors as they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import Cache, UncacheableValueWarning
from tiercache.testing import DictStore, FakeClock


class NotFound(Exception):
    """A business error."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.extra = [what]


def test_loader_error_passes_unchanged(kind: Kind, cache: Cache) -> None:
    """The caller gets the loader's own exception, and the next call loads again."""
    raised = []

    def load(x: int) -> int:
        raised.append(NotFound("x", x))
        raise raised[-1]

    f = cache.cached(kind.function(load))
    for _ in range(2):
        with pytest.raises(NotFound) as caught:
            kind.call(f, 1)
        assert caught.value is raised[-1]
    assert len(raised) == 2
    assert cache.stats().load_errors == 2
    assert not cache.flow.flights.under_way()


def test_stop_iteration_passes_blocking(cache: Cache) -> None:
    """A blocking loader's StopIteration is not turned into a RuntimeError."""

    @cache.cached
    def f(x: int) -> int:
        return next(iter([]))

    with pytest.raises(StopIteration):
        f(1)


def test_base_exception_frees_the_key(kind: Kind, cache: Cache) -> None:
    """Whatever leaves a loader, the key is free afterwards."""

    class Boom(BaseException):
        pass

    outcomes: list[Any] = [Boom(), 7]

    def load(x: int) -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    f = cache.cached(kind.function(load))
    with pytest.raises(Boom):
        kind.call(f, 1)
    assert kind.call(f, 1) == 7


def test_when_decides(kind: Kind, cache: Cache) -> None:
    """A value that `when` refuses is returned and not stored."""
    loads = []
    f = cache.cached(when=lambda value: value > 2)(
        kind.function(lambda x: loads.append(x) or len(loads))
    )
    assert [kind.call(f, 1) for _ in range(5)] == [1, 2, 3, 3, 3]


def test_ttl_from_the_value(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """`ttl` may be a function of the value; zero or less means: do not keep."""
    loads = []
    f = cache.cached(ttl=lambda value: value)(kind.function(lambda x: loads.append(x) or x))
    kind.call(f, 5)
    kind.call(f, 0)
    kind.call(f, 0)
    clock.advance(4)
    kind.call(f, 5)
    assert loads == [5, 0, 0]
    clock.advance(2)
    kind.call(f, 5)
    assert loads == [5, 0, 0, 5]


def test_negative_ttl(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """A None lives for negative_ttl, other values for ttl."""
    loads = []
    f = cache.cached(ttl=100, negative_ttl=5)(
        kind.function(lambda x: loads.append(x) or (x or None))
    )
    kind.call(f, 0)
    kind.call(f, 1)
    clock.advance(6)
    kind.call(f, 0)
    kind.call(f, 1)
    assert loads == [0, 1, 0]


def test_negative_errors_are_raised_afresh(kind: Kind, cache: Cache, clock: FakeClock) -> None:
    """A remembered error is a copy each time, with its arguments and attributes, until its TTL."""
    loads = []

    def load(x: int) -> int:
        loads.append(x)
        raise NotFound("user", x)

    f = cache.cached(negative_ttl=5, negative_errors=NotFound)(kind.function(load))
    errors = []
    for _ in range(4):
        with pytest.raises(NotFound) as caught:
            kind.call(f, 1)
        errors.append(caught.value)
    assert loads == [1]
    assert len({id(error) for error in errors}) == 4
    assert all(error.args == ("user", 1) and error.extra == ["user"] for error in errors)
    clock.advance(5)
    with pytest.raises(NotFound):
        kind.call(f, 1)
    assert loads == [1, 1]


def test_a_remembered_error_is_no_value(kind: Kind, cache: Cache) -> None:
    """get() and peek() know nothing of a remembered error."""

    def load(x: int) -> int:
        raise NotFound("user", x)

    f = cache.cached("user:{x}", negative_ttl=5, negative_errors=NotFound)(kind.function(load))
    with pytest.raises(NotFound):
        kind.call(f, 1)
    assert kind.do(cache, "get", "user:1", "nothing") == "nothing"
    assert not kind.call(f.peek, 1)


def test_unencodable_value_stays_in_l1(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A value without bytes is returned, kept in L1, counted, and warned about once."""
    store = DictStore()
    cache = make_cache(l2=store)
    loads = []
    f = cache.cached(kind.function(lambda x: loads.append(x) or object()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = kind.call(f, 1)
        kind.call(f, 2)
    assert kind.call(f, 1) is value
    assert loads == [1, 2]
    assert [w.category for w in caught] == [UncacheableValueWarning]
    assert cache.stats().encode_errors == 2
    assert store.namespace("test").read(f.key(1)) is None


def test_tags_are_stored(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Tags, fixed or from the value, stand on the entry and travel through L2."""
    store = DictStore()
    one, two = make_cache(l2=store), make_cache(l2=store)
    for cache in (one, two):
        f = cache.cached("a:{x}", tags=["users"])(kind.function(lambda x: x))
        g = cache.cached("b:{x}", tags=lambda value: [f"team:{value}"])(kind.function(lambda x: x))
        kind.call(f, 1)
        kind.call(g, 2)
        assert cache.memory.get("a:1").tags == ("users",)
        assert cache.memory.get("b:2").tags == ("team:2",)
    assert two.stats().hits_l2 == 2


def test_refresh_loads_again(kind: Kind, cache: Cache) -> None:
    """refresh() loads though the value is fresh, and later calls see what it brought."""
    loads = []
    f = cache.cached(kind.function(lambda x: loads.append(x) or len(loads)))
    assert kind.call(f, 1) == 1
    assert kind.call(f.refresh, 1) == 2
    assert kind.call(f, 1) == 2


def test_refresh_that_fails_keeps_the_value(kind: Kind, cache: Cache) -> None:
    """A refresh that fails raises, and the value that was there still is."""
    outcomes: list[Any] = [1]

    def load(x: int) -> int:
        if not outcomes:
            raise NotFound("x", x)
        return outcomes.pop()

    f = cache.cached(kind.function(load))
    assert kind.call(f, 1) == 1
    with pytest.raises(NotFound):
        kind.call(f.refresh, 1)
    assert kind.call(f, 1) == 1


def test_set_and_peek(kind: Kind, cache: Cache) -> None:
    """set() stores without a load; peek() looks without one."""
    loads = []
    f = cache.cached(kind.function(lambda x: loads.append(x) or x))
    assert not kind.call(f.peek, 1)
    kind.call(f.set, "given", 1)
    assert kind.call(f.peek, 1) == "given"
    assert kind.call(f, 1) == "given"
    assert loads == []


def test_a_coroutine_is_not_a_value(cache: Cache) -> None:
    """A plain function that returns a coroutine is told what to do instead."""

    async def inner(x: int) -> int:
        return x

    f = cache.cached(lambda x: inner(x))
    with pytest.raises(ValueError, match="decorate the async def function itself"):
        f(1)


def test_jitter_only_shortens(make_cache: Callable[..., Cache], kind: Kind) -> None:
    """Every way of writing spreads expiry within [ttl * (1 - jitter), ttl]."""
    cache = make_cache(jitter=0.2, ttl=100)
    f = cache.cached("f:{x}")(kind.function(lambda x: x))
    for i in range(50):
        kind.call(f, i)
        kind.do(cache, "set", f"set:{i}", i)
        kind.do(cache, "get_or_load_many", [f"many:{i}"], kind.function(lambda keys: keys))
    deadlines = [cache.memory.get(key).fresh_until for key in cache.memory]
    assert len(deadlines) == 150
    assert all(80 <= deadline <= 100 for deadline in deadlines)
    for way in ("f:", "set:", "many:"):
        ends = {cache.memory.get(k).fresh_until for k in cache.memory if k.startswith(way)}
        assert len(ends) > 40
