"""A traced service: what each kind of call looks like, as trees in the terminal.

Run it by ``python -m examples.tracing``, and by ``python -m examples.tracing --asyncio`` for the
same with asyncio. With ``OTEL_EXPORTER_OTLP_ENDPOINT`` set, the traces go there, too: see
docs/tracing.md for a backend that needs no Docker. It takes ``pip install
'tiercache-toolkit[otlp]'``.

The service is a shop with a table of products. L2 is a file that two "processes", two caches of one
name, share.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from tiercache import Cache, Plugin, SQLite

TTL, STALE = 0.5, 60.0  # seconds


class Journal(SpanProcessor):
    """Keeps spans until they are printed."""

    def __init__(self) -> None:
        self._ended: list[ReadableSpan] = []  # guarded by _changed
        self._open = 0  # guarded by _changed
        self._changed = threading.Condition()

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Count a span that has begun."""
        with self._changed:
            self._open += 1

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span that has ended."""
        with self._changed:
            self._open -= 1
            self._ended.append(span)
            self._changed.notify_all()

    def wait_for(self, name: str) -> None:
        """Wait until a span of this name has ended; of none: not at all."""
        with self._changed:
            self._changed.wait_for(lambda: not name or self._has(name), timeout=10)

    def _has(self, name: str) -> bool:
        return any(span.name == name for span in self._ended)

    def take(self) -> list[ReadableSpan]:
        """Wait until no span is open; return those that have ended, and forget them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, timeout=10)
            ended, self._ended = self._ended, []
        return ended


def trees(spans: list[ReadableSpan]) -> Iterator[Tree]:
    """Iterate over the traces that spans make."""
    names = {span.context.span_id: span.name for span in spans if span.context}
    branches: dict[int, Tree] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        if span.context is None:
            continue
        above = branches.get(span.parent.span_id) if span.parent else None
        line = _line(span, names)
        branch = Tree(line) if above is None else above.add(line)
        branches[span.context.span_id] = branch
        if above is None:
            yield branch


def _line(span: ReadableSpan, names: dict[int, str]) -> str:
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    shown = [
        f"{name.removeprefix('tiercache.')}={value:g}"
        if isinstance(value, float)
        else f"{name.removeprefix('tiercache.')}={value}"
        for name, value in (span.attributes or {}).items()
        if name not in {"tiercache.cache", "tiercache.function"}
    ]
    error = "" if span.status.is_ok else f" [red]{escape(span.status.description or 'error')}[/]"
    links = [f" [blue]linked to {names.get(each.context.span_id, '?')}[/]" for each in span.links]
    more = f" [dim]{escape(' '.join(shown))}[/]" if shown else ""
    return f"[bold]{span.name}[/]{error}{more}{''.join(links)} [green]{took:.1f} ms[/]"


class Table:
    """The products, in a database that is slow and may fail."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self.fails = False
        self._tracer = tracer
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT)")
        rows = [(1, "kettle"), (2, "teapot"), (3, "cup")]
        self._connection.executemany("INSERT INTO product VALUES (?, ?)", rows)

    def name_of(self, product_id: int) -> str:
        """Return a product's name."""
        with self._tracer.start_as_current_span("SELECT product"):
            time.sleep(0.01)
            if self.fails:
                raise ConnectionError("the database is down")
            with self._lock:
                query = "SELECT name FROM product WHERE id = ?"
                name: str = self._connection.execute(query, [product_id]).fetchone()[0]
            return name

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class KnownIds(Plugin):
    """A guard: no product has an id of 1,000 or more."""

    def admits(self, key: str) -> bool:
        """Whether there may be a product of this key."""
        return int(key.rpartition(":")[2]) < 1000


