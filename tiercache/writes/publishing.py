"""A written value that waits for its transaction, and what is said where it cannot be had."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tiercache.errors import ConfigurationError, WriteFailed
from tiercache.invalidating import Invalidation
from tiercache.runtime import run
from tiercache.writes.through import KeyWrite

if TYPE_CHECKING:
    from tiercache.cache import Cache
    from tiercache.tiers.store import Store

#: Is given a Publication, to call it once the transaction has been committed.
AfterCommit = Callable[["Publication"], Any]

RAISE, INVALIDATE = "raise", "invalidate"


class Publication:
    """A value that becomes visible when this is called, once. Never called, it never does.

    Where another write or an invalidation of its key has come between, the key is removed instead.
    """

    def __init__(self, cache: Cache, write: KeyWrite, value: Any, *, is_async: bool) -> None:
        self.cache = cache
        self.keys = (write.key,)
        self.is_async = is_async  # then an awaitable that a hook returns is awaited
        self.called_at = time.monotonic()
        self.arguments: Mapping[str, Any] = {}
        self._write = write
        self._value = value

    def __call__(self) -> None:
        """Have the value stand in both tiers."""
        run(self._write.finish(self.cache.blocking, self._value))

    async def acall(self) -> None:
        """Do what calling it does, awaited."""
        port = self.cache.asyncio
        await port.to_the_end(self._write.finish(port, self._value))

    @property
    def in_doubt(self) -> Invalidation:
        """What is to be called instead where nobody knows whether the transaction was committed."""
        return Invalidation(cache=self.cache, keys=self.keys, is_async=self.is_async)


def checked_choice(choice: str, after: AfterCommit | None) -> bool:
    """Return whether ``on_cache_failure`` says to raise.

    Raises:
        ConfigurationError: If it is none of the two, or ``after`` is no function.
    """
    if after is not None and not callable(after):
        raise ConfigurationError(
            "after must be a function that is given the publication of the value, such as "
            f"after_commit(lambda: session), got {after!r}"
        )
    if choice not in (RAISE, INVALIDATE):
        raise ConfigurationError(
            f'on_cache_failure must be "raise" or "invalidate", got {choice!r}'
        )
    return choice == RAISE


def write_failed(store: Store | None) -> WriteFailed:
    """Return the error of a write that the cache could not take."""
    where = "the cache" if store is None else store.label
    return WriteFailed(
        f"{where} could not take the value, or it has no bytes; what stood there is invalidated, "
        "as soon as it can be"
    )
