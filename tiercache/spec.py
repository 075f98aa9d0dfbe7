"""What the read path needs to know of a function, or of a cache-aside call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .runtime import FILL_SECONDS
from .stats import Counters

if TYPE_CHECKING:
    from .codec import Schema
    from .entry import Entry


class Miss:
    """The type of ``MISS``, which tells a cached None from no value at all."""

    def __repr__(self) -> str:
        return "MISS"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "MISS"


MISS: Final = Miss()


class UncacheableValueWarning(UserWarning):
    """A function returned a value that L2 cannot hold."""


@dataclass(slots=True)
class Spec:
    """How the values of one function, or of one cache-aside call, are loaded and kept."""

    name: str
    counters: Counters
    load_seconds: float  # a load may hold its key no longer
    ttl: float | None = None  # seconds; None: no expiry
    ttl_of: Callable[[Any], float | None] | None = None  # from the value; <= 0: not stored
    tags: tuple[str, ...] = ()
    tags_of: Callable[[Any], tuple[str, ...]] | None = None  # from the value
    tags_last: bool = True  # whether the tags are those of a function, and not of one call
    function: Callable[..., Any] | None = None  # None: only look
    module: str = ""  # of a decorated function
    uses_store: bool = True  # whether L2 may hold its values
    lease: bool = True  # whether one process loads at a time
    schema: Schema | None = None
    when: Callable[[Any], bool] | None = None
    negative_ttl: float | None = None
    negative_errors: tuple[type[Exception], ...] = ()
    timeout: float | None = None
    soft_timeout: float | None = None  # then a stale value is served and the load goes on behind
    stale_while_revalidate: float = 0.0  # seconds after the TTL
    stale_if_error: float = 0.0  # seconds after the TTL
    refresh_ahead: float | None = None  # share of the TTL after which a read refreshes; or
    is_xfetch: bool = False  # when to do so is drawn, by the time that loads take
    on_hit: Callable[[tuple[Any, ...], Entry], None] | None = None  # of a batch, in L1
    has_warned: bool = False
    flight_seconds: float = field(init=False)  # until its load begins: L2 has its own limits
    keep: float = field(init=False)  # seconds that values are kept past their TTL
    refreshes_ahead: bool = field(init=False)

    @property
    def function_name(self) -> str:
        """What spans call the function; nothing where it is a call with a key of its own."""
        return self.name.removesuffix("()") if self.tags_last else ""

    @property
    def known_tags(self) -> tuple[str, ...]:
        """Tags whose tokens are kept for good; those of a call are as short-lived as its value."""
        return self.tags if self.tags_last else ()

    def __post_init__(self) -> None:
        self.flight_seconds = self.load_seconds + FILL_SECONDS
        self.keep = max(self.stale_while_revalidate, self.stale_if_error)
        self.refreshes_ahead = self.is_xfetch or self.refresh_ahead is not None
