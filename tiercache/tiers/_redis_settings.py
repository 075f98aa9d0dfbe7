"""Where Redis is and how to talk to it: from a URL or a client to hardened connection settings.

redis-py's defaults wait for minutes (10 retries, 59 s for a frozen server), so none of them is
used. ``Endpoint`` knows the user's part (address, credentials, TLS), ``blocking`` and ``asyncio``
add ours. redis-py itself is imported by these two only, at the first use of that kind.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from tiercache.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.asyncio.connection

_SCHEMES: Final = ("redis", "rediss", "unix")
_EXAMPLE: Final = "redis://localhost:6379/0"
_HEALTH_CHECK_SECONDS: Final = 30
_STOCK_MODULES: Final = ("redis.connection", "redis.asyncio.connection")

_NOT_A_PORT: Final = re.compile(r":(?!\d{1,5}(/|$))[^/]*")

# What describes the server rather than the way a client talks to it; the rest is ours to set.
_SHARED_SETTINGS: Final = frozenset(
    (
        *("host", "port", "path", "db", "username", "password", "credential_provider"),
        *("client_name", "socket_keepalive", "socket_keepalive_options"),
    )
)


class Endpoint:
    """A Redis server as the user named it."""

    def __init__(self, url_or_client: object) -> None:
        self._url: str | None = None
        self._pool: Any = None
        if isinstance(url_or_client, str):
            self._url = url_or_client
            self.label = check_url(url_or_client)
        else:
            self._pool = _pool_of(url_or_client)
            self.label = _label_of(self._pool.connection_kwargs)

    def blocking(self, timeout: float) -> Callable[[], redis.Connection]:
        """Return a maker of unconnected blocking connections."""
        import redis
        import redis.backoff
        import redis.connection
        import redis.retry

        pool = self._pool or redis.ConnectionPool.from_url(self._url or "")
        retry = redis.retry.Retry(
            redis.backoff.NoBackoff(), 1, supported_errors=(redis.ConnectionError,)
        )
        kind, settings = _settings(pool, redis.connection)
        settings |= _hardened(redis.connection, timeout, retry) | {"socket_timeout": timeout}
        return lambda: kind(**settings)

    def asyncio(self, timeout: float) -> Callable[[], redis.asyncio.Connection]:
        """Return a maker of unconnected asyncio connections.

        They carry no timeout of their own for commands: the caller bounds the whole exchange by
        one ``asyncio.timeout``, cheaper and tighter than redis-py's two per command.
        """
        import redis.asyncio
        import redis.asyncio.connection
        import redis.asyncio.retry
        import redis.backoff

        pool = self._pool or redis.asyncio.ConnectionPool.from_url(self._url or "")
        retry = redis.asyncio.retry.Retry(
            redis.backoff.NoBackoff(), 1, supported_errors=(redis.ConnectionError,)
        )
        kind, settings = _settings(pool, redis.asyncio.connection)
        settings |= _hardened(redis.asyncio.connection, timeout, retry) | {"socket_timeout": None}
        return lambda: kind(**settings)


def check_url(url: str) -> str:
    """Return a label for a Redis URL: the URL without credentials and options.

    Raises:
        ConfigurationError: If redis-py would not know what to do with it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text quotes the part it stumbled over: perhaps the password
        raise _bad_url(url, "its host or port cannot be read") from None
    if parts.scheme not in _SCHEMES:
        raise _bad_url(url, f"it must begin with {', '.join(f'{s}://' for s in _SCHEMES)}")
    if parts.scheme == "unix":
        if not parts.path:
            raise _bad_url(url, "a unix:// URL needs the path of a socket")
        return f"unix://{parts.path}"
    database = parts.path.strip("/") or parse_qs(parts.query).get("db", ["0"])[0]
    if not database.isdecimal():
        raise _bad_url(url, f"the database must be a number, got {database!r}")
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{port or 6379}/{database}"


def mask(url: str) -> str:
    """Return the URL without what may be a secret: credentials and options.

    Made for URLs that do not parse: whatever stands before the last ``@``, or after a ``:``
    where a port should be, is taken for a secret.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    credentials, _, place = rest.rpartition("@")
    place = _NOT_A_PORT.sub(":***", re.split("[?#]", place, maxsplit=1)[0])
    return f"{scheme}{separator}{'***@' if credentials else ''}{place}"


def _bad_url(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"bad Redis URL {mask(url)!r}: {why}; use for example {_EXAMPLE!r}")


def _pool_of(client: object) -> Any:
    pool = getattr(client, "connection_pool", None)
    if isinstance(getattr(pool, "connection_kwargs", None), Mapping):
        return pool
    raise ConfigurationError(
        f"Redis() takes a URL or a redis.Redis client, got {type(client).__name__}; "
        f"use for example Redis({_EXAMPLE!r})"
    )


def _label_of(settings: Mapping[str, Any]) -> str:
    database = settings.get("db") or 0
    if "path" in settings:
        return f"unix://{settings['path']}"
    return f"redis://{settings.get('host', 'localhost')}:{settings.get('port', 6379)}/{database}"


def _hardened(module: Any, timeout: float, retry: object) -> dict[str, Any]:
    # Without a pool of redis-py's there are no maintenance notifications either, whose RESP3
    # handling makes idle connections fail.
    return {
        "socket_connect_timeout": timeout,
        "retry": retry,
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
    accepted = _SHARED_SETTINGS | _tls_settings(kind)
    return kind, {name: value for name, value in given.items() if name in accepted}


def _tls_settings(kind: type[Any]) -> set[str]:
    # The blocking and the asyncio class do not take quite the same ones.
    names = inspect.signature(kind).parameters
    return {name for name in names if name.startswith("ssl_")}
