"""Read-through as an object: what ``cache.read_through`` returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from tiercache.functions import AsyncCachedFunction, CachedFunction
    from tiercache.spec import Miss
    from tiercache.stats import CacheInfo

P = ParamSpec("P")
R = TypeVar("R")
Item = TypeVar("Item")


class ReadThrough(Generic[P, R]):
    """Values by the arguments of a loader, which is called where no tier has them."""

    def __init__(self, function: CachedFunction[P, R]) -> None:
        self._function = function

    def get(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the value for these arguments, loading it where no tier has it."""
        return self._function(*args, **kwargs)

    def many(self, items: Iterable[Item]) -> dict[Item, R]:
        """Return the value of each item: an argument, or a tuple of several."""
        return self._function.many(items)

    def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """Return the value if a tier has it, else MISS."""
        return self._function.peek(*args, **kwargs)

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value again, store it, and return it."""
        return self._function.refresh(*args, **kwargs)

    def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for these arguments."""
        self._function.set(value, *args, **kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments, in both tiers."""
        self._function.invalidate(*args, **kwargs)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the text key of these arguments."""
        return self._function.key(*args, **kwargs)

    def cache_info(self) -> CacheInfo:
        """Return what became of the reads so far."""
        return self._function.cache_info()

    def __repr__(self) -> str:
        return f"<ReadThrough of {self._function.__qualname__}()>"


class AsyncReadThrough(Generic[P, R]):
    """The same for a loader that is ``async def``; what does I/O is awaited."""

    def __init__(self, function: AsyncCachedFunction[P, R]) -> None:
        self._function = function

    async def get(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the value for these arguments, loading it where no tier has it."""
        return await self._function(*args, **kwargs)

    async def many(self, items: Iterable[Item]) -> dict[Item, R]:
        """Return the value of each item: an argument, or a tuple of several."""
        return await self._function.many(items)

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> R | Miss:
        """Return the value if a tier has it, else MISS."""
        return await self._function.peek(*args, **kwargs)

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Load the value again, store it, and return it."""
        return await self._function.refresh(*args, **kwargs)

    async def set(self, value: R, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Store a value for these arguments."""
        await self._function.set(value, *args, **kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the value for these arguments, in both tiers."""
        await self._function.invalidate(*args, **kwargs)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the text key of these arguments."""
        return self._function.key(*args, **kwargs)

    def cache_info(self) -> CacheInfo:
        """Return what became of the reads so far."""
        return self._function.cache_info()

    def __repr__(self) -> str:
        return f"<AsyncReadThrough of {self._function.__qualname__}()>"
