"""The options of a cache and of a cached function, checked where they are given."""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from .errors import ConfigurationError
from .ttl import TTL, Duration, seconds

MAX_TAG = 10_000  # characters

Tags = Sequence[str] | Callable[[Any], Iterable[str]]


def switch(value: object, name: str) -> bool:
    """Return what is either on or off.

    Raises:
        ConfigurationError: If it is neither.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, got {value!r}")
    return value


def fixed_ttl(ttl: Duration | None) -> float | None:
    """Return a fixed TTL in seconds; None or infinity: no expiry."""
    if ttl is None or (isinstance(ttl, float) and ttl == math.inf):
        return None
    return seconds(ttl)


def chosen_ttl(ttl: Duration | None) -> float | None:
    """Return a TTL that was chosen for a value in seconds; 0: it is not to be kept."""
    if isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl <= 0:
        return 0.0  # as max-age=0 says
    return fixed_ttl(ttl)


def ttl_options(ttl: TTL) -> dict[str, Any]:
    """Return the fields of a Spec for a TTL: a fixed one in seconds, or a function of the value.

    Raises:
        ConfigurationError: If a fixed TTL is not a positive duration.
    """
    if not callable(ttl):
        return {"ttl": fixed_ttl(ttl)}
    choose = ttl

    def ttl_of(value: Any) -> float | None:
        return chosen_ttl(choose(value))

    return {"ttl_of": ttl_of}


@dataclass(frozen=True, slots=True)
class Staleness:
    """What may be done with values past their TTL, and shortly before its end."""

    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    refresh_ahead: float | None = None
    is_xfetch: bool = False

    def with_options(
        self,
        stale_while_revalidate: Duration | None,
        stale_if_error: Duration | None,
        refresh_ahead: float | str | bool | None,
        where: str = "",
    ) -> Staleness:
        """Return these with others in their place; None: as they are; 0 and False: off.

        Raises:
            ConfigurationError: If one is no duration, or no share between 0 and 1.
        """
        chosen: dict[str, Any] = {}
        if stale_while_revalidate is not None:
            name = f"stale_while_revalidate{where}"
            chosen["stale_while_revalidate"] = seconds_or_none_at_all(stale_while_revalidate, name)
        if stale_if_error is not None:
            name = f"stale_if_error{where}"
            chosen["stale_if_error"] = seconds_or_none_at_all(stale_if_error, name)
        if refresh_ahead is not None:
            chosen |= _refresh_ahead(refresh_ahead, where)
        return replace(self, **chosen)

    def as_options(self) -> dict[str, Any]:
        """Return the fields of a Spec."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_soft_timeout(
    soft_timeout: float | None, timeout: float, staleness: Staleness, name: str
) -> None:
    """Raise ConfigurationError if a soft timeout can never have an effect."""
    if soft_timeout is None:
        return
    if not (staleness.stale_if_error or staleness.stale_while_revalidate):
        raise ConfigurationError(
            f"soft_timeout of {name} serves a stale value, and none is kept; "
            "give stale_if_error (or stale_while_revalidate), too"
        )
    if soft_timeout >= timeout:
        raise ConfigurationError(
            f"soft_timeout of {name} must be less than its timeout ({timeout:g} s), "
            f"got {soft_timeout:g} s"
        )


def seconds_or_none_at_all(duration: Duration, name: str) -> float:
    """Return a duration in seconds that may be 0, for "not at all"."""
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    if isinstance(duration, int | float) and not isinstance(duration, bool) and duration == 0:
        return 0.0
    return seconds(duration, name=name)


def _refresh_ahead(chosen: float | str | bool, where: str) -> dict[str, Any]:
    if chosen is False:
        return {"refresh_ahead": None, "is_xfetch": False}
    if chosen == "xfetch":
        return {"refresh_ahead": None, "is_xfetch": True}
    if isinstance(chosen, bool) or not isinstance(chosen, int | float) or not 0 < chosen < 1:
        raise ConfigurationError(
            f'refresh_ahead{where} must be a share of the ttl between 0 and 1, or "xfetch", '
            f"got {chosen!r}; 0.8 refreshes in the last fifth"
        )
    return {"refresh_ahead": float(chosen), "is_xfetch": False}


