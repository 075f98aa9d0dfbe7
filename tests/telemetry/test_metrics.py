"""Metrics say what ``stats()`` says, of caches that are alive."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.kinds import Kind
from tiercache import LRU, Cache, Plugin
from tiercache.testing import DictStore, FakeClock

MakeCache = Callable[..., Cache]


def read(reader: InMemoryMetricReader) -> dict[tuple[str, ...], Any]:
    """Return every data point: by the metric's name and its attributes' values."""
    data = reader.get_metrics_data()
    points: dict[tuple[str, ...], Any] = {}
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            assert scope.scope.name == "tiercache"
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    points[metric.name, *_values(point.attributes)] = point
    return points


def _values(attributes: Any) -> list[str]:
    others = sorted(set(attributes) - {"tiercache.cache"})
    return [attributes["tiercache.cache"], *(attributes[name] for name in others)]


class Counting(Plugin):
    """A guard that shows a number."""

    def admits(self, key: str) -> bool:
        return key != "user:9"

    def measures(self) -> Mapping[str, float]:
        return {"guard.size": 42.0}


def test_stats_and_metrics_agree(
    kind: Kind,
    make_cache: MakeCache,
    meters: MeterProvider,
    reader: InMemoryMetricReader,
    clock: FakeClock,
) -> None:
    """After some of everything, each metric is the number that ``stats()`` gives."""
    cache = make_cache(
        "users",
        l1=LRU(2),
        l2=DictStore(clock=clock),
        ttl=10,
        stale_while_revalidate=10,
        plugins=[Counting()],
        meter_provider=meters,
    )

    def load(user_id: int) -> int:
        if user_id == 7:
            raise LookupError
        return user_id

    get = cache.cached("user:{user_id}")(kind.function(load))
    for user_id in (1, 1, 1, 2, 3, 1, 9):
        kind.call(get, user_id)
    with pytest.raises(LookupError):
        kind.call(get, 7)
    clock.advance(15)
    kind.call(get, 1)
    if kind.name == "asyncio":
        kind.call(cache.asyncio.quiesce)
    cache.blocking.quiesce(10)
    stats, points = cache.stats(), read(reader)
    shown = {name: point.value for name, point in points.items() if hasattr(point, "value")}
    expected = {
        ("tiercache.hits", "users", "l1"): stats.hits_l1,
        ("tiercache.hits", "users", "l2"): stats.hits_l2,
        ("tiercache.misses", "users"): stats.misses,
        ("tiercache.loads", "users", "ok"): stats.loads - stats.load_errors,
        ("tiercache.loads", "users", "error"): stats.load_errors,
        ("tiercache.joins", "users"): stats.joined,
        ("tiercache.bus.gaps", "users"): stats.bus_gaps,
        ("tiercache.stale.served", "users"): stats.stale_served,
        ("tiercache.absent", "users"): stats.absent,
        ("tiercache.entries", "users"): stats.entries,
        ("tiercache.weight", "users"): stats.weight,
        ("tiercache.plugin.guard.size", "users"): 42,
        **{("tiercache.evictions", "users", c): n for c, n in stats.evictions.items()},
    }
    assert shown == expected
    assert min(stats.hits_l1, stats.hits_l2, stats.load_errors, stats.absent) > 0
    assert stats.stale_served == 1 and stats.evictions["size"] > 0
    durations = points["tiercache.load.duration", "users"]
    assert durations.count == stats.loads
    ages = points["tiercache.served.age", "users"]
    assert (ages.count, ages.sum) == (1, 15)


def test_units_and_kinds(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """Durations are in seconds; what only grows is a monotonic sum."""
    cache = make_cache("users", meter_provider=meters)
    cache.cached(lambda x: x)(1)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m for m in data.resource_metrics[0].scope_metrics[0].metrics}
    assert metrics["tiercache.load.duration"].unit == "s"
    assert metrics["tiercache.hits"].data.is_monotonic  # type: ignore[union-attr]
    assert not hasattr(metrics["tiercache.entries"].data, "is_monotonic")


def test_no_keys(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """Whatever spans show, the attributes of metrics are few: cache, tier, result, cause."""
    cache = make_cache("users", meter_provider=meters, trace_keys=True)
    get = cache.cached("user:{user_id}")(lambda user_id: user_id)
    for user_id in range(50):
        get(user_id)
    assert len(read(reader)) < 20


def test_closed_cache(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """A cache that is closed is no longer reported; another one still is."""
    one, other = (make_cache(name, meter_provider=meters) for name in ("one", "other"))
    assert ("tiercache.entries", "one") in read(reader)
    one.close()
    points = read(reader)
    assert ("tiercache.entries", "one") not in points
    assert ("tiercache.entries", "other") in points
    other.close()
    assert not [name for name, *_ in read(reader) if name == "tiercache.entries"]


def test_collected_cache(meters: MeterProvider, reader: InMemoryMetricReader) -> None:
    """A cache that nobody holds is not held by its metrics."""
    cache = Cache("gone", meter_provider=meters)
    assert ("tiercache.entries", "gone") in read(reader)
    del cache
    gc.collect()
    assert ("tiercache.entries", "gone") not in read(reader)


def test_caches_of_one_name(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """Caches that a reader cannot tell apart are added up."""
    for _ in range(2):
        make_cache("twin", meter_provider=meters).cached(lambda x: x)(1)
    assert read(reader)["tiercache.loads", "twin", "ok"].value == 2


def test_plugin_that_fails(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """A plugin whose measures raise takes nothing from the others."""

    class Broken(Plugin):
        def measures(self) -> Mapping[str, float]:
            raise RuntimeError

    cache = make_cache("users", meter_provider=meters, plugins=[Broken(), Counting()])
    assert read(reader)["tiercache.plugin.guard.size", "users"].value == 42
    assert cache.stats().plugin_errors > 0


def test_measures_that_come_later(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """A measure that a plugin shows only later has a gauge from the next load on."""
    shown: dict[str, float] = {}

    class Late(Plugin):
        def measures(self) -> Mapping[str, float]:
            return shown

    cache = make_cache("users", meter_provider=meters, plugins=[Late()])
    read(reader)
    shown["late"] = 1.0
    read(reader)
    cache.cached(lambda x: x)(1)
    assert read(reader)["tiercache.plugin.late", "users"].value == 1


def test_names_that_an_sdk_does_not_take(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """A measure named after a function within a function has a gauge, and breaks no read."""

    class Named(Plugin):
        def measures(self) -> Mapping[str, float]:
            return {"state.main.<locals>.f": 1.0, "größe" + 300 * "x": 2.0}

    cache = make_cache("users", meter_provider=meters, plugins=[Named()])
    assert cache.cached(lambda x: x)(1) == 1
    points = read(reader)
    assert points["tiercache.plugin.state.main._locals_.f", "users"].value == 1
    (long,) = [name for name, *_ in points if "gr__" in name]
    assert len(long) == 255


@pytest.mark.parametrize("shown", [{"size": "large"}, {7: 1.0}, {"size": None}, None])
def test_measures_that_are_none(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader, shown: Any
) -> None:
    """What is no number, or has no name, is the failure of its plugin, and of no read."""

    class Broken(Plugin):
        def measures(self) -> Any:
            return shown

    cache = make_cache("users", meter_provider=meters, plugins=[Broken(), Counting()])
    assert cache.cached(lambda x: x)(1) == 1
    assert read(reader)["tiercache.plugin.guard.size", "users"].value == 42
    assert cache.stats().plugin_errors > 0
