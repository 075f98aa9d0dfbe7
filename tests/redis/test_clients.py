"""Clients: what names one, whose settings it has, what it sends, and how many connections."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.servers import Proxy
from tests.waiting import in_time
from tiercache import Cache
from tiercache.errors import ConfigurationError, StoreError
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Fill, Item, Kind, Store, StoreBusy

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
            {"log_length": 99},
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
        one = Redis(server.url, prefix="one", timeout=5)
        two = Redis(server.url, timeout=5)
        one.namespace("u").write("1", b"one", 60)
        assert two.namespace("u").read("1") is None
        assert server.command("EXISTS", "one:{u:1}").startswith(b":1")
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
        space = store.namespace("u")
        space.write("1", b"1", 60)

        async def main():
            assert bytes((await space.aread("1")).payload) == b"1"
            await store.aclose()

        asyncio.run(main())
        asyncio.run(main())
        assert bytes(space.read("1").payload) == b"1"
        tail = space.tail(space.log_end())
        space.delete(["1"])
        assert tail.read(5)[-1].names == ("1",)
        tail.close()
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
            space = store.namespace("u")
            space.write("1", b"1", 60)
            assert OwnConnection.made == 1
            with pytest.raises(StoreError, match="OwnConnection"):
                asyncio.run(space.aread_many(["1"]))
            store.close()
        pool.disconnect()

    def test_its_database_is_used(self, server):
        """The database number is part of the settings."""
        import redis

        with redis.Redis.from_url(f"redis://127.0.0.1:{server.port}/3") as client:
            store = Redis(client)
            assert store.label.endswith("/3")
            store.namespace("u").write("1", b"1", 60)
            assert client.exists("tc:{u:1}")
            store.close()


class TestRoundTrips:
    @pytest.fixture
    def calls(self, server, store, space):
        """Count what an operation sends, once the store knows server and scripts."""
        lease = claim(space, "w")
        space.fill([Fill("w", lease, b"0", 60)])
        space.write("w", b"0", 60, ("t",))
        space.invalidate_tags(["t"])
        space.release([("w", b"nonce--0")], Kind.LANDED)

        def calls(operation, *args, **options):
            server.command("CONFIG", "RESETSTAT")
            result = getattr(space, operation)(*args, **options)
            counts = server.command_calls()
            for other in ("config|resetstat", "info", "ping", "client|setinfo"):
                counts.pop(other, None)
            return counts, result

        return calls

    @pytest.mark.parametrize("tags", [(), ("t",), ("t", "other")], ids=str)
    def test_a_read_is_one_command(self, space, calls, tags):
        """An MGET of entries, generation and tokens, with tags that are known before or none."""
        space.write("1", b"1", 60, tags)
        assert calls("read", "1", tags)[0] == {"mget": 1}
        assert calls("read_many", ["1", "2", "3"], tags)[0] == {"mget": 1}

    def test_tags_not_known_before_cost_another(self, space, calls):
        """An entry found to carry a tag that its reader did not name costs one more MGET."""
        space.write_many([Item("1", b"1", 60, ("a", "b")), Item("2", b"2", 60, ("c",))])
        counts, found = calls("read_many", ["1", "2"])
        assert counts == {"mget": 2}
        assert [each.tags for each in found] == [("a", "b"), ("c",)]

    def test_a_write_is_one_round_trip(self, space, calls):
        """A script for each entry, and one message for all of them."""
        counts, _ = calls("write", "1", b"1", 60)
        assert (counts["evalsha"], counts["xadd"]) == (1, 1)
        counts, _ = calls("write_many", [Item(f"{n}", b"1", 60) for n in range(50)])
        assert (counts["evalsha"], counts["xadd"]) == (50, 1)

    def test_a_delete_is_one_round_trip(self, space, calls):
        """Entries, leases, and one message: three commands at once, however many keys."""
        counts, _ = calls("delete", [f"{n}" for n in range(50)])
        assert counts == {"unlink": 2, "xadd": 1}

    def test_an_expiry_is_one_round_trip(self, space, calls):
        """A script for each entry, and one message for all of them."""
        space.write_many([Item(f"{n}", b"1", 60) for n in range(50)])
        space.expire(["0"], [30])  # from now on the server knows the script
        counts, existed = calls("expire", [f"{n}" for n in range(50)], [30.0] * 50)
        assert (counts["evalsha"], counts["xadd"], existed) == (50, 1, 50)

    def test_clear_and_tags_are_one_command_or_two(self, space, calls):
        """O(1) in the number of entries."""
        space.write_many([Item(f"{n}", b"1", 60, ("t",)) for n in range(500)])
        assert calls("clear")[0] == {"set": 1, "xadd": 1}
        space.write_many([Item(f"{n}", b"1", 60, ("t",)) for n in range(500)])
        counts, _ = calls("invalidate_tags", ["t"])
        assert counts.pop("evalsha") == 1
        assert sum(counts.values()) <= 3  # inside of the script: no command per entry
        assert space.read("7", ["t"]) is None

    def test_a_miss_is_a_claim_and_a_fill(self, space, calls):
        """After the read: one script to claim, and one to fill, where the log is being read."""
        tail = space.tail(space.log_end())
        tail.read(0)
        tail.close()
        counts, _ = calls("read", "1")
        assert counts == {"mget": 1}
        counts, claims = calls("claim", ["1"], [b"nonce--1"], seconds=5)
        assert counts.pop("evalsha") == 1
        assert "mget" not in counts
        counts, taken = calls("fill", [Fill("1", claims[0].lease, b"1", 60)])
        assert (counts["evalsha"], taken) == (1, [True])
        assert "xadd" not in counts  # nobody waited

    def test_round_trips(self, server):
        """What takes several commands sends them at once: one turn through a slow proxy."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5)
            space = store.namespace("u")
            space.log_end()
            space.write("1", b"1", 60, ("t",))
            fills = [Fill("2", claim(space, "2"), b"2", 60, ("t",))]
            space.fill(fills)
            space.invalidate_tags(["t"])
            space.expire(["1"], [30])
            proxy.delay = 0.3
            for operation, *args in (
                ("read_many", ["1", "2"], ["t"]),
                ("write", "1", b"1", 60, ("t",)),
                ("write_many", [Item(f"{n}", b"1", 60, ("t",)) for n in range(9)]),
                ("expire", ["1", "2"], [30, 0]),
                ("delete", ["1", "2", "3"]),
                ("invalidate_tags", ["t", "u"]),
                ("clear",),
            ):
                call = partial(getattr(space, operation), *args)
                assert in_time(call, 0.55) >= 0.3, operation
            proxy.delay = 0.0
            store.close()

    def test_the_clock_is_read_again_now_and_then(self, server, space, monkeypatch):
        """TIME goes along with the first call, and again when its estimate is old."""
        for _ in range(5):
            space.read("1")
        assert server.command_calls()["time"] == 1
        monkeypatch.setattr(space.plans.clock, "_next_sync", 0.0)
        for _ in range(5):
            space.read("1")
        assert server.command_calls()["time"] == 2

    def test_a_wrong_local_clock_does_not_matter(self, server, space, monkeypatch):
        """Neither side's wall clock takes part: only the server's, and ours that ticks."""
        monkeypatch.setattr(time, "time", lambda: 0.0)
        space.write("1", b"1", 60)
        assert 59 < space.read("1").remaining <= 60.05

    def test_another_process_sees_the_same_life(self, server, space):
        """A second store, with an estimate of its own, agrees on the remaining seconds."""
        space.write("1", b"1", 60)
        other = Redis(server.url, timeout=5)
        remaining = other.namespace("u").read("1").remaining
        assert remaining == pytest.approx(space.read("1").remaining, abs=0.1)
        other.close()

    def test_a_restarted_server_learns_the_scripts_again(self, own_server):
        """A server that has forgotten them is sent their text, once; no call fails for it."""
        store = Redis(own_server.url, timeout=5)
        space = store.namespace("u")
        for _ in range(2):
            space.write("1", b"1", 60)
            assert space.fill([Fill("2", claim(space, "2"), b"2", 60)]) == [True]
            assert space.lock("l", b"nonce--3", 5).fence
            own_server.command("SCRIPT", "FLUSH")
            own_server.command("CONFIG", "RESETSTAT")
            claim(space, "3")
            space.write_many([Item(f"{n}", b"1", 60) for n in range(5)])
            space.write("1", b"1", 60)
            calls = own_server.command_calls()
            assert (calls["eval"], calls["evalsha"]) == (6, 7)
            space.clear()
        store.close()


