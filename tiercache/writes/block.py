"""``cache.writing``: a value for the cache around, or inside of, a database transaction."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Self

from tiercache.current import loading
from tiercache.errors import ConfigurationError
from tiercache.runtime import Port, run
from tiercache.spec import Spec
from tiercache.writes.publishing import AfterCommit, Publication, checked_choice, write_failed
from tiercache.writes.through import KeyWrite, Outcome

if TYPE_CHECKING:
    from tiercache.cache import Cache


class WritingBlock:
    """The block of ``with cache.writing(key, value):``."""

    def __init__(
        self,
        cache: Cache,
        spec: Spec,
        key: str,
        value: Any,
        after: AfterCommit | None,
        on_cache_failure: str,
    ) -> None:
        self.cache = cache
        self.value = value
        self._after = after
        self._raises = checked_choice(on_cache_failure, after)
        self._write = KeyWrite(cache.flow, spec, key)
        self._loading = loading([self._write.flight])

    # Blocking

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            run(self._write.begin(self.cache.blocking))
            undo.callback(lambda: run(self._write.abandon(self.cache.blocking)))
            self._check(reaches=self._write.reaches_store)
            self._loading.__enter__()
            undo.pop_all()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._loading.__exit__()
        port = self.cache.blocking
        if kind is not None:
            run(self._write.abandon(port))
        elif self._after is None:
            self._judge(run(self._write.finish(port, self.value)))
        else:
            self._check(reaches=run(self._paused(port)))
            outcome = self._after(self._publication(is_async=False))
            if isawaitable(outcome):
                raise ConfigurationError("after of writing() is async; use `async with`")

    # Awaited

    async def __aenter__(self) -> Self:
        port = self.cache.asyncio
        async with AsyncExitStack() as undo:
            await self._write.begin(port)
            undo.push_async_callback(self._write.abandon, port)
            self._check(reaches=self._write.reaches_store)
            self._loading.__enter__()
            undo.pop_all()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self._loading.__exit__()
        port = self.cache.asyncio
        if kind is not None:
            await port.to_the_end(self._write.abandon(port))
        elif self._after is None:
            self._judge(await port.to_the_end(self._write.finish(port, self.value)))
        else:
            self._check(reaches=await self._paused(port))
            outcome = self._after(self._publication(is_async=True))
            if isawaitable(outcome):
                await outcome

    # Both

    async def _paused(self, port: Port) -> bool:
        reaches = await self._write.pause(port)
        if not reaches and self._raises:
            await self._write.abandon(port)
        return reaches

    def _publication(self, *, is_async: bool) -> Publication:
        return Publication(self.cache, self._write, self.value, is_async=is_async)

    def _check(self, *, reaches: bool) -> None:
        if not reaches and self._raises:
            raise write_failed(self.cache.store)

    def _judge(self, outcome: Outcome) -> None:
        self._check(reaches=outcome is not Outcome.FAILED)
