"""``@cached``: from a function to a flow, and the tools that the decorated function carries."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .batches import Batch, Want
from .bulk import read_many
from .errors import ConfigurationError, LoadErrors, UncacheableArguments
from .hit import Shortcuts, make_wrapper
from .keys import Key, KeyMaker
from .methods import FIRST_OF_METHODS, TOOLS, CachedMethod, is_method
from .options import (
    Tags,
    check_soft_timeout,
    checked_function,
    error_classes,
    is_async,
    same_kind,
    switch,
    tag_options,
    takes_many,
    ttl_options,
)
from .runtime import run
from .short_way import Call, Way, blocking_way, is_plain
from .spec import MISS, Spec
from .stats import CacheInfo, Counters
from .store_way import StoreCall, async_store_way, blocking_store_way, may_hold
from .ttl import TTL, Duration, optional_seconds

if TYPE_CHECKING:
    from .cache import Cache
    from .entry import Entry
    from .explaining import Explanation
    from .runtime import Port
    from .singleflight import Flight


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``@cached`` was given."""

    key: Key = None
    ttl: TTL = None
    tags: Tags = ()
    when: Callable[[Any], bool] | None = None
    negative_ttl: Duration | None = None
    negative_errors: Any = ()
    ignore: Collection[str] = ()
    stale_while_revalidate: Duration | None = None
    stale_if_error: Duration | None = None
    refresh_ahead: float | str | bool | None = None
    timeout: Duration | None = None
    soft_timeout: Duration | None = None
    lease: bool = True
    batch: Callable[..., Any] | None = None


def decorate(cache: Cache, function: Any, options: Options) -> Any:
    """Return what stands in a function's place: see ``Cache.cached``."""
    if isinstance(function, staticmethod):
        return staticmethod(decorate(cache, function.__func__, options))
    of_class = isinstance(function, classmethod)
    plain = checked_function(function.__func__ if of_class else function, "@cached")
    kind = AsyncCached if is_async(plain) else BlockingCached
    cached = kind(cache, plain, options)
    if of_class or is_method(plain):
        return CachedMethod(cached, of_class=of_class)
    return cached.wrapper


