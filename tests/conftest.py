"""What every test may use: the kinds of callers, a clock to move, and a cache on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kinds import Asyncio, Blocking, Kind
from tiercache import LRU, Cache
from tiercache.testing import FakeClock

# Where modules take long: with --no-loadscope-reorder they are begun first, so that the workers
# end together.
LONG = ("chaos", "examples", "redis", "coherence", "writes", "contracts", "plugins", "codec")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes long."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, int]:
    folder = item.path.parent.name
    return not item.get_closest_marker("slow"), LONG.index(folder) if folder in LONG else len(LONG)


@pytest.fixture(params=[Blocking, Asyncio], ids=["blocking", "asyncio"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """A kind of caller."""
    kind = request.param()
    yield kind
    kind.close()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that moves when told."""
    return FakeClock()


@pytest.fixture
def make_cache(clock: FakeClock) -> Iterator[Callable[..., Cache]]:
    """Make caches without jitter on the fake clock; they are closed at the end."""
    caches: list[Cache] = []

    def make(name: str = "test", **options: Any) -> Cache:
        options = {"jitter": 0, "clock": clock, "l1": LRU(1000), **options}
        caches.append(Cache(name, **options))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()


@pytest.fixture
def cache(make_cache: Callable[..., Cache]) -> Cache:
    """An L1-only cache on the fake clock."""
    return make_cache()
