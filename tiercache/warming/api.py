"""What a cache offers for warming: ``warmer``, ``warm`` and ``awarm``, ``start_warming``.

Most caches are never warmed, so what does it is imported by whoever does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tiercache.errors import ConfigurationError
from tiercache.options import Tags
from tiercache.spec import Spec
from tiercache.ttl import TTL, Duration

if TYPE_CHECKING:
    from tiercache.cache import Cache
    from tiercache.decorators import Cached

    from .hot import HotKey
    from .run import Run, WarmReport
    from .sources import Source
    from .warmup import Warmup

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Callable[[], Any])  # a source: a cached function takes arguments

ERRORS_IN_A_ROW = 20  # after which it is not the keys' fault
CLOSE_SECONDS = 5.0  # that a close waits for loads of warming under way


class Warming:
    """Values brought into a cache before anybody asks for them. ``Cache`` brings the rest."""

    name: str

    if TYPE_CHECKING:

        def _spec(self, ttl: TTL, tags: Tags, base: Spec | None = None) -> Spec: ...

    @overload
    def warmer(self, source: S, /) -> S: ...  # type: ignore[overload-overlap]
    @overload
    def warmer(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        key: str | None = None,
        values: bool = False,
        ttl: TTL = None,
        tags: Tags = (),
    ) -> Callable[[F], F]: ...
    def warmer(
        self,
        function: Any = None,
        /,
        *,
        key: str | None = None,
        values: bool = False,
        ttl: TTL = None,
        tags: Tags = (),
    ) -> Any:
        """Register a source of what ``warm`` brings.

        ``@cache.warmer(get_user)`` stands over a function without arguments that yields, or
        returns, arguments of ``get_user``, several as a tuple. ``@cache.warmer`` bare stands over
        one that yields pairs of a key and its value, which are stored without a load. It may be
        async; blocking ones are read by one thread from their first item to their last.

        Args:
            function: The cached function whose values are warmed.
            key: Of pairs: a template that makes keys of what is yielded in their place
                (``"user:{}"``).
            values: Whether pairs of an argument of ``function``, or of what ``key`` takes, and
                its value are yielded.
            ttl: Of values stored from pairs under keys of no function; by default the cache's.
            tags: Of the same.

        Raises:
            ConfigurationError: If the function is not cached here, the source takes arguments, or
                the source is async and the function is not.
        """
        from .sources import check_takes_nothing

        cached = None if function is None else self._cached_of(function)
        if function is not None and cached is None:
            check_takes_nothing(function)
            return self._add(function, self._source_of_pairs(function, None, ttl, tags))

        def decorate(produce: F) -> F:
            check_takes_nothing(produce)
            return self._add(produce, self._make_source(produce, cached, key, values, ttl, tags))

        return decorate

    # Running

    def warm(
        self,
        *,
        concurrency: int = 8,
        rate_limit: float | None = None,
        deadline: Duration | None = None,
        progress: bool | None = None,
        stop_on_errors: int | None = ERRORS_IN_A_ROW,
    ) -> WarmReport:
        """Bring what the registered sources yield, one source after the other.

        What a tier has already is not loaded, only promoted from L2 to L1. L1 takes values while
        it has room; L2 takes all. Async functions are called in an event loop of their own.

        Args:
            concurrency: Loads side by side.
            rate_limit: Loads per second, at most.
            deadline: After which no load begins any more.
            progress: True for a progress bar, or lines in the log where there is no terminal;
                None for a bar where there is one.
            stop_on_errors: Loads that fail in a row, after which to stop; None: never. An open
                breaker of the loader stops it at once, and that of L2 where L1 is full.

        Raises:
            ConfigurationError: If an option is illegal, or a source returns no items.
            Exception: What a source raises.
        """
        run = _new_run(concurrency, rate_limit, deadline, stop_on_errors)
        return self._warm(run, self._warm_sources, progress=progress)

    async def awarm(
        self,
        *,
        concurrency: int = 8,
        rate_limit: float | None = None,
        deadline: Duration | None = None,
        progress: bool | None = None,
        stop_on_errors: int | None = ERRORS_IN_A_ROW,
    ) -> WarmReport:
        """Do what ``warm`` does, awaited: async functions in this loop, others in threads."""
        run = _new_run(concurrency, rate_limit, deadline, stop_on_errors)
        return await self._awarm(run, self._warm_sources, progress=progress)

    def start_warming(
        self,
        *,
        concurrency: int = 8,
        rate_limit: float | None = None,
        deadline: Duration | None = None,
        progress: bool | None = False,
        stop_on_errors: int | None = ERRORS_IN_A_ROW,
    ) -> Warmup:
        """Do what ``warm`` does in the background; ``.is_ready`` says when it has ended.

        ``close`` stops it.
        """
        run = _new_run(concurrency, rate_limit, deadline, stop_on_errors)
        return self._started(run, list(self._warm_sources), progress=progress)

    # Hot keys

    def hottest(self, count: int) -> list[HotKey]:
        """Return the keys in L1 with most hits, at most so many, hottest first."""
        from .hot import hottest

        return hottest(self._cache, count)

    def rewarm(self, hot: Iterable[HotKey], *, concurrency: int = 8) -> WarmReport:
        """Bring keys that were hot: from L2, else by a load where the call is known.

        Keys of async functions are only promoted; ``arewarm`` loads them, too.
        """
        sources = self._hot_sources(hot, loads_async=False)
        return self._warm(_new_run(concurrency), sources, progress=False)

    async def arewarm(self, hot: Iterable[HotKey], *, concurrency: int = 8) -> WarmReport:
        """Do what ``rewarm`` does, awaited."""
        sources = self._hot_sources(hot, loads_async=True)
        return await self._awarm(_new_run(concurrency), sources, progress=False)

    def start_rewarming(self, hot: Iterable[HotKey], concurrency: int = 8) -> Warmup:
        """Do what ``rewarm`` does in the background."""
        run = _new_run(concurrency)
        return self._started(run, self._hot_sources(hot, loads_async=False), progress=False)

    def function_names(self) -> set[str]:
        """Return what hot keys call the functions decorated with this cache so far."""
        from .hot import name_of

        return set(map(name_of, self._cache.functions()))

    def stop_warming(self) -> None:
        """Stop all warming in the background, and wait for what is under way, some seconds."""
        for warmup in self._warmups:
            warmup.stop()
        for warmup in self._warmups:
            warmup.wait(CLOSE_SECONDS)
        self._warmups.clear()

    # Inside

    @property
    def _cache(self) -> Cache:
        return self  # type: ignore[return-value]

    @cached_property
    def _warm_sources(self) -> list[Source]:
        return []

    @cached_property
    def _warmups(self) -> list[Warmup]:
        return []

    def _hot_sources(self, hot: Iterable[HotKey], *, loads_async: bool) -> list[Source]:
        from .hot import sources_of

        return sources_of(self._cache, hot, self._spec(None, ()), loads_async=loads_async)

    def _started(self, run: Run, sources: list[Source], *, progress: bool | None) -> Warmup:
        from .warmup import Warmup

        warmup = Warmup(run, partial(self._warm, run, sources, progress=progress), self.name)
        self._warmups[:] = [each for each in self._warmups if not each.is_ready]
        self._warmups.append(warmup)
        return warmup

    def _add(self, produce: F, source: Source) -> F:
        self._warm_sources.append(source)
        return produce

    def _cached_of(self, function: Any) -> tuple[Cached, tuple[Any, ...]] | None:
        """Return a function decorated with this cache, and the arguments that are bound to it."""
        wrapper, bound = getattr(function, "func", function), getattr(function, "args", ())
        for cached in self._cache.functions():
            if cached.wrapper is wrapper:
                return cached, bound
        return None

    def _make_source(
        self,
        produce: Callable[[], Any],
        cached: tuple[Cached, tuple[Any, ...]] | None,
        key: str | None,
        values: bool,
        ttl: TTL,
        tags: Tags,
    ) -> Source:
        if cached is None:
            return self._source_of_pairs(produce, key, ttl, tags)
        if key is not None or ttl is not None or tags:
            raise ConfigurationError(
                f"{cached[0].maker.name} has its own key, ttl and tags; leave them out of warmer()"
            )
        from .sources import key_of_call, source_of_keys, source_of_pairs

        if not values:
            return source_of_keys(*cached, produce)
        return source_of_pairs(produce, lambda: cached[0].spec, key_of_call(*cached))

    def _source_of_pairs(
        self, produce: Callable[[], Any], key: str | None, ttl: TTL, tags: Tags
    ) -> Source:
        from .sources import key_of_template, source_of_pairs

        self._spec(ttl, tags)  # raises here if an option is illegal
        return source_of_pairs(produce, lambda: self._spec(ttl, tags), key_of_template(key))

    def _warm(self, run: Run, sources: Sequence[Source], *, progress: bool | None) -> WarmReport:
        from .progress import progress_of

        with progress_of(run, self.name, wanted=progress) as shown:
            try:
                for source in list(sources):
                    if not run.is_stopping:
                        self._warm_one(run, source, shown.show)
            finally:
                run.end()
        return self._reported(run)

    def _warm_one(self, run: Run, source: Source, show: Callable[[], None]) -> None:
        from .drivers import warm_blocking

        if source.is_async:
            _in_a_loop(self._cache, source, run, show)
        else:
            warm_blocking(self._cache, source, run, show)

    async def _awarm(
        self, run: Run, sources: Sequence[Source], *, progress: bool | None
    ) -> WarmReport:
        from .async_driver import in_a_thread, warm_async
        from .drivers import warm_blocking
        from .progress import progress_of

        with progress_of(run, self.name, wanted=progress) as shown:
            try:
                for source in list(sources):
                    if source.is_async:
                        await warm_async(self._cache, source, run, shown.show)
                    else:
                        work = partial(warm_blocking, self._cache, source, run, shown.show)
                        await in_a_thread(run, work)
            finally:
                run.end()
        return self._reported(run)

    def _reported(self, run: Run) -> WarmReport:
        report = run.report()
        log.info("warmed cache %r: %s", self.name, report)
        if report.error is not None:
            log.warning(
                "warming of cache %r: %d loads failed, the first with %s",
                *(self.name, report.failed, type(report.error).__name__),
            )
        return report


def _new_run(
    concurrency: int,
    rate_limit: float | None = None,
    deadline: Duration | None = None,
    stop_on_errors: int | None = None,
) -> Run:
    from .run import Limits, Run

    return Run(Limits.of(concurrency, rate_limit, deadline, stop_on_errors))


def _in_a_loop(cache: Cache, source: Source, run: Run, show: Callable[[], None]) -> None:
    """Warm an async function in an event loop of its own, which needs a thread of its own."""
    import asyncio

    from .async_driver import warm_async
    from .run import STOPPED

    errors: list[BaseException] = []

    async def main() -> None:
        await warm_async(cache, source, run, show)
        await cache.asyncio.quiesce()

    def body() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="tiercache-warm", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        run.stop(STOPPED)
        thread.join()
        raise
    if errors:
        raise errors[0]
