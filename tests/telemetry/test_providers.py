"""When there is telemetry at all: noticed with the next miss, imported by nobody but its user."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from tests.telemetry.trees import Recorder
from tiercache import Cache, ConfigurationError
from tiercache.telemetry.providers import METRICS, TRACES, Watch, records

MakeCache = Callable[..., Cache]


def run(code: str, **environment: str) -> str:
    """Run a script in a process of its own, where no provider is set; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_is_imported() -> None:
    """A program that does not use OpenTelemetry does not import it through a cache."""
    printed = run("""
        import sys
        from tiercache import Cache
        with Cache() as cache:
            cache.cached(lambda x: x)(1)
            cache.set("a", 1)
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """)
    assert printed == "[]"


def test_api_without_sdk() -> None:
    """Where the API is imported and no SDK is installed, no span is made."""
    printed = run("""
        import opentelemetry.trace, opentelemetry.metrics
        from tiercache import Cache
        with Cache() as cache:
            cache.cached(lambda x: x)(1)
            print(cache.telemetry.notice(), cache.telemetry._instruments)
    """)
    assert printed == "None None"


def test_sdk_that_comes_later() -> None:
    """An SDK that is installed after the cache was used is noticed with the next miss."""
    printed = run("""
        from tiercache import Cache
        cache = Cache("users", l2=None)
        get = cache.cached(lambda x: x)
        get(1)
        from opentelemetry import metrics, trace
        get(2)
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([reader]))
        get(3)
        print(sorted(span.name for span in exporter.get_finished_spans()))
        data = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        print(sum(p.value for m in data if m.name == "tiercache.loads" for p in m.data.data_points))
        cache.close()
    """)
    assert printed.splitlines() == ["['tiercache.get', 'tiercache.load']", "3"]


def test_provider_named_by_the_environment() -> None:
    """A provider that the environment names is found though nobody has asked for it before."""
    printed = run(
        """
        import opentelemetry.trace
        from tiercache import Cache
        with Cache() as cache:
            print(type(cache.telemetry.notice()).__name__)
        """,
        OTEL_PYTHON_TRACER_PROVIDER="sdk_tracer_provider",
    )
    assert printed == "Spans"


def test_fork() -> None:
    """A forked child goes on recording, spans and metrics."""
    printed = run("""
        import os
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from tiercache import Cache
        reader = InMemoryMetricReader()
        cache = Cache(tracer_provider=TracerProvider(), meter_provider=MeterProvider([reader]))
        get = cache.cached(lambda x: x)
        get(1)
        if os.fork() == 0:
            get(2)
            assert cache.telemetry.notice() is not None
            names = [m.name for m in
                     reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics]
            print("tiercache.loads" in names, flush=True)
            os._exit(0)
        os.wait()
        cache.close()
    """)
    assert printed == "True"


def test_an_api_of_another_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the API holds its provider elsewhere, its getter is asked each time."""
    from opentelemetry import trace

    current: list[object] = [None]
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: current[0])
    watch = Watch((TRACES[0], TRACES[1], TRACES[2], "_ANOTHER_NAME"))
    assert watch.look() is None
    current[0] = provider = Recorder().provider
    assert watch.ask() is not watch.seen
    assert watch.look() is provider
    assert watch.ask() is watch.seen


def test_an_api_that_is_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that another thread has not finished importing is looked at again later."""
    from types import ModuleType

    half = ModuleType("opentelemetry.trace")
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", half)
    watch = Watch(TRACES)
    assert watch.look() is None
    provider = Recorder().provider
    vars(half).update(get_tracer_provider=lambda: provider, _TRACER_PROVIDER=provider)
    assert watch.look() is provider


@pytest.mark.parametrize("signal", [TRACES, METRICS], ids=["traces", "metrics"])
def test_the_variables_are_where_they_are_looked_for(signal: tuple[str, str, str, str]) -> None:
    """The installed API has the variables that a miss looks at instead of asking the getter."""
    from importlib import import_module

    import_module(signal[0])
    assert signal[3] in vars(sys.modules[signal[2]])


def test_what_records() -> None:
    """The API's own providers do not; any other does."""
    assert not records(None)
    assert not records(NoOpTracerProvider())
    assert not records(NoOpMeterProvider())
    assert records(Recorder().provider)
    assert records(object())


def test_provider_that_records_nothing(make_cache: MakeCache) -> None:
    """A cache may be kept out of an application's traces."""
    cache = make_cache(tracer_provider=NoOpTracerProvider())
    assert cache.telemetry.notice() is None


def test_each_cache_has_its_own(make_cache: MakeCache) -> None:
    """Caches in one process may report to different providers."""
    recorders = [Recorder(), Recorder()]
    for number, recorder in enumerate(recorders):
        cache = make_cache(str(number), tracer_provider=recorder.provider)
        cache.cached(lambda x: x)(1)
    for number, recorder in enumerate(recorders):
        attributes = recorder.one("tiercache.get").attributes
        assert attributes is not None
        assert attributes["tiercache.cache"] == str(number)


@pytest.mark.parametrize("option", ["tracer_provider", "meter_provider"])
def test_no_provider(make_cache: MakeCache, option: str) -> None:
    """What cannot be a provider is refused, by name."""
    with pytest.raises(ConfigurationError, match=f"{option} must have get_.*got 42"):
        make_cache(**{option: 42})


@pytest.mark.parametrize("option", ["trace_keys", "trace_l1_hits"])
def test_no_switch(make_cache: MakeCache, option: str) -> None:
    """A switch is on or off."""
    with pytest.raises(ConfigurationError, match=f"{option} must be True or False, got 'yes'"):
        make_cache(**{option: "yes"})