class Cached(ABC):
    """One decorated function: its keys, how it loads, and its wrapper.

    The wrapper reads what it needs from a namespace, so that ``bind`` can give a function of the
    default cache, decorated at import, the tiers that are configured later.
    """

    is_async: bool

    def __init__(self, cache: Cache, function: Callable[..., Any], options: Options) -> None:
        self.cache = cache
        self.function = function
        self.options = options
        ignore = frozenset([options.ignore] if isinstance(options.ignore, str) else options.ignore)
        is_template = isinstance(options.key, str)
        prefix, self.uses_store = (None, True) if is_template else cache.name_of(function, ignore)
        self.maker = KeyMaker(function, options.key, ignore=ignore, prefix=prefix)
        self.batch = _checked_batch(options.batch, function)
        self.counters = Counters()
        self._annotation = _return_annotation(function)
        self.shortcuts = Shortcuts(len(self.maker.fields))
        self.spec = self._make_spec()
        self.wrapper = self._make_wrapper()
        functools.update_wrapper(self.wrapper, function)
        for name in TOOLS:
            setattr(self.wrapper, name, getattr(self, name))
        cache.register(self)

    def bind(self) -> None:
        """Take over the cache's present configuration."""
        self.shortcuts.reset()
        self.spec = self._make_spec()
        self.wrapper.__code__ = self._make_wrapper().__code__

    def key(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the text key of a call."""
        return self.maker.of(*args, **kwargs)

    def cache_info(self) -> CacheInfo:
        """Return what became of the calls of this function so far."""
        counters = self.counters
        return CacheInfo(
            hits_l1=self.shortcuts.hits,
            hits_l2=counters.hits_l2,
            misses=counters.misses,
            loads=counters.loads,
            load_errors=counters.load_errors,
            joined=counters.joined,
            absent=counters.absent,
            stale_served=counters.stale_served,
            load_seconds=counters.load_times.snapshot(),
        )

    # For the tools

    def _handed_out(self, value: Any) -> Any:
        copy = self.cache.copy
        return value if copy is None else copy(value)

    def _result(self, flight: Flight) -> Any:
        return self._handed_out(flight.result())

    def _wants(self, items: Iterable[Any], bound: tuple[Any, ...]) -> list[Want]:
        single = len(self.maker.signature.names) - len(bound) == 1
        wants = []
        for item in items:
            if getattr(type(item), "__hash__", None) is None:
                raise UncacheableArguments(
                    f"{self.maker.name}: many() returns a dict by item, and "
                    f"{type(item).__name__} is not hashable; give the items as tuples or text"
                )
            args = item if isinstance(item, tuple) and not single else (item,)
            wants.append(Want(self.key(*bound, *args), item, (*bound, *args)))
        return wants

    def _batch_for(self, bound: tuple[Any, ...]) -> Batch:
        if self.batch is None or not bound:
            return self.batch
        batch, instance = self.batch, bound[0]
        if _takes_instance(self.options.batch):
            return lambda items: batch(instance, items)  # type: ignore[call-arg]
        return batch

    def _many_result(self, found: Any) -> dict[Any, Any]:
        values = {item: self._handed_out(value) for item, value in found.values.items()}
        if found.errors:
            raise LoadErrors(
                f"{self.maker.name}: {len(found.errors)} of "
                f"{len(found.errors) + len(values)} items could not be loaded",
                found.errors,
                values,
            )
        return values

    def _literal_prefix(self) -> str:
        fields = self.maker.fields
        return fields[0].before if fields else self.maker.tail

    def _found_nearby(self, port: Port, args: Any, kwargs: Any, key: str) -> Any:
        """Serve the slow path's hit in L1, or a stale value of it, or return MISS."""
        value, entry = self.cache.flow.nearby(port, self.spec, key, args, kwargs)
        if entry is not None:
            self._count_hit(self._parts(args, kwargs), entry)
        return value

    def _count_bulk_hit(self, args: tuple[Any, ...], entry: Any) -> None:
        self._count_hit(self._parts(args, {}), entry)

    def _count_hit(self, parts: tuple[Any, ...] | None, entry: Entry) -> None:
        memory = self.cache.memory
        if memory is not None:
            is_outdated = self.cache.flow.flights.is_outdated
            self.shortcuts.count_hit(parts, entry, memory, is_outdated)

    def _parts(self, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
        return self.maker.parts(*args, **kwargs) if self._uses_shortcuts else None

    # Making

    def _make_spec(self) -> Spec:
        options, cache, name = self.options, self.cache, self.maker.name
        timeout = optional_seconds(options.timeout, name=f"timeout of {name}")
        negative = optional_seconds(options.negative_ttl, name=f"negative_ttl of {name}")
        if negative is None:
            negative = cache.negative_ttl
        errors = error_classes(options.negative_errors, f"negative_errors of {name}")
        if errors and negative is None:
            raise ConfigurationError(
                f"negative_errors of {name} needs negative_ttl: how long is an error remembered?"
            )
        for option in ("when", "ttl", "tags"):
            chosen = getattr(options, option)
            if option == "when" and chosen is not None and not callable(chosen):
                raise ConfigurationError(
                    f"when of {name} must be a function of the value, got {chosen!r}"
                )
            if callable(chosen):
                same_kind(chosen, wants_async=False, where=f"{option} of {name}")
        if timeout is not None:
            timeout = min(timeout, cache.load_timeout)
        staleness = cache.staleness.with_options(
            options.stale_while_revalidate,
            options.stale_if_error,
            options.refresh_ahead,
            f" of {name}",
        )
        soft = optional_seconds(options.soft_timeout, name=f"soft_timeout of {name}")
        check_soft_timeout(soft, timeout or cache.load_timeout, staleness, name)
        return Spec(
            name=name,
            counters=self.counters,
            load_seconds=timeout or cache.load_timeout,
            **(cache.ttl_options if options.ttl is None else ttl_options(options.ttl)),
            **tag_options(options.tags),
            function=self.function,
            module=self.function.__module__,
            uses_store=self.uses_store,
            schema=cache.codec.schema(self._annotation),
            when=options.when,
            negative_ttl=negative,
            negative_errors=errors,
            timeout=timeout,
            soft_timeout=soft,
            **staleness.as_options(),
            lease=switch(options.lease, f"lease of {name}"),
            on_hit=self._count_bulk_hit,
        )

    @property
    def _uses_shortcuts(self) -> bool:
        maker = self.maker
        return (
            self.cache.memory is not None
            and not self.cache.telemetry.traces_hits  # a hit that is traced has a span to make
            and maker.has_parts
            and not maker.signature.has_variadic
        )

    def _make_wrapper(self) -> Callable[..., Any]:
        cache = self.cache
        return make_wrapper(
            self.maker,
            self.shortcuts,
            cache.memory,
            cache.clock,
            self._way(),
            uses_shortcuts=self._uses_shortcuts,
            is_async=self.is_async,
            copy=cache.copy,
        )

    def _way(self) -> Way:
        """Return what answers the calls that the wrapper cannot."""
        cache = self.cache
        flow = cache.flow
        known: dict[str, Any] = {
            "flow": flow,
            "spec": self.spec,
            "text": self.maker.text,
            "key": self.maker.of,
            "nearby": self._nearby,
            "long_way": self._read,
            "copy": cache.copy,
        }
        if flow.l2 is not None and may_hold(flow, self.spec):
            return self._store_way(StoreCall(l2=flow.l2, **known))
        return self._short_way(Call(**known)) if is_plain(flow, self.spec) else self._slow

    @abstractmethod
    def many_of(self, bound: tuple[Any, ...], items: Iterable[Any]) -> Any:
        """Do the work of ``many`` for a method of an instance."""

    @abstractmethod
    def _slow(self, /, *args: Any, **kwargs: Any) -> Any:
        """Answer what the wrapper could not."""

    @abstractmethod
    def _short_way(self, call: Call) -> Way:
        """Return what does the same for plain loads."""

    @abstractmethod
    def _store_way(self, call: StoreCall) -> Way:
        """Return what does the same for values that L2 may hold."""

    @abstractmethod
    def _nearby(self, args: Any, kwargs: Any, key: str) -> Any:
        """Serve a hit in L1, or return MISS."""

    @abstractmethod
    def _read(self, args: Any, kwargs: Any, key: str, led: Flight | None = None) -> Any:
        """Answer a call by a flight; or by one that is led already."""


class BlockingCached(Cached):
    """A decorated blocking function."""

    is_async = False

    def _slow(self, /, *args: Any, **kwargs: Any) -> Any:
        key = self.maker.of(*args, **kwargs)
        value = MISS if self.cache.memory is None else self._nearby(args, kwargs, key)
        if value is MISS:
            return self._read(args, kwargs, key)
        return value if self.cache.copy is None else self.cache.copy(value)

    def _nearby(self, args: Any, kwargs: Any, key: str) -> Any:
        return self._found_nearby(self.cache.blocking, args, kwargs, key)

    def _read(self, args: Any, kwargs: Any, key: str, led: Flight | None = None) -> Any:
        port, flow = self.cache.blocking, self.cache.flow
        flight = run(flow.read(port, self.spec, key, args, kwargs, led=led))
        value = flight.value if flight.error is None else flight.result()
        return value if self.cache.copy is None else self.cache.copy(value)

    def _short_way(self, call: Call) -> Way:
        return blocking_way(call, self.cache.blocking)

    def _store_way(self, call: StoreCall) -> Way:
        return blocking_store_way(call, self.cache.blocking)

    def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Forget the value for these arguments, in both tiers."""
        self.cache.delete(self.key(*args, **kwargs))

    def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Load the value for these arguments again, store it, and return it."""
        key = self.key(*args, **kwargs)
        flow = self.cache.flow
        return self._result(run(flow.refresh(self.cache.blocking, self.spec, key, args, kwargs)))

    def peek(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value for these arguments if a tier has it, else MISS; never load."""
        return self.cache.peek(self.key(*args, **kwargs), self.spec)

    def explain(self, /, *args: Any, **kwargs: Any) -> Explanation:
        """Say what the tiers hold for these arguments, for how long, and why."""
        return self.cache.explain(self.key(*args, **kwargs), self.spec)

    def set(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Store a value for these arguments."""
        self.cache.put(self.key(*args, **kwargs), value, self.spec)

    def many(self, items: Iterable[Any]) -> dict[Any, Any]:
        """Return the value of each item: an argument, or a tuple of several.

        Raises:
            LoadErrors: If some could not be loaded; it carries the others' ``.results``.
        """
        return self.many_of((), items)

    def many_of(self, bound: tuple[Any, ...], items: Iterable[Any]) -> dict[Any, Any]:
        wants = self._wants(items, bound)
        batch = self._batch_for(bound)
        flow = self.cache.flow
        return self._many_result(run(read_many(flow, self.cache.blocking, self.spec, wants, batch)))

    def cache_clear(self) -> None:
        """Forget every value whose key begins as this function's do.

        Where they begin with no text of their own (``key=`` is a function, or a template that
        begins with a field), that is the whole cache.
        """
        self.cache.clear_prefix(self._literal_prefix())


class AsyncCached(Cached):
    """A decorated ``async def`` function; its tools that do I/O are awaited."""

    is_async = True

    async def _slow(self, /, *args: Any, **kwargs: Any) -> Any:
        key = self.maker.of(*args, **kwargs)
        value = MISS if self.cache.memory is None else self._nearby(args, kwargs, key)
        if value is MISS:
            return await self._read(args, kwargs, key)
        return value if self.cache.copy is None else self.cache.copy(value)

    def _nearby(self, args: Any, kwargs: Any, key: str) -> Any:
        return self._found_nearby(self.cache.asyncio, args, kwargs, key)

    async def _read(self, args: Any, kwargs: Any, key: str, led: Flight | None = None) -> Any:
        port, flow = self.cache.asyncio, self.cache.flow
        flight = await flow.read(port, self.spec, key, args, kwargs, led=led)
        value = flight.value if flight.error is None else flight.result()
        return value if self.cache.copy is None else self.cache.copy(value)

    def _short_way(self, call: Call) -> Way:
        from .async_short_way import async_way

        code = getattr(self.function, "__code__", None)
        if code is None or not code.co_flags & inspect.CO_COROUTINE:
            return self._slow  # it only says that it is async: its awaitable may be of any kind
        return async_way(call, self.cache.asyncio)

    def _store_way(self, call: StoreCall) -> Way:
        return async_store_way(call, self.cache.asyncio)

    async def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Forget the value for these arguments, in both tiers."""
        await self.cache.adelete(self.key(*args, **kwargs))

    async def refresh(self, /, *args: Any, **kwargs: Any) -> Any:
        """Load the value for these arguments again, store it, and return it."""
        key = self.key(*args, **kwargs)
        flow = self.cache.flow
        return self._result(await flow.refresh(self.cache.asyncio, self.spec, key, args, kwargs))

    async def peek(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value for these arguments if a tier has it, else MISS; never load."""
        return await self.cache.apeek(self.key(*args, **kwargs), self.spec)

    async def explain(self, /, *args: Any, **kwargs: Any) -> Explanation:
        """Say what the tiers hold for these arguments, for how long, and why."""
        return await self.cache.aexplain(self.key(*args, **kwargs), self.spec)

    async def set(self, value: Any, /, *args: Any, **kwargs: Any) -> None:
        """Store a value for these arguments."""
        await self.cache.aput(self.key(*args, **kwargs), value, self.spec)

    async def many(self, items: Iterable[Any]) -> dict[Any, Any]:
        """Return the value of each item: an argument, or a tuple of several.

        Raises:
            LoadErrors: If some could not be loaded; it carries the others' ``.results``.
        """
        return await self.many_of((), items)

    async def many_of(self, bound: tuple[Any, ...], items: Iterable[Any]) -> dict[Any, Any]:
        wants = self._wants(items, bound)
        batch = self._batch_for(bound)
        flow = self.cache.flow
        return self._many_result(await read_many(flow, self.cache.asyncio, self.spec, wants, batch))

    async def cache_clear(self) -> None:
        """Forget every value whose key begins as this function's do.

        Where they begin with no text of their own (``key=`` is a function, or a template that
        begins with a field), that is the whole cache.
        """
        await self.cache.aclear_prefix(self._literal_prefix())


def _takes_instance(batch: Callable[..., Any] | None) -> bool:
    if batch is None:
        return False
    first = next(iter(inspect.signature(batch).parameters), "")
    return first in FIRST_OF_METHODS


def _checked_batch(batch: Callable[..., Any] | None, function: Callable[..., Any]) -> Batch:
    if batch is None:
        return None
    where = f"batch of {function.__qualname__}()"
    if not callable(batch):
        raise ConfigurationError(f"{where} must be a function of many arguments, got {batch!r}")
    same_kind(batch, wants_async=is_async(function), where=where)
    return takes_many(batch)


def _return_annotation(function: Callable[..., Any]) -> Any:
    """Return the annotation of what a function returns, resolved as far as it can be now."""
    try:
        scope = _enclosing_locals(function)
        return typing.get_type_hints(function, localns=scope, include_extras=True).get("return")
    except Exception:
        annotation = getattr(function, "__annotations__", {}).get("return")
        return None if isinstance(annotation, str) else annotation


def _enclosing_locals(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Return the names that a function defined in another one may use in its annotations."""
    scopes = function.__qualname__.split(".<locals>")
    if len(scopes) < 2:
        return None
    enclosing = scopes[-2].rpartition(".")[2]
    frame = sys._getframe(1)  # noqa: SLF001 - as pydantic and dataclasses do
    while frame is not None and frame.f_code.co_name != enclosing:
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else dict(frame.f_locals)
