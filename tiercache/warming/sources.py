"""Where warming learns what to warm: registered functions that yield keys, or keys with values."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tiercache.batches import Batch
from tiercache.errors import ConfigurationError, UncacheableArguments
from tiercache.key_template import KeyTemplate
from tiercache.spec import Spec

if TYPE_CHECKING:
    from tiercache.decorators import Cached

    from .run import Run

BATCH = 256  # items given to a bulk loader, or stored, at once
READ_SECONDS = 0.02  # for which a slow source is waited for until what it has yielded is loaded


@dataclass(slots=True)
class Job:
    """One key to warm."""

    key: str
    item: Any  # what a bulk loader is given
    args: tuple[Any, ...] | None = ()  # of the load; None: it cannot be loaded, only promoted
    value: Any = None  # where it is known already


@dataclass(frozen=True)
class Source:
    """What yields the items of one function, and how they are brought.

    ``spec`` is read anew for each run: a cache may be configured after its functions.
    """

    name: str  # in the progress bar
    produce: Callable[[], Any]
    spec: Callable[[], Spec]
    job: Callable[[Any], Job]  # raises UncacheableArguments
    batch: Batch = None
    has_values: bool = False
    is_async: bool = False  # runs in an event loop
    reads_async: bool = False  # ``produce`` is async

    @property
    def loads_singly(self) -> bool:
        """Whether each key is a call of its own."""
        return self.batch is None and not self.has_values

    def jobs(self, items: Iterable[Any], refuse: Callable[[Exception], None]) -> Iterator[Job]:
        """Iterate over the jobs of items; those that make no key are refused."""
        for item in items:
            try:
                yield self.job(item)
            except UncacheableArguments as error:
                refuse(error)


def source_of_keys(cached: Cached, bound: tuple[Any, ...], produce: Callable[[], Any]) -> Source:
    """Return a source of the arguments of a cached function.

    Raises:
        ConfigurationError: If the function is blocking and the source async.
    """
    reads_async = _is_async(produce)
    name = _name(produce)
    if reads_async and not cached.is_async:
        raise ConfigurationError(
            f"{name}() is async and {cached.maker.name} blocking; make the warmer a plain generator"
        )
    return Source(
        name=name,
        produce=produce,
        spec=lambda: cached.spec,
        job=_job_maker(cached, bound),
        batch=cached._batch_for(bound),  # noqa: SLF001 - as f.many() does
        is_async=cached.is_async,
        reads_async=reads_async,
    )


def source_of_pairs(
    produce: Callable[[], Any],
    spec: Callable[[], Spec],
    key_of: Callable[[Any], str],
) -> Source:
    """Return a source of pairs: of what makes a key, and its value."""
    name = _name(produce)

    def job(pair: Any) -> Job:
        try:
            item, value = [pair] if isinstance(pair, str) else pair  # "no" is a key, not a pair
        except (TypeError, ValueError):
            raise UncacheableArguments(
                f"{name}() must yield pairs of a key and its value, got {pair!r}"
            ) from None
        return Job(key_of(item), item, value=value)

    is_async = _is_async(produce)
    return Source(
        name, produce, spec, job, has_values=True, is_async=is_async, reads_async=is_async
    )


def key_of_call(cached: Cached, bound: tuple[Any, ...]) -> Callable[[Any], str]:
    """Return what makes keys of a cached function's items."""
    job = _job_maker(cached, bound)
    return lambda item: job(item).key


def key_of_template(template: str | None) -> Callable[[Any], str]:
    """Return what makes keys of items: a template, or the items themselves."""
    return _text if template is None else KeyTemplate(template).key


def check_takes_nothing(produce: Callable[..., Any]) -> None:
    """Raise unless a function can be called without arguments."""
    if not callable(produce):
        raise ConfigurationError(f"@warmer decorates a function that yields items, got {produce!r}")
    needed = [
        p.name
        for p in inspect.signature(produce).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise ConfigurationError(
            f"the warmer {_name(produce)}() is called without arguments and needs {needed[0]!r}; "
            "is it the function to be warmed? Decorate that with @cached first"
        )


def _job_maker(cached: Cached, bound: tuple[Any, ...]) -> Callable[[Any], Job]:
    is_single = len(cached.maker.signature.names) - len(bound) == 1

    def job(item: Any) -> Job:
        args = item if isinstance(item, tuple) and not is_single else (item,)
        args = (*bound, *args)
        return Job(cached.key(*args), item, args)

    return job


def _text(item: Any) -> str:
    if type(item) is not str:
        raise UncacheableArguments(
            f"a key must be text, got {item!r} ({type(item).__name__}); use @cache.warmer(key=...)"
        )
    return item


def _is_async(produce: Callable[..., Any]) -> bool:
    return inspect.isasyncgenfunction(produce) or inspect.iscoroutinefunction(produce)


def _name(produce: Callable[..., Any]) -> str:
    return getattr(produce, "__qualname__", repr(produce))


def read_some(jobs: Iterator[Job], count: int) -> list[Job]:
    """Return the next jobs: so many, or those that come within a moment; [] at the end."""
    some: list[Job] = []
    until = time.monotonic() + READ_SECONDS
    for job in jobs:
        some.append(job)
        if len(some) >= count or time.monotonic() > until:
            break
    return some


def checked_items(source: Source, items: Any, run: Run) -> Any:
    """Return what a source has returned, if it is something to iterate over; note its length."""
    kind = AsyncIterable if source.reads_async and not isinstance(items, Iterable) else Iterable
    if not isinstance(items, kind) or isinstance(items, str | bytes):
        raise ConfigurationError(
            f"the warmer {source.name}() must yield or return items, and returned {items!r}"
        )
    if source.has_values and isinstance(items, Mapping):
        items = items.items()
    if isinstance(items, Sized):
        run.expect(len(items))
    return items


@contextmanager
def closing_items(items: Any) -> Iterator[None]:
    """Close a generator that is not read to its end."""
    try:
        yield
    finally:
        close = getattr(items, "close", None)
        if close is not None and inspect.isgenerator(items):
            close()
