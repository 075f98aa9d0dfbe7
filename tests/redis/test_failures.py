"""Redis refused, killed, frozen, cut off, restarted empty, or not Redis: what a call does then.

One table of calls, each blocking and awaited; each must end with StoreError in time, and work
again when Redis does.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.servers import BadServer, Proxy, RedisServer, free_port
from tests.waiting import in_time, until
from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers._redis_entry_plans import Stamp
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Fill, Item, Kind, Lease, LogGap, StoreRefused

TIMEOUT = 0.15
SLACK = 0.4  # for a busy machine

KEYS = ["1", "2"]
NONCES = [b"nonce--1", b"nonce--2"]
ITEMS = [Item("1", b"a", 60), Item("2", b"b", None, ("tag",))]
FILLS = [Fill("1", Lease(NONCES[0], False, Stamp(b"generate", {}, "0-1")), b"a", 60)]

# Each operation of a namespace, as method and arguments.
OPERATIONS = {
    "read": ("1",),
    "read_many": (KEYS, ["tag"]),
    "write": ("1", b"new", 60),
    "write_many": (ITEMS,),
    "delete": (KEYS,),
    "expire": (KEYS, [30, 0]),
    "invalidate_tags": (["tag"],),
    "clear": (),
    "clear_prefix": ("1",),
    "claim": (KEYS, NONCES),
    "fill": (FILLS,),
    "renew": ([("1", NONCES[0])], 5),
    "release": ([("1", NONCES[0])], Kind.LANDED),
    "lock": ("name", NONCES[0], 5),
    "renew_lock": ("name", NONCES[0], 5),
    "unlock": ("name", NONCES[0]),
    "announce": (Kind.NEWS, ["news"]),
    "log_end": (),
}
CALLS = [*OPERATIONS, *(f"a{name}" for name in OPERATIONS)]
# A merged read, a single command, a script, two round trips, one to each node.
SLOW = ["read", "read_many", "claim", "write", "clear_prefix"]


def ask(store, name):
    """Call an operation; of one that is awaited, return the awaitable."""
    method = name.removesuffix("_prefix")
    args = OPERATIONS.get(name) or OPERATIONS.get(name[1:], ())
    options = {"seconds": 5} if method.endswith("claim") else {}
    return getattr(store.space, method)(*args, **options)


@pytest.fixture
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=CALLS)
def call(request, runner):
    """One call of the table, made blocking."""
    return made_blocking(request.param, runner)


@pytest.fixture(params=[f"{kind}{name}" for name in SLOW for kind in ("", "a")])
def slow_call(request, runner):
    """One of those that differ in how they wait, made blocking."""
    return made_blocking(request.param, runner)


def made_blocking(name, runner):
    async def awaited(store):
        return await ask(store, name)

    if name in OPERATIONS:
        return lambda store: ask(store, name)
    return lambda store: runner.run(awaited(store))


class Kept(Redis):
    """A store that keeps its one namespace."""

    def __init__(self, url, **options):
        super().__init__(url, **{"timeout": TIMEOUT, **options})
        self.space = self.namespace("u")


def make(url, **options):
    return Kept(url, **options)


def fails_in_time(call, store, kind=StoreError, seconds=TIMEOUT + SLACK):
    def fail():
        with pytest.raises(kind, match=r"127\.0\.0\.1"):
            call(store)

    in_time(fail, seconds)


def warm(store, runner):
    """Import, connect and learn the clock, blocking and in the runner's loop."""
    until(lambda: works(lambda: store.space.write("1", b"1", 60)))
    until(lambda: works(lambda: runner.run(_await(store.space.aread("1")))))


def works(call):
    """Call; False if the server was not quick enough."""
    try:
        call()
    except StoreTimeout:
        return False
    return True


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


def test_frozen(slow_call, frozen, runner):
    """A server that hangs costs one timeout on a connection in use, and one on a new one."""
    frozen.thaw()
    store = make(frozen.url)
    warm(store, runner)
    frozen.freeze()
    fails_in_time(slow_call, store, StoreTimeout)
    fails_in_time(slow_call, store, StoreTimeout)
    frozen.thaw()
    until(lambda: works(lambda: slow_call(store)))
    runner.run(store.aclose())


def test_frozen_before_the_first_call(frozen, runner, slow_call):
    """The same where even the first connection hangs."""
    frozen.freeze()
    store = make(frozen.url)
    fails_in_time(slow_call, store, StoreTimeout)
    frozen.thaw()
    runner.run(store.aclose())


def test_a_connection_the_server_closed_is_replaced(server, call, runner):
    """Idle connections cut off cost nothing but a new one."""
    with Proxy(server.port) as proxy:
        store = make(proxy.url, timeout=5)
        warm(store, runner)
        proxy.cut()
        call(store)
        runner.run(store.aclose())


def test_killed_and_restarted_empty(own_server, runner):
    """A call to a dead server fails at once; restarted, it answers, and knows nothing."""
    store = make(own_server.url)
    warm(store, runner)
    own_server.kill()
    for name in CALLS:
        fails_in_time(made_blocking(name, runner), store, seconds=SLACK)
    own_server.start()
    space = store.space
    assert space.read("1") is None
    assert runner.run(space.aread_many(["1"])) == [None]
    space.write("1", b"again", 60)
    assert bytes(space.read("1").payload) == b"again"
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
        store = make(bad.url, timeout=0.02)
        for name in CALLS:
            if answer == b"$-1\r\n" and name.endswith("release"):
                continue
            fails_in_time(made_blocking(name, runner), store)
        runner.run(store.aclose())


