"""Redis refused, killed, frozen, cut off, restarted empty, or not Redis: what a call does then.

One table of calls, each blocking and awaited; each must end with StoreError in time, and work
again when Redis does.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.servers import BadServer, Proxy, RedisServer, free_port
from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers.redis import Redis

TIMEOUT = 0.15
SLACK = 0.4  # for a busy machine

BLOCKING = {
    "read": lambda store: store.read("u:1"),
    "read_many": lambda store: store.read_many(["u:1", "u:2"]),
    "write": lambda store: store.write("u:1", b"new", 60),
    "write_many": lambda store: store.write_many([("u:1", b"a", 60), ("u:2", b"b", None)]),
    "delete": lambda store: store.delete(["u:1", "u:2"]),
    "clear": lambda store: store.clear("u"),
}
CALLS = {
    **BLOCKING,
    "aread": lambda store: store.aread("u:1"),
    "aread_many": lambda store: store.aread_many(["u:1", "u:2"]),
    "awrite": lambda store: store.awrite("u:1", b"new", 60),
    "awrite_many": lambda store: store.awrite_many([("u:1", b"a", 60), ("u:2", b"b", None)]),
    "adelete": lambda store: store.adelete(["u:1", "u:2"]),
    "aclear": lambda store: store.aclear("u"),
}


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=sorted(CALLS))
def call(request, runner):
    """One call of the table, made blocking."""

    async def awaited(store):
        return await CALLS[request.param](store)

    if request.param.startswith("a"):
        return lambda store: runner.run(awaited(store))
    return CALLS[request.param]


def make(url, **options):
    return Redis(url, timeout=TIMEOUT, **options)


def fails_in_time(call, store, kind=StoreError, seconds=TIMEOUT + SLACK):
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        call(store)
    assert time.monotonic() - began < seconds
    assert "127.0.0.1" in str(caught.value)
    return caught.value


def warm(store, runner):
    """Import, connect and learn the clock, blocking and in the runner's loop."""
    store.write("u:1", b"1", 60)
    runner.run(store.aread("u:1"))


@pytest.fixture(scope="module")
def warm_imports():
    """Do not charge the import of redis-py to the first call that is timed."""
    import redis.asyncio  # noqa: F401


pytestmark = pytest.mark.usefixtures("warm_imports")


def test_refused(call, runner):
    """Where nobody listens a call fails at once."""
    store = make(f"redis://127.0.0.1:{free_port()}")
    fails_in_time(call, store, seconds=SLACK)
    store.close()


@pytest.fixture(scope="module")
def frozen():
    """A server that is alive and never answers."""
    with RedisServer() as server:
        yield server
        server.thaw()


def test_frozen(call, frozen, runner):
    """A server that hangs costs one timeout on a connection in use, and one on a new one."""
    frozen.thaw()
    store = make(frozen.url)
    warm(store, runner)
    frozen.freeze()
    fails_in_time(call, store, StoreTimeout)
    fails_in_time(call, store, StoreTimeout)
    frozen.thaw()
    call(store)
    runner.run(store.aclose())


def test_frozen_before_the_first_call(frozen, runner, call):
    """The same where even the first connection hangs."""
    frozen.freeze()
    store = make(frozen.url)
    fails_in_time(call, store, StoreTimeout)
    frozen.thaw()
    runner.run(store.aclose())


def test_a_connection_the_server_closed_is_replaced(server, call, runner):
    """Idle connections cut off cost nothing but a new one."""
    with Proxy(server.port) as proxy:
        store = make(proxy.url)
        warm(store, runner)
        proxy.cut()
        call(store)
        runner.run(store.aclose())


def test_killed_and_restarted_empty(own_server, runner):
    """A call to a dead server fails at once; restarted, it answers, and knows nothing."""
    store = make(own_server.url)
    warm(store, runner)
    own_server.kill()
    for name in ("read", "write", "delete"):
        fails_in_time(CALLS[name], store, seconds=SLACK)
    fails_in_time(lambda store: runner.run(store.aread("u:1")), store, seconds=SLACK)
    own_server.start()
    assert store.read("u:1") is None
    assert runner.run(store.aread("u:1")) is None
    store.write("u:1", b"again", 60)
    assert bytes(store.read("u:1").payload) == b"again"
    runner.run(store.aclose())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff\xfe garbage \r\n" * 10,
        b"$abc\r\n",
        b"*2\r\n$-1\r\n",
        b"*-7\r\n",
        b":12\r\n",
        b"+OK\r\n",
        b"$3\r\nabc\r\n",
        b"-ERR go away\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"$99999999999\r\nshort",
        b"\r\n",
    ],
    ids=ascii,
)
def test_something_that_is_not_redis(answer, runner):
    """Whatever answers, a call ends in time and with StoreError, and leaves no socket behind."""
    with BadServer(answer) as bad:
        store = Redis(bad.url, timeout=0.05)
        for name in ("read", "read_many", "write", "delete", "clear"):
            fails_in_time(CALLS[name], store)
        for name in ("aread", "aread_many", "awrite", "adelete", "aclear"):
            fails_in_time(lambda s, name=name: runner.run(_await(CALLS[name](s))), store)
        runner.run(store.aclose())


