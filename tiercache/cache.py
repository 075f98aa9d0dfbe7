"""``Cache``: configuration, ``@cached``, and the cache-aside API in get / aget pairs."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast, overload

from .bulk import Found, Want, read_many
from .clock import as_clock, coarse_clock
from .codec import Codec
from .decorators import Cached, Options, decorate
from .errors import CacheError, ConfigurationError, LoadErrors, UncacheableArguments
from .flow import Flow
from .keys import Key
from .naming import Names
from .options import Tags, copier, same_kind, tag_options, takes_many, ttl_options
from .plugin import Hooks
from .registry import live_caches
from .runtime import BlockingPort, run
from .spec import MISS, Spec
from .stats import Counters, Stats
from .tiers.memory import LRU
from .tiers.store import Store
from .ttl import TTL, Duration, check_jitter, optional_seconds, seconds
from .writing import Writing

if TYPE_CHECKING:
    from .async_runtime import AsyncPort
    from .functions import AsyncCachedFunction, CachedFunction, Decorator
    from .plugin import Plugin

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_L1_ENTRIES = 10_000
_NEW_L1: Any = LRU(1)  # stands for "an LRU of this cache's own" as a default


class Cache:
    """Values by key, in this process's memory (L1) and in a store that processes share (L2).

    Args:
        name: Part of every key in L2: caches of one name on one store share their values.
        l1: ``LRU(maxsize)``, by default of 10,000 entries; None for no L1.
        l2: ``Redis(url)``, ``SQLite(path)`` or another store; None for no L2.
        ttl: How long values stay fresh; None for no expiry; or a function of the value.
        jitter: Share of the TTL by which it is shortened at random, in [0, 1).
        negative_ttl: TTL of a None; by default as any other value.
        load_timeout: How long a load may hold its key.
        copy: Hand out deep copies from L1, or what this function makes of the value.
        plugins: Extensions, called in this order.
        codec: What makes bytes of values for L2.
        clock: What gives the time in seconds, never going back; ``time.monotonic`` for expiry
            exact to the microsecond, by default exact to some 20 ms.

    Raises:
        ConfigurationError: If an option is illegal.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        l1: LRU | None = _NEW_L1,
        l2: Store | None = None,
        ttl: TTL = 300,
        jitter: float = 0.05,
        negative_ttl: Duration | None = None,
        load_timeout: Duration = 30,
        copy: bool | Callable[[Any], Any] = False,
        plugins: Iterable[Plugin] = (),
        codec: Codec | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.name = _checked_name(name)
        self.memory = _checked_l1(l1)
        self.store = _checked_l2(l2)
        self.ttl_options = ttl_options(ttl)
        self._ttl = ttl
        self.jitter = check_jitter(jitter)
        self.negative_ttl = optional_seconds(negative_ttl, name="negative_ttl")
        self.load_timeout = seconds(load_timeout, name="load_timeout")
        self.copy = copier(copy)
        self.clock = as_clock(clock)
        self.codec = _checked_codec(codec)
        self.counters = Counters()
        self.hooks = Hooks(plugins, self.counters)
        self.blocking = BlockingPort()
        self._registering = threading.RLock()
        self._functions: weakref.WeakSet[Cached] = weakref.WeakSet()  # guarded by _registering
        self._function_counters: list[Counters] = []
        self._names = Names()
        self._build()
        live_caches.add(self)
        if self.memory is not None:
            self.memory.on_clear = self._drop_shortcuts
        self.hooks.start(self)

    def _build(self) -> None:
        self.flow = Flow(
            self.name,
            self.memory,
            self.store,
            self.codec,
            self.clock,
            self.jitter,
            self.hooks,
            self.counters,
        )
        self._writing = Writing(self.flow)
        self._look = self._make_spec()
        self._load = self._make_spec(function=_call_loader)
        self._aload = self._make_spec(function=_acall_loader)

    @cached_property
    def asyncio(self) -> AsyncPort:
        """What carries this cache's asyncio callers."""
        from .async_runtime import AsyncPort

        return AsyncPort()

    # Decorating

    @overload
    def cached(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncCachedFunction[P, R]: ...
    @overload
    def cached(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...
    @overload
    def cached(
        self,
        template: str | None = None,
        /,
        *,
        key: Key = None,
        ttl: TTL = None,
        tags: Tags = (),
        when: Callable[[Any], bool] | None = None,
        negative_ttl: Duration | None = None,
        negative_errors: type[Exception] | Collection[type[Exception]] = (),
        ignore: Collection[str] = (),
        timeout: Duration | None = None,
        batch: Callable[..., Any] | None = None,
    ) -> Decorator: ...
    def cached(self, function_or_key: Any = None, /, *, key: Key = None, **options: Any) -> Any:
        """Cache a function's results, with or without options: ``@cache.cached`` works bare.

        Args:
            function_or_key: The function where it is used bare, or a template.
            key: A template over the arguments (``"user:{user.id}"``), a function of them, or
                None for the function's name and its arguments.
            ttl: How long a value stays fresh, by default the cache's; or a function of it.
            tags: Tags of the value, or a function of it.
            when: Whether to store a value; by default all are.
            negative_ttl: TTL of a None, and of ``negative_errors``.
            negative_errors: Exceptions to remember and raise afresh each time, in this process.
            ignore: Arguments that are no part of the default key, such as ``("self",)``.
            timeout: How long a load may take; then LoadTimeout. A blocking function with a
                timeout runs on a thread of the cache instead of its caller's.
            batch: For ``many``: loads a list of items (or ``*items``) at once, and returns a
                dict by item or values in order.

        Raises:
            ConfigurationError: If an option is illegal or does not fit the function.
        """
        if callable(function_or_key) or isinstance(function_or_key, classmethod | staticmethod):
            return decorate(self, function_or_key, Options(key=key, **options))
        if function_or_key is not None and key is not None:
            raise ConfigurationError(
                f"cached() got two keys, {function_or_key!r} and key={key!r}; give one"
            )
        chosen = Options(key=key if function_or_key is None else function_or_key, **options)
        return lambda function: decorate(self, function, chosen)

    def _retire(self, counters: Counters) -> None:
        with self._registering:
            self._function_counters.remove(counters)
            self.counters.absorb(counters)

    def name_of(self, function: Callable[..., Any], ignore: frozenset[str]) -> tuple[str, bool]:
        """Return what default keys of a function begin with, and whether L2 may hold them."""
        return self._names.name(function, ignore)

    def register(self, cached: Cached) -> None:
        """Take up a decorated function; what it counts goes into the counts of the cache."""
        with self._registering:
            self._functions.add(cached)
            self._function_counters.append(cached.counters)
        weakref.finalize(cached, self._retire, cached.counters).atexit = False

    def functions(self) -> list[Cached]:
        """Return the functions decorated with this cache."""
        with self._registering:
            return list(self._functions)

    # Cache-aside

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key from L1 or L2, or the default.

        ``tiercache.MISS`` as the default tells a cached None from no value.
        """
        value = self._nearby(key)
        if value is MISS:
            value = run(self.flow.look(self.blocking, self._look, key))
        return default if value is MISS else self._handed_out(value)

    async def aget(self, key: str, default: Any = None) -> Any:
        """Do what ``get`` does, awaited."""
        value = self._nearby(key)
        if value is MISS:
            value = await self.flow.look(self.asyncio, self._look, key)
        return default if value is MISS else self._handed_out(value)

    def set(self, key: str, value: Any, *, ttl: TTL = None, tags: Tags = ()) -> None:
        """Store a value in both tiers. ``ttl=math.inf``: it does not expire."""
        run(self._writing.put(self.blocking, self._spec(ttl, tags), {_checked_key(key): value}))

    async def aset(self, key: str, value: Any, *, ttl: TTL = None, tags: Tags = ()) -> None:
        """Do what ``set`` does, awaited."""
        spec = self._spec(ttl, tags)
        await self._writing.put(self.asyncio, spec, {_checked_key(key): value})

    def delete(self, *keys: str) -> int:
        """Remove keys from both tiers; loads under way do not bring them back.

        Returns how many there were.
        """
        return run(self._writing.delete(self.blocking, _checked_keys(keys))) if keys else 0

    async def adelete(self, *keys: str) -> int:
        """Do what ``delete`` does, awaited."""
        return await self._writing.delete(self.asyncio, _checked_keys(keys)) if keys else 0

    def expire(self, *keys: str) -> None:
        """Make keys stale: the next read loads them again."""
        if keys:
            run(self._writing.expire(self.blocking, _checked_keys(keys)))

    async def aexpire(self, *keys: str) -> None:
        """Do what ``expire`` does, awaited."""
        if keys:
            await self._writing.expire(self.asyncio, _checked_keys(keys))

    def get_or_load(
        self, key: str, loader: Callable[..., T], *, ttl: TTL = None, tags: Tags = ()
    ) -> T:
        """Return the value of a key, loading it where no tier has it: once for all callers.

        Args:
            key: The key.
            loader: Called without arguments, or with the key if it takes one.
            ttl: How long the value stays fresh, by default the cache's; or a function of it.
            tags: Tags of the value, or a function of it.
        """
        same_kind(loader, wants_async=False, where="get_or_load()")
        value = self._nearby(key)
        if value is MISS:
            spec = self._spec(ttl, tags, self._load)
            value = run(self.flow.read(self.blocking, spec, key, (loader, key))).result()
        return cast(T, self._handed_out(value))

    async def aget_or_load(
        self, key: str, loader: Callable[..., Awaitable[T]], *, ttl: TTL = None, tags: Tags = ()
    ) -> T:
        """Do what ``get_or_load`` does, awaited, with a loader that is awaited."""
        same_kind(loader, wants_async=True, where="aget_or_load()")
        value = self._nearby(key)
        if value is MISS:
            spec = self._spec(ttl, tags, self._aload)
            flight = await self.flow.read(self.asyncio, spec, key, (loader, key))
            value = flight.result()
        return cast(T, self._handed_out(value))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that L1 or L2 have, by key, in one round trip."""
        found, missing = self._nearby_many(keys)
        if missing:
            found.update(run(self.flow.look_many(self.blocking, self._look, missing)))
        return self._handed_out_many(found)

    async def aget_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Do what ``get_many`` does, awaited."""
        found, missing = self._nearby_many(keys)
        if missing:
            found.update(await self.flow.look_many(self.asyncio, self._look, missing))
        return self._handed_out_many(found)

    def set_many(self, values: Mapping[str, Any], *, ttl: TTL = None, tags: Tags = ()) -> None:
        """Store values by key, in one round trip."""
        if values:
            _checked_keys(values)
            run(self._writing.put(self.blocking, self._spec(ttl, tags), values))

    async def aset_many(
        self, values: Mapping[str, Any], *, ttl: TTL = None, tags: Tags = ()
    ) -> None:
        """Do what ``set_many`` does, awaited."""
        if values:
            _checked_keys(values)
            await self._writing.put(self.asyncio, self._spec(ttl, tags), values)

    def delete_many(self, keys: Iterable[str]) -> int:
        """Remove keys from both tiers in one round trip; return how many there were."""
        return self.delete(*keys)

    async def adelete_many(self, keys: Iterable[str]) -> int:
        """Do what ``delete_many`` does, awaited."""
        return await self.adelete(*keys)

    def get_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[..., Any],
        *,
        ttl: TTL = None,
        tags: Tags = (),
    ) -> dict[str, Any]:
        """Return the values of keys: hits in one round trip, the others by one bulk load.

        Args:
            keys: The keys.
            loader: Called with the list of missing keys; returns a dict by key, or values in
                the keys' order. A key it does not name is None.
            ttl: As of ``get_or_load``.
            tags: As of ``get_or_load``.

        Raises:
            LoadErrors: If some could not be loaded; it carries the others' ``.results``.
        """
        same_kind(loader, wants_async=False, where="get_or_load_many()")
        spec = self._spec(ttl, tags, self._load)
        wants, batch = _wants(keys), takes_many(loader)
        return self._many(run(read_many(self.flow, self.blocking, spec, wants, batch)))

    async def aget_or_load_many(
        self,
        keys: Iterable[str],
        loader: Callable[..., Any],
        *,
        ttl: TTL = None,
        tags: Tags = (),
    ) -> dict[str, Any]:
        """Do what ``get_or_load_many`` does, awaited, with a loader that is awaited."""
        same_kind(loader, wants_async=True, where="aget_or_load_many()")
        spec = self._spec(ttl, tags, self._aload)
        wants, batch = _wants(keys), takes_many(loader)
        return self._many(await read_many(self.flow, self.asyncio, spec, wants, batch))

    def clear(self) -> None:
        """Remove everything from both tiers."""
        self.clear_prefix("")

    async def aclear(self) -> None:
        """Do what ``clear`` does, awaited."""
        await self.aclear_prefix("")

    def clear_prefix(self, prefix: str) -> None:
        """Remove every key that begins with a prefix from both tiers."""
        run(self._writing.clear(self.blocking, prefix, lambda: self._forget(prefix)))

    async def aclear_prefix(self, prefix: str) -> None:
        """Do what ``clear_prefix`` does, awaited."""
        await self._writing.clear(self.asyncio, prefix, lambda: self._forget(prefix))

    # Looking without using: what f.peek() and f.set() are made of

    def peek(self, key: str, spec: Spec) -> Any:
        """Return the value of a key in either tier, or MISS, without counting a use."""
        value = run(self.flow.peek(self.blocking, spec, key))
        return value if value is MISS else self._handed_out(value)

    async def apeek(self, key: str, spec: Spec) -> Any:
        """Do what ``peek`` does, awaited."""
        value = await self.flow.peek(self.asyncio, spec, key)
        return value if value is MISS else self._handed_out(value)

    def put(self, key: str, value: Any, spec: Spec) -> None:
        """Store a value as a function's."""
        run(self._writing.put(self.blocking, spec, {key: value}))

    async def aput(self, key: str, value: Any, spec: Spec) -> None:
        """Do what ``put`` does, awaited."""
        await self._writing.put(self.asyncio, spec, {key: value})

    # Life

    def stats(self) -> Stats:
        """Return a snapshot of what was counted so far."""
        memory = self.memory
        counters = Counters()
        with self._registering:
            for part in (self.counters, *self._function_counters):
                counters.absorb(part)
        return Stats(
            hits_l1=0 if memory is None else memory.hits,
            hits_l2=counters.hits_l2,
            misses=counters.misses,
            loads=counters.loads,
            load_errors=counters.load_errors,
            joined=counters.joined,
            absent=counters.absent,
            load_seconds=self.flow.load_times.snapshot(),
            evictions={} if memory is None else memory.removals,
            entries=0 if memory is None else len(memory),
            weight=0 if memory is None else memory.weight,
            store_errors=counters.store_errors,
            decode_errors=counters.decode_errors,
            encode_errors=counters.encode_errors,
            plugin_errors=counters.plugin_errors,
        )

    def close(self) -> None:
        """Stop plugins and release connections, threads and tasks. Safe to call twice."""
        self._stop()
        if self.store is not None:
            self.store.close()

    async def aclose(self) -> None:
        """Do what ``close`` does, awaited."""
        self._stop()
        await self.asyncio.quiesce()
        if self.store is not None:
            await self.store.aclose()

    def _stop(self) -> None:
        live_caches.remove(self)
        self.hooks.stop()
        flights = self.flow.flights
        for flight in flights.under_way():
            cancel = flight.cancel
            if cancel is not None:
                flights.fail(flight, CacheError(f"cache {self.name!r} was closed during a load"))
                cancel()
        if self.clock is coarse_clock:
            coarse_clock.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        tiers = [type(tier).__name__ for tier in (self.memory, self.store) if tier is not None]
        return f"<Cache {self.name!r} over {' and '.join(tiers) or 'no tier'}>"

    def settings(self) -> dict[str, Any]:
        """Return what caches of one name on one store must agree on."""
        return {
            "ttl": self._ttl,
            "jitter": self.jitter,
            "negative_ttl": self.negative_ttl,
            "codec": type(self.codec).__name__,
        }

    def reconfigure(self, **options: Any) -> None:
        """Take other options, as if constructed with them; decorated functions come along."""
        kept = self._functions, self._names, self._function_counters
        self.close()
        self.__init__(self.name, **options)  # type: ignore[misc]
        self._functions, self._names, self._function_counters = kept
        for function in self.functions():
            function.bind()

    def after_fork(self) -> None:
        """Bring locks in order in a forked child, and forget the parent's loads."""
        if self.memory is not None:
            self.memory.after_fork()
        self.blocking = BlockingPort()
        self.__dict__.pop("asyncio", None)
        self.flow.after_fork()
        self._registering = threading.RLock()
        self._names.after_fork()
        for function in self.functions():
            function.shortcuts.after_fork()

    # Inside

    def _nearby(self, key: str) -> Any:
        """Return what L1 has for a key, or MISS."""
        found = self.flow.usable(_checked_key(key))
        if found is None:
            return MISS
        return self.flow.hit(*found)

    def _nearby_many(self, keys: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
        """Return what L1 has, by key, and the keys of the rest."""
        unique = list(dict.fromkeys(_checked_keys(keys)))
        if self.memory is None:
            return {}, unique
        found = {key: value for key in unique if (value := self._nearby(key)) is not MISS}
        return found, [key for key in unique if key not in found]

    def _handed_out(self, value: Any) -> Any:
        return value if self.copy is None else self.copy(value)

    def _handed_out_many(self, values: dict[str, Any]) -> dict[str, Any]:
        copy = self.copy
        return values if copy is None else {key: copy(value) for key, value in values.items()}

    def _many(self, found: Found) -> dict[str, Any]:
        values = self._handed_out_many(found.values)
        if found.errors:
            total = len(found.errors) + len(values)
            raise LoadErrors(
                f"{len(found.errors)} of {total} keys could not be loaded", found.errors, values
            )
        return values

    def _drop_shortcuts(self) -> None:
        for function in self.functions():
            function.shortcuts.reset()

    def _forget(self, prefix: str) -> None:
        if self.memory is None:
            return
        if not prefix:
            self.memory.clear()
            return
        for key in self.memory:
            if key.startswith(prefix):
                self.memory.remove(key)

    def _spec(self, ttl: TTL, tags: Tags, base: Spec | None = None) -> Spec:
        base = base or self._look
        if ttl is None and not tags:
            return base
        return self._make_spec(base.function, ttl, tags)

    def _make_spec(
        self, function: Callable[..., Any] | None = None, ttl: TTL = None, tags: Tags = ()
    ) -> Spec:
        return Spec(
            name=f"cache {self.name!r}",
            counters=self.counters,
            load_seconds=self.load_timeout,
            **(self.ttl_options if ttl is None else ttl_options(ttl)),
            **tag_options(tags),
            function=function,
            negative_ttl=self.negative_ttl,
        )


def _call_loader(loader: Callable[..., Any], key: str) -> Any:
    return loader(key) if _takes_key(loader) else loader()


async def _acall_loader(loader: Callable[..., Awaitable[Any]], key: str) -> Any:
    awaitable = loader(key) if _takes_key(loader) else loader()
    if not inspect.isawaitable(awaitable):
        raise ConfigurationError(
            f"aget_or_load() awaits its loader, and {loader!r} returned {awaitable!r}; "
            "make it async def, or use get_or_load()"
        )
    return await awaitable


def _takes_key(loader: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(loader).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [p for p in parameters if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    return len(required) == 1


def _wants(keys: Iterable[str]) -> list[Want]:
    return [Want(key, key) for key in _checked_keys(keys)]


def _checked_keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str):
        raise UncacheableArguments(f"keys must be several texts, got {keys!r}; use [{keys!r}]")
    result = list(keys)
    for key in result:
        if type(key) is not str:
            _checked_key(key)
    return result


def _checked_key(key: str) -> str:
    if type(key) is not str:
        raise UncacheableArguments(
            f"a key must be text, got {key!r} ({type(key).__name__}); use str(...)"
        )
    return key


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not name or ":" in name:
        raise ConfigurationError(
            f"the name of a cache must be a text without ':', got {name!r}; such as \"users\""
        )
    return name


def _checked_l1(l1: LRU | None) -> LRU | None:
    if l1 is _NEW_L1:
        return LRU(DEFAULT_L1_ENTRIES)
    if l1 is not None and not isinstance(l1, LRU):
        raise ConfigurationError(f"l1 must be LRU(maxsize) or None, got {l1!r}")
    return l1


def _checked_l2(l2: Store | None) -> Store | None:
    if l2 is not None and not isinstance(l2, Store):
        raise ConfigurationError(
            f"l2 must be Redis(url), SQLite(path), another Store or None, got {l2!r}"
        )
    return l2


def _checked_codec(codec: Codec | None) -> Codec:
    if codec is None:
        return Codec()
    if not isinstance(codec, Codec):
        raise ConfigurationError(f"codec must be a tiercache.Codec, got {codec!r}")
    return codec
