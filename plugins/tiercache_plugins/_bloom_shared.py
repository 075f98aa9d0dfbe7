"""A published filter in Redis, so that a new process begins ready; and what was added since.

Four keys, in one slot: ``bits``, a whole series as in a file (_bloom_snapshot.py); ``adds``, the
keys that were added since those bits were begun (lua/bloom_add.lua); ``meta``, which says that both
belong together, and is written last; ``mark``, the number of the last build that was begun.

**Why nothing is missing.** The bits of a publication hold every id that was there when its *mark*
was set in ``adds``: the mark comes before the ids are read. What is added later comes after the
mark, and stays there until the bits of a later mark take its place. A writer notes its key in
``adds`` before its write is told on the bus. So of two things one is true of every key: a process
that opens the bus, and then reads bits and adds, finds it there; or it hears it.

A writer has to ask each time, also of a key that its own filter has: that id may have been deleted,
a newer publication lack it, and be created again. What is published already is not noted again.

**What is not believed.** Bits whose mark is not in ``adds`` any more (evicted, overtaken by another
publication, too many adds); bits of another server, or of this one before its last start: it may
have come back with the state of some time ago. Nothing here depends on one builder at a time.

**Trouble is never the caller's.** A key that could not be noted is owed, and noted as soon as Redis
answers; who started meanwhile is told of it then (bloom.py). If there are too many, or nobody can
tell, the publication is taken back.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any, NamedTuple

from tiercache import ConfigurationError

log = logging.getLogger(__name__)

TIMEOUT = 0.5  # seconds, for a connection and for a reply
OWED_MOST = 10_000  # keys
ADDS_MOST = 1_000_000  # keys in Redis since the last publication: some 100 MB
PIECE = 1 << 20  # bytes that one command carries
BATCH = 500  # keys that one call of the script takes
UPLOAD_SECONDS = 600  # how long bits outlive a builder that died while it wrote them
_FORMAT = b"1"


class Mark(NamedTuple):
    """Where a publication begins."""

    name: str
    number: int
    server: str


class Published(NamedTuple):
    """What a new process begins with."""

    name: str  # of its mark
    bits: bytes
    adds: list[str]


class SharedFilter:
    """The published filter of one template of one cache.

    Args:
        url_or_client: ``redis://...``, or a ``redis.Redis``, of which only the settings are used.

    Raises:
        ConfigurationError: If it is neither.
    """

    def __init__(self, url_or_client: Any) -> None:
        self._given = _checked(url_or_client)
        self._base = ""
        self.count = 0  # of adds, when last heard of
        self.is_behind = False  # something else is published than what a writer knew
        self.after_fork()

    def after_fork(self) -> None:
        """Owe nothing: what the parent owes it delivers itself."""
        self._lock = threading.Lock()
        self._owed: dict[str, None] = {}  # guarded by _lock, as are the next
        self._heard: dict[str, None] = {}
        self._owes_withdrawal = False

    def bind(self, prefix: str, cache: str, keys: str) -> None:
        """Say whose filter it is."""
        digest = hashlib.blake2b(f"{len(cache)}:{cache}{keys}".encode(), digest_size=8).hexdigest()
        self._base = f"{prefix}:bloom:{{{digest}}}:"

    @cached_property
    def _client(self) -> Any:  # redis-py's types leave open whether bytes or text, now or awaited
        return _client(self._given)

    @cached_property
    def _add_script(self) -> Any:
        text = (files("tiercache_plugins") / "lua" / "bloom_add.lua").read_bytes()
        return self._client.register_script(text)

    def close(self) -> None:
        """Close the connections; the next use opens others."""
        client = self.__dict__.pop("_client", None)
        self.__dict__.pop("_add_script", None)
        if client is not None:
            client.close()
            client.connection_pool.disconnect()

    # What was added

    @property
    def owes(self) -> bool:
        """Whether something could not be noted yet."""
        return bool(self._owed) or self._owes_withdrawal

    @property
    def has_work(self) -> bool:
        """Whether there is something for ``settle`` to do."""
        return self.owes or bool(self._heard)

    def add(self, new: Sequence[str], known: Sequence[str] = (), publication: str = "") -> None:
        """Note keys as added, or owe them; raises nothing.

        While something is owed nobody waits for Redis here.

        Args:
            new: Noted in any case.
            known: Noted unless ``publication`` is what is published.
            publication: Which has the known ones.
        """
        if self.owes:
            self.owe([*new, *known])
            return
        try:
            self._note(new, known, publication)
        except Exception as error:
            self.owe([*new, *known])
            log.warning("%s; keys added meanwhile are noted there later", _trouble(error))
        except BaseException:  # interrupted: nobody knows whether they were noted
            self.owe([*new, *known])
            raise

    def owe(self, keys: Iterable[str]) -> None:
        """Have keys noted later, by ``settle``."""
        with self._lock:
            self._owed.update(dict.fromkeys(keys))
            if len(self._owed) > OWED_MOST:
                self._owed.clear()
                self._owes_withdrawal = True

    def hear(self, keys: Iterable[str]) -> None:
        """Have keys noted some time that another process has added, lest it could not."""
        with self._lock:
            if len(self._heard) < OWED_MOST:
                self._heard.update(dict.fromkeys(keys))

    def settle(self) -> list[str]:
        """Note what is owed, and what was heard; return what was owed.

        Raises:
            Exception: If Redis does not answer.
        """
        with self._lock:
            owed, withdraws = list(self._owed), self._owes_withdrawal
            heard, self._heard = list(self._heard), {}
        if withdraws:
            self._client.delete(f"{self._base}meta")
        self._note([*owed, *heard])
        with self._lock:
            for key in owed:
                self._owed.pop(key, None)
            if withdraws:
                self._owes_withdrawal = False
        return owed

    def _note(self, new: Sequence[str], known: Sequence[str] = (), publication: str = "") -> None:
        given = [(key, True) for key in new] + [(key, False) for key in known]
        for start in range(0, len(given), BATCH):
            batch = given[start : start + BATCH]
            sure = sum(is_new for _, is_new in batch)
            _, is_current = self._add(0, publication, sure, [_member(key) for key, _ in batch])
            self.is_behind = self.is_behind or bool(publication and not is_current)

    def _add(
        self, is_mark: int, publication: str, sure: int, members: Sequence[bytes]
    ) -> tuple[int, bool]:
        number, self.count, is_current = self._add_script(
            keys=[f"{self._base}{end}" for end in ("adds", "meta", "mark")],
            args=[is_mark, ADDS_MOST, publication, sure, *members],
        )
        return int(number), bool(is_current)

    # Publishing

    def begin(self) -> Mark:
        """Set a mark, before the ids are read that are to be published.

        Raises:
            Exception: If Redis does not answer.
        """
        name = secrets.token_hex(8)
        server = self._server()
        number, _ = self._add(1, "", 1, [_mark(name)])
        return Mark(name, number, server)

    def publish(self, bits: bytes, mark: Mark) -> bool:
        """Put bits in place of what was published; False if another was quicker.

        Raises:
            Exception: If Redis does not answer.
        """
        client, base = self._client, self._base
        if client.zscore(f"{base}adds", _mark(mark.name)) is None:
            return False
        upload = f"{base}upload:{mark.name}"
        client.set(upload, b"", ex=UPLOAD_SECONDS)
        for start in range(0, len(bits), PIECE):
            client.append(upload, bits[start : start + PIECE])
        meta = {"format": _FORMAT, "name": mark.name, "number": mark.number, "server": mark.server}
        with client.pipeline(transaction=True) as pipe:
            pipe.rename(upload, f"{base}bits")
            pipe.persist(f"{base}bits")
            pipe.delete(f"{base}meta")
            pipe.hset(f"{base}meta", mapping=meta)
            pipe.zremrangebyscore(f"{base}adds", "-inf", f"({mark.number}")
            pipe.zcard(f"{base}adds")
            self.count = pipe.execute()[-1]
        return True

    def load(self, known: str = "") -> Published | None:
        """Return what is published, or None if nothing is that can be believed.

        Args:
            known: Name of the mark of what the caller has already: None for that, too.

        Raises:
            Exception: If Redis does not answer.
        """
        client, base = self._client, self._base
        meta = client.hgetall(f"{base}meta")
        name = meta.get(b"name", b"").decode("ascii", "replace")
        if meta.get(b"format") != _FORMAT or name == known:
            return None
        if meta.get(b"server", b"").decode("ascii", "replace") != self._server():
            return None
        bits = b"".join(self._pieces())
        adds = client.zrangebyscore(f"{base}adds", int(meta[b"number"]), "+inf")
        if not adds or adds[0] != _mark(name):
            return None
        return Published(name, bits, [_key(each) for each in adds if not each.startswith(_MARK)])

    def _pieces(self) -> Iterator[bytes]:
        length = self._client.strlen(f"{self._base}bits")
        for start in range(0, length, PIECE):
            yield self._client.getrange(f"{self._base}bits", start, start + PIECE - 1)

    def _server(self) -> str:
        """Return what names this start of this server: another has, or may have, another state."""
        run: str = self._client.info("server")["run_id"]
        return run


_MARK = b"m"
_KEY = b"k"


def _mark(name: str) -> bytes:
    return _MARK + name.encode()


def _member(key: str) -> bytes:
    return _KEY + key.encode("utf-8", "surrogatepass")


def _key(member: bytes) -> str:
    return member[len(_KEY) :].decode("utf-8", "surrogatepass")


def _trouble(error: Exception) -> str:
    return f"the shared Bloom filter is out of reach ({type(error).__name__})"


def _checked(given: Any) -> Any:
    if isinstance(given, str):
        if not given.startswith(("redis://", "rediss://", "unix://")):
            raise ConfigurationError(
                f"shared must be a URL, got {given.split('@')[-1]!r}; "
                "such as redis://localhost:6379/0"
            )
        return given
    if not any(base.__module__ == "redis.client" for base in type(given).__mro__):
        raise ConfigurationError(
            f"shared must be a redis:// URL or a redis.Redis, got {type(given).__qualname__}"
        )
    return given


def _client(given: Any) -> Any:
    """Return a client with few connections that gives up soon."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    pool = redis.ConnectionPool.from_url(given) if isinstance(given, str) else given.connection_pool
    if type(pool) not in (redis.ConnectionPool, redis.BlockingConnectionPool):
        return given  # it finds its server itself: Sentinel
    ours: dict[str, Any] = {
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
        "health_check_interval": 30,
        "retry": Retry(NoBackoff(), 1),
        "protocol": 2,  # under RESP3 an idle connection that the server closed fails a command
        "decode_responses": False,
    }
    theirs = {
        name: value
        for name, value in pool.connection_kwargs.items()
        if value is not None and not name.startswith(("maint_", "orig_", "retry_on"))
    }
    make_pool: Any = redis.BlockingConnectionPool
    settings = {**theirs, **ours, "connection_class": pool.connection_class}
    return redis.Redis(
        connection_pool=make_pool(max_connections=8, timeout=TIMEOUT / 2, **settings)
    )