async def _await(awaitable):
    return await awaitable


def test_a_server_that_never_answers(call, runner):
    """Accepting and saying nothing is a timeout."""
    with BadServer(None) as bad:
        store = make(bad.url)
        fails_in_time(call, store, StoreTimeout)
        runner.run(store.aclose())


def test_an_unreachable_name(runner):
    """A host that does not resolve is a StoreError."""
    store = make("redis://no-such-host.invalid:6379/0")
    for fail in (lambda: store.read("u:1"), lambda: runner.run(store.aread("u:1"))):
        with pytest.raises(StoreError):
            fail()


def test_a_foreign_value_is_a_miss(server, store):
    """Bytes that no tiercache wrote, and other types of value, are misses and counted."""
    values = ["", "short", "x" * 100, "\x7c\x00" + "x" * 20]
    for value in values:
        server.command("SET", "tc:{u:1}", value)
        assert store.read("u:1") is None
        assert store.read_many(["u:1", "u:2"]) == [None, None]
    assert store.foreign == 2 * len(values)
    server.command("DEL", "tc:{u:1}")
    server.command("LPUSH", "tc:{u:1}", "a list")
    assert store.read("u:1") is None
    assert store.read_many(["u:1", "u:2"]) == [None, None]
    store.write("u:1", b"ours", 60)
    assert bytes(store.read("u:1").payload) == b"ours"


def test_a_full_server_refuses_writes_only(own_server):
    """Out of memory is a StoreError of the write; reading goes on."""
    store = make(own_server.url)
    store.write("u:1", b"1", 60)
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreError, match="memory"):
        store.write("u:2", b"2", 60)
    with pytest.raises(StoreError, match="memory"):
        store.write_many([("u:2", b"2", 60), ("u:3", b"3", 60)])
    assert bytes(store.read("u:1").payload) == b"1"
    store.close()


class TestPassword:
    SECRET = "s3cr3t/pass?word"
    QUOTED = "s3cr3t%2Fpass%3Fword"

    def url(self, server, secret=QUOTED):
        return f"redis://:{secret}@127.0.0.1:{server.port}/0"

    def test_it_is_used(self, runner):
        """A URL with a password logs in, blocking and awaited."""
        with RedisServer(password=self.SECRET) as server:
            store = make(self.url(server))
            store.write("u:1", b"1", 60)
            assert bytes(runner.run(store.aread("u:1")).payload) == b"1"
            runner.run(store.aclose())

    def test_it_is_never_told(self, runner, caplog):
        """No error, log line, label or repr shows a password, right or wrong."""
        caplog.set_level(0)
        with RedisServer(password=self.SECRET) as server:
            texts = []
            for secret in (self.QUOTED, "wr0ng"):
                store = make(self.url(server, secret))
                texts += [repr(store), str(store), store.label]
                if secret != self.QUOTED:
                    texts += self.errors(store, runner)
                server.freeze()
                texts += self.errors(store, runner)
                server.thaw()
                runner.run(store.aclose())
            server.kill()
            texts += self.errors(make(self.url(server)), runner)
        shown = " ".join([*texts, caplog.text])
        for secret in (self.SECRET, self.QUOTED, "s3cr3t", "wr0ng"):
            assert secret not in shown

    def errors(self, store, runner):
        texts = []
        for fail in (lambda: store.read("u:1"), lambda: runner.run(store.aread("u:1"))):
            with pytest.raises(StoreError) as caught:
                fail()
            error = caught.value
            while error is not None:
                texts += [str(error), repr(error)]
                error = error.__cause__ or error.__context__
        return texts

    def test_none_given_is_a_store_error(self):
        """Redis asking for a password that nobody gave says so."""
        with RedisServer(password=self.SECRET) as server:
            store = make(f"redis://127.0.0.1:{server.port}")
            with pytest.raises(StoreError, match=r"(?i)auth"):
                store.read("u:1")
            store.close()
