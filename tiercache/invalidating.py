"""``@invalidates``: forget values once a function that changes what they are made of has succeeded.

An invalidation comes after the write, never before it. A value that somebody loads between the two
is removed with the rest, and a load under way is detached, so that nothing older than the write
outlives the call. Where the write is part of a transaction "after" means after its commit: the hook
``after=`` is given the invalidation, and calls it then.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from .calls import Calls
from .errors import ConfigurationError
from .options import checked_function, checked_tags, is_async, same_kind, switch

if TYPE_CHECKING:
    from .cache import Cache

F = TypeVar("F", bound="Callable[..., Any] | classmethod[Any, Any, Any] | staticmethod[Any, Any]")


@dataclass(frozen=True, eq=False, kw_only=True)
class Invalidation:
    """What a call that succeeded makes outdated. Calling it forgets that, in both tiers.

    It may be called later, from another thread, more than once, or never.
    """

    cache: Cache
    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    #: The call's arguments by name, defaults too, and its "result".
    arguments: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Whether the function is async: then an awaitable that a hook returns is awaited.
    is_async: bool = False
    #: When the function was called, by ``time.monotonic``.
    called_at: float = field(default_factory=time.monotonic, repr=False)

    def __call__(self) -> None:
        """Forget the keys and what carries the tags."""
        if self.keys:
            self.cache.delete(*self.keys)
        if self.tags:
            self.cache.invalidate_tags(*self.tags)

    async def acall(self) -> None:
        """Do what calling it does, awaited.

        The write has happened, whatever becomes of the caller: if it is cancelled meanwhile, it
        is so once the invalidation is done.
        """
        await self.cache.asyncio.to_the_end(self._forget())

    async def _forget(self) -> None:
        if self.keys:
            await self.cache.adelete(*self.keys)
        if self.tags:
            await self.cache.ainvalidate_tags(*self.tags)


#: A template, several, or a function of the call that returns one text, several, or None.
Keys = str | Sequence[str] | Callable[..., Any] | None
CallTags = Sequence[str] | Callable[..., Any]
After = Callable[[Invalidation], Any]


def decorate_invalidating(
    cache: Cache,
    function: Any,
    key: Keys,
    tags: CallTags = (),
    after: After | None = None,
    creates: bool = False,
) -> Any:
    """Return what stands in a function's place: see ``Cache.invalidates``."""
    if isinstance(function, classmethod | staticmethod):
        kept = type(function)
        return kept(decorate_invalidating(cache, function.__func__, key, tags, after, creates))
    plain = checked_function(function, "@invalidates")
    kind = AsyncInvalidating if is_async(plain) else BlockingInvalidating
    return functools.update_wrapper(kind(cache, plain, key, tags, after, creates).wrapper(), plain)


class Invalidating:
    """One decorated function: what its calls make outdated."""

    is_async: bool

    def __init__(
        self,
        cache: Cache,
        function: Callable[..., Any],
        key: Keys,
        tags: CallTags,
        after: After | None,
        creates: bool = False,
    ) -> None:
        self.cache = cache
        self.function = function
        self.calls = calls = Calls(function, "@invalidates", "invalidated")
        self.name = calls.name
        self._keys = [calls.key_source(each) for each in self._checked_key(key)]
        self._tags = [calls.tag_source(each) for each in self._checked_tags(tags)]
        if not self._keys and not self._tags:
            raise ConfigurationError(
                f"@invalidates of {self.name} invalidates nothing; "
                'give a key, such as "user:{user.id}", or tags=["users"]'
            )
        self.after = self._checked_after(after)
        self._creates = self._checked_creates(creates)

    def announce(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Have guards know of what this call creates before others can find it in the database.

        As far as its arguments tell; those that do not fit are the function's to complain of.
        """
        sources = self.calls.early_keys
        if self._creates and sources:
            with suppress(TypeError):
                call = self.calls.call(args, kwargs, None)
                self.cache.know_of([key for source in sources for key in source(call)])

    def invalidation(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, called_at: float
    ) -> Invalidation | None:
        """Return what a call makes outdated; None for nothing."""
        call = self.calls.call(args, kwargs, result)
        keys = tuple(dict.fromkeys(key for source in self._keys for key in source(call)))
        tags = tuple(dict.fromkeys(tag for source in self._tags for tag in source(call)))
        if not keys and not tags:
            return None
        if self._creates:  # now, and not only after a commit, where somebody may look at once
            self.cache.know_of(keys)
        return Invalidation(
            cache=self.cache,
            keys=keys,
            tags=tags,
            arguments=MappingProxyType(call.arguments),
            is_async=self.is_async,
            called_at=called_at,
        )

    # What the decorator was given

    def _checked_key(self, key: Keys) -> Sequence[Any]:
        if key is None:
            return ()
        return (key,) if isinstance(key, str) or callable(key) else _several(key, "key", self.name)

    def _checked_tags(self, tags: CallTags) -> Sequence[Any]:
        if callable(tags):
            return (tags,)
        return checked_tags(tags if isinstance(tags, str) else _several(tags, "tags", self.name))

    def _checked_after(self, after: After | None) -> After | None:
        if after is None:
            return None
        if not callable(after):
            raise ConfigurationError(
                f"after of {self.name} must be a function that is given the invalidation, such as "
                f"transaction.on_commit, got {after!r}"
            )
        if not self.is_async:
            same_kind(after, wants_async=False, where=f"after of {self.name}")
        return after

    def _checked_creates(self, creates: bool) -> bool:
        if switch(creates, f"creates of {self.name}") and not self._keys:
            raise ConfigurationError(
                f"creates of {self.name} needs the keys that it creates; give key="
            )
        return creates


class BlockingInvalidating(Invalidating):
    """A decorated blocking function."""

    is_async = False

    def wrapper(self) -> Callable[..., Any]:
        function = self.function

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            called_at = time.monotonic()
            self.announce(args, kwargs)
            result = function(*args, **kwargs)
            invalidation = self.invalidation(args, kwargs, result, called_at)
            if invalidation is not None:
                self._settle(invalidation)
            return result

        return wrapper

    def _settle(self, invalidation: Invalidation) -> None:
        if self.after is None:
            invalidation()
            return
        outcome = self.after(invalidation)
        if inspect.iscoroutine(outcome):
            outcome.close()
            raise ConfigurationError(
                f"after of {self.name} returned a coroutine, and {self.name} is blocking; "
                "use a hook that is not async"
            )


class AsyncInvalidating(Invalidating):
    """A decorated ``async def`` function."""

    is_async = True

    def wrapper(self) -> Callable[..., Any]:
        function = self.function

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            called_at = time.monotonic()
            self.announce(args, kwargs)
            result = await function(*args, **kwargs)
            invalidation = self.invalidation(args, kwargs, result, called_at)
            if invalidation is not None:
                await self._settle(invalidation)
            return result

        return wrapper

    async def _settle(self, invalidation: Invalidation) -> None:
        if self.after is None:
            await invalidation.acall()
            return
        outcome = self.after(invalidation)
        if inspect.isawaitable(outcome):
            await outcome


def _several(given: Any, option: str, name: str) -> tuple[Any, ...]:
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping):
        raise ConfigurationError(
            f"{option} of @invalidates of {name} must be templates or a function, got {given!r}"
        )
    return tuple(given)