def claim(space, key):
    """Return the lease of a key."""
    (claim,) = space.claim([key], [b"nonce--0"], seconds=5, anew=True)
    return claim.lease


class TestPool:
    def test_connections_are_reused(self, server):
        """Calls one after another share one connection."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5)
            space = store.namespace("u")
            for _ in range(20):
                space.write("1", b"1", 60)
                space.read("1")
            store.close()
            assert proxy.connections == 1

    def test_the_log_is_not_read_on_a_connection_of_the_pool(self, server):
        """One that waits for messages keeps no call waiting, though the pool has one connection."""
        store = Redis(server.url, timeout=5, max_connections=1)
        space = store.namespace("u")
        tail = space.tail(space.log_end())
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(tail.read, 10)
            for _ in range(20):
                assert space.read("1") is None
            space.announce(Kind.NEWS, ["now"])
            assert reading.result(10)[-1].names == ("now",)
        tail.close()
        store.close()

    def test_a_pool_in_use_is_busy(self, server):
        """When all connections are taken for half of the timeout, that is StoreBusy."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=1, max_connections=2)
            space = store.namespace("u")
            space.write("1", b"1", 60)
            proxy.hold()
            with ThreadPoolExecutor(6) as pool:
                calls = [pool.submit(space.write, "1", b"1", 60) for _ in range(6)]
                kinds = [type(call.exception(10)) for call in calls]
            proxy.release()
            assert kinds.count(StoreBusy) == 4
            space.write("1", b"1", 60)
            store.close()

    async def test_an_asyncio_pool_in_use_is_busy(self, server):
        """The same for tasks."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=1, max_connections=2)
            space = store.namespace("u")
            await space.awrite("1", b"1", 60)
            proxy.hold()
            calls = (space.awrite("1", b"1", 60) for _ in range(6))
            errors = await asyncio.gather(*calls, return_exceptions=True)
            proxy.release()
            assert [type(error) for error in errors].count(StoreBusy) == 4
            await space.awrite("1", b"1", 60)
            await store.aclose()

    async def test_a_loop_that_is_held_up(self, server):
        """What an event loop has not looked at in time says nothing of the server."""
        cache = Cache("held-up", l1=None, l2=Redis(server.url, timeout=0.2))

        async def hold_up():
            for _ in range(10):
                time.sleep(0.15)  # noqa: ASYNC251 - this is what must not matter
                await asyncio.sleep(0)

        holding = asyncio.create_task(hold_up())
        reads = [asyncio.create_task(cache.aget(f"k{number}", 0)) for number in range(40)]
        assert await asyncio.gather(*reads) == [0] * 40
        await holding
        stats = cache.stats()
        assert stats.store_errors > 0  # else this shows nothing
        assert stats.l2_state == "closed"
        await cache.aclose()

    def test_a_waiting_call_gets_the_next_free_connection(self, server):
        """More threads than connections all get their turn."""
        store = Redis(server.url, timeout=5, max_connections=2)
        space = store.namespace("u")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda n: space.write(f"{n}", b"1", 60), range(200)))
        assert None not in space.read_many([f"{n}" for n in range(200)])
        assert store._blocking._open <= 2
        store.close()

    async def test_a_cancelled_write_does_not_spoil_the_next(self, server):
        """A connection whose reply nobody waited for is not used again."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5, max_connections=1)
            space = store.namespace("u")
            await space.awrite("1", b"1", 60)
            for _ in range(5):
                proxy.hold()
                task = asyncio.create_task(space.aread_many(["1", "1"]))
                await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                proxy.release()
                assert [bytes(e.payload) for e in await space.aread_many(["1"])] == [b"1"]
            await store.aclose()


def test_an_error_is_never_redis_pys(server, space):
    """A command that Redis refuses comes out as StoreError."""
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreError, match="write"):
            space.write("u", b"payload", 60)
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
