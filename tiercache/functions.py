"""The types of decorated functions, for type checkers: they keep their parameters and results."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from .spec import Miss
from .stats import CacheInfo

if TYPE_CHECKING:
    from .explaining import Explanation

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
Item = TypeVar("Item")


class CachedFunction(Protocol[P, R]):
    """A blocking function under ``@cached``."""

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[P, R]:
        """The function itself, without the cache."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the value for these arguments."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments, in both tiers."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value for these arguments again, store it, and return it."""

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """Return the value for these arguments if a tier has it, else MISS; never load."""

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Say what the tiers hold for these arguments, for how long, and why."""

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for these arguments."""

    def many(self, items: Iterable[Item]) -> dict[Item, R]:
        """Return the value of each item: an argument, or a tuple of several."""

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the text key of a call."""

    def cache_info(self) -> CacheInfo:
        """Return what became of the calls of this function so far."""

    def cache_clear(self) -> None:
        """Forget every value whose key begins as this function's do."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> CachedFunction[Q, R]: ...


class AsyncCachedFunction(Protocol[P, R]):
    """An ``async def`` function under ``@cached``; its tools that do I/O are awaited."""

    __name__: str
    __qualname__: str

    @property
    def __wrapped__(self) -> Callable[P, Coroutine[Any, Any, R]]:
        """The function itself, without the cache."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Return the value for these arguments."""

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments, in both tiers."""

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value for these arguments again, store it, and return it."""
        ...

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """Return the value for these arguments if a tier has it, else MISS; never load."""
        ...

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Say what the tiers hold for these arguments, for how long, and why."""
        ...

    async def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for these arguments."""

    async def many(self, items: Iterable[Item]) -> dict[Item, R]:
        """Return the value of each item: an argument, or a tuple of several."""
        ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the text key of a call."""

    def cache_info(self) -> CacheInfo:
        """Return what became of the calls of this function so far."""

    async def cache_clear(self) -> None:
        """Forget every value whose key begins as this function's do."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[S, Q], R], instance: S, owner: type | None = None, /
    ) -> AsyncCachedFunction[Q, R]: ...


class Decorator(Protocol):
    """What ``@cached(...)`` with options gives: a decorator for functions of both kinds."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
