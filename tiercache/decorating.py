"""What a cache offers to decorate functions with: ``@cache.cached`` and ``@cache.invalidates``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from .decorators import Options, decorate
from .errors import ConfigurationError
from .invalidating import After, CallTags, F, Keys, decorate_invalidating
from .keys import Key
from .options import Tags
from .ttl import TTL, Duration

if TYPE_CHECKING:
    from .cache import Cache
    from .functions import AsyncCachedFunction, CachedFunction, Decorator

P = ParamSpec("P")
R = TypeVar("R")


class Decorating:
    """A cache's decorators."""

    @overload
    def cached(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def cached(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def cached(
        self,
        template: str | None = None,
        /,
        *,
        key: Key = None,
        ttl: TTL = None,
        tags: Tags = (),
        when: Callable[[Any], bool] | None = None,
        negative_ttl: Duration | None = None,
        negative_errors: type[Exception] | Collection[type[Exception]] = (),
        ignore: Collection[str] = (),
        stale_while_revalidate: Duration | None = None,
        stale_if_error: Duration | None = None,
        refresh_ahead: float | str | bool | None = None,
        timeout: Duration | None = None,
        soft_timeout: Duration | None = None,
        lease: bool = True,
        batch: Callable[..., Any] | None = None,
    ) -> Decorator: ...
    def cached(self, function_or_key: Any = None, /, *, key: Key = None, **options: Any) -> Any:
        """Cache a function's results, with or without options: ``@cache.cached`` works bare.

        Args:
            function_or_key: The function where it is used bare, or a template.
            key: A template over the arguments (``"user:{user.id}"``), a function of them, or
                None for the function's name and its arguments.
            ttl: How long a value stays fresh, by default the cache's; or a function of it.
            tags: Tags of the value, or a function of it.
            when: Whether to store a value; by default all are.
            negative_ttl: TTL of a None, and of ``negative_errors``.
            negative_errors: Exceptions to remember and raise afresh each time, in this process.
            ignore: Arguments that are no part of the default key, such as ``("self",)``.
            stale_while_revalidate: As of the cache, whose is the default; 0: not at all.
            stale_if_error: Likewise.
            refresh_ahead: Likewise; False: not at all.
            timeout: How long a load may take; then LoadTimeout. A blocking function with a
                timeout runs on a thread of the cache instead of its caller's.
            soft_timeout: How long a load may take where a stale value is kept: then that is
                served, and the load goes on behind.
            lease: Whether one process in the cluster loads at a time, the others waiting for it;
                False: each loads for itself.
            batch: For ``many``: loads a list of items (or ``*items``) at once, and returns a
                dict by item or values in order.

        Raises:
            ConfigurationError: If an option is illegal or does not fit the function.
        """
        if callable(function_or_key) or isinstance(function_or_key, classmethod | staticmethod):
            return decorate(cast("Cache", self), function_or_key, Options(key=key, **options))
        if function_or_key is not None and key is not None:
            raise ConfigurationError(
                f"cached() got two keys, {function_or_key!r} and key={key!r}; give one"
            )
        chosen = Options(key=key if function_or_key is None else function_or_key, **options)
        return lambda function: decorate(cast("Cache", self), function, chosen)

    def invalidates(
        self,
        key: Keys = None,
        *,
        tags: CallTags = (),
        after: After | None = None,
        creates: bool = False,
    ) -> Callable[[F], F]:
        """Forget values once a function that changes what they are made of has succeeded.

        Args:
            key: A template over the arguments and the ``result`` (``"user:{result.id}"``),
                several, or a function of the arguments (and ``result``) that returns keys.
            tags: Tags of the values; templates too, or a function as for ``key``.
            after: A hook that is given the Invalidation, to call it when the transaction has
                been committed: ``transaction.on_commit`` of Django, ``after_commit`` of
                ``tiercache_plugins.sqlalchemy``. By default it is called before the function
                returns.
            creates: Whether the function creates what the keys are of: guards, such as
                BloomGuard, are told before it runs where its arguments tell the keys, else
                before it returns.

        Raises:
            ConfigurationError: If an option is illegal or does not fit the function.
        """
        cache = cast("Cache", self)
        return lambda function: decorate_invalidating(cache, function, key, tags, after, creates)
