"""Names for the default keys of functions, such that no two functions of a cache share one.

The name is module and qualified name. Functions that share it are told apart: by the plain values
they close over, which are the same in every process; otherwise by a number, in the order of
decoration, which another process need not share.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .canonical import canonical, stable_name

log = logging.getLogger(__name__)

_PLAIN = (int, str, bool, float, bytes, type(None))


@dataclass(slots=True)
class _Namesakes:
    """Functions of one name: what each is made of, by its number."""

    last: int = 0
    known: dict[int, tuple[Any, weakref.ref[Any] | None]] = field(default_factory=dict)


class Names:
    """The names that the functions of one cache have taken."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._namesakes: dict[str, _Namesakes] = {}  # guarded by _lock

    def name(self, function: Callable[..., Any], ignore: frozenset[str]) -> tuple[str, bool]:
        """Return a name that no other function has, and whether it is the same everywhere.

        A function defined anew as it was keeps its name. A name with a number means something in
        this process only.
        """
        base = f"{function.__module__}.{function.__qualname__}"
        plain, has_objects = _closed_over(function) if "<locals>" in base else ("", False)
        if plain:
            base = f"{base}[{plain}]"
        made_of = (getattr(function, "__code__", type(function)), ignore)
        with self._lock:
            namesakes = self._namesakes.setdefault(base, _Namesakes())
            number = _number_of(function, made_of, namesakes, by_identity=has_objects)
            if number == 1 and plain and not has_objects:
                weakref.finalize(function, self._forget, base).atexit = False
        if number == 1:
            return base, True
        log.warning(
            "%s is the name of several functions of one cache: number %d is kept in L1 only, "
            "since other processes may count differently; give it a key=",
            base,
            number,
        )
        return f"{base}#{number}", False

    def after_fork(self) -> None:
        """Take a new lock in a forked child."""
        self._lock = threading.RLock()

    def _forget(self, base: str) -> None:
        """Forget a name without numbers: who takes it again is made of the same."""
        with self._lock:
            if base in self._namesakes and self._namesakes[base].last == 1:
                del self._namesakes[base]


def _number_of(
    function: Callable[..., Any], made_of: Any, namesakes: _Namesakes, *, by_identity: bool
) -> int:
    """Return a function's number among its namesakes.

    One that closes over objects is like no other. Numbers of those that are gone are not given
    again, since what they cached may still be there.
    """
    for number, (other, ref) in list(namesakes.known.items()):
        same = None if ref is None else ref()
        if ref is not None and same is None:
            del namesakes.known[number]
        elif other == made_of and (ref is None or same is function):
            return number
    namesakes.last += 1
    namesakes.known[namesakes.last] = made_of, weakref.ref(function) if by_identity else None
    return namesakes.last


def _closed_over(function: Callable[..., Any]) -> tuple[str, bool]:
    """Return the plain values a function closes over as text, and whether there are others."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    texts, has_objects = [], False
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
        try:
            value = cell.cell_contents
        except ValueError:  # not bound yet: a function that refers to itself, or to its class
            continue
        if isinstance(value, type):
            texts.append(f"{name}={stable_name(value)}")
        elif type(value) in _PLAIN:
            texts.append(f"{name}={canonical(value)}")
        else:
            has_objects = True
    return ",".join(texts), has_objects
