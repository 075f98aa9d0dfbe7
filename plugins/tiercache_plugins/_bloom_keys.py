"""Which keys a guard answers for, and how its ids become keys.

With ``key=`` the template says both. Without, it is the one function that its cache has: found once
it is decorated, and not believed any longer once there is a second, since nobody knows then whose
ids these are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

from tiercache import Cache, KeyTemplate


class Keys(Protocol):
    """What a guard knows of its keys."""

    label: str  # says which keys they are, alike in every process

    def key(self, item: Any) -> str:
        """Return the key of an id, or of a tuple where the key has several fields."""

    def matches(self, key: str) -> bool:
        """Whether a key may be one of them; one that is, always does."""

    def still_hold(self) -> bool:
        """Whether it is still clear that the ids are of these keys."""


class Ambiguous(Exception):
    """A cache has several functions, and nobody said which of them the ids are of."""


class TemplateKeys:
    """The keys of a template."""

    def __init__(self, template: str) -> None:
        made = KeyTemplate(template)
        self.label = template
        self.key: Callable[[Any], str] = made.key
        self.matches: Callable[[str], bool] = made.matches

    def still_hold(self) -> bool:
        return True


class FunctionKeys:
    """The keys of the only function of a cache."""

    def __init__(self, cache: Cache, function: Any) -> None:
        self._cache = weakref.ref(cache)
        self._pattern = function.maker.pattern
        self._fullmatch = self._pattern.fullmatch
        self._make = function.maker.of  # not the function: it would keep the cache
        self._width = len(function.maker.signature.names)
        self.label = self._pattern.pattern

    def key(self, item: Any) -> str:
        if self._width == 1 or not isinstance(item, tuple):
            return str(self._make(item))
        return str(self._make(*item))

    def matches(self, key: str) -> bool:
        return self._fullmatch(key) is not None

    def still_hold(self) -> bool:
        cache = self._cache()
        if cache is None:
            return False
        functions = cache.functions()
        return len(functions) == 1 and functions[0].maker.pattern == self._pattern


def only_function(cache: Cache) -> FunctionKeys | None:
    """Return the keys of a cache's only function, or None if it has none yet.

    Raises:
        Ambiguous: If it has several.
    """
    functions = cache.functions()
    if len(functions) > 1:
        names = ", ".join(sorted(each.maker.name for each in functions)[:3])
        raise Ambiguous(f"the cache has several functions ({names}, ...)")
    return FunctionKeys(cache, functions[0]) if functions else None
