"""The L1 hit: the hot path, and the only code written for blocking and asyncio apart.

For each function a wrapper is generated with the function's own parameters. It looks its arguments
up in a table of *shortcuts* that leads straight to entries of L1, without making a key, taking a
lock or reading a clock. An entry gets its shortcut with its first hit, which the slow path serves.

A shortcut is only a hint. An entry that left L1 has a deadline that no time is before, so that
every wrapper that still points to it falls back to the slow path.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable
from datetime import date
from typing import Any
from uuid import UUID

from .clock import Clock, PreciseClock
from .entry import DEAD, Entry, is_error
from .keys import KeyMaker
from .tiers.memory import Memory

_SWEEP_AT_LEAST = 64  # shortcuts, before dead ones are looked for
_MOST_TAGS = 1000  # told apart per function

#: Classes whose equal instances are the same value, so that a dict may find them.
_PLAIN = frozenset({int, str, bool, bytes, type(None), UUID, date})


class Shortcuts:
    """A function's table from arguments to entries of L1.

    With one argument the table is keyed by it as it is, and holds only arguments of one class,
    ``kind``, the first one seen: so ``1``, ``True`` and ``1.0``, which a dict takes for one, stay
    apart at the cost of one comparison. Everything else is keyed by arguments and their classes.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._lock = threading.RLock()  # a finalizer may call the function
        self._base_hits = 0  # of entries past, less what entries had before; guarded by _lock
        self._sweep_at = _SWEEP_AT_LEAST  # guarded by _lock
        self._tags: set[str] | None = set()  # of entries led to; None: any; guarded by _lock
        #: What the generated wrapper sees as its globals.
        self.namespace: dict[str, Any] = {"_tc_kind": None, "_tc_table": {}, "_tc_typed": {}}

    def count_hit(
        self,
        arguments: tuple[Any, ...] | None,
        entry: Entry,
        memory: Memory,
        is_outdated: Callable[[Entry], bool],
    ) -> None:
        """Count a hit that the slow path served, and make a shortcut for the next.

        There is none without arguments, where a dict could not tell the arguments from others,
        or for an entry that raises instead of giving a value.
        """
        with self._lock:
            if arguments is None or not _may_be_shortcut(arguments, entry):
                self._base_hits += 1
            elif not self._holds(arguments, entry):
                self._base_hits += 1
                # A clear empties L1 first and the shortcuts after, under this lock: so an entry
                # that stands in L1 now is either not cleared or its shortcut will be. The same
                # goes for the invalidation of a tag.
                if memory.table.get(entry.key) is not entry:
                    return
                if entry.tags:
                    if is_outdated(entry):
                        return
                    self._note_tags(entry.tags)
                self._install(arguments, entry)
                # Once more: a signal handler, or a finalizer, may have cleared in between.
                if memory.table.get(entry.key) is not entry or (entry.tags and is_outdated(entry)):
                    self._drop(arguments)

    def reset_tagged(self, tags: Collection[str]) -> None:
        """Drop every shortcut, if some may lead to entries with these tags."""
        with self._lock:
            if self._tags is None or not self._tags.isdisjoint(tags):
                self.reset()

    def _note_tags(self, tags: Iterable[str]) -> None:
        if self._tags is not None:
            self._tags.update(tags)
            if len(self._tags) > _MOST_TAGS:
                self._tags = None

    def reset(self) -> None:
        """Drop every shortcut."""
        with self._lock:
            self._tags = set()
            self._base_hits += sum(entry.hits for entry in self._entries())
            self.namespace.update(_tc_table={}, _tc_typed={})
            self._sweep_at = _SWEEP_AT_LEAST

    def after_fork(self) -> None:
        """Take a new lock in a forked child."""
        self._lock = threading.RLock()

    @property
    def hits(self) -> int:
        """Hits through shortcuts so far."""
        with self._lock:
            return self._base_hits + sum(entry.hits for entry in self._entries())

    def _holds(self, arguments: tuple[Any, ...], entry: Entry) -> bool:
        table, key = self._place(arguments)
        return table.get(key) is entry

    def _install(self, arguments: tuple[Any, ...], entry: Entry) -> None:
        table, key = self._place(arguments)
        old = table.get(key)
        if old is not None:
            self._base_hits += old.hits
        self._base_hits -= entry.hits
        table[key] = entry
        if self._size() >= self._sweep_at:
            self._sweep()

    def _drop(self, arguments: tuple[Any, ...]) -> None:
        table, key = self._place(arguments)
        entry = table.pop(key, None)
        if entry is not None:
            self._base_hits += entry.hits

    def _place(self, arguments: tuple[Any, ...]) -> tuple[dict[Any, Entry], Any]:
        if self._width != 1:
            typed = tuple(x for value in arguments for x in (value, value.__class__))
            return self.namespace["_tc_table"], typed
        (value,) = arguments
        if self.namespace["_tc_kind"] is None:
            self.namespace["_tc_kind"] = value.__class__
        if value.__class__ is self.namespace["_tc_kind"]:
            return self.namespace["_tc_table"], value
        return self.namespace["_tc_typed"], (value, value.__class__)

    def _entries(self) -> list[Entry]:
        return [*self.namespace["_tc_table"].values(), *self.namespace["_tc_typed"].values()]

    def _size(self) -> int:
        return len(self.namespace["_tc_table"]) + len(self.namespace["_tc_typed"])

    def _sweep(self) -> None:
        """Drop shortcuts to entries that have left L1. Amortised O(1) per shortcut made."""
        for table in (self.namespace["_tc_table"], self.namespace["_tc_typed"]):
            dead = [key for key, entry in table.items() if entry.fresh_until == DEAD]
            for key in dead:
                self._base_hits += table.pop(key).hits
        self._sweep_at = max(_SWEEP_AT_LEAST, 2 * self._size())


