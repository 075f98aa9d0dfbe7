"""What a cache offers of writing and reading through."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from tiercache.options import Tags
from tiercache.ttl import TTL

if TYPE_CHECKING:
    from tiercache.cache import Cache
    from tiercache.spec import Spec
    from tiercache.writes.block import WritingBlock
    from tiercache.writes.decorating import F, Value
    from tiercache.writes.publishing import AfterCommit
    from tiercache.writes.reading import AsyncReadThrough, ReadThrough

P = ParamSpec("P")
R = TypeVar("R")


class Through:
    """A cache's writing through, and reading through an object."""

    if TYPE_CHECKING:

        def _spec(self, ttl: TTL, tags: Tags, base: Spec | None = None) -> Spec: ...

    def write_through(
        self,
        key: str | Callable[..., str],
        *,
        value: Value = None,
        ttl: TTL = None,
        tags: Tags = (),
        after: AfterCommit | None = None,
        on_cache_failure: str = "invalidate",
    ) -> Callable[[F], F]:
        """Have what a function has written to the database stand in the cache when it returns.

        A load that began before it cannot put back what it read. Of two such calls that overlap
        neither value is kept, since the cache cannot tell which the database took last; nor is
        one if the function raises, since the database may have the write all the same.

        Args:
            key: A template over the arguments (``"user:{user.id}"``), and the ``result`` where
                the function creates what the key is of; or a function of them.
            value: A function of the arguments (and ``result``) that returns the value; by default
                the function's result.
            ttl: As of ``set``.
            tags: Of the value, or a function of it.
            after: A hook that is given the Publication, to call it when the transaction has been
                committed: ``tiercache_plugins.sqlalchemy.after_commit``.
            on_cache_failure: "invalidate": where the cache cannot take the value, the key is
                invalidated, as soon as that can be; "raise": and WriteFailed is raised. The
                database has it then: for both or neither, see ``writing``.

        Raises:
            ConfigurationError: If an option is illegal or does not fit the function.
        """
        from tiercache.writes.decorating import Choices, decorate_writing

        choices = Choices(key, value, self._spec(ttl, tags), after, on_cache_failure)
        return lambda function: decorate_writing(cast("Cache", self), function, choices)

    def writing(
        self,
        key: str,
        value: Any,
        *,
        ttl: TTL = None,
        tags: Tags = (),
        after: AfterCommit | None = None,
        on_cache_failure: str = "raise",
    ) -> WritingBlock:
        """Return a block, for ``with`` or ``async with``, at whose end the value is in the cache.

        Inside of a database transaction, a cache that cannot take it makes the transaction roll
        back; a block that raises leaves no value behind. With ``after`` the value becomes visible
        when the transaction has been committed, and never if it is rolled back.

        Args:
            key: The key.
            value: What to store.
            ttl: As of ``set``.
            tags: As of ``set``.
            after: A hook that is given the Publication: ``after_commit(lambda: session)`` of
                ``tiercache_plugins.sqlalchemy``. Without it, a value is visible from the end of
                the block on: put the transaction inside.
            on_cache_failure: As of ``write_through``.

        Raises:
            WriteFailed: On entering or leaving, if the cache is out of reach, or cannot take it.
            ConfigurationError: If an option is illegal.
        """
        from tiercache.writes.block import WritingBlock

        cache = cast("Cache", self)
        return WritingBlock(cache, self._spec(ttl, tags), key, value, after, on_cache_failure)

    @overload
    def read_through(
        self, loader: Callable[P, Coroutine[Any, Any, R]], *, key: str | None = None, **options: Any
    ) -> AsyncReadThrough[P, R]: ...
    @overload
    def read_through(
        self, loader: Callable[P, R], *, key: str | None = None, **options: Any
    ) -> ReadThrough[P, R]: ...
    def read_through(self, loader: Any, *, key: str | None = None, **options: Any) -> Any:
        """Return an object that reads through: ``users.get(42)``; for code with no function.

        Args:
            loader: Called with the arguments of ``get`` where no tier has the value.
            key: A template over them, such as ``"user:{}"``.
            options: Those of ``cached``.

        Raises:
            ConfigurationError: If an option is illegal or does not fit the loader.
        """
        from tiercache.options import is_async
        from tiercache.writes.reading import AsyncReadThrough, ReadThrough

        function = cast("Cache", self).cached(key=key, **options)(loader)
        return AsyncReadThrough(function) if is_async(loader) else ReadThrough(function)
