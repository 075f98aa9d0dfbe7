"""The base class of plugins, and how a cache calls them.

A cache looks once, at construction, which hooks each plugin overrides: what nobody overrides costs
nothing. Plugins are called in the order in which they were given; ``around_load`` nests, the first
plugin outermost.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError
from .stats import Counters

if TYPE_CHECKING:
    from .cache import Cache

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Load:
    """One load, as plugins see it."""

    key: str
    function: str  # qualified name
    value: Any = None  # set once loaded
    seconds: float = 0.0  # wall time of the load, once loaded
    ttl: float | None = None  # seconds; None: does not expire


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a cache."""

    name: str  # "loaded", "load_error", "removed", "store_error", "decode_error", "encode_error"
    cache: str
    key: str
    cause: str = ""
    seconds: float = 0.0


class Plugin:
    """An extension of a cache. Override the hooks that you need."""

    def admits(self, key: str) -> bool:
        """Whether a value may exist for a key; False answers None before any I/O."""
        return True

    def ttl(self, load: Load) -> float | None:
        """Return how long a loaded value lives, in seconds, or None to leave it as it is."""
        return None

    async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
        """Run a load by awaiting ``call_next()``, for blocking and asyncio callers alike.

        In a blocking call nothing here may suspend but ``call_next`` itself.
        """
        return await call_next()

    def on_event(self, event: Event) -> None:
        """Hear of something that happened; quick, since the call waits for it."""

    def start(self, cache: Cache) -> None:
        """Begin work for a cache, at its construction."""

    def stop(self) -> None:
        """End it, when the cache is closed."""


class Hooks:
    """The hooks that the plugins of one cache override, in order."""

    def __init__(self, plugins: Iterable[Plugin], counters: Counters) -> None:
        self.plugins = tuple(map(_checked, plugins))
        self._counters = counters
        self.admits = self._overridden("admits")
        self.ttl = self._overridden("ttl")
        self.around_load = self._overridden("around_load")
        self.on_event = self._overridden("on_event")

    def is_absent(self, key: str) -> bool:
        """Whether a guard rules out that the key has a value; one that fails rules out nothing."""
        for admits in self.admits:
            try:
                if not admits(key):
                    return True
            except Exception:
                self._failed("admits")
        return False

    def ttl_of(self, load: Load) -> float | None:
        """Return the TTL that plugins give a loaded value, each seeing the one before."""
        for ttl in self.ttl:
            try:
                chosen = ttl(load)
            except Exception:
                self._failed("ttl")
            else:
                load.ttl = load.ttl if chosen is None else chosen
        return load.ttl

    def tell(self, event: Event) -> None:
        """Tell everyone who listens."""
        for on_event in self.on_event:
            try:
                on_event(event)
            except Exception:
                self._failed("on_event")

    def start(self, cache: Cache) -> None:
        """Start every plugin; what one raises is a mistake of configuration and passes."""
        for plugin in self.plugins:
            plugin.start(cache)

    def stop(self) -> None:
        """Stop every plugin, the last first."""
        for plugin in reversed(self.plugins):
            try:
                plugin.stop()
            except Exception:
                self._failed("stop")

    def _overridden(self, hook: str) -> tuple[Callable[..., Any], ...]:
        base = getattr(Plugin, hook)
        return tuple(
            getattr(plugin, hook)
            for plugin in self.plugins
            if getattr(type(plugin), hook) is not base
        )

    def _failed(self, hook: str) -> None:
        self._counters.plugin_errors += 1
        log.error("a plugin failed in %s(); the cache goes on without it", hook, exc_info=True)  # noqa: LOG014 - called in the handler


def _checked(plugin: object) -> Plugin:
    if not isinstance(plugin, Plugin):
        hint = "an instance, not the class" if isinstance(plugin, type) else "a tiercache.Plugin"
        raise ConfigurationError(f"plugins takes {hint}, got {plugin!r}")
    return plugin
