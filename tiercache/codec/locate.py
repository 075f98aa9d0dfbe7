"""What messages say of values: where in one something stands, and a short text of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from tiercache.codec.kinds import field_names

_MAX_VISITS: Final = 10_000
_MAX_REPR: Final = 80


def locate(value: object, culprit: object) -> str | None:
    """Return the path from ``value`` to ``culprit``, such as ``value['owner'].home``, if found."""
    pending = [("value", value)]
    seen: set[int] = set()
    while pending and len(seen) < _MAX_VISITS:
        path, item = pending.pop()
        if item is culprit:
            return path
        if id(item) not in seen:
            seen.add(id(item))
            pending.extend((path + step, part) for step, part in _parts(item))
    return None


def _parts(item: Any) -> Iterator[tuple[str, object]]:
    if isinstance(item, dict):
        for key, part in item.items():
            yield f"[{short(key)}]", part
            yield f".key({short(key)})", key
    elif isinstance(item, (list, tuple)):
        yield from ((f"[{number}]", part) for number, part in enumerate(item))
    elif isinstance(item, (set, frozenset)):
        yield from ((f".member({short(part)})", part) for part in item)
    else:
        held = {**getattr(item, "__dict__", {})}
        for name in field_names(type(item)) or ():
            with contextlib.suppress(Exception):  # a property may raise what it likes
                held.setdefault(name, getattr(item, name))
        yield from ((f".{name}", part) for name, part in held.items())


def short(item: object) -> str:
    """Return a repr for a message: bounded, and never raising, whoever wrote the class."""
    try:
        text = repr(item)
    except Exception as error:
        return f"<{type(item).__qualname__} whose repr raised {type(error).__qualname__}>"
    return text if len(text) <= _MAX_REPR else text[:_MAX_REPR] + "..."


def describe_error(error: Exception) -> str:
    """Return the class and arguments of an error, bounded."""
    return f"{type(error).__name__}{short(error.args)}"
