"""Decorated methods: each instance gets the wrapper, and its tools, bound to it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decorators import Cached

FIRST_OF_METHODS = ("self", "cls", "mcs")
BOUND_TOOLS = ("invalidate", "refresh", "peek", "explain", "key")
TOOLS = (*BOUND_TOOLS, "set", "many", "cache_info", "cache_clear")


class CachedMethod:
    """A decorated method: gives each instance the wrapper with its tools bound, too.

    A plain function would bind itself, but not the tools that hang on it. Costs some 200 ns more
    a hit than a function.
    """

    def __init__(self, cached: Cached, *, of_class: bool) -> None:
        self._cached = cached
        self._of_class = of_class
        functools.update_wrapper(self, cached.function)
        for name in TOOLS:
            setattr(self, name, getattr(cached, name))
        if cached.is_async and sys.version_info >= (3, 12):
            inspect.markcoroutinefunction(self)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if self._of_class:
            return BoundCached.of(self._cached, owner)
        if instance is None:
            return self._cached.wrapper
        return BoundCached.of(self._cached, instance)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._cached.wrapper(*args, **kwargs)


class BoundCached(functools.partial):  # type: ignore[type-arg]
    """The wrapper with its first argument given: called at C speed, unwrapped by ``inspect``."""

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.func.__doc__

    _cached: Cached

    @classmethod
    def of(cls, cached: Cached, instance: Any) -> BoundCached:
        """Bind a decorated method to an instance or a class."""
        bound = cls(cached.wrapper, instance)
        bound._cached = cached
        return bound

    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Store a value for these arguments."""
        store = getattr(self.func, "set")  # noqa: B009 - a tool, of which types know nothing
        return store(value, *self.args, *args, **kwargs)

    def many(self, items: Iterable[Any]) -> Any:
        """Return the value of each item: an argument, or a tuple of several."""
        return self._cached.many_of(self.args, items)

    def __getattr__(self, name: str) -> Any:
        """Return a tool with the instance as its first argument, or the function's attribute."""
        if name in BOUND_TOOLS:
            return functools.partial(getattr(self.func, name), *self.args)
        return getattr(self.func, name)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BoundCached)
            and self.func is other.func
            and self.args[0] is other.args[0]
        )

    def __hash__(self) -> int:
        return hash((self.func, id(self.args[0])))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.args[0], self.func.__name__)

    @property
    def __wrapped__(self) -> Any:
        return functools.partial(self._cached.function, *self.args)

    @property
    def __self__(self) -> Any:
        return self.args[0]


def is_method(function: Callable[..., Any]) -> bool:
    """Whether a function is defined in the body of a class and takes an instance of it."""
    scope = function.__qualname__.rpartition(".")[0]
    if not scope or scope.endswith("<locals>"):
        return False
    first = next(iter(inspect.signature(function).parameters), "")
    return first in FIRST_OF_METHODS
