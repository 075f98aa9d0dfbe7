"""A key template apart from any function: from items to keys, and whether a key is one of its.

For those who know values by an id instead of by a call: guards, warmers, writers.
"""

from __future__ import annotations

import inspect
import re
from string import Formatter
from typing import Any

from .errors import ConfigurationError, UncacheableArguments
from .keys import KeyMaker

_FIRST_NAME = re.compile(r"\w*")


class KeyTemplate:
    """``KeyTemplate("user:{user_id}").key(42)`` is ``"user:42"``, as ``@cached`` makes it.

    Args:
        template: As of ``@cached(key=)``. Fields are named by anything, or by nothing.

    Raises:
        ConfigurationError: If it is no template, or has no field.
    """

    def __init__(self, template: str) -> None:
        if not isinstance(template, str):
            raise ConfigurationError(f'a template is a text such as "user:{{}}", got {template!r}')
        self.template = template
        self._maker = KeyMaker(_taker_of(template), template)
        if not self._maker.fields:
            raise ConfigurationError(
                f'template {template!r} has no field: all keys are one; use "{template}:{{}}"'
            )
        self.width = len(self._maker.signature.names)  # how many values make an item
        self._matches = self._maker.pattern.fullmatch

    def key(self, item: Any) -> str:
        """Return the key of an item: of one value, or of a tuple where the template takes several.

        Raises:
            UncacheableArguments: If it does not fit.
        """
        if self.width == 1:
            return self._maker.of(item)
        values = item if isinstance(item, tuple) else (item,)
        if len(values) != self.width:
            raise UncacheableArguments(
                f"template {self.template!r} takes a tuple of {self.width} values, got {item!r}"
            )
        return self._maker.of(*values)

    def matches(self, key: str) -> bool:
        """Whether a key may be of this template; one that is, always does."""
        return self._matches(key) is not None

    def __repr__(self) -> str:
        return f"KeyTemplate({self.template!r})"


def _taker_of(template: str) -> Any:
    """Return something that takes the arguments which a template names, in order."""
    try:
        fields = [field for _, field, _, _ in Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigurationError(f"key template {template!r}: {error}") from None
    names: dict[str, None] = {}
    for number, field in enumerate(fields):
        match = _FIRST_NAME.match(field)
        first = match[0] if match else ""
        names[f"item{first or number}" if not first or first.isdecimal() else first] = None

    def take(*_: Any) -> None:
        """Stand for a function of these arguments."""

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    take.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    take.__qualname__ = f"KeyTemplate({template!r})"
    return take
