"""@invalidates(creates=True): guards know of what is created before anybody can find it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tiercache import Cache, ConfigurationError, Plugin
from tiercache.testing import DictStore


class Known(Plugin):
    """A guard that knows what it was told of."""

    def __init__(self) -> None:
        self.keys: set[str] = set()

    def admits(self, key: str) -> bool:
        return key in self.keys

    def on_write(self, keys: Sequence[str]) -> None:
        self.keys.update(keys)


def test_known_before_it_runs(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A key that the arguments tell is known while the function still writes."""
    guard = Known()
    cache = make_cache(plugins=[guard])
    get = cache.cached("user:{x}")(kind.function(lambda x: x))
    assert kind.call(get, 1) is None
    seen: list[bool] = []

    @cache.invalidates("user:{x}", creates=True)
    @kind.function
    def create(x: int) -> None:
        seen.append("user:1" in guard.keys)

    kind.call(create, 1)
    assert seen == [True]
    assert kind.call(get, 1) == 1


def test_known_when_it_returns(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A key that the result tells is known before the invalidation's hook is called."""
    guard = Known()
    cache = make_cache(plugins=[guard])
    seen: list[Any] = []

    @cache.invalidates("user:{result}", creates=True, after=lambda _: seen.append(set(guard.keys)))
    @kind.function
    def create() -> int:
        return 7

    assert kind.call(create) == 7
    assert seen == [{"user:7"}]


def test_others_hear_of_writes(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Every write of a key is told to the guards of all processes: deletes, and sets."""
    store, far = DictStore(), Known()
    near, there = make_cache(l2=store), make_cache(l2=store, plugins=[far])
    there.listen()
    assert there.hears_peers
    kind.do(near, "set", "a", 1)
    kind.do(near, "delete", "b")
    until(lambda: {"a", "b"} <= far.keys)


def test_bad_options(cache: Cache) -> None:
    """creates= is a yes or no, and of keys."""
    with pytest.raises(ConfigurationError, match="True or False"):
        cache.invalidates("k:{x}", creates="yes")(lambda x: x)
    with pytest.raises(ConfigurationError, match="key="):
        cache.invalidates(tags=["t"], creates=True)(lambda x: x)


def test_arguments_that_do_not_fit(kind: Kind, cache: Cache) -> None:
    """They are the function's to complain of."""

    @cache.invalidates("user:{x}", creates=True)
    @kind.function
    def create(x: int) -> None:
        """Take one argument."""

    with pytest.raises(TypeError):
        kind.call(create)
