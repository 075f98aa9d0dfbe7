"""What users call a server: URLs and addresses, read without importing redis-py.

Whatever cannot be read is quoted back without what may be a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from tiercache.errors import ConfigurationError

_SCHEMES: Final = ("redis", "rediss", "unix")
_EXAMPLE: Final = "redis://localhost:6379/0"
_NOT_A_PORT: Final = re.compile(r":(?!\d{1,5}(/|$))[^/]*")


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_url(url: str) -> str:
    """Return a label for a Redis URL: the URL without credentials and options.

    Raises:
        ConfigurationError: If redis-py would not know what to do with it.
    """
    parts = _split(url)
    if parts is None:
        raise _bad_url(url, "its host or port cannot be read")
    if parts.scheme not in _SCHEMES:
        raise _bad_url(url, f"it must begin with {', '.join(f'{s}://' for s in _SCHEMES)}")
    if parts.scheme == "unix":
        if not parts.path:
            raise _bad_url(url, "a unix:// URL needs the path of a socket")
        return f"unix://{parts.path}"
    database = parts.path.strip("/") or parse_qs(parts.query).get("db", ["0"])[0]
    if not database.isdecimal():
        if "@" in url.removeprefix(f"{parts.scheme}://{parts.netloc}"):
            raise _bad_url(url, "a password with '/', '?', '#' or '@' must be percent-encoded")
        raise _bad_url(url, f"the database must be a number, got {database!r}")
    return f"{parts.scheme}://{_place(parts)}/{database}"


def check_cluster_url(url: str) -> Address:
    """Return where the node of a URL listens.

    Raises:
        ConfigurationError: As check_url; or if it is no URL of a cluster.
    """
    label = check_url(url)
    if not label.endswith("/0") or label.startswith("unix://"):
        raise _bad_url(url, "a cluster has the database 0 only, and listens on ports")
    return _place(urlsplit(url))


def check_address(given: str | Sequence[object], default_port: int) -> Address:
    """Return the address that ``"host:port"``, ``"host"`` or ``(host, port)`` names.

    Raises:
        ConfigurationError: If it names none.
    """
    if isinstance(given, str):
        parts = _split(f"//{given}")
        if parts and parts.netloc == given and parts.hostname and parts.username is None:
            return Address(parts.hostname, parts.port or default_port)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        host, port = given
        if isinstance(host, str) and host and isinstance(port, int) and 0 < port < 65536:
            return Address(host, port)
    shown = mask(given) if isinstance(given, str) else type(given).__name__
    raise ConfigurationError(
        f"bad address {shown!r}: it must be 'host:port' or a pair (host, port); "
        f"use for example 'localhost:{default_port}'"
    )


def _split(url: str) -> SplitResult | None:
    """Return a URL's parts; None, and no exception to quote a password, if it does not parse."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.port is None or parts.port:
            return parts
    return None


def _place(parts: SplitResult) -> Address:
    return Address(parts.hostname or "localhost", parts.port or 6379)


def secrets_in(url: str) -> Iterator[str]:
    """Yield the passwords of a URL, as they are and as they are written."""
    parts = urlsplit(url)
    written = [parts.password, *_passwords_in_query(parts)]
    for secret in filter(None, written):
        yield secret
        yield unquote(secret)


def _passwords_in_query(parts: SplitResult) -> Iterator[str]:
    for name, values in parse_qs(parts.query).items():
        if "password" in name:
            yield from values


def mask(url: str) -> str:
    """Return the URL without what may be a secret: credentials and options.

    Made for URLs that do not parse: whatever stands before the last ``@``, or after a ``:``
    where a port should be, is taken for a secret.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    if "?" in rest.rpartition("@")[0]:  # what follows may be the rest of a secret, too
        return f"{scheme}{separator}***"
    credentials, _, place = rest.rpartition("@")
    place = _NOT_A_PORT.sub(":***", re.split("[?#]", place, maxsplit=1)[0])
    return f"{scheme}{separator}{'***@' if credentials else ''}{place}"


def _bad_url(url: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"bad Redis URL {mask(url)!r}: {why}; use for example {_EXAMPLE!r}")
