"""Clients: what names one, whose settings it has, what it sends, and how many connections."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import Proxy
from tiercache.errors import ConfigurationError, StoreError
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Store, StoreBusy

GOOD_URLS = {
    "redis://localhost": "redis://localhost:6379/0",
    "redis://localhost:6380/3": "redis://localhost:6380/3",
    "redis://user:pass@host/1": "redis://host:6379/1",
    "redis://:p%40ss@host": "redis://host:6379/0",
    "redis://host?db=4": "redis://host:6379/4",
    "rediss://host:6379/0?ssl_cert_reqs=none": "rediss://host:6379/0",
    "redis://[::1]:6379/0": "redis://[::1]:6379/0",
    "unix:///run/redis.sock?db=2": "unix:///run/redis.sock",
}
BAD_URLS = [
    "",
    "localhost:6379",
    "http://localhost",
    "redis:/localhost",
    "redis://host:port",
    "redis://host:99999",
    "redis://user:s3cret@host:port/0",
    "redis://:s3cret",
    "redis://host/database",
    "redis://[::1",
    "memcached://user:s3cret@host",
    "unix://",
    "user:s3cret@host",
]


class TestConstruction:
    @pytest.mark.parametrize("url", GOOD_URLS)
    def test_a_good_url_is_taken(self, url):
        """The label is the URL in full, without credentials; nothing is connected."""
        store = Redis(url)
        assert store.label == GOOD_URLS[url]
        assert repr(store) == f"Redis({GOOD_URLS[url]!r})"
        assert isinstance(store, Store)

    @pytest.mark.parametrize("url", BAD_URLS)
    def test_a_bad_url_is_refused(self, url):
        """It is named, with a remedy and without the password."""
        with pytest.raises(ConfigurationError, match="redis://localhost:6379/0") as caught:
            Redis(url)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value)[-1:])
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize(
        "options",
        [
            {"timeout": 0},
            {"timeout": -1},
            {"prefix": ""},
            {"prefix": "a{b}"},
            {"max_connections": 0},
        ],
    )
    def test_a_bad_option_is_refused(self, options):
        """Illegal options are named."""
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            Redis("redis://localhost", **options)

    @pytest.mark.parametrize("client", [None, 5, object(), b"redis://localhost"])
    def test_what_is_no_client_is_refused(self, client):
        """Neither text nor a client: the type is named."""
        with pytest.raises(ConfigurationError, match=type(client).__name__):
            Redis(client)

    def test_redis_is_not_imported_before_it_is_used(self):
        """Constructing a store from a URL costs no import of redis-py."""
        program = (
            "import sys; from tiercache.tiers.redis import Redis; Redis('redis://localhost');"
            "sys.exit('redis' in sys.modules)"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", program], check=True, env=environment)

    def test_prefixes_keep_stores_apart(self, server):
        """Two prefixes on one database share nothing; the key is the hash tag."""
        one, two = Redis(server.url, prefix="one"), Redis(server.url)
        one.write("u:1", b"one", 60)
        assert two.read("u:1") is None
        assert b"one:{u:1}" in server.command("KEYS", "*") or server.command(
            "EXISTS", "one:{u:1}"
        ).startswith(b":1")
        one.close()
        two.close()


class TestUsersClient:
    def test_a_blocking_client_serves_both_kinds(self, server):
        """Its settings are used for blocking and asyncio; it is left open."""
        import redis

        with redis.Redis(host="127.0.0.1", port=server.port, decode_responses=True) as client:
            self.check(client, server)
            assert client.ping()

    def test_an_asyncio_client_serves_both_kinds(self, server):
        """The same the other way round."""
        import redis.asyncio

        self.check(redis.asyncio.Redis.from_url(server.url), server)

    def check(self, client, server):
        store = Redis(client)
        assert str(server.port) in store.label
        store.write("u:1", b"1", 60)

        async def main():
            assert bytes((await store.aread("u:1")).payload) == b"1"
            await store.aclose()

        asyncio.run(main())
        asyncio.run(main())
        assert bytes(store.read("u:1").payload) == b"1"
        store.close()

    def test_a_connection_class_of_the_users_own_is_kept(self, server):
        """It is used for its kind; for the other a call says that there is none."""
        import redis

        class OwnConnection(redis.Connection):
            made = 0

            def __init__(self, **settings):
                OwnConnection.made += 1
                super().__init__(**settings)

        pool = redis.ConnectionPool(
            connection_class=OwnConnection, host="127.0.0.1", port=server.port
        )
        with redis.Redis(connection_pool=pool) as client:
            store = Redis(client)
            store.write("u:1", b"1", 60)
            assert OwnConnection.made == 1
            with pytest.raises(StoreError, match="OwnConnection"):
                asyncio.run(store.aread("u:1"))
            store.close()
        pool.disconnect()

    def test_its_database_is_used(self, server):
        """The database number is part of the settings."""
        import redis

        with redis.Redis.from_url(f"redis://127.0.0.1:{server.port}/3") as client:
            store = Redis(client)
            assert store.label.endswith("/3")
            store.write("u:1", b"1", 60)
            assert client.dbsize() == 1
            store.close()


class TestRoundTrips:
    def test_each_call_is_one_command(self, server, store):
        """Reads are one GET or MGET, writes one SET, deletes one UNLINK."""
        store.write("u:0", b"0", 60)
        server.command("CONFIG", "RESETSTAT")
        store.write("u:1", b"1", 60)
        store.read("u:1")
        store.read_many(["u:1", "u:2", "u:3"])
        store.delete(["u:1", "u:2", "u:3"])
        calls = server.command_calls()
        for other in ("config|resetstat", "info", "ping", "client|setinfo"):
            calls.pop(other, None)
        assert calls == {"set": 1, "get": 1, "mget": 1, "unlink": 1}

    def test_the_clock_is_read_again_now_and_then(self, server, store, monkeypatch):
        """TIME goes along with the first call, and again when its estimate is old."""
        for _ in range(5):
            store.read("u:1")
        assert server.command_calls()["time"] == 1
        monkeypatch.setattr(store._clock, "_next_sync", 0.0)
        for _ in range(5):
            store.read("u:1")
        assert server.command_calls()["time"] == 2

    def test_a_wrong_local_clock_does_not_matter(self, server, store, monkeypatch):
        """Neither side's wall clock takes part: only the server's, and ours that ticks."""
        monkeypatch.setattr(time, "time", lambda: 0.0)
        store.write("u:1", b"1", 60)
        assert 59 < store.read("u:1").remaining <= 60.05

    def test_another_process_sees_the_same_life(self, server, store):
        """A second store, with an estimate of its own, agrees on the remaining seconds."""
        store.write("u:1", b"1", 60)
        other = Redis(server.url)
        assert other.read("u:1").remaining == pytest.approx(store.read("u:1").remaining, abs=0.1)
        other.close()


class TestPool:
    def test_connections_are_reused(self, server):
        """Calls one after another share one connection."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url)
            for _ in range(20):
                store.write("u:1", b"1", 60)
                store.read("u:1")
            store.close()
            assert proxy.connections == 1

    def test_a_pool_in_use_is_busy(self, server):
        """When all connections are taken for half of the timeout, that is StoreBusy."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=0.4, max_connections=2)
            store.write("u:1", b"1", 60)
            proxy.hold()
            with ThreadPoolExecutor(6) as pool:
                calls = [pool.submit(store.write, "u:1", b"1", 60) for _ in range(6)]
                kinds = [type(call.exception(10)) for call in calls]
            proxy.release()
            assert kinds.count(StoreBusy) == 4
            store.write("u:1", b"1", 60)
            store.close()

    async def test_an_asyncio_pool_in_use_is_busy(self, server):
        """The same for tasks."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=0.4, max_connections=2)
            await store.awrite("u:1", b"1", 60)
            proxy.hold()
            calls = (store.awrite("u:1", b"1", 60) for _ in range(6))
            errors = await asyncio.gather(*calls, return_exceptions=True)
            proxy.release()
            assert [type(error) for error in errors].count(StoreBusy) == 4
            await store.awrite("u:1", b"1", 60)
            await store.aclose()

    def test_a_waiting_call_gets_the_next_free_connection(self, server):
        """More threads than connections all get their turn."""
        store = Redis(server.url, timeout=5, max_connections=2)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: store.write(f"u:{n}", b"1", 60), range(200)))
        assert None not in store.read_many([f"u:{n}" for n in range(200)])
        assert store._blocking._open <= 2
        store.close()

    async def test_a_cancelled_write_does_not_spoil_the_next(self, server):
        """A connection whose reply nobody waited for is not used again."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5, max_connections=1)
            await store.awrite("u:1", b"1", 60)
            for _ in range(5):
                proxy.hold()
                task = asyncio.create_task(store.aread_many(["u:1", "u:1"]))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                proxy.release()
                assert [bytes(e.payload) for e in await store.aread_many(["u:1"])] == [b"1"]
            await store.aclose()


def test_an_error_is_never_redis_pys(server, store):
    """A command that Redis refuses comes out as StoreError."""
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreError, match="write"):
            store.write("u", b"payload", 60)
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
