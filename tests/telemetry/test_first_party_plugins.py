"""What the plugins that come with tiercache add to a trace, and to the metrics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.kinds import Kind
from tests.telemetry.trees import Recorder
from tiercache import Cache, CircuitOpen
from tiercache.testing import FakeClock
from tiercache_plugins import BloomGuard, LoaderBreaker

MakeCache = Callable[..., Cache]


def test_absent_by_bloom(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """An id that the Bloom filter rules out is one span, which names the filter; no I/O."""
    guard = BloomGuard(ids=lambda: [1, 2, 3], key="user:{user_id}")
    get = traced(plugins=[guard]).cached("user:{user_id}")(kind.function(lambda user_id: user_id))
    assert guard.wait_until_ready(10)
    recorder.clear()
    assert kind.call(get, 10_001) is None
    assert recorder.tree() == "tiercache.get guard=BloomGuard outcome=absent"


def test_breaker(kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock) -> None:
    """A load says how its breaker stood: closed, then open, then half-open for the probe."""
    breaker = LoaderBreaker(fail_max=1, reset_timeout=30, clock=clock)
    is_down = True

    def load(user_id: int) -> int:
        if is_down:
            raise ConnectionError
        return user_id

    get = traced(plugins=[breaker], l2=None).cached("user:{user_id}")(kind.function(load))
    with pytest.raises((ConnectionError, CircuitOpen)):
        kind.call(get, 1)
    recorder.clear()
    with pytest.raises(CircuitOpen):
        kind.call(get, 2)
    assert recorder.tree().splitlines() == [
        "tiercache.get breaker.state=open outcome=error !CircuitOpen *exception",
        "  tiercache.load breaker.state=open !CircuitOpen *exception",
    ]
    recorder.clear()
    clock.advance(31)
    is_down = False
    assert kind.call(get, 3) == 3
    assert recorder.tree().splitlines() == [
        "tiercache.get breaker.state=half-open outcome=loaded ttl_s=300",
        "  tiercache.load breaker.state=half-open",
    ]


def test_measures(
    make_cache: MakeCache, meters: MeterProvider, reader: InMemoryMetricReader
) -> None:
    """What a guard measures is a gauge."""
    guard = BloomGuard(ids=lambda: [1, 2, 3], key="user:{user_id}")
    cache = make_cache("users", plugins=[guard], meter_provider=meters)
    cache.cached("user:{user_id}")(lambda user_id: user_id)
    assert guard.wait_until_ready(10)
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {m.name: m.data for m in data.resource_metrics[0].scope_metrics[0].metrics}
    assert [p.value for p in metrics["tiercache.plugin.bloom.ready"].data_points] == [1.0]
