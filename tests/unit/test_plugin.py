"""Plugins: their hooks are called in order, cost nothing where absent, and break nothing."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import Cache, ConfigurationError, Event, Load, Plugin
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


@pytest.mark.parametrize("chosen", ["soon", [], True, float("nan"), object()])
def test_a_ttl_hook_that_returns_no_duration(make_cache: Callable[..., Cache], chosen: Any) -> None:
    """What a TTL hook returns in place of seconds is its failure, and not the read's."""

    class Broken(Plugin):
        def ttl(self, load: Load) -> Any:
            return chosen

    cache = make_cache(plugins=[Broken()], ttl=10)
    f = cache.cached(lambda x: x)
    assert f(1) == f(1) == 1
    cache.set("key", 1)
    assert (f.explain(1).ttl, cache.explain("key").ttl) == (10, 10)
    assert cache.stats().plugin_errors == 2


def test_a_ttl_hook_may_choose_no_expiry(make_cache: Callable[..., Cache]) -> None:
    """Infinity is no expiry, in L2, too."""

    class Forever(Plugin):
        def ttl(self, load: Load) -> float | None:
            return float("inf")

    cache = make_cache(plugins=[Forever()], l2=DictStore())
    f = cache.cached(lambda x: x)
    assert f(1) == 1
    assert cache.stats().encode_errors == 0
    assert f.explain(1).fresh_for is None


def test_only_overridden_hooks_are_kept(make_cache: Callable[..., Cache]) -> None:
    """A plugin that overrides nothing is on no path."""
    cache = make_cache(plugins=[Plugin()])
    hooks = cache.hooks
    assert not (hooks.guards or hooks.ttl or hooks.around_load or hooks.on_event)


def test_a_bulk_load_is_one_load(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """around_load runs once around a bulk loader, and sees its items; skip() is of them all."""
    seen: list[Any] = []

    class Around(Plugin):
        skips = False

        async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
            seen.append((load.key, load.items, load.is_async))
            if self.skips:
                load.skip()
                return [0 for _ in load.items]
            return await call_next()

    plugin = Around()
    cache = make_cache(plugins=[plugin])
    batch = kind.function(lambda items: [item * 10 for item in items])
    f = cache.cached("k:{x}", batch=batch)(kind.function(lambda x: x))
    assert kind.call(f.many, [1, 2]) == {1: 10, 2: 20}
    assert seen == [("", (1, 2), kind.name == "asyncio")]
    plugin.skips = True
    assert kind.call(f.many, [2, 3]) == {2: 20, 3: 0}
    assert kind.call(f.many, [2, 3]) == {2: 20, 3: 0}
    assert len(seen) == 3


def test_a_breaker_guards_bulk_loads(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A loader that fails in batches is left alone like any other; stale values are served."""
    from tiercache import CircuitOpen, LoadErrors
    from tiercache_plugins import ErrorMemory, LoaderBreaker

    breaker = LoaderBreaker(fail_max=2, reset_timeout=60)
    cache = make_cache(plugins=[ErrorMemory(ttl=60), breaker])
    loads: list[Any] = []

    def fail(items: list[int]) -> None:
        loads.append(items)
        raise OSError

    f = cache.cached("k:{x}", batch=kind.function(fail))(kind.function(lambda x: x))
    for _ in range(4):
        with pytest.raises(LoadErrors) as raised:
            kind.call(f.many, [1, 2])
    assert len(loads) == 2
    assert isinstance(raised.value.exceptions[0], CircuitOpen)


def test_what_looks_like_a_hook_is_refused(make_cache: Callable[..., Cache]) -> None:
    """A misspelt hook, one of the wrong kind, a role claimed twice: found at construction."""

    class Misspelt(Plugin):
        def on_evnt(self, event: Event) -> None:
            """Would never be called."""

    class Unknown(Plugin):
        def around_everything(self) -> None:
            """Would never be called."""

    class Blocking(Plugin):
        def around_load(self, load: Load, call_next: Any) -> Any:
            """Should be async."""

    class Awaited(Plugin):
        async def admits(self, key: str) -> bool:
            return True

    class Static(Plugin):
        @staticmethod
        def on_loaded(event: Event) -> None:
            """Would never be called."""

    class Role(Plugin):
        roles = ("the only one",)

    class OneRole(Plugin):
        roles: Any = "the only one"

    class Keeps(Plugin):
        keeps_for: Any = "1h"

    twice = Recorder()
    for plugins, message in (
        ([Misspelt()], "did you mean on_event"),
        ([Unknown()], "no hook"),
        ([Blocking()], "must be async def"),
        ([Awaited()], "must be a plain def"),
        ([Static()], "no hook"),
        ([Role(), Role()], "both claim"),
        ([twice, twice], "twice; remove one"),
        ([OneRole()], "must be several texts"),
        ([Keeps()], "must be seconds"),
        (["nowhere"], "no plugin 'nowhere'"),
        (Plugin(), "takes several"),
        (None, "takes several"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make_cache(plugins=plugins)


def test_a_plugin_is_found_by_name(
    make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry point of the group is called without arguments for its plugin."""
    from importlib import metadata

    point = metadata.EntryPoint("recorder", f"{__name__}:Recorder", "tiercache.plugins")
    monkeypatch.setattr(type(point), "load", lambda self: Recorder)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: metadata.EntryPoints([point]))
    cache = make_cache(plugins=["recorder"])
    assert isinstance(cache.hooks.plugins[0], Recorder)


def test_a_guard_answers_as_it_likes(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """What an absent key gives is the guard's choice: a value, or an error that passes."""

    class Guard(Plugin):
        def admits(self, key: str) -> bool:
            return key == "k:1"

        def absent(self, key: str) -> Any:
            if key == "k:3":
                raise LookupError(key)
            return "nobody"

    cache = make_cache(plugins=[Guard()])
    f = cache.cached("k:{x}")(kind.function(lambda x: x))
    assert [kind.call(f, x) for x in (1, 2)] == [1, "nobody"]
    with pytest.raises(LookupError):
        kind.call(f, 3)
    assert cache.stats().absent == 2


def test_a_plugin_that_does_not_start(make_cache: Callable[..., Cache]) -> None:
    """What start() raises is a mistake of configuration; those that had started are stopped."""

    class Broken(Plugin):
        def start(self, cache: Cache) -> None:
            raise OSError("no start")

    recorder = Recorder()
    with pytest.raises(OSError, match="no start"):
        make_cache(plugins=[recorder, Broken()])
    assert recorder.life == ["start test", "stop"]
