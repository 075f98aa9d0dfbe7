"""The cache-aside API in get / aget pairs: what ``Cache`` does with keys that users give."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .batches import Found, Want
from .bulk import read_many
from .errors import ConfigurationError, LoadErrors, UncacheableArguments
from .options import Staleness, Tags, checked_tags, same_kind, tag_options, takes_many, ttl_options
from .runtime import run
from .spec import MISS, Spec
from .ttl import TTL

if TYPE_CHECKING:
    from .async_runtime import AsyncPort
    from .entry import Entry
    from .explaining import Explanation
    from .flow import Flow
    from .runtime import BlockingPort
    from .stats import Counters
    from .tiers.memory import Memory
    from .writing import Writing

T = TypeVar("T")


class CacheAside:
    """Values by key. ``Cache`` brings the tiers and the options."""

    name: str
    memory: Memory | None
    flow: Flow
    blocking: BlockingPort
    counters: Counters
    copy: Callable[[Any], Any] | None
    ttl_options: dict[str, Any]
    staleness: Staleness
    negative_ttl: float | None
    load_timeout: float
    _writing: Writing
    _look: Spec  # how keys are looked up where a call has no options of its own
    _load: Spec
    _aload: Spec

    if TYPE_CHECKING:

        @property
        def asyncio(self) -> AsyncPort:
            """What carries this cache's asyncio callers."""

    def prepare_specs(self) -> None:
        """Make what calls without options of their own share."""
        self._look = self._make_spec()
        self._load = self._make_spec(function=_call_loader)
        self._aload = self._make_spec(function=_acall_loader)

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
        value = self._nearby_at_rest(key)
        if value is MISS:
            spec = self._spec(ttl, tags, self._load)
            flow, port, args = self.flow, self.blocking, (loader, key)
            value, _ = flow.nearby(port, spec, key, args, {})
            if value is MISS:
                value = run(flow.read(port, spec, key, args)).result()
        return cast(T, self._handed_out(value))

    async def aget_or_load(
        self, key: str, loader: Callable[..., Awaitable[T]], *, ttl: TTL = None, tags: Tags = ()
    ) -> T:
        """Do what ``get_or_load`` does, awaited, with a loader that is awaited."""
        same_kind(loader, wants_async=True, where="aget_or_load()")
        value = self._nearby_at_rest(key)
        if value is MISS:
            spec = self._spec(ttl, tags, self._aload)
            flow, aport, args = self.flow, self.asyncio, (loader, key)
            value, _ = flow.nearby(aport, spec, key, args, {})
            if value is MISS:
                value = (await flow.read(aport, spec, key, args)).result()
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

    def invalidate_tags(self, *tags: str) -> None:
        """Forget every value that carries one of the tags, in both tiers and all processes.

        Takes as long for a million of them as for one.
        """
        if tags:
            run(self._writing.invalidate_tags(self.blocking, checked_tags(tags)))

    async def ainvalidate_tags(self, *tags: str) -> None:
        """Do what ``invalidate_tags`` does, awaited."""
        if tags:
            await self._writing.invalidate_tags(self.asyncio, checked_tags(tags))

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

    def explain(self, key: str, spec: Spec | None = None) -> Explanation:
        """Say what the tiers hold under a key, for how long, and why: ``print(explain(key))``."""
        from .explaining import explain

        spec = spec or self._look
        return run(explain(self.flow, self.blocking, spec, _checked_key(key)))

    async def aexplain(self, key: str, spec: Spec | None = None) -> Explanation:
        """Do what ``explain`` does, awaited."""
        from .explaining import explain

        spec = spec or self._look
        return await explain(self.flow, self.asyncio, spec, _checked_key(key))

    def put(self, key: str, value: Any, spec: Spec) -> None:
        """Store a value as a function's."""
        run(self._writing.put(self.blocking, spec, {key: value}))

    async def aput(self, key: str, value: Any, spec: Spec) -> None:
        """Do what ``put`` does, awaited."""
        await self._writing.put(self.asyncio, spec, {key: value})

    # Inside

    def _nearby(self, key: str) -> Any:
        """Return what L1 has for a key, or MISS."""
        found = self.flow.usable(_checked_key(key))
        return MISS if found is None else self._hit(*found)

    def _nearby_at_rest(self, key: str) -> Any:
        """Return what L1 has for a key and need not be thought about, or MISS."""
        found = self.flow.usable(_checked_key(key))
        if found is None or found[0].fresh_until <= self.flow.time():
            return MISS
        return self._hit(*found)

    def _hit(self, entry: Entry, value: Any) -> Any:
        flow = self.flow
        if flow.telemetry.traces_hits:
            return flow.trace_hit("", entry, value)
        return flow.hit(entry, value)

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
            tags_last=False,
            function=function,
            negative_ttl=self.negative_ttl,
            **self.staleness.as_options(),
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
