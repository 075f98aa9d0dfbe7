"""One load: what plugins see of it, and what its loader gets from ``current_load()``."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import CacheError
from .options import checked_tags, chosen_ttl
from .spec import MISS
from .ttl import Duration


@dataclass(frozen=True, slots=True)
class Previous:
    """What stood under a key before a load: fresh still, stale, or kept for plugins only."""

    value: Any
    age: float  # seconds since it was loaded, as far as this process knows
    ttl: float | None  # seconds that it was fresh for; None: no expiry, or not known
    hits: int = 0  # in this process's L1
    state: Any = None  # what the load before left in ``Load.state``
    tags: tuple[str, ...] = ()


class Load:
    """One load of one key.

    Its loader, and plugins in ``around_load`` and ``ttl``, may change how the value will be kept.
    """

    __slots__ = (
        "_tags",
        "_ttl",
        "args",
        "cache",
        "function",
        "has_own_ttl",
        "has_timed_out",
        "is_async",
        "is_not_modified",
        "is_refresh",
        "is_skipped",
        "is_write",
        "items",
        "key",
        "kwargs",
        "module",
        "notes",
        "previous",
        "reason",
        "seconds",
        "stale_value",
        "state",
        "value",
    )

    def __init__(
        self,
        key: str,
        function: str,
        value: Any = None,
        seconds: float = 0.0,
        ttl: float | None = None,
        *,
        cache: str = "",
        module: str = "",
        tags: Iterable[str] = (),
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        is_async: bool = False,
        is_refresh: bool = False,
        stale_value: Any = MISS,
        previous: Previous | None = None,
        items: Sequence[Any] | None = None,
    ) -> None:
        self.key = key  # "" for a bulk load, which is one of many keys
        self.items = items  # of a bulk load, in the order of the values that it returns; else None
        self.function = function  # qualified name
        self.module = module  # of the function; "" for a loader that was given with the call
        self.cache = cache  # its name
        self.args = args  # of the call
        self.kwargs = kwargs or {}
        self.is_async = is_async  # else nothing in around_load may suspend but call_next
        self.is_refresh = is_refresh  # behind a value that is being served, or by f.refresh()
        #: The value that is served if this load fails (``stale_if_error``); MISS if there is none.
        self.stale_value = stale_value
        self.previous = previous
        self.value = value  # set once loaded
        self.seconds = seconds  # wall time of the load, once loaded
        self.has_own_ttl = False  # whether the loader has chosen it
        self.has_timed_out = False  # why an asyncio load that took too long is cancelled
        self.is_skipped = False
        self.is_write = False  # no load at all: a value was set
        self.is_not_modified = False
        #: A plugin's own, kept with the value, in L2 too; of None, bool, int, float, str, list,
        #: dict. It begins as what the load before left.
        self.state: Any = None if previous is None else previous.state
        self.reason = ""  # why the TTL is what it is, for ``f.explain``
        self.notes: MutableMapping[str, Any] = {}  # attributes of its span, ``tiercache.`` before
        self._ttl = ttl
        self._tags = list(tags)

    @property
    def ttl(self) -> float | None:
        """How long the value will stay fresh, in seconds; None: it does not expire.

        May be set to any duration; to 0 or less: the value is not kept.
        """
        return self._ttl

    @ttl.setter
    def ttl(self, ttl: Duration | None) -> None:
        self._ttl = chosen_ttl(ttl)
        self.has_own_ttl = True

    @property
    def tags(self) -> list[str]:
        """Tags of the value: those of the function, and what is appended."""
        return self._tags

    @tags.setter
    def tags(self, tags: Iterable[str]) -> None:
        self._tags = list(checked_tags(tags))

    def skip(self) -> None:
        """Have the value returned but not stored."""
        self.is_skipped = True

    def not_modified(self) -> Any:
        """Have the stale value kept for another TTL, and return it, for the loader to return.

        It keeps its tags.

        Raises:
            CacheError: If there is none.
        """
        if self.previous is None:
            raise CacheError(
                f"{self.function}: not_modified() of a load that replaces nothing; "
                "ask current_load().stale_value first"
            )
        self.is_not_modified = True
        self._tags.extend(tag for tag in self.previous.tags if tag not in self._tags)
        return self.previous.value

    def outcome(self, returned: Any) -> Any:
        """Return the value of a load that returned something: the old one where that is kept."""
        if self.is_not_modified and self.previous is not None:
            return self.previous.value
        return returned

    def propose(self, ttl: float | None) -> None:
        """Set the TTL without counting it as the loader's choice."""
        self._ttl = ttl
