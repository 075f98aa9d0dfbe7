"""``Cache``: configuration, ``@cached``, and the cache-aside API in get / aget pairs."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from .cache_aside import CacheAside
from .checks import NEW_L1, checked_blind_ttl, checked_codec, checked_l1, checked_l2, checked_name
from .clock import as_clock, coarse_clock
from .codec import Codec
from .coherence.lock import Locks
from .decorating import Decorating
from .decorators import Cached
from .errors import CacheError
from .flow import Flow
from .hooks import Hooks
from .miniature import LiveSizing
from .naming import Names
from .nearby import BLIND_TTL
from .options import (
    Staleness,
    copier,
    ttl_options,
)
from .registry import live_caches
from .runtime import BlockingPort, run
from .stats import Counters, Stats
from .telemetry import Telemetry
from .tiers.memory import Memory
from .tiers.store import Store
from .ttl import TTL, Duration, check_jitter, optional_seconds, seconds
from .warming import Warming
from .writes.api import Behind
from .writes.through_api import Through
from .writing import Writing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from .async_runtime import AsyncPort
    from .coherence.async_lock import AsyncLock
    from .coherence.lock import Lock
    from .plugin import Plugin
    from .writes.behind import WriteBehind

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

CLOSING_SECONDS = 5.0


class Cache(CacheAside, Decorating, Warming, Behind, Through):
    """Values by key, in this process's memory (L1) and in a store that processes share (L2).

    Args:
        name: Part of every key in L2: caches of one name on one store share their values.
        l1: ``LRU(maxsize)``, by default of 10,000 entries, or ``S3FIFO(maxsize)``; None for no L1.
        l2: ``Redis(url)``, ``SQLite(path)`` or another store; None for no L2.
        ttl: How long values stay fresh; None for no expiry; or a function of the value.
        jitter: Share of the TTL by which it is shortened at random, in [0, 1).
        stale_while_revalidate: How long past its TTL a value is served at once while it is loaded
            again behind; 0: not at all.
        stale_if_error: How long past its TTL a value is served if its load fails; 0: not at all.
        refresh_ahead: Share of the TTL, such as 0.8, after which a read is served at once and
            has the value loaded again behind; or "xfetch": that moment is drawn, earlier the
            longer loads take; None: not at all.
        negative_ttl: TTL of a None; by default as any other value.
        load_timeout: How long a load may hold its key.
        blind_ttl: How long values in L1 may be served while other processes' changes cannot be
            heard of, since L2 is out of reach.
        copy: Hand out deep copies from L1, or what this function makes of the value.
        plugins: Extensions, called in this order; or names of installed ones.
        codec: What makes bytes of values for L2.
        clock: What gives the time in seconds, never going back; ``time.monotonic`` for expiry
            exact to the microsecond, by default exact to some 20 ms.
        tracer_provider: Of OpenTelemetry, where spans go; by default the application's.
        meter_provider: Likewise, where metrics go.
        trace_keys: Show keys in spans.
        trace_l1_hits: Make a span for a hit in L1, too; it is then some twenty times as slow.

    Raises:
        ConfigurationError: If an option is illegal.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        l1: Memory | None = NEW_L1,
        l2: Store | None = None,
        ttl: TTL = 300,
        jitter: float = 0.05,
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        refresh_ahead: float | str | None = None,
        negative_ttl: Duration | None = None,
        load_timeout: Duration = 30,
        blind_ttl: Duration = BLIND_TTL,
        copy: bool | Callable[[Any], Any] = False,
        plugins: Iterable[Plugin | str] = (),
        codec: Codec | None = None,
        clock: Callable[[], float] | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        trace_keys: bool = False,
        trace_l1_hits: bool = False,
    ) -> None:
        self.name = checked_name(name)
        self.memory = checked_l1(l1)
        self.store = checked_l2(l2)
        self.ttl_options = ttl_options(ttl)
        self._ttl = ttl
        self.jitter = check_jitter(jitter)
        self.staleness = Staleness().with_options(
            stale_while_revalidate, stale_if_error, refresh_ahead
        )
        self.negative_ttl = optional_seconds(negative_ttl, name="negative_ttl")
        self.load_timeout = seconds(load_timeout, name="load_timeout")
        self.blind_ttl = checked_blind_ttl(blind_ttl)
        self.copy = copier(copy)
        self.clock = as_clock(clock)
        self.codec = checked_codec(codec)
        self.counters = Counters()
        self.hooks = Hooks(plugins, self.counters)
        self.telemetry = Telemetry(
            self.name,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            trace_keys=trace_keys,
            trace_l1_hits=trace_l1_hits,
        )
        self.blocking = BlockingPort()
        self._behinds: list[WriteBehind] = []
        self._registering = threading.RLock()
        self._functions: weakref.WeakSet[Cached] = weakref.WeakSet()  # guarded by _registering
        self._function_counters: list[Counters] = []
        self._names = Names()
        self._build()
        live_caches.add(self)
        self._sizing: LiveSizing | None = None
        if self.memory is not None:
            self.memory.on_clear = self._drop_shortcuts
            self._sizing = LiveSizing(self.memory, self.clock)
        self.hooks.start(self)
        self.telemetry.report(self)

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
            self.blind_ttl,
            self.telemetry,
        )
        self.flow.on_outdated = self._drop_tagged_shortcuts
        self._writing = Writing(self.flow)
        self._locks = self._make_locks()
        self.prepare_specs()

    def _make_locks(self) -> Locks:
        flow = self.flow
        if flow.l2 is None or flow.bus is None or self.store is None:
            return Locks(self.name, None, flow.waits, 0.0)
        return Locks(
            self.name, flow.l2.namespace, flow.waits, self.store.timeout, listen=flow.bus.start
        )

    @cached_property
    def asyncio(self) -> AsyncPort:
        """What carries this cache's asyncio callers."""
        from .async_runtime import AsyncPort

        return AsyncPort()

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
        # Weakly: what waits to be finalized is held for ever, should it hold the function itself.
        retire = weakref.WeakMethod(self._retire)
        weakref.finalize(cached, _call_if_alive, retire, cached.counters).atexit = False

    def functions(self) -> list[Cached]:
        """Return the functions decorated with this cache."""
        with self._registering:
            return list(self._functions)

    # Locks

    def lock(
        self, name: str, ttl: Duration = 10, wait: Duration | None = None, *, required: bool = True
    ) -> Lock:
        """Return a lock that one holder in the cluster has at a time: ``with cache.lock("x"):``.

        It is renewed while it is held. Should it be lost all the same (L2 was out of reach for
        ``ttl``, or restarted empty), its holder is told: ``lock.lost``, ``lock.check()``. Without
        L2 it is a lock of this process. It is not reentrant.

        Args:
            name: Locks of other caches, and keys, are apart.
            ttl: How long it outlives a holder that has died.
            wait: How long to wait for it; 0: not at all; None: as long as it takes.
            required: Whether not getting it in time raises; else the block is entered without,
                ``lock.is_held`` being False.

        Raises:
            LockTimeout: On entering, if it is not to be had in time, or L2 is out of reach.
            LockLost: On leaving, if it was lost meanwhile.
            ConfigurationError: If an option is illegal.
        """
        return self._locks.lock(name, ttl=ttl, wait=wait, required=required)

    def alock(
        self, name: str, ttl: Duration = 10, wait: Duration | None = None, *, required: bool = True
    ) -> AsyncLock:
        """Do what ``lock`` does, for ``async with``; a task whose lock is lost is cancelled.

        Its block then ends with LockLost.
        """
        return self._locks.alock(name, ttl=ttl, wait=wait, required=required)

    # For plugins

    @property
    def hears_peers(self) -> bool:
        """Whether changes made in other processes are heard of now, or there can be none."""
        bus = self.flow.bus
        return bus is None or (bus.is_open and bus.is_live and not bus.is_blind)

    def listen(self) -> bool:
        """Begin to hear of changes in other processes, if that has not begun; say if they are."""
        run(self.flow.listen(self.blocking))
        return self.hears_peers

    def know_of(self, keys: Sequence[str]) -> None:
        """Tell guards that keys exist, or are about to: they may no longer be answered "absent"."""
        self.flow.hooks.tell_of_write(keys)

    def emit(self, name: str, key: str = "", *, cause: str = "", seconds: float = 0.0) -> None:
        """Tell the plugins that something happened: see ``Event``."""
        self.flow.tell(name, key, cause=cause, seconds=seconds)

    # Life

    def stats(self) -> Stats:
        """Return a snapshot of what was counted so far."""
        memory = self.memory
        counters = Counters()
        with self._registering:
            for part in (self.counters, *self._function_counters):
                counters.absorb(part)
        hits_l1 = 0 if memory is None else memory.hits
        return Stats(
            hits_l1=hits_l1,
            hits_l2=counters.hits_l2,
            misses=counters.misses,
            loads=counters.loads,
            load_errors=counters.load_errors,
            joined=counters.joined,
            absent=counters.absent,
            stale_served=counters.stale_served,
            load_seconds=self.flow.load_times.snapshot(),
            evictions={} if memory is None else memory.removals,
            entries=0 if memory is None else len(memory),
            weight=0 if memory is None else memory.weight,
            sizing=None if self._sizing is None else self._sizing.snapshot(hits_l1),
            store_errors=counters.store_errors,
            decode_errors=counters.decode_errors,
            encode_errors=counters.encode_errors,
            plugin_errors=counters.plugin_errors,
            refresh_errors=counters.refresh_errors,
            bus_gaps=counters.bus_gaps,
            l2_state="" if self.flow.l2 is None else self.flow.l2.breaker.state.value,
            owed=0 if self.flow.l2 is None else len(self.flow.l2.debts),
        )

    def close(self) -> None:
        """Stop plugins and release connections, threads and tasks. Safe to call twice.

        Loads that run behind their callers are waited for, for CLOSING_SECONDS at most.
        """
        self.close_writers()
        self._stop()
        self._say_what_runs_on(self.blocking.quiesce(CLOSING_SECONDS))
        self._locks.close()
        if self.flow.l2 is not None:
            self._say_what_is_owed(run(self.flow.l2.farewell(self.blocking)))
        if self.store is not None:
            self.store.close()

    async def aclose(self) -> None:
        """Do what ``close`` does, awaited."""
        await self.aclose_writers()
        self._stop()
        await self.asyncio.quiesce()
        await self._quiesce_threads()
        await self._locks.aclose()
        if self.flow.l2 is not None:
            self._say_what_is_owed(await self.flow.l2.farewell(self.asyncio))
        if self.store is not None:
            await self.store.aclose()

    async def _quiesce_threads(self) -> None:
        if self.blocking.is_busy:
            from asyncio import to_thread

            self._say_what_runs_on(await to_thread(self.blocking.quiesce, CLOSING_SECONDS))

    def _say_what_runs_on(self, count: int) -> None:
        if count:
            log.warning(
                "cache %r was closed while %d loads of blocking functions went on; what they "
                "bring is not kept",
                *(self.name, count),
            )

    def _say_what_is_owed(self, count: int) -> None:
        if count:
            log.warning(
                "cache %r was closed with %d invalidations not delivered to L2: other processes "
                "may serve what they invalidate until its TTL ends",
                *(self.name, count),
            )

    def _stop(self) -> None:
        live_caches.remove(self)
        self.stop_warming()
        self.telemetry.close()
        self.hooks.stop()
        flights = self.flow.flights
        for flight in flights.under_way():
            cancel = flight.cancel
            if cancel is not None:
                flights.fail(flight, CacheError(f"cache {self.name!r} was closed during a load"))
                cancel()
        self.flow.stop()
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
            "staleness": self.staleness,
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
        self._registering = threading.RLock()
        self._names.after_fork()
        for function in self.functions():
            function.shortcuts.after_fork()
        if self.memory is not None:
            self.memory.after_fork()
        self.blocking = BlockingPort()
        self.__dict__.pop("asyncio", None)
        self.flow.after_fork()
        self._locks.after_fork(self.flow.waits)
        self.fork_writers()

    # Inside

    def _drop_shortcuts(self) -> None:
        for function in self.functions():
            function.shortcuts.reset()

    def _drop_tagged_shortcuts(self, tags: Collection[str]) -> None:
        for function in self.functions():
            function.shortcuts.reset_tagged(tags)


def _call_if_alive(method: weakref.WeakMethod[Any], *args: object) -> None:
    call = method()
    if call is not None:
        call(*args)
