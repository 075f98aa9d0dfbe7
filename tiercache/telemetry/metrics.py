"""What the caches of this process count, as instruments of OpenTelemetry.

Nothing is told to an instrument when it happens: a reader asks, once a minute or so, and gets what
``Cache.stats()`` says then. The two histograms are the exception; they are told of loads and of
stale answers only.

There is one set of instruments per meter provider, for all caches that report to it, and it holds
them weakly: one that was closed, or collected, is no longer reported. Caches of one name are added
up, since a reader could not tell them apart.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation

from . import names

#: Attributes beside the cache's name, and the number.
Shown = tuple[Mapping[str, str], float]

LOAD_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
AGE_BOUNDS = (1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
MOST_NAME = 255  # characters of the name of an instrument
_ILLEGAL = re.compile(r"[^-_./a-zA-Z0-9]")  # in one


class Reported(Protocol):
    """A cache, as far as it is reported."""

    name: str
    hooks: Any

    def stats(self) -> Any:
        """Return what it has counted."""

    def writers(self) -> Sequence[Any]:
        """Return its writers behind."""


def _hits(stats: Any) -> Iterator[Shown]:
    yield {names.TIER: "l1"}, stats.hits_l1
    yield {names.TIER: "l2"}, stats.hits_l2


def _loads(stats: Any) -> Iterator[Shown]:
    yield {names.RESULT: "ok"}, stats.loads - stats.load_errors
    yield {names.RESULT: "error"}, stats.load_errors


def _evictions(stats: Any) -> Iterator[Shown]:
    for cause, count in stats.evictions.items():
        yield {names.CAUSE: str(cause)}, count


def _plain(field: str) -> Callable[[Any], Iterator[Shown]]:
    def show(stats: Any) -> Iterator[Shown]:
        yield {}, getattr(stats, field)

    return show


#: Name, description, unit, and what is shown of the stats.
_COUNTERS: tuple[tuple[str, str, str, Callable[[Any], Iterator[Shown]]], ...] = (
    (names.HITS, "Calls that a tier answered", "{call}", _hits),
    (names.MISSES, "Calls that no tier answered", "{call}", _plain("misses")),
    (names.LOADS, "Times that a loader ran", "{load}", _loads),
    (names.JOINS, "Loads saved by single flight", "{load}", _plain("joined")),
    (names.EVICTIONS, "Entries that left L1", "{entry}", _evictions),
    (names.BUS_GAPS, "Times that messages were missed", "{gap}", _plain("bus_gaps")),
    (names.STALE_SERVED, "Calls answered by a stale value", "{call}", _plain("stale_served")),
    (names.ABSENTS, "Calls that a guard answered", "{call}", _plain("absent")),
)
#: Of writers behind: name, description, unit, and the field of their stats.
_WRITER_GAUGES = (
    (names.WRITE_BEHIND_DEPTH, "Keys, or operations, that wait to be written", "1", "depth"),
    (names.WRITE_BEHIND_LAG, "Age of the oldest of them", "s", "lag_seconds"),
    (names.WRITE_BEHIND_DEAD, "Operations that were given up", "{operation}", "dead"),
)
_WRITER_COUNTERS = (
    (names.WRITE_BEHIND_WRITTEN, "Operations written", "{operation}", "written"),
    (names.WRITE_BEHIND_RETRIES, "Operations put off", "{operation}", "retries"),
)
_entries, _weight = _plain("entries"), _plain("weight")


class Instruments:
    """The instruments of one meter provider."""

    def __init__(self, provider: MeterProvider) -> None:
        self._lock = threading.RLock()
        self._caches: weakref.WeakSet[Any] = weakref.WeakSet()  # guarded by _lock
        self._plugin_gauges: set[str] = set()  # names; guarded by _lock
        self.has_news = False  # plugins have shown what has no gauge; a reader may not make one
        meter = self._meter = provider.get_meter(names.SCOPE)
        for name, about, unit, show in _COUNTERS:
            meter.create_observable_counter(name, [self._callback(show)], unit, about)
        gauge = meter.create_observable_gauge
        gauge(names.ENTRIES, [self._observe_entries], "{entry}", "Entries in L1")
        gauge(names.WEIGHT, [self._callback(_weight)], "1", "Weight of the entries in L1")
        for name, about, unit, field in _WRITER_GAUGES:
            gauge(name, [self._writers(field)], unit, about)
        for name, about, unit, field in _WRITER_COUNTERS:
            meter.create_observable_counter(name, [self._writers(field)], unit, about)
        self.load_duration: Histogram = meter.create_histogram(
            names.LOAD_DURATION,
            "s",
            "How long loads took",
            explicit_bucket_boundaries_advisory=LOAD_BOUNDS,
        )
        self.served_age: Histogram = meter.create_histogram(
            names.SERVED_AGE,
            "s",
            "How old stale answers were",
            explicit_bucket_boundaries_advisory=AGE_BOUNDS,
        )

    def add(self, cache: Reported) -> None:
        """Report a cache from now on."""
        with self._lock:
            self._caches.add(cache)
        self.learn()

    def remove(self, cache: Reported) -> None:
        """Report a cache no longer."""
        with self._lock:
            self._caches.discard(cache)

    def learn(self) -> None:
        """Have a gauge for each measure that plugins show and that has none yet."""
        with self._lock:
            caches = list(self._caches)
        shown = {_legal(name) for cache in caches for name, _ in cache.hooks.measures()}
        with self._lock:
            new = shown - self._plugin_gauges
            self._plugin_gauges |= new
        self.has_news = False
        for name in new:
            self._meter.create_observable_gauge(
                name, [self._measure(name)], "1", "Shown by a plugin"
            )

    def after_fork(self) -> None:
        """Take a new lock in a forked child."""
        self._lock = threading.RLock()

    def _observe_entries(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            caches = list(self._caches)
        shown = {_legal(name) for cache in caches for name, _ in cache.hooks.measures()}
        self.has_news = not shown <= self._plugin_gauges
        return self._observe(lambda cache: _entries(cache.stats()))

    def _callback(
        self, show: Callable[[Any], Iterator[Shown]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return self._observe(lambda cache: show(cache.stats()))

        return observe

    def _writers(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def of(cache: Reported) -> Iterator[Shown]:
            for writer in cache.writers():
                value = getattr(writer.stats(), field)
                if value is not None:  # its journal is out of reach
                    yield {names.WRITER: writer.name}, value

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return self._observe(of)

        return observe

    def _measure(self, wanted: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def of(cache: Reported) -> Iterator[Shown]:
            for name, value in cache.hooks.measures():
                if _legal(name) == wanted:
                    yield {}, value

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return self._observe(of)

        return observe

    def _observe(self, show: Callable[[Any], Iterable[Shown]]) -> list[Observation]:
        sums: Counter[tuple[tuple[str, str], ...]] = Counter()
        with self._lock:
            caches = list(self._caches)
        for cache in caches:
            for attributes, value in show(cache):
                sums[(names.CACHE, cache.name), *attributes.items()] += value  # type: ignore[assignment]
        return [Observation(value, dict(attributes)) for attributes, value in sums.items()]


def _legal(name: str) -> str:
    """Return the name of a plugin's gauge as OpenTelemetry takes it; an SDK raises for others.

    Such as that of a breaker, which has that of a function, which has ``<locals>`` in it.
    """
    return (names.PLUGIN + _ILLEGAL.sub("_", name))[:MOST_NAME]


_made: weakref.WeakKeyDictionary[Any, Instruments] = weakref.WeakKeyDictionary()  # by provider
_making = threading.RLock()


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - the parent's may be held by a thread that is not here
    _making = threading.RLock()
    for instruments in list(_made.values()):
        instruments.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def instruments_of(provider: MeterProvider) -> Instruments:
    """Return the instruments of a meter provider, made when first asked for."""
    with _making:
        made = _made.get(provider)
        if made is None:
            made = _made[provider] = Instruments(provider)
        return made
