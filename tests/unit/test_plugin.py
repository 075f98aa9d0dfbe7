"""Plugins: their hooks are called in order, cost nothing where absent, and break nothing."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import Cache, Event, Load, Plugin
from tiercache.testing import DictStore


class Recorder(Plugin):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.life: list[str] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def start(self, cache: Cache) -> None:
        self.life.append(f"start {cache.name}")

    def stop(self) -> None:
        self.life.append("stop")


def test_around_load_nests_in_order(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """The first plugin is outermost; each sees the key and the function's name."""
    trail: list[str] = []

    class Around(Plugin):
        def __init__(self, name: str) -> None:
            self.name = name

        async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
            trail.append(f"{self.name} before {load.key}")
            try:
                return await call_next() + [self.name]
            finally:
                trail.append(f"{self.name} after")

    cache = make_cache(plugins=[Around("a"), Around("b")])
    f = cache.cached("k:{x}")(kind.function(lambda x: [x]))
    assert kind.call(f, 1) == [1, "b", "a"]
    assert trail == ["a before k:1", "b before k:1", "b after", "a after"]
    assert kind.call(f, 1) == [1, "b", "a"]
    assert len(trail) == 4


def test_around_load_sees_errors(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A plugin can answer in place of a failed load; StopIteration arrives as such outside."""

    class Fallback(Plugin):
        async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
            try:
                return await call_next()
            except KeyError:
                return "fallback"

    cache = make_cache(plugins=[Fallback()])
    f = cache.cached(kind.function(lambda x: {}[x]))
    assert kind.call(f, 1) == "fallback"
    if kind.name == "blocking":
        g = cache.cached(lambda: next(iter([])))
        with pytest.raises(StopIteration):
            g()


def test_guard(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A guard that rules a key out answers None before any I/O or load, and it is counted."""

    class Even(Plugin):
        def admits(self, key: str) -> bool:
            return int(key.rpartition(":")[2]) % 2 == 0

    loads: list[int] = []
    cache = make_cache(plugins=[Even()], l2=DictStore())
    f = cache.cached("n:{x}")(kind.function(lambda x: loads.append(x) or x))
    assert [kind.call(f, x) for x in (1, 2, 1, 2)] == [None, 2, None, 2]
    assert loads == [2]
    assert cache.stats().absent == f.cache_info().absent == 2


def test_ttl_hook(kind: Kind, make_cache: Callable[..., Cache], clock: Any) -> None:
    """A plugin chooses the TTL from the value and the load's duration; None leaves it."""
    seen: list[Load] = []

    class Chooser(Plugin):
        def ttl(self, load: Load) -> float | None:
            seen.append(load)
            return 5.0 if load.value == "short" else None

    cache = make_cache(plugins=[Chooser()], ttl=100)
    f = cache.cached("k:{x}")(kind.function(lambda x: x))
    kind.call(f, "short")
    kind.call(f, "long")
    assert cache.memory.get("k:short").fresh_until == 5
    assert cache.memory.get("k:long").fresh_until == 100
    assert [load.ttl for load in seen] == [5.0, 100]


def test_events(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Loads, load errors and L2 trouble are told."""
    recorder = Recorder()
    cache = make_cache(plugins=[recorder])
    f = cache.cached("k:{x}")(kind.function(lambda x: 1 // x))
    kind.call(f, 1)
    with pytest.raises(ZeroDivisionError):
        kind.call(f, 0)
    assert [(e.name, e.key, e.cause) for e in recorder.events] == [
        ("loaded", "k:1", ""),
        ("load_error", "k:0", "ZeroDivisionError"),
    ]
    cache.close()
    assert recorder.life == ["start test", "stop"]


def test_a_failing_plugin_breaks_nothing(
    kind: Kind, make_cache: Callable[..., Cache], caplog: pytest.LogCaptureFixture
) -> None:
    """What a plugin raises in a guard, a TTL or an event is logged and counted."""

    class Broken(Plugin):
        def admits(self, key: str) -> bool:
            raise OSError("admits")

        def ttl(self, load: Load) -> float | None:
            raise OSError("ttl")

        def on_event(self, event: Event) -> None:
            raise OSError("event")

    cache = make_cache(plugins=[Broken()])
    f = cache.cached(kind.function(lambda x: x))
    with caplog.at_level(logging.ERROR):
        assert kind.call(f, 1) == kind.call(f, 1) == 1
    assert cache.stats().plugin_errors == 3
    assert "a plugin failed in admits()" in caplog.text


def test_only_overridden_hooks_are_kept(make_cache: Callable[..., Cache]) -> None:
    """A plugin that overrides nothing is on no path."""
    cache = make_cache(plugins=[Plugin()])
    hooks = cache.hooks
    assert not (hooks.guards or hooks.ttl or hooks.around_load or hooks.on_event)
