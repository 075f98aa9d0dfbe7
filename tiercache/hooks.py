"""The plugins of one cache: found by name, checked, and called.

What a plugin raises is contained: logged, counted, and the cache goes on without it. Two hooks are
exceptions by nature: what ``around_load`` and ``absent`` raise is their answer.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .logs import trace_of
from .options import chosen_ttl
from .plugin import HOOKS, Event, Plugin
from .stats import Counters

if TYPE_CHECKING:
    from .cache import Cache
    from .load import Load

log = logging.getLogger(__name__)

GROUP = "tiercache.plugins"  # of entry points


class Hooks:
    """The hooks that the plugins of one cache override, in order."""

    def __init__(self, plugins: Iterable[Plugin | str], counters: Counters) -> None:
        if isinstance(plugins, str | Plugin):
            raise ConfigurationError(f"plugins takes several, got {plugins!r}; use [{plugins!r}]")
        if not isinstance(plugins, Iterable):
            raise ConfigurationError(f"plugins takes several, got {plugins!r}; () is for none")
        self.plugins = tuple(map(_checked, plugins))
        _check_once(self.plugins)
        _check_roles(self.plugins)
        self._counters = counters
        self.guards = tuple(plugin for plugin in self.plugins if _overrides(plugin, "admits"))
        self.ttl = self._overridden("ttl")
        self.around_load = self._overridden("around_load")
        self.on_event = self._overridden("on_event")
        self.on_write = self._overridden("on_write")
        self.keeps_for = max((plugin.keeps_for for plugin in self.plugins), default=0.0)

    def guard_against(self, key: str) -> Plugin | None:
        """Return the guard that rules out that a key has a value; one that fails rules out none."""
        for guard in self.guards:
            try:
                if not guard.admits(key):
                    return guard
            except Exception:
                self._failed("admits")
        return None

    async def around(self, load: Load | None, call: Callable[[], Awaitable[Any]]) -> Any:
        """Run a load inside of all plugins, the first outermost."""
        call_next = call
        for around_load in reversed(self.around_load):
            call_next = partial(around_load, load, call_next)
        return await call_next()

    def choose_ttl(self, load: Load) -> None:
        """Give a loaded value the TTL that plugins choose, each seeing the one before."""
        for ttl in self.ttl:
            try:
                chosen = ttl(load)
                if chosen is not None:
                    load.propose(chosen_ttl(chosen))
            except Exception:
                self._failed("ttl")

    def tell(self, event: Event) -> None:
        """Tell everyone who listens."""
        for on_event in self.on_event:
            try:
                on_event(event)
            except Exception:
                self._failed("on_event")

    def tell_of_write(self, keys: Sequence[str]) -> None:
        """Tell of keys that were, or will be, written."""
        for on_write in self.on_write:
            try:
                on_write(keys)
            except Exception:
                self._failed("on_write")

    def measures(self) -> Iterator[tuple[str, float]]:
        """Iterate over what the plugins show."""
        for plugin in self.plugins:
            try:
                shown = {_text(name): float(n) for name, n in plugin.measures().items()}
            except Exception:
                self._failed("measures")
            else:
                yield from shown.items()

    def start(self, cache: Cache) -> None:
        """Start every plugin; what one raises is a mistake of configuration and passes."""
        started: list[Plugin] = []
        try:
            for plugin in self.plugins:
                plugin.start(cache)
                started.append(plugin)
        except BaseException:
            self._stop(started)
            raise

    def stop(self) -> None:
        """Stop every plugin, the last first."""
        self._stop(self.plugins)

    def _stop(self, plugins: Sequence[Plugin]) -> None:
        for plugin in reversed(plugins):
            try:
                plugin.stop()
            except Exception:
                self._failed("stop")

    def _overridden(self, hook: str) -> tuple[Callable[..., Any], ...]:
        return tuple(getattr(p, hook) for p in self.plugins if _overrides(p, hook))

    def _failed(self, hook: str) -> None:
        self._counters.plugin_errors += 1
        error = sys.exception()
        assert error is not None  # called in the handler
        log.error(
            "a plugin failed in %s(); the cache goes on without it: %s", hook, trace_of(error)
        )


def _text(name: object) -> str:
    if isinstance(name, str):
        return name
    raise TypeError(f"a measure's name must be text, got a {type(name).__name__}")


def _overrides(plugin: Plugin, hook: str) -> bool:
    return getattr(type(plugin), hook) is not getattr(Plugin, hook)


def _checked(plugin: object) -> Plugin:
    if isinstance(plugin, str):
        plugin = _by_name(plugin)
    if not isinstance(plugin, Plugin):
        hint = "an instance, not the class" if isinstance(plugin, type) else "a tiercache.Plugin"
        raise ConfigurationError(f"plugins takes {hint}, got {plugin!r}")
    for hook, is_async in HOOKS.items():
        _check_kind(plugin, hook, is_async=is_async)
    for name in _own_names(type(plugin)):
        _check_name(plugin, name)
    kept = plugin.keeps_for
    is_number = isinstance(kept, int | float) and not isinstance(kept, bool)
    if not is_number or not 0 <= kept < float("inf"):
        raise ConfigurationError(
            f"{type(plugin).__name__}.keeps_for must be seconds >= 0, got {kept!r}"
        )
    if isinstance(plugin.roles, str):
        raise ConfigurationError(
            f"{type(plugin).__name__}.roles must be several texts, got {plugin.roles!r}; "
            f"use ({plugin.roles!r},)"
        )
    return plugin


def _check_kind(plugin: Plugin, hook: str, *, is_async: bool) -> None:
    method = getattr(type(plugin), hook)
    where = f"{type(plugin).__name__}.{hook}"
    if not callable(method):
        raise ConfigurationError(f"{where} must be a method, got {method!r}")
    if inspect.iscoroutinefunction(method) != is_async:
        wanted = "async def: it is awaited" if is_async else "a plain def: it is not awaited"
        raise ConfigurationError(f"{where} must be {wanted}")


def _own_names(kind: type) -> Iterator[str]:
    """Iterate over the public names of methods that a plugin's classes add to Plugin's."""
    for base in kind.__mro__:
        if base is Plugin:
            return
        for name, member in vars(base).items():
            is_method = inspect.isfunction(member) or isinstance(member, staticmethod | classmethod)
            if is_method and not name.startswith("_") and name not in HOOKS:
                yield name


def _check_name(plugin: Plugin, name: str) -> None:
    """Raise if a method looks like a hook that there is not: it would never be called."""
    import difflib

    alike = difflib.get_close_matches(name, HOOKS, n=1, cutoff=0.82)
    if alike or name.startswith(("on_", "around_")):
        hint = f"did you mean {alike[0]}" if alike else f"there are {', '.join(HOOKS)}"
        raise ConfigurationError(
            f"{type(plugin).__name__}.{name} is no hook and would never be called; {hint}? "
            f"A method of your own: rename it, or begin it with _"
        )


def _check_once(plugins: Sequence[Plugin]) -> None:
    for place, plugin in enumerate(plugins):
        if any(plugin is other for other in plugins[:place]):
            raise ConfigurationError(f"plugins has {plugin!r} twice; remove one of them")


def _check_roles(plugins: Sequence[Plugin]) -> None:
    holders: dict[str, Plugin] = {}
    for plugin in plugins:
        for role in plugin.roles:
            other = holders.setdefault(role, plugin)
            if other is not plugin:
                raise ConfigurationError(
                    f"{type(other).__name__} and {type(plugin).__name__} both claim to be the "
                    f"cache's {role!r}; keep one of them"
                )


def _by_name(name: str) -> object:
    """Return a plugin that a distribution has registered under the entry-point group."""
    from importlib.metadata import entry_points

    found = entry_points(group=GROUP)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none"
        raise ConfigurationError(
            f"no plugin {name!r} is installed under the entry-point group {GROUP!r}; "
            f"there are: {known}"
        )
    make = found[name].load()
    return make() if callable(make) else make
