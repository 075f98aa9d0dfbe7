"""Where Redis is and how to talk to it: from what the user named to hardened connections.

redis-py's defaults wait for minutes (10 retries, 59 s for a frozen server), so none of them is
used. An endpoint knows the user's part (addresses, credentials, TLS); its ``blocking`` and
``asyncio`` add ours and return makers of unconnected connections. redis-py itself is imported by
these only, at the first use of that kind.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tiercache.errors import ConfigurationError, StoreError
from tiercache.tiers._redis_address import (
    check_address,
    check_cluster_url,
    check_url,
    secrets_in,
)

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.asyncio.connection

    from tiercache.tiers._redis_sentinel import AsyncOpener, BlockingOpener
    from tiercache.tiers._redis_slots import Topology

_EXAMPLE: Final = "redis://localhost:6379/0"
_HEALTH_CHECK_SECONDS: Final = 30
_STOCK_MODULES: Final = ("redis.connection", "redis.asyncio.connection")

# What describes the server rather than the way a client talks to it; the rest is ours to set.
_LOGIN: Final = frozenset(("username", "password", "credential_provider"))
_SOCKET: Final = frozenset(("client_name", "socket_keepalive", "socket_keepalive_options"))
_SHARED_SETTINGS: Final = frozenset(("host", "port", "path", "db")) | _LOGIN | _SOCKET
_TLS: Final = frozenset(
    (
        *("ssl_keyfile", "ssl_certfile", "ssl_password"),
        *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path"),
        *("ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version", "ssl_ciphers"),
        *("ssl_include_verify_flags", "ssl_exclude_verify_flags"),
    )
)


class Endpoint:
    """One Redis server.

    Args:
        url_or_client: A URL, or a redis-py client whose settings are used.
        options: For a URL, what it does not say: credentials and TLS, by redis-py's names.
    """

    is_cluster: Final = False

    def __init__(self, url_or_client: object, **options: Any) -> None:
        self._url: str | None = None
        self._pool: Any = None
        self._options = options
        if isinstance(url_or_client, str):
            self._url = url_or_client
            self.label = check_url(url_or_client)
            _check_options(options, is_tls=self.label.startswith("rediss:"))
            self.secrets = _secrets(options.items(), url_or_client)
        else:
            self._pool = _pool_of(url_or_client)
            if options:
                raise ConfigurationError(
                    f"a client brings its own settings, got {next(iter(options))}; "
                    "use a URL, or give it to the client"
                )
            self.label = _label_of(self._pool.connection_kwargs)
            self.secrets = _secrets(self._pool.connection_kwargs.items())

    def blocking(self, timeout: float) -> Callable[..., redis.Connection]:
        """Return a maker of unconnected blocking connections."""
        import redis.connection

        pool = self._pool or redis.ConnectionPool.from_url(self._url or "")
        kind, settings = _settings(pool, redis.connection)
        return _blocking_maker(kind, settings | _taken_by(kind, self._options), timeout)

    def asyncio(self, timeout: float) -> Callable[..., redis.asyncio.Connection]:
        """Return a maker of unconnected asyncio connections."""
        import redis.asyncio.connection

        pool = self._pool or redis.asyncio.ConnectionPool.from_url(self._url or "")
        kind, settings = _settings(pool, redis.asyncio.connection)
        return _asyncio_maker(kind, settings | _taken_by(kind, self._options), timeout)

    def blocking_opener(self, timeout: float) -> None:
        """Return nothing: a connection knows where it goes."""

    def asyncio_opener(self, timeout: float) -> None:
        """Return nothing: a connection knows where it goes."""


class SentinelEndpoint:
    """The master of a service that sentinels watch over, whichever server that is.

    Args:
        sentinels: Where they listen: ``"host:port"`` or ``(host, port)``, one or more.
        service: What they call the master.
        db: The database.
        ssl: Whether the master speaks TLS.
        sentinel_username: For logging in to the sentinels.
        sentinel_password: For logging in to the sentinels.
        sentinel_ssl: Whether the sentinels speak TLS; None: as the master does.
        options: Credentials of the master, and TLS of both, by redis-py's names.
    """

    is_cluster: Final = False

    def __init__(
        self,
        sentinels: Sequence[str | tuple[str, int]],
        service: str,
        *,
        db: int = 0,
        ssl: bool = False,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
        sentinel_ssl: bool | None = None,
        **options: Any,
    ) -> None:
        from tiercache.tiers._redis_sentinel import Sentinels

        addresses = tuple(check_address(one, 26379) for one in _sequence("sentinels", sentinels))
        if not isinstance(service, str) or not service:
            raise ConfigurationError(
                f"the service must be the sentinels' name of the master, got {service!r}; "
                "use for example 'mymaster'"
            )
        if not isinstance(db, int) or db < 0:
            raise ConfigurationError(f"db must be a number of 0 or more, got {db!r}")
        _check_options(options, is_tls=ssl or bool(sentinel_ssl))
        self._is_tls = ssl
        self._speak_tls = ssl if sentinel_ssl is None else sentinel_ssl
        tls = {name: value for name, value in options.items() if name in _TLS}
        login = {"username": sentinel_username, "password": sentinel_password}
        self._sentinel_options = {name: value for name, value in login.items() if value}
        self._options = {name: options[name] for name in options.keys() - tls} | {"db": db}
        if self._speak_tls:
            self._sentinel_options |= tls
        if self._is_tls:
            self._options |= tls
        scheme = "rediss-sentinel" if ssl else "redis-sentinel"
        self.label = f"{scheme}://{','.join(map(str, addresses))}/{service}/{db}"
        self.sentinels = Sentinels(addresses, service, self.label)
        self.secrets = _secrets((*options.items(), ("password", sentinel_password)))

    def blocking(self, timeout: float) -> Callable[..., redis.Connection]:
        """Return a maker of blocking connections to the master; an opener tells them where."""
        import redis.connection

        kind, settings = _plain(redis.connection, self._is_tls, self._options)
        return _blocking_maker(kind, settings, timeout)

    def asyncio(self, timeout: float) -> Callable[..., redis.asyncio.Connection]:
        """Return a maker of asyncio connections to the master; an opener tells them where."""
        import redis.asyncio.connection

        kind, settings = _plain(redis.asyncio.connection, self._is_tls, self._options)
        return _asyncio_maker(kind, settings, timeout)

    def blocking_to_sentinel(self, timeout: float) -> Callable[..., redis.Connection]:
        """Return a maker of blocking connections to a sentinel: call it with host and port."""
        import redis.connection

        kind, settings = _plain(redis.connection, self._speak_tls, self._sentinel_options)
        return _blocking_maker(kind, settings, timeout)

    def asyncio_to_sentinel(self, timeout: float) -> Callable[..., redis.asyncio.Connection]:
        """Return a maker of asyncio connections to a sentinel: call it with host and port."""
        import redis.asyncio.connection

        kind, settings = _plain(redis.asyncio.connection, self._speak_tls, self._sentinel_options)
        return _asyncio_maker(kind, settings, timeout)

    def blocking_opener(self, timeout: float) -> BlockingOpener:
        """Return what finds the master for a blocking connection."""
        from tiercache.tiers._redis_sentinel import BlockingOpener

        return BlockingOpener(self, timeout)

    def asyncio_opener(self, timeout: float) -> AsyncOpener:
        """Return what finds the master for an asyncio connection."""
        from tiercache.tiers._redis_sentinel import AsyncOpener

        return AsyncOpener(self, timeout)


class ClusterEndpoint:
    """A Redis cluster.

    Args:
        url_or_nodes: One node or several, any of which tells of the others: a URL, ``"host:port"``,
            ``(host, port)``, or a sequence of such. Credentials of a URL are used for all nodes.
        ssl: Whether nodes that are not given as a URL speak TLS.
        options: Credentials and TLS, by redis-py's names.

    Attributes:
        topology: What has been learned of the cluster; shared by all links.
    """

    is_cluster: Final = True

    def __init__(
        self,
        url_or_nodes: str | Sequence[str | tuple[str, int]],
        *,
        ssl: bool = False,
        **options: Any,
    ) -> None:
        from tiercache.tiers._redis_slots import Topology

        given = (url_or_nodes,) if isinstance(url_or_nodes, str) else url_or_nodes
        urls = [one for one in _sequence("nodes", given) if isinstance(one, str) and "://" in one]
        seeds = [
            check_cluster_url(one) if one in urls else check_address(one, 6379) for one in given
        ]
        self._url = urls[0] if urls else None
        _check_same_login(urls)
        self._is_tls = ssl or bool(urls and urls[0].startswith("rediss:"))
        _check_options(options, is_tls=self._is_tls)
        self._options = options
        self.secrets = _secrets(options.items(), *urls)
        self.scheme = "rediss" if self._is_tls else "redis"
        self.label = f"{self.scheme}-cluster://{','.join(map(str, seeds))}"
        self.topology: Topology = Topology(tuple(seeds), self.label)

    def blocking(self, timeout: float) -> Callable[..., redis.Connection]:
        """Return a maker of blocking connections to a node: call it with host and port."""
        import redis.connection

        kind, settings = self._connecting(redis.connection)
        return _blocking_maker(kind, settings, timeout)

    def asyncio(self, timeout: float) -> Callable[..., redis.asyncio.Connection]:
        """Return a maker of asyncio connections to a node: call it with host and port."""
        import redis.asyncio.connection

        kind, settings = self._connecting(redis.asyncio.connection)
        return _asyncio_maker(kind, settings, timeout)

    def _connecting(self, module: Any) -> tuple[type[Any], dict[str, Any]]:
        kind, settings = _plain(module, self._is_tls, self._options)
        if self._url:
            kind, of_url = _settings(module.ConnectionPool.from_url(self._url), module)
            settings = of_url | settings
        return kind, settings


AnyEndpoint: TypeAlias = Endpoint | SentinelEndpoint | ClusterEndpoint


def _blocking_maker(
    kind: type[Any], settings: dict[str, Any], timeout: float
) -> Callable[..., redis.Connection]:
    import redis.connection

    hardened = _hardened(redis.connection, timeout) | {"socket_timeout": timeout}
    settings = settings | hardened
    return lambda **place: kind(**settings | place)


def _asyncio_maker(
    kind: type[Any], settings: dict[str, Any], timeout: float
) -> Callable[..., redis.asyncio.Connection]:
    """Return a maker of connections that carry no timeout of their own for commands.

    The caller bounds the whole exchange by one ``asyncio.timeout``, cheaper and tighter than
    redis-py's two per command.
    """
    import redis.asyncio.connection

    hardened = _hardened(redis.asyncio.connection, timeout) | {"socket_timeout": None}
    settings = settings | hardened
    return lambda **place: kind(**settings | place)


def _hardened(module: Any, timeout: float) -> dict[str, Any]:
    # Without a pool of redis-py's there are no maintenance notifications either, whose RESP3
    # handling makes idle connections fail.
    return {
        "socket_connect_timeout": timeout,
        "retry": None,  # links try again, and know when: the user's own would be used beside that
        "retry_on_error": [],
        "retry_on_timeout": False,
        "health_check_interval": _HEALTH_CHECK_SECONDS,
        "protocol": 2,  # no HELLO on connect, no pushes between our replies
        "decode_responses": False,
        **_no_introduction(module),
    }


def _no_introduction(module: Any) -> dict[str, None]:
    """Return what keeps redis-py from sending CLIENT SETINFO: two round trips per connection."""
    if "driver_info" in inspect.signature(module.AbstractConnection).parameters:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}  # redis-py before 7.2


def _plain(
    module: Any, is_tls: bool, options: Mapping[str, Any]
) -> tuple[type[Any], dict[str, Any]]:
    """Return module's connection class with or without TLS, and what it is made with."""
    kind = module.SSLConnection if is_tls else module.Connection
    return kind, _taken_by(kind, options)