class Shop:
    """Two processes of one service, for blocking callers or, if asked for, asyncio's."""

    def __init__(
        self, path: Path, provider: TracerProvider, journal: Journal, *, is_async: bool
    ) -> None:
        self._journal = journal
        self.tracer = provider.get_tracer("shop")
        self.table = Table(self.tracer)
        self.caches = [self._cache(path, provider) for _ in range(2)]
        self.here, self.there = (self._cached(cache, is_async=is_async) for cache in self.caches)
        self._runner = asyncio.Runner() if is_async else None

    def _cache(self, path: Path, provider: TracerProvider) -> Cache:
        return Cache(
            "shop",
            l2=SQLite(path / "shop.db"),
            ttl=TTL,
            jitter=0,
            stale_while_revalidate=STALE,
            stale_if_error=STALE,
            plugins=[KnownIds()],
            tracer_provider=provider,
        )

    def _cached(self, cache: Cache, *, is_async: bool) -> Any:
        if not is_async:
            return cache.cached("product:{product_id}")(self.table.name_of)

        async def name_of(product_id: int) -> str:
            return await asyncio.to_thread(self.table.name_of, product_id)

        return cache.cached("product:{product_id}")(name_of)

    def request(
        self, function: Callable[..., Any], *args: Any, times: int = 1, until: str = ""
    ) -> None:
        """Call a function in a span, as a web framework would; so many times at once.

        Return once a span of the name ``until`` has ended, if one is given.
        """
        if self._runner is not None:
            self._runner.run(self._requests(function, args, times, until))
            return
        threads = [threading.Thread(target=self._one, args=(function, *args)) for _ in range(times)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._journal.wait_for(until)

    def _one(self, function: Callable[..., Any], *args: Any) -> None:
        with self.tracer.start_as_current_span(f"GET /products/{args[0]}"):
            function(*args)

    async def _requests(
        self, function: Callable[..., Any], args: Any, times: int, until: str
    ) -> None:
        async def one() -> None:
            with self.tracer.start_as_current_span(f"GET /products/{args[0]}"):
                await function(*args)

        await asyncio.gather(*(one() for _ in range(times)))
        # A refresh behind is a task of this event loop, which has to go on for it.
        await asyncio.to_thread(self._journal.wait_for, until)

    def close(self) -> None:
        """Release everything."""
        for cache in self.caches:
            cache.close()
        if self._runner is not None:
            self._runner.close()
        self.table.close()


@contextmanager
def tracing() -> Iterator[tuple[TracerProvider, Journal]]:
    """Trace to a journal and, if the environment names one, to a backend."""
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    journal = Journal()
    provider.add_span_processor(journal)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider, journal
    finally:
        provider.shutdown()


def scenes(shop: Shop) -> Iterator[str]:
    """Make calls of each kind, and say what they were."""
    shop.request(shop.here, 1)
    yield "A cold load: L2 is asked, the database, and L2 is filled"
    shop.request(shop.there, 1)
    yield "Another process: a hit in L2"
    shop.request(shop.here, 2, times=3)
    yield "Three at once: one load, the others wait and link to it"
    shop.request(shop.here, 5000)
    yield "An id that a guard rules out: no I/O"
    time.sleep(1.5 * TTL)
    shop.request(shop.here, 1, until="tiercache.refresh")
    yield "A stale value: served at once, the refresh is a trace of its own"
    time.sleep(1.5 * TTL)
    shop.table.fails = True
    shop.request(shop.here, 2, until="tiercache.refresh")
    yield "The database is down: the stale value is served, the refresh fails"
    shop.table.fails = False
    shop.request(shop.here.invalidate, 1, until="tiercache.bus.apply")
    yield "An invalidation, and the other process, which applies it"


def main(arguments: list[str] | None = None) -> None:
    """Print the traces of each kind of call."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--asyncio", action="store_true", help="use asyncio")
    is_async = parser.parse_args(arguments).asyncio
    console = Console(width=110 if not Console().is_terminal else None)
    with tracing() as (provider, journal), tempfile.TemporaryDirectory() as folder:
        shop = Shop(Path(folder), provider, journal, is_async=is_async)
        try:
            for title in scenes(shop):
                console.rule(f"[bold]{title}", align="left")
                for tree in list(trees(journal.take())):
                    console.print(tree)
        finally:
            shop.close()


if __name__ == "__main__":
    main()
