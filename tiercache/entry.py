"""What L1 holds for a key, and whether it may be served."""

from __future__ import annotations

import copy
from enum import Enum, StrEnum
from math import inf
from typing import Any, final

#: ``fresh_until`` of an entry that has left L1: no time is before it, so no shortcut serves it.
DEAD = -inf


class Freshness(Enum):
    """What may be done with an entry at some time."""

    FRESH = "fresh"
    EXPIRED = "expired"


class RemovalCause(StrEnum):
    """Why an entry left L1."""

    SIZE = "size"
    EXPIRED = "expired"
    INVALIDATED = "invalidated"
    REPLACED = "replaced"
    OVERSIZE = "oversize"


class Entry:
    """A value in L1.

    Kept to five slots: with a million entries each further one is eight megabytes.
    """

    __slots__ = ("fresh_until", "hits", "key", "used", "value")

    #: Tags of the value; an entry that has some is a TaggedEntry.
    tags: tuple[str, ...] = ()

    def __init__(self, key: str, value: Any, fresh_until: float) -> None:
        self.key = key
        self.value = value
        self.fresh_until = fresh_until  # seconds of the cache's clock; inf: never expires
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
        self.born = born  # the era in which its load began: see singleflight.py


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
    """Return an entry of the smallest class that holds what is given."""
    if tags:
        return TaggedEntry(key, value, fresh_until, tags, born)
    return Entry(key, value, fresh_until)


def freshness(entry: Entry, now: float) -> Freshness:
    """Say what may be done with an entry at ``now``, in seconds of the cache's clock."""
    return Freshness.FRESH if entry.fresh_until > now else Freshness.EXPIRED
