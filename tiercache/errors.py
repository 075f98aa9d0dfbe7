"""Every exception tiercache raises of its own; one class per cause.

The user's loader exceptions are never wrapped in these: they pass through unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self


class CacheError(Exception):
    """Base of all errors raised by tiercache itself."""


class ConfigurationError(CacheError, ValueError):
    """An option is illegal; raised at construction or decoration."""


class UncacheableArguments(CacheError, TypeError):
    """A call's arguments cannot be part of a key."""


class EncodeError(CacheError, ValueError):
    """A value cannot be written as bytes; it stays in L1 only."""


class DecodeError(CacheError, ValueError):
    """Bytes from a store are not a payload of this codec; the read is a miss."""


class StoreError(CacheError):
    """A store could not do what was asked; the cache treats it as a miss."""


class StoreTimeout(StoreError, TimeoutError):
    """A store did not answer within its timeout."""


class LoadTimeout(CacheError, TimeoutError):
    """A load took longer than ``timeout`` or ``load_timeout``."""


class CircuitOpen(CacheError):
    """A breaker keeps loads off a function that has been failing.

    ``retry_after`` is in how many seconds, at the latest, a load will be let through to try; >= 0.
    """

    def __init__(self, message: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BulkheadFull(CacheError):
    """As many loads as are allowed run, and as many as are allowed wait."""


class LockTimeout(CacheError, TimeoutError):
    """A lock could not be had in time: somebody holds it, or the store does not answer."""


class LockLost(CacheError):
    """A lock is not, or no longer, held by who relies on it."""


class LoadErrors(CacheError, ExceptionGroup[Exception]):
    """Some keys of a batch could not be loaded.

    ``results`` holds what was loaded, ``errors`` the exception of each other item.
    """

    results: Mapping[Any, Any]
    errors: Mapping[Any, Exception]

    def __new__(
        cls, message: str, errors: Mapping[Any, Exception], results: Mapping[Any, Any]
    ) -> Self:
        self = super().__new__(cls, message, list(errors.values()))
        self.errors = dict(errors)
        self.results = dict(results)
        return self

    def __init__(self, *_: object) -> None:
        """Accept what __new__ took; the group is complete already."""

    def derive(self, excs: Sequence[Exception]) -> LoadErrors:  # type: ignore[override]
        kept = {item: error for item, error in self.errors.items() if error in excs}
        return LoadErrors(self.message, kept, self.results)


class WriteFailed(CacheError):
    """A write was not made, or nobody knows whether it was."""


class JournalFull(WriteFailed):
    """``max_pending`` operations wait to be written behind; this one was not accepted."""
