"""Which keys of L1 are asked for most, and with what arguments they could be loaded again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from tiercache.errors import CacheError

from .sources import Job, Source

if TYPE_CHECKING:
    from tiercache.cache import Cache
    from tiercache.decorators import Cached
    from tiercache.entry import Entry
    from tiercache.spec import Spec


class HotKey(NamedTuple):
    """A key that is asked for."""

    key: str
    hits: float  # in L1; of what rates keys otherwise: its rating
    function: str = ""  # that loads it: module and qualified name; "" where nobody knows
    args: tuple[Any, ...] | None = None  # of the call that loads it; None where nobody knows


def hottest(cache: Cache, count: int) -> list[HotKey]:
    """Return the keys in L1 with most hits, hottest first; those without a hit are left out."""
    if cache.memory is None:
        return []
    entries = cache.memory.hottest(count)
    known = _calls(cache, {entry.key for entry in entries})
    return [HotKey(entry.key, entry.hits, *known.get(entry.key, ())) for entry in entries]


def sources_of(
    cache: Cache, hot: Iterable[HotKey], plain: Spec, *, loads_async: bool
) -> list[Source]:
    """Return a source for each function that hot keys are of.

    Args:
        cache: Theirs.
        hot: The keys.
        plain: How those of no function are looked up.
        loads_async: Whether async functions may be called; else their keys are promoted only.
    """
    functions = {name_of(cached): cached for cached in cache.functions()}
    by_function: dict[str, list[HotKey]] = {}
    for each in hot:
        name = each.function if each.function in functions else ""
        by_function.setdefault(name, []).append(each)
    return [
        _source(functions.get(name), keys, plain, loads_async=loads_async)
        for name, keys in by_function.items()
    ]


def name_of(cached: Cached) -> str:
    """Return what a function is called in other processes, too."""
    return f"{cached.function.__module__}.{cached.function.__qualname__}"


def _source(cached: Cached | None, keys: list[HotKey], plain: Spec, *, loads_async: bool) -> Source:
    if cached is None:
        return Source(
            name="hot keys",
            produce=lambda: keys,
            spec=lambda: plain,
            job=lambda hot: Job(hot.key, None, None),
        )
    may_load = loads_async or not cached.is_async
    return Source(
        name=cached.maker.name,
        produce=lambda: keys,
        spec=lambda: cached.spec,
        job=_job_maker(cached, may_load=may_load),
        batch=cached.batch,
        is_async=cached.is_async and loads_async,
    )


def _job_maker(cached: Cached, *, may_load: bool) -> Callable[[HotKey], Job]:
    is_single = len(cached.maker.signature.names) == 1

    def job(hot: HotKey) -> Job:
        args = hot.args
        if args is None or not may_load or not _is_key_of(cached, args, hot.key):
            return Job(hot.key, None, None)
        return Job(hot.key, args[0] if is_single else args, args)

    return job


def _is_key_of(cached: Cached, args: tuple[Any, ...], key: str) -> bool:
    """Whether a call still has the key that it had when it was noted."""
    try:
        return cached.key(*args) == key
    except (CacheError, TypeError):
        return False


# From entries to calls


def _calls(cache: Cache, wanted: set[str]) -> dict[str, tuple[str, tuple[Any, ...] | None]]:
    """Return function and arguments of keys, as far as they are known."""
    calls: dict[str, tuple[str, tuple[Any, ...] | None]] = {}
    for cached in cache.functions():
        name, matches = name_of(cached), cached.maker.pattern.fullmatch
        if cached.maker.has_parts:
            for key in wanted - calls.keys():
                if matches(key):
                    calls[key] = name, None
        for key, args in _shortcut_calls(cached):
            if key in wanted:
                calls[key] = name, args
    return calls


def _shortcut_calls(cached: Cached) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Iterate over keys and arguments of a function's calls that have had a hit.

    Only of one whose key is made of all its arguments as they are: of others, arguments cannot be
    told from what the key is made of.
    """
    order = _order(cached)
    if order is None:
        return
    width = len(cached.maker.fields)
    for arguments, entry in _shortcuts(cached.shortcuts.namespace, width):
        yield entry.key, tuple(arguments[at] for at in order)


def _shortcuts(namespace: dict[str, Any], width: int) -> Iterator[tuple[tuple[Any, ...], Entry]]:
    """Iterate over arguments and entries: see hit.py for how they are kept."""
    for arguments, entry in list(namespace["_tc_table"].items()):
        yield ((arguments,) if width == 1 else arguments[::2]), entry
    for arguments, entry in list(namespace["_tc_typed"].items()):
        yield arguments[::2], entry


def _order(cached: Cached) -> list[int] | None:
    """Return at which place in the key's parts each positional argument stands."""
    fields = cached.maker.fields
    if not cached.maker.has_parts or any(part.source != part.argument for part in fields):
        return None
    places = {part.argument: at for at, part in enumerate(fields)}
    order: list[int] = []
    is_cut = False  # an argument with a default is no part of the key: the next cannot be given
    for parameter in inspect.signature(cached.function).parameters.values():
        if parameter.kind > parameter.POSITIONAL_OR_KEYWORD:
            return None
        if parameter.name in places:
            if is_cut:
                return None
            order.append(places[parameter.name])
        elif parameter.default is parameter.empty:
            return None
        else:
            is_cut = True
    return order