def _settings(pool: Any, module: Any) -> tuple[type[Any], dict[str, Any]]:
    """Return module's connection class that suits pool, and the user's share of its settings.

    A connection class of the user's own is kept, with all that it was given, for the kind it is.
    Of the other kind there is none: redis-py's own might go to another server (Sentinel).
    """
    theirs = pool.connection_class
    given = {
        name: value
        for name, value in pool.connection_kwargs.items()
        if value is not None and not name.startswith(("maint_", "orig_"))
    }
    if theirs.__module__ not in _STOCK_MODULES:
        if not issubclass(theirs, module.AbstractConnection):
            raise StoreError(f"a client with {theirs.__qualname__} serves calls of its kind only")
        return theirs, given
    kind = getattr(module, theirs.__name__)
    accepted = _accepted_by(kind)
    return kind, {name: value for name, value in given.items() if name in accepted}


def _taken_by(kind: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options, all of which must reach the connection: some are there for security."""
    for name in options:
        if name not in _accepted_by(kind):
            raise StoreError(f"{name} is unknown to {kind.__qualname__} of this redis-py")
    return dict(options)


def _accepted_by(kind: type[Any]) -> frozenset[str]:
    # The blocking and the asyncio class do not take quite the same TLS settings.
    names = inspect.signature(kind).parameters
    return _SHARED_SETTINGS.union(name for name in names if name.startswith("ssl_"))


def _check_options(options: Mapping[str, Any], *, is_tls: bool) -> None:
    for name in options:
        if name in _TLS and not is_tls:
            raise ConfigurationError(f"{name} needs TLS; use a rediss:// URL or ssl=True")
        if name not in _TLS | _LOGIN | _SOCKET:
            raise ConfigurationError(f"{name} is no option of a Redis connection; leave it out")
    wanted = options.get("ssl_cert_reqs", "required")
    if wanted not in ("required", "optional", "none", *ssl.VerifyMode):
        raise ConfigurationError(
            f"ssl_cert_reqs must be 'required', 'optional' or 'none', got {wanted!r}"
        )


def _check_same_login(urls: Sequence[str]) -> None:
    heads = {url.rpartition("@")[0] if "@" in url else url.partition("://")[0] for url in urls}
    if len(heads) > 1:
        raise ConfigurationError(
            "the nodes of a cluster share scheme and credentials, but the URLs given differ; "
            "use one URL, or the same credentials in all"
        )


def _sequence(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)) and given:
        return given
    raise ConfigurationError(
        f"{what} must be a list of at least one address, got {_kind_of(given)}; "
        "use for example ['localhost:26379']"
    )


def _kind_of(given: object) -> str:
    return "an empty one" if given in ([], ()) else f"a value of type {type(given).__name__}"


def _secrets(options: Iterable[tuple[str, Any]], *urls: str) -> frozenset[str]:
    found = {value for name, value in options if "password" in name and isinstance(value, str)}
    for url in urls:
        found.update(secrets_in(url))
    return frozenset(filter(None, found))


def _pool_of(client: object) -> Any:
    pool = getattr(client, "connection_pool", None)
    if isinstance(getattr(pool, "connection_kwargs", None), Mapping):
        if hasattr(pool, "sentinel_manager"):  # asks sentinels by timeouts of its own
            raise ConfigurationError(
                "Redis() cannot use a client made by a Sentinel; "
                "use Redis.sentinel(['localhost:26379'], 'mymaster')"
            )
        return pool
    if hasattr(client, "nodes_manager"):
        raise ConfigurationError(
            f"Redis() cannot use a {type(client).__name__}; use Redis.cluster({_EXAMPLE!r})"
        )
    raise ConfigurationError(
        f"Redis() takes a URL or a redis.Redis client, got {type(client).__name__}; "
        f"use for example Redis({_EXAMPLE!r})"
    )


def _label_of(settings: Mapping[str, Any]) -> str:
    database = settings.get("db") or 0
    if "path" in settings:
        return f"unix://{settings['path']}"
    return f"redis://{settings.get('host', 'localhost')}:{settings.get('port', 6379)}/{database}"