def make_wrapper(
    maker: KeyMaker,
    shortcuts: Shortcuts,
    memory: Memory | None,
    clock: Clock,
    slow: Callable[..., Any],
    *,
    uses_shortcuts: bool,
    is_async: bool,
    copy: Callable[[Any], Any] | None,
) -> Callable[..., Any]:
    """Generate the function that stands in place of the decorated one.

    Args:
        maker: The function's keys.
        shortcuts: Where hits are found, and whose namespace the wrapper lives in.
        memory: The L1 whose order hits keep up.
        clock: What tells a fresh entry.
        slow: What answers all other calls, given the same arguments.
        uses_shortcuts: If not, every call takes the slow path.
        is_async: Whether the function is ``async def``, and ``slow`` is awaited.
        copy: What makes a copy of the value to hand out; None to hand out the value itself.
    """
    signature = maker.signature
    head = f"{'async ' if is_async else ''}def _tc_wrapper({signature.parameters}):"
    tail = f"    return {'await ' if is_async else ''}_tc_slow({signature.arguments})"
    body = _lookup(maker, clock, copies=copy is not None) if uses_shortcuts else []
    namespace = shortcuts.namespace
    namespace.update(
        signature.defaults,
        _tc_Exception=Exception,
        _tc_slow=slow,
        _tc_clock=clock,
        _tc_memory=memory,
        _tc_copy=copy,
    )
    code = compile("\n".join([head, *body, tail]), f"<tiercache {maker.name}>", "exec")
    exec(code, namespace)  # noqa: S102 - made of checked identifiers
    wrapper: Callable[..., Any] = namespace.pop("_tc_wrapper")
    return wrapper


def _lookup(maker: KeyMaker, clock: Clock, *, copies: bool) -> list[str]:
    now = "_tc_clock()" if isinstance(clock, PreciseClock) else "_tc_clock.now"
    sources = [part.source for part in maker.fields]
    return [
        "    try:",
        *(f"        {line}" for line in _find_entry(sources)),
        # The value before the deadline: a removal sets the deadline first, then takes the value.
        "        _tc_value = _tc_entry.value",
        f"        if _tc_entry.fresh_until > {now}:",
        "            _tc_entry.hits += 1",
        "            _tc_entry.used = _tc_memory.tick",
        f"            return {'_tc_copy(_tc_value)' if copies else '_tc_value'}",
        # Not found; or not hashable, or without the attribute: the slow path says so properly.
        "    except _tc_Exception:",
        "        pass",
    ]


def _find_entry(sources: list[str]) -> list[str]:
    names = [source if source.isidentifier() else f"_tc_{i}" for i, source in enumerate(sources)]
    bind = [
        f"{name} = {source}" for name, source in zip(names, sources, strict=True) if name != source
    ]
    if len(names) == 1:
        (name,) = names
        return [
            *bind,
            f"if {name}.__class__ is _tc_kind:",
            f"    _tc_entry = _tc_table[{name}]",
            "else:",
            f"    _tc_entry = _tc_typed[{name}, {name}.__class__]",
        ]
    typed = "".join(f"{name}, {name}.__class__, " for name in names)
    return [*bind, f"_tc_entry = _tc_table[({typed})]"]


def _may_be_shortcut(arguments: tuple[Any, ...], entry: Entry) -> bool:
    return not is_error(entry.value) and all(map(_is_plain, arguments))


def _is_plain(value: Any) -> bool:
    if value.__class__ is float:
        return value != 0.0 and not math.isnan(value)  # 0.0 == -0.0; nan != nan
    return type(value) in _PLAIN