def tag_options(tags: Tags) -> dict[str, Any]:
    """Return the fields of a Spec for tags: fixed ones, or a function of the value."""
    if not callable(tags):
        return {"tags": checked_tags(tags)}
    choose = tags
    return {"tags_of": lambda value: checked_tags(choose(value))}


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags as a tuple of texts."""
    if isinstance(tags, str):
        raise ConfigurationError(f'tags must be several texts, got {tags!r}; use ["{tags}"]')
    if not isinstance(tags, Iterable) or isinstance(tags, Mapping | bytes):
        raise ConfigurationError(
            f'tags must be several texts, got {tags!r}; use for example ["users"]'
        )
    result = tuple(tags)
    for tag in result:
        if not isinstance(tag, str) or not tag:
            raise ConfigurationError(f"a tag must be a text that is not empty, got {tag!r}")
        if len(tag) > MAX_TAG:
            raise ConfigurationError(
                f"a tag may have {MAX_TAG:,} characters, got {len(tag):,}: {tag[:40]!r}...; "
                "use a digest"
            )
    return result


def error_classes(classes: Any, name: str) -> tuple[type[Exception], ...]:
    """Return exception classes as a tuple."""
    result = (classes,) if isinstance(classes, type) else tuple(classes)
    for kind in result:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(f"{name} takes exception classes, got {kind!r}")
    return result


def copier(copy: bool | Callable[[Any], Any]) -> Callable[[Any], Any] | None:
    """Return what copies a value that L1 hands out, or None to hand out the value itself."""
    if callable(copy):
        return copy
    if not isinstance(copy, bool):
        raise ConfigurationError(f"copy must be True, False or a function, got {copy!r}")
    if not copy:
        return None
    from copy import deepcopy

    return deepcopy


def checked_function(function: Any, decorator: str) -> Callable[..., Any]:
    """Return a function that can be cached.

    Raises:
        ConfigurationError: If it is a class, a generator function, or nothing with a name.
    """
    if isinstance(function, type):
        raise ConfigurationError(
            f"{decorator} cannot decorate the class {function.__qualname__}; "
            "decorate a function that makes it"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{decorator} cannot decorate the generator {function.__qualname__}(): "
            "it can be consumed only once; return a list instead"
        )
    if not callable(function):
        raise ConfigurationError(f"{decorator} decorates functions, got {function!r}")
    if not hasattr(function, "__qualname__") or not hasattr(function, "__module__"):
        raise ConfigurationError(
            f"{decorator} needs a function with a name, got {function!r}; wrap it in a def"
        )
    result: Callable[..., Any] = function
    return result


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling a function gives a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - its kind is asked, not whether it is
    )


def same_kind(function: Callable[..., Any], *, wants_async: bool, where: str) -> None:
    """Raise ConfigurationError if a function is not of the kind that its place needs."""
    if is_async(function) and not wants_async:
        raise ConfigurationError(
            f"{where} is blocking and cannot await {_name(function)}; "
            "use the a-method of that name, or a plain function"
        )
    if wants_async and isinstance(function, types.FunctionType) and not is_async(function):
        if function.__name__ == "<lambda>":  # it may return a coroutine
            return
        raise ConfigurationError(
            f"{where} awaits its function, and {_name(function)} is blocking; "
            "make it async def, or use the method without the a"
        )


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__qualname__', repr(function))}()"


def takes_many(function: Callable[..., Any]) -> Callable[[list[Any]], Any]:
    """Return a bulk loader as a function of one list, where it takes ``*items``, too."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return function
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return lambda items: function(*items)
    return function
