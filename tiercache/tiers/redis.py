"""L2 in Redis or Valkey.

A read is one command, whatever its kind: an entry carries its own deadline and the tokens that make
it valid (``_redis_wire``), and the current tokens come with the same MGET. Concurrent single reads
become one (``merging``). What an operation sends, and what the replies mean, is in
``_redis_plans``; this file drives the plans over connections. Blocking callers share one bounded
set of these, each event loop has its own (``_redis_link``). redis-py is imported at the first use
of a kind, not before.

Every command here may be repeated without harm, so a connection that turns out to be dead costs
a second attempt and not an error. ``delete`` then may report fewer keys than it removed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import WeakKeyDictionary, WeakSet, ref

from tiercache.errors import ConfigurationError, StoreError
from tiercache.tiers._redis_errors import translate
from tiercache.tiers._redis_link import open_asyncio, open_blocking
from tiercache.tiers._redis_namespace import RedisNamespace
from tiercache.tiers._redis_reads import NO_LATEST
from tiercache.tiers._redis_settings import ClusterEndpoint, Endpoint, SentinelEndpoint
from tiercache.tiers.store import (
    Namespace,
)

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from tiercache.tiers._redis_errors import translate
from tiercache.tiers._redis_link import Link, LoopLink

T = TypeVar("T")
Ask = tuple[str, tuple[str, ...]]  # a key, and the tags its entry is likely to carry

_inherited: list[object] = []  # connections of the parent process, in a forked child
LOG_LENGTH = 10_000  # messages, about 1 MB


class Redis:
    """Keep L2 in Redis or Valkey.

    Args:
        url_or_client: ``redis://[user:password@]host:port/db``, ``rediss://``, ``unix://``, or a
            ``redis.Redis`` / ``redis.asyncio.Redis``, of which only the connection settings are
            used: the client itself is neither used nor closed.
        timeout: Seconds for an awaited call, connecting included; for a blocking call, for
            connecting and for each reply.
        prefix: Begins every key in Redis, before a colon.
        max_connections: Per process for blocking calls, and per event loop. When all are in use
            for half of the timeout, a call raises StoreBusy. Each cache has one more, for its log.
        log_length: Messages that are kept for processes which were cut off, per cache. One that
            missed more drops its L1.
        options: For a URL, what it does not say: credentials and TLS, by redis-py's names
            (``password``, ``ssl_ca_certs``, ...).

    Raises:
        ConfigurationError: If an argument is illegal. That Redis is out of reach is no error yet.
    """

    def __init__(
        self,
        url_or_client: str | redis.Redis | redis.asyncio.Redis,
        *,
        timeout: float = 0.5,
        prefix: str = "tc",
        max_connections: int = 64,
        log_length: int = LOG_LENGTH,
        **options: Any,
    ) -> None:
        endpoint = Endpoint(url_or_client, **options)
        self._set_up(endpoint, timeout, prefix, max_connections, log_length)

    @classmethod
    def sentinel(
        cls,
        sentinels: Sequence[str | tuple[str, int]],
        service: str,
        *,
        timeout: float = 0.5,
        prefix: str = "tc",
        max_connections: int = 64,
        log_length: int = LOG_LENGTH,
        **options: Any,
    ) -> Self:
        """Keep L2 in the master of a service that sentinels watch over.

        Args:
            sentinels: Where they listen: ``"host:port"`` or ``(host, port)``.
            service: What they call the master.
            timeout: As of Redis; and so are the next three.
            prefix: Begins every key.
            max_connections: Per process, and per event loop.
            log_length: Messages kept.
            options: ``db``, ``username``, ``password``, ``ssl`` and redis-py's ``ssl_...`` for the
                master; ``sentinel_username``, ``sentinel_password``, ``sentinel_ssl``.
        """
        store = cls.__new__(cls)
        endpoint = SentinelEndpoint(sentinels, service, **options)
        store._set_up(endpoint, timeout, prefix, max_connections, log_length)  # noqa: SLF001
        return store

    @classmethod
    def cluster(
        cls,
        url_or_nodes: str | Sequence[str | tuple[str, int]],
        *,
        timeout: float = 0.5,
        prefix: str = "tc",
        max_connections: int = 64,
        log_length: int = LOG_LENGTH,
        **options: Any,
    ) -> Self:
        """Keep L2 in a Redis cluster: entries all over it, a cache's log and tokens on one node.

        Args:
            url_or_nodes: Any node, or several, each of which tells of the others.
            timeout: As of Redis; and so are the next three.
            prefix: Begins every key.
            max_connections: To each node, per process, and per event loop.
            log_length: Messages kept.
            options: ``username``, ``password``, ``ssl`` and redis-py's ``ssl_...``.
        """
        store = cls.__new__(cls)
        endpoint = ClusterEndpoint(url_or_nodes, **options)
        store._set_up(endpoint, timeout, prefix, max_connections, log_length)  # noqa: SLF001
        return store

    def _set_up(
        self, endpoint: Any, timeout: float, prefix: str, max_connections: int, log_length: int
    ) -> None:
        _check_options(timeout, prefix, max_connections, log_length)
        self.timeout = timeout
        self.prefix = prefix
        self.log_length = log_length
        self._endpoint = endpoint
        self._limit = max_connections
        self._namespaces: WeakSet[RedisNamespace] = WeakSet()
        self._start_afresh()
        _stores.add(self)

    def _start_afresh(self) -> None:
        """Set up the state that a forked child must not share with its parent."""
        self._lock = threading.Lock()
        self._blocking: Link | None = None  # guarded by _lock
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLink] = WeakKeyDictionary()
        # The link used last, which is nearly always the next one, too; a look-up costs 1 us.
        self._latest: tuple[Callable[[], object], LoopLink | None] = NO_LATEST
        for namespace in list(self._namespaces):
            namespace.start_afresh()

    def _leave_to_parent(self) -> None:
        # Kept, unused: collecting them would close sockets, or warn about them, that are not ours.
        _inherited.append((self._blocking, dict(self._links)))
        self._start_afresh()

    @property
    def label(self) -> str:
        """The address without credentials, for logs and errors."""
        label: str = self._endpoint.label
        return label

    @property
    def is_cluster(self) -> bool:
        """Whether entries are spread over nodes."""
        return bool(self._endpoint.is_cluster)

    @property
    def foreign(self) -> int:
        """How many values were found that no tiercache wrote; each was a miss."""
        return sum(namespace.plans.foreign for namespace in list(self._namespaces))

    def __repr__(self) -> str:
        return f"Redis({self.label!r})"

    def namespace(self, name: str, origin: str = "") -> Namespace:
        """Return one cache's part of the store."""
        namespace = RedisNamespace(self, name, origin or secrets.token_hex(6))
        self._namespaces.add(namespace)
        return namespace

    # Connections

    def link(self) -> Link:
        """Return what carries blocking calls."""
        return self._blocking or self._open_blocking()

    def _open_blocking(self) -> Link:
        with self._lock:
            if self._blocking is None:
                self._blocking = open_blocking(
                    self._endpoint, self._limit, self.timeout, self.label
                )
            return self._blocking

    def loop_link(self) -> LoopLink:
        """Return what carries the calls of the running event loop."""
        loop = asyncio.get_running_loop()
        latest, link = self._latest
        if latest() is loop and link is not None:
            return link
        link = self._links.get(loop) or self._open_loop(loop)
        self._latest = ref(loop), link
        return link

    def _open_loop(self, loop: asyncio.AbstractEventLoop) -> LoopLink:
        link = open_asyncio(self._endpoint, self._limit, self.timeout, self.label)
        with self._lock:
            for gone in [each for each in self._links if each.is_closed()]:
                self._links.pop(gone).abandon()
            return self._links.setdefault(loop, link)

    def translate(self, error: Exception, operation: str) -> StoreError:
        """Return what failed as one of our errors, without a password in it."""
        return translate(error, self.label, operation, self.timeout, self._endpoint.secrets)

    def dedicated(self, key: bytes) -> Any:
        """Return an unconnected connection to the node that has a key, for one reader."""
        return self.link().dedicated(key, self.timeout)

    def close(self) -> None:
        """Close the blocking connections and, as far as they can be reached, all loops'."""
        with self._lock:
            blocking, self._blocking = self._blocking, None
            links = dict(self._links)
            self._links.clear()
            self._latest = NO_LATEST
        if blocking is not None:
            blocking.close()
        for loop, link in links.items():
            link.close_from_outside(loop)

    async def aclose(self) -> None:
        """Close this loop's connections, then all others as close does."""
        with self._lock:
            link = self._links.pop(asyncio.get_running_loop(), None)
            self._latest = NO_LATEST
        if link is not None:
            await link.aclose()
        self.close()


def _check_options(timeout: float, prefix: str, max_connections: int, log_length: int) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise ConfigurationError(f"timeout must be positive, got {timeout!r}; it is in seconds")
    if not prefix or set(prefix) & set("{}"):
        raise ConfigurationError(
            f"prefix must be text without braces, got {prefix!r}; use for example 'tc'"
        )
    if max_connections < 1:
        raise ConfigurationError(f"max_connections must be at least 1, got {max_connections!r}")
    if log_length < 100:
        raise ConfigurationError(f"log_length must be at least 100 messages, got {log_length!r}")


# Forked children: a socket shared with the parent would mix up their replies, and a lock may have
# been held by a thread that the child does not have.
_stores: WeakSet[Redis] = WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._leave_to_parent()  # noqa: SLF001 - part of the class, by os.register_at_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
