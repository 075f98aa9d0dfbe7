"""What L1 holds for a key, and whether it may be served."""

from __future__ import annotations

import copy
from enum import Enum, StrEnum
from math import inf
from typing import Any, NamedTuple, final

#: ``fresh_until`` of an entry that has left L1: no time is before it, so no shortcut serves it.
DEAD = -inf


class Freshness(Enum):
    """What may be done with an entry at some time."""

    FRESH = "fresh"
    STALE = "stale"  # may be served while it is refreshed, or where its load fails
    EXPIRED = "expired"


class RemovalCause(StrEnum):
    """Why an entry left L1."""

    SIZE = "size"
    EXPIRED = "expired"
    INVALIDATED = "invalidated"
    REPLACED = "replaced"
    OVERSIZE = "oversize"


class Record(NamedTuple):
    """How a value came about: kept with it, in L2 too, for what learns from it."""

    ttl: float | None  # seconds that it was given
    load_seconds: float = 0.0
    state: Any = None  # a plugin's own
    reason: str = ""  # why it was given that TTL


class Life(NamedTuple):
    """How long a value is kept, and how."""

    ttl: float | None  # seconds from now that it is fresh; <= 0: it has gone stale that long ago
    tags: tuple[str, ...] = ()
    keep: float = 0.0  # seconds after that for which it is kept, stale
    record: Record | None = None

    @property
    def ends_after(self) -> float | None:
        """Seconds from now after which it is gone; None: never."""
        return None if self.ttl is None else self.ttl + self.keep

    @property
    def is_stale(self) -> bool:
        """Whether it is not fresh any more."""
        return self.ttl is not None and self.ttl <= 0


class Standing(NamedTuple):
    """What stands under a key when its load begins. Times are of the cache's clock."""

    value: Any
    stale_at: float
    kept_until: float
    record: Record | None
    hits: int = 0
    tags: tuple[str, ...] = ()


class Entry:
    """A value in L1.

    Kept to five slots: with a million entries each further one is eight megabytes.
    """

    __slots__ = ("fresh_until", "hits", "key", "used", "value")

    tags: tuple[str, ...] = ()  # only entries of larger classes have some
    born = 0  # the era in which its load began, if it has tags: see singleflight.py

    def __init__(self, key: str, value: Any, fresh_until: float) -> None:
        self.key = key
        self.value = value
        # Until when it is served without a thought; seconds of the cache's clock; inf: for ever.
        self.fresh_until = fresh_until
        self.hits = 0  # counted by the wrappers, without a lock
        self.used = 0  # the L1's tick at the last use


@final
class TaggedEntry(Entry):
    """An entry that a tag invalidation may concern."""

    __slots__ = ("born", "tags")

    tags: tuple[str, ...]

    def __init__(
        self, key: str, value: Any, fresh_until: float, tags: tuple[str, ...], born: int = 0
    ) -> None:
        super().__init__(key, value, fresh_until)
        self.tags = tags
        self.born = born


@final
class LastingEntry(Entry):
    """An entry of which there is more to decide than whether it is fresh.

    Its ``fresh_until`` is when somebody must think about it: whether to refresh it ahead. It goes
    stale at ``stale_at``, and is kept until ``kept_until``.
    """

    __slots__ = ("born", "kept_until", "record", "stale_at", "tags")

    tags: tuple[str, ...]

    def __init__(self, key: str, value: Any, life: Life, born: int = 0) -> None:
        super().__init__(key, value, 0.0)
        self.tags = life.tags
        self.born = born
        self.record = life.record
        self.stale_at = 0.0
        self.kept_until = 0.0


@final
class RememberedError:
    """An error that stands in an entry's place of a value, to be raised afresh each time."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        # A copy, since the error itself holds on to the loader's frames.
        self.error = _copy(error) or error

    def afresh(self) -> Exception:
        """Return a copy of the error with no traceback, context or cause of its own.

        An error of a class that cannot be copied is raised itself, again and again.
        """
        return _copy(self.error) or self.error.with_traceback(None)


def _copy(error: Exception) -> Exception | None:
    """Return a bare copy of an error, or None if its class cannot be copied."""
    for make in (copy.copy, _copy_without_init):
        try:
            twin: Exception = make(error)
        except Exception:  # noqa: S112 - its constructor takes other arguments
            continue
        if type(twin) is type(error) and twin.args == error.args and str(twin) == str(error):
            return twin.with_traceback(None)
    return None


def _copy_without_init(error: Exception) -> Exception:
    kind = type(error)
    twin = kind.__new__(kind, *error.args)
    twin.args = error.args
    twin.__dict__.update(error.__dict__)
    return twin


def is_error(value: Any) -> bool:
    """Whether an error stands in the place of an entry's value."""
    return value.__class__ is RememberedError


def make_entry(
    key: str, value: Any, fresh_until: float, tags: tuple[str, ...] = (), born: int = 0
) -> Entry:
    """Return an entry that is fresh, then gone."""
    if tags:
        return TaggedEntry(key, value, fresh_until, tags, born)
    return Entry(key, value, fresh_until)


def entry_of(key: str, value: Any, life: Life, born: int = 0) -> Entry:
    """Return an entry of the smallest class for what a life says; its times are not set yet."""
    if life.keep or life.record is not None:
        return LastingEntry(key, value, life, born)
    return make_entry(key, value, 0.0, life.tags, born)


def freshness(entry: Entry, now: float) -> Freshness:
    """Say what may be done with an entry at ``now``, in seconds of the cache's clock."""
    until = entry.fresh_until
    if until > now:
        return Freshness.FRESH
    if entry.__class__ is not LastingEntry or until == DEAD:
        return Freshness.EXPIRED
    if entry.stale_at > now:
        return Freshness.FRESH
    return Freshness.STALE if entry.kept_until > now else Freshness.EXPIRED


def standing(entry: Entry) -> Standing:
    """Return what an entry stands for, apart from it: a removal takes its value."""
    value, hits, tags = entry.value, entry.hits, entry.tags
    if entry.__class__ is LastingEntry:
        return Standing(value, entry.stale_at, entry.kept_until, entry.record, hits, tags)
    return Standing(value, entry.fresh_until, entry.fresh_until, None, hits, tags)