async def _await(awaitable):
    return await awaitable


def test_a_server_that_never_answers(slow_call, runner):
    """Accepting and saying nothing is a timeout."""
    with BadServer(None) as bad:
        store = make(bad.url)
        fails_in_time(slow_call, store, StoreTimeout)
        runner.run(store.aclose())


def test_an_unreachable_name(runner):
    """A host that does not resolve is a StoreError."""
    store = make("redis://no-such-host.invalid:6379/0")
    for name in ("read", "aread", "log_end"):
        with pytest.raises(StoreError):
            made_blocking(name, runner)(store)


def test_a_foreign_value_is_a_miss(server, store, space):
    """Bytes that no tiercache wrote, and other types of value, are misses and counted."""
    values = ["", "short", "x" * 100, "\x7c\x00" + "x" * 20, "\x7c\x02"]
    for value in values:
        server.command("SET", "tc:{u:1}", value)
        assert space.read("1") is None
        assert space.read_many(["1", "2"]) == [None, None]
    assert store.foreign == 2 * len(values)
    server.command("DEL", "tc:{u:1}")
    server.command("LPUSH", "tc:{u:1}", "a list")
    assert space.read("1") is None
    assert space.read_many(["1", "2"]) == [None, None]
    space.write("1", b"ours", 60)
    assert bytes(space.read("1").payload) == b"ours"


@pytest.mark.parametrize("make_it", [("SET", "x" * 40), ("LPUSH", "a list"), ("SET", "")])
def test_a_foreign_value_does_not_keep_from_loading(server, space, make_it):
    """Whatever stands under an entry's key, its lease is to be had, and a fill replaces it."""
    command, value = make_it
    server.command(command, "tc:{u:1}", value)
    (claim,) = space.claim(["1"], [NONCES[0]], seconds=5)
    assert space.fill([Fill("1", claim.lease, b"ours", 60)]) == [True]
    assert bytes(space.read("1").payload) == b"ours"


@pytest.mark.parametrize("make_it", [("SET", "x" * 40), ("LPUSH", "a list"), ("SET", "")])
def test_a_foreign_value_that_expires_is_removed(server, space, make_it):
    """What is not an entry of ours has no end to bring forward."""
    command, value = make_it
    server.command(command, "tc:{u:1}", value)
    space.expire(["1"], [30])
    assert server.command("EXISTS", "tc:{u:1}").startswith(b":0")


def test_a_shortened_life_is_the_servers_too(server, space):
    """Redis itself lets go of the entry at its new end, and not of one that ends earlier."""
    space.write_many([Item("1", b"1", 60), Item("2", b"2", None), Item("3", b"3", 10)])
    space.expire(["1", "2", "3"], [30, 30, 30])
    lives = [int(server.command("PTTL", f"tc:{{u:{n}}}")[1:]) for n in (1, 2, 3)]
    assert [round(life / 1000) for life in lives] == [30, 30, 10]


def test_a_full_server_lets_go_of_what_expires(own_server):
    """Where no memory is left to say it, the entry goes, and whoever listens finds a gap."""
    store = make(own_server.url)
    space = store.space
    space.write_many([Item("1", b"1", 60), Item("2", b"2", 60)])
    tail = space.tail(space.log_end())
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    space.expire(["1"], [30])
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    assert space.read("1") is None
    assert space.read("2") is not None
    with pytest.raises(LogGap):
        tail.read(0)
    tail.close()
    store.close()


def test_foreign_tokens(server, space):
    """A generation and tokens that are not ours make entries invalid, and raise nothing."""
    space.write("1", b"1", 60, ("tag",))
    for key in ("tc:{u}:generation", "tc:{u}:tag:tag"):
        server.command("SET", key, "x")
        assert space.read("1", ["tag"]) is None
        assert space.read("1") is None
        server.command("DEL", key)
        space.write("1", b"1", 60, ("tag",))
        assert bytes(space.read("1", ["tag"]).payload) == b"1"


def test_a_full_server_refuses_writes_only(own_server):
    """Out of memory is a StoreRefused of the write: the server is alive; reading goes on."""
    store = make(own_server.url)
    space = store.space
    space.write("1", b"1", 60)
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreRefused, match="memory"):
        space.write("2", b"2", 60)
    with pytest.raises(StoreRefused, match="memory"):
        space.write_many([Item("2", b"2", 60), Item("3", b"3", 60)])
    assert bytes(space.read("1").payload) == b"1"
    store.close()


def test_a_user_who_may_not(own_server):
    """What the server's access list forbids is a StoreRefused that says so."""
    own_server.command(
        "ACL", "SETUSER", "reader", "on", "nopass", "~*", "+@read", "+@connection", "+time"
    )
    store = make(own_server.url.replace("redis://", "redis://reader:x@"))
    assert store.space.read("1") is None
    for name in ("write", "delete", "expire", "claim", "clear"):
        with pytest.raises(StoreRefused, match=r"(?i)perm"):
            ask(store, name)
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
            store.space.write("1", b"1", 60)
            assert bytes(runner.run(_await(store.space.aread("1"))).payload) == b"1"
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
        for name in ("read", "aread", "log_end"):
            with pytest.raises(StoreError) as caught:
                made_blocking(name, runner)(store)
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
                store.space.read("1")
            store.close()
