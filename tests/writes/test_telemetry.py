"""Spans and metrics of writing behind."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.kinds import Kind
from tests.waiting import until


@pytest.fixture
def exporter():
    """What was exported."""
    return InMemorySpanExporter()


@pytest.fixture
def tracers(exporter):
    """A provider of the test's own."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def named(exporter, name: str):
    return [span for span in exporter.get_finished_spans() if span.name == name]


def test_a_flush_is_linked_to_its_puts(place, kind: Kind, tracers, exporter):
    """It is a trace of its own; through the journal it finds the puts, in whatever process."""
    cache = place.cache(tracer_provider=tracers)
    behind = place.behind(lambda operations: None, cache, max_delay="1h")
    kind.do(behind, "put", 1, "a")
    kind.do(behind, "delete", 2)
    kind.do(behind, "flush")
    puts = named(exporter, "tiercache.write_behind.put")
    (flush,) = named(exporter, "tiercache.write_behind.flush")
    assert len(puts) == 2
    assert flush.parent is None
    contexts = {(put.context.trace_id, put.context.span_id) for put in puts}
    assert {(link.context.trace_id, link.context.span_id) for link in flush.links} == contexts
    assert flush.attributes["tiercache.writer"] == "user:{}"
    assert flush.attributes["tiercache.operations"] == 2
    assert "tiercache.key" not in puts[0].attributes


def test_a_failed_flush_says_so(place, tracers, exporter):
    """Each attempt is a span, with its error."""

    def writer(operations):
        raise OSError("no")

    cache = place.cache(tracer_provider=tracers)
    behind = place.behind(writer, cache, max_attempts=2)
    behind.put(1, "a")
    behind.flush()
    flushes = named(exporter, "tiercache.write_behind.flush")
    assert len(flushes) == 2
    assert all(not span.status.is_ok for span in flushes)


def test_the_numbers_are_metrics(place):
    """Depth, lag, dead letters, retries: as stats() has them."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)

    def writer(operations):
        if any(each.item == 1 for each in operations):
            raise OSError("no")

    cache = place.cache(meter_provider=meters)
    behind = place.behind(writer, cache, max_attempts=2, max_delay="1h")
    for number in range(3):
        behind.put(number, "a")
    behind.flush()
    behind.put(5, "waits")
    until(lambda: behind.stats().lag_seconds > 0)  # in whole milliseconds
    found = {
        metric.name: point.value
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
        if metric.name.startswith("tiercache.write_behind.")
        and dict(point.attributes) == {"tiercache.cache": "users", "tiercache.writer": "user:{}"}
    }
    stats = behind.stats()
    assert found["tiercache.write_behind.depth"] == stats.depth == 1
    assert found["tiercache.write_behind.dead"] == stats.dead == 1
    assert found["tiercache.write_behind.written"] == stats.written == 2
    assert found["tiercache.write_behind.retries"] == stats.retries == 1
    assert 0 < found["tiercache.write_behind.lag"] <= stats.lag_seconds
    meters.shutdown()
