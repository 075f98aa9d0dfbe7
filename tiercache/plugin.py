"""What a plugin is: a class with hooks, of which it overrides those that it needs.

A cache looks once, at construction, which hooks each plugin overrides (hooks.py): what nobody
overrides costs nothing.

**Order.** Plugins are called in the order in which they were given to the cache. ``around_load``
nests, the first plugin outermost; ``ttl`` sees what the plugins before it chose; the first guard
that says no is the one that answers; ``stop`` runs in reverse.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import Cache
    from .load import Load


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a cache."""

    #: "loaded", "load_error", "stale_served", "refresh_failed", "removed", "absent", "store_error",
    #: "decode_error", "encode_error", "bus_gap", or a plugin's own.
    name: str
    cache: str
    key: str
    cause: str = ""
    seconds: float = 0.0


class Plugin:
    """An extension of a cache. Override the hooks that you need."""

    #: Roles that only one plugin of a cache may have, such as "adaptive ttl".
    roles: tuple[str, ...] = ()
    #: Seconds that a value stays where it is once it has gone stale, unserved, so that the load
    #: after it sees it as ``load.previous``.
    keeps_for: float = 0.0

    # Reading

    def admits(self, key: str) -> bool:
        """Whether a value may exist for a key; False is answered before any I/O (a guard)."""
        return True

    def absent(self, key: str) -> Any:
        """Return what a caller gets for a key that ``admits`` rules out, or raise an error."""
        return None

    async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
        """Run a load by awaiting ``call_next()``, for blocking and asyncio callers alike.

        In a blocking call (``load.is_async`` is False) nothing here may suspend but ``call_next``
        itself. What is raised here reaches the caller like an error of the loader's, after a
        stale value that may be served instead.
        """
        return await call_next()

    def ttl(self, load: Load) -> float | None:
        """Return how long a loaded value stays fresh, in seconds, or None to leave it as it is."""
        return None

    # Hearing

    def on_event(self, event: Event) -> None:
        """Hear of something that happened; quick, since the call waits for it."""

    def on_write(self, keys: Sequence[str]) -> None:
        """Hear that keys were set, deleted or expired, or will be, here or in another process.

        In this process before the writer returns, and before L2 or anyone else is told; from others
        as soon as the bus brings it, in its thread, named ``tiercache-bus``. Messages may be
        missed: that is the event "bus_gap".
        """

    # Life

    def start(self, cache: Cache) -> None:
        """Begin work for a cache, at its construction."""

    def stop(self) -> None:
        """End it, when the cache is closed."""

    def measures(self) -> Mapping[str, float]:
        """Return numbers to show, by name: exported as gauges ``tiercache.plugin.<name>``."""
        return {}


#: Hooks, and whether each is ``async def``.
HOOKS: Mapping[str, bool] = {
    "admits": False,
    "absent": False,
    "around_load": True,
    "ttl": False,
    "on_event": False,
    "on_write": False,
    "start": False,
    "stop": False,
    "measures": False,
}
