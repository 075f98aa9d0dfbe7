"""The shared Bloom filter: a new process begins ready, and lacks nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.kinds import Kind
from tests.servers import Proxy, RedisServer, binaries
from tests.waiting import in_time, until
from tiercache import Cache, ConfigurationError
from tiercache.testing import DictStore
from tiercache_plugins import BloomGuard
from tiercache_plugins import _bloom_builder as builder
from tiercache_plugins import _bloom_shared as shared_filter
from tiercache_plugins._bloom_shared import SharedFilter

pytestmark = pytest.mark.skipif(not binaries(), reason="no Redis server here")

KEY = "user:{user_id}"
MakeCache = Callable[..., Cache]


class Ids:
    """Ids, and how often they were read."""

    def __init__(self, *rows: int) -> None:
        self.rows = list(rows)
        self.reads = 0
        self.is_reading = threading.Event()
        self.may_read = threading.Event()
        self.may_read.set()

    def __call__(self) -> Iterator[int]:
        self.reads += 1
        rows = list(self.rows)
        self.is_reading.set()
        assert self.may_read.wait(10)
        yield from rows


class Processes:
    """Caches that share an L2 and a filter as processes would."""

    def __init__(self, make_cache: MakeCache, url: str) -> None:
        self._make_cache = make_cache
        self.url = url
        self.store = DictStore()

    def plain(self) -> Cache:
        """Return one without a guard."""
        return self._make_cache(l2=self.store)

    def start(self, ids: Any, shared: Any = None, **options: Any) -> tuple[Cache, BloomGuard]:
        guard = BloomGuard(ids, key=KEY, shared=shared or self.url, **options)
        return self._make_cache(l2=self.store, plugins=[guard]), guard


@pytest.fixture(scope="module")
def one_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(one_server: RedisServer) -> RedisServer:
    one_server.command("FLUSHALL")
    return one_server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture
def processes(make_cache: MakeCache, server: RedisServer) -> Processes:
    return Processes(make_cache, server.url)


@pytest.fixture
def shared(server: RedisServer) -> Iterator[SharedFilter]:
    shared = bound(server.url)
    yield shared
    shared.close()


def bound(url: str) -> SharedFilter:
    shared = SharedFilter(url)
    shared.bind("tc", "test", KEY)
    return shared


def ready(guard: BloomGuard) -> None:
    assert guard.wait_until_ready(10), guard.stats()


def key_of(client: redis.Redis, end: str) -> bytes:
    return next(key for key in client.scan_iter() if key.endswith(end.encode()))


class TestANewProcess:
    def test_begins_ready(self, processes: Processes) -> None:
        """It takes over what another has built, and reads no id."""
        _, first = processes.start(Ids(1, 2, 3))
        ready(first)
        ids = Ids()
        _, second = processes.start(ids)
        ready(second)
        assert ids.reads == 0 and second.stats().builds == 1
        assert second.contains(2) and not second.contains(77)

    @pytest.mark.parametrize("how", ["set", "delete", "add"])
    def test_knows_what_was_created_since(self, kind: Kind, processes: Processes, how: str) -> None:
        """What was added after the build is there, too, whether or not anyone lives to tell it."""
        cache, first = processes.start(Ids(1, 2, 3))
        ready(first)
        if how == "add":
            kind.call(first.add if kind.name == "blocking" else first.aadd, 77)
        elif how == "set":
            kind.do(cache, "set", "user:77", "new")
        else:
            kind.do(cache, "delete", "user:77")
        cache.close()
        _, second = processes.start(Ids())
        ready(second)
        assert second.contains(77) and second.contains(1) and not second.contains(78)

    def test_hears_what_is_created_later(self, processes: Processes) -> None:
        """It is told over the bus from then on."""
        cache, first = processes.start(Ids(1))
        ready(first)
        _, second = processes.start(Ids())
        ready(second)
        cache.delete("user:77")
        until(lambda: second.contains(77))

    def test_knows_what_came_during_the_build(self, processes: Processes) -> None:
        """What another process creates while the ids are read is in what is published."""
        ids = Ids(1)
        ids.may_read.clear()
        cache, first = processes.start(ids)
        assert ids.is_reading.wait(10)
        other, _ = processes.start(Ids())
        other.delete("user:77")
        other.close()
        ids.may_read.set()
        ready(first)
        cache.close()
        _, second = processes.start(Ids())
        ready(second)
        assert second.contains(77) and not second.contains(78)

    def test_knows_what_the_builder_has_not_heard(self, processes: Processes) -> None:
        """What was noted in Redis during the build is published, though its message is late."""
        ids = Ids(1)
        ids.may_read.clear()
        _, first = processes.start(ids)
        assert ids.is_reading.wait(10)
        other = bound(processes.url)
        other.add(["user:77"])
        other.close()
        ids.may_read.set()
        ready(first)
        assert not first.contains(77)
        _, second = processes.start(Ids())
        ready(second)
        assert second.contains(77) and not second.contains(78)

    def test_knows_what_one_without_a_guard_created(
        self, processes: Processes, client: redis.Redis
    ) -> None:
        """Who hears of a key notes it, lest its writer could not."""
        cache, first = processes.start(Ids(1))
        ready(first)
        processes.plain().delete("user:77")
        until(lambda: b"kuser:77" in client.zrange(key_of(client, ":adds"), 0, -1))
        cache.close()
        _, second = processes.start(Ids())
        ready(second)
        assert second.contains(77)

    def test_one_builds(self, processes: Processes) -> None:
        """Of many that start together one reads the ids; the others wait for it."""
        ids = Ids(1, 2, 3)
        ids.may_read.clear()
        guards = [processes.start(ids)[1] for _ in range(4)]
        assert ids.is_reading.wait(10)
        until(lambda: sum("another process" in each.stats().error for each in guards) == 3)
        ids.may_read.set()
        for guard in guards:
            ready(guard)
            assert guard.contains(2) and not guard.contains(77)
        assert ids.reads == 1

    def test_takes_over_a_rebuild(self, processes: Processes) -> None:
        """What one has built anew the others load instead of building it."""
        ids = Ids(1, 2)
        _, first = processes.start(ids)
        ready(first)
        _, second = processes.start(Ids())
        ready(second)
        ids.rows.remove(2)
        first.rebuild()
        until(lambda: first.stats().builds == 2)
        assert second.contains(2)
        second.rebuild()
        until(lambda: second.stats().builds == 2)
        assert not second.contains(2) and second.contains(1)


class TestIsNotBelieved:
    @pytest.mark.parametrize("what", ["meta", "bits", "adds"])
    def test_what_was_evicted(self, processes: Processes, client: redis.Redis, what: str) -> None:
        """If one of its keys is gone the ids are read, and published again."""
        cache, first = processes.start(Ids(1))
        ready(first)
        cache.delete("user:77")
        client.delete(key_of(client, f":{what}"))
        cache.delete("user:78")
        for reads in (1, 0):
            ids = Ids(1, 77, 78)
            _, guard = processes.start(ids)
            ready(guard)
            assert ids.reads == reads
            assert all(map(guard.contains, (1, 77, 78))) and not guard.contains(79)

    def test_what_another_server_says(self, processes: Processes, client: redis.Redis) -> None:
        """A server that was started again, or another, may lack what was added last."""
        _, first = processes.start(Ids(1))
        ready(first)
        client.hset(key_of(client, ":meta"), "server", "another")
        ids = Ids(1)
        _, second = processes.start(ids)
        ready(second)
        assert ids.reads == 1

    @pytest.mark.parametrize("how", ["garbage", "truncated", "empty"])
    def test_bits_that_are_damaged(
        self,
        processes: Processes,
        client: redis.Redis,
        how: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """They are ignored with a warning, and replaced."""
        _, first = processes.start(Ids(1))
        ready(first)
        bits = key_of(client, ":bits")
        data = client.get(bits)
        client.set(bits, {"garbage": b"x" * 10_000, "truncated": data[:-1], "empty": b""}[how])
        ids = Ids(1)
        _, second = processes.start(ids)
        ready(second)
        assert ids.reads == 1 and second.contains(1) and not second.contains(77)
        assert "the shared filter is ignored" in caplog.text
        assert client.get(bits) == data

    def test_one_of_another_rate(self, processes: Processes) -> None:
        """Processes that were told of different rates do not take each other's filters."""
        _, first = processes.start(Ids(1))
        ready(first)
        ids = Ids(1)
        _, second = processes.start(ids, error_rate=0.001)
        ready(second)
        assert ids.reads == 1

    def test_too_many_adds(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
    ) -> None:
        """A set of adds that has grown out of bounds is let go of, and with it the belief."""
        monkeypatch.setattr(shared_filter, "ADDS_MOST", 20)
        cache, first = processes.start(Ids(1))
        ready(first)
        for number in range(100, 130):
            cache.delete(f"user:{number}")
        assert not any(key.endswith(b":adds") for key in client.scan_iter())
        ids = Ids(1, *range(100, 130))
        _, second = processes.start(ids)
        ready(second)
        assert ids.reads == 1 and second.contains(129)

    def test_many_adds_are_built_in(
        self, processes: Processes, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
    ) -> None:
        """Before that, the filter is built anew, once, and what it holds now is trimmed."""
        monkeypatch.setattr(builder, "CROWDED", 20)
        ids = Ids(1)
        cache, first = processes.start(ids)
        ready(first)
        for number in range(100, 122):
            ids.rows.append(number)
            cache.delete(f"user:{number}")
        until(lambda: first.stats().builds == 2)
        until(lambda: client.zcard(key_of(client, ":adds")) < 20)
        cache.close()
        _, second = processes.start(Ids())
        ready(second)
        assert all(map(second.contains, range(100, 122)))


class TestPublishing:
    """The protocol alone, step by step."""

    def test_adds_after_the_mark_stay(self, shared: SharedFilter) -> None:
        """What is added between the mark and the publication is there, with the bits."""
        mark = shared.begin()
        shared.add(["a"])
        assert shared.publish(b"bits", mark)
        shared.add(["b", "\ud800", "a"])
        published = shared.load()
        assert published is not None and published.bits == b"bits"
        assert sorted(published.adds) == ["a", "b", "\ud800"]

    def test_adds_before_the_mark_go(self, shared: SharedFilter) -> None:
        """What was added before the ids were read is in the bits; added again, it stays."""
        assert shared.publish(b"one", shared.begin())
        shared.add(["a", "b"])
        mark = shared.begin()
        shared.add(["b"])
        assert shared.publish(b"two", mark)
        published = shared.load()
        assert published is not None and published.adds == ["b"]

    def test_an_overtaken_build(self, shared: SharedFilter) -> None:
        """Bits whose mark was trimmed by a later one are not published, or not believed."""
        slow, quick = shared.begin(), shared.begin()
        shared.add(["a"])
        assert shared.publish(b"quick", quick)
        assert not shared.publish(b"slow", slow)
        published = shared.load()
        assert published is not None and (published.bits, published.adds) == (b"quick", ["a"])

    def test_a_build_between_two(self, shared: SharedFilter) -> None:
        """A build that began first and ends last is overwritten by none of the adds it lacks."""
        slow, quick = shared.begin(), shared.begin()
        shared.add(["a"])
        assert shared.publish(b"slow", slow)
        assert shared.publish(b"quick", quick)
        published = shared.load()
        assert published is not None and (published.bits, published.adds) == (b"quick", ["a"])

    def test_many_bytes(self, shared: SharedFilter, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bits go and come in pieces."""
        monkeypatch.setattr(shared_filter, "PIECE", 7)
        assert shared.publish(bytes(range(100)), shared.begin())
        published = shared.load()
        assert published is not None and published.bits == bytes(range(100))
        assert shared.load(published.name) is None

    def test_an_upload_that_died_goes(self, shared: SharedFilter, client: redis.Redis) -> None:
        """What a builder wrote and did not publish ends by itself; what is published does not."""
        ends: list[int] = []
        append = redis.Redis.append

        def look(self: Any, key: Any, value: Any) -> Any:
            ends.append(client.ttl(key))
            return append(self, key, value)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(redis.Redis, "append", look)
            shared.publish(b"bits", shared.begin())
        assert 0 < ends[0] <= shared_filter.UPLOAD_SECONDS
        assert client.ttl(key_of(client, ":bits")) == -1


class TestTrouble:
    def test_is_never_the_callers(
        self, kind: Kind, make_cache: MakeCache, server: RedisServer, caplog
    ) -> None:
        """While Redis is away keys are owed; then they are noted, and told who has started."""
        caplog.set_level("INFO")
        with Proxy(server.port) as proxy:
            processes = Processes(make_cache, proxy.url)
            cache, first = processes.start(Ids(1))
            ready(first)
            proxy.is_refusing = True
            proxy.cut()
            kind.do(cache, "delete", "user:77")
            in_time(lambda: kind.do(cache, "delete", "user:78", "user:79"), 0.1)
            assert all(map(first.contains, (77, 78, 79)))
            _, second = processes.start(Ids(), shared=server.url)
            ready(second)
            assert not second.contains(77)  # for as long as nobody can tell it
            proxy.is_refusing = False
            until(lambda: all(map(second.contains, (77, 78, 79))))
            assert caplog.text.count("out of reach") == 1
            _, third = processes.start(Ids(), shared=server.url)
            ready(third)
            assert all(map(third.contains, (77, 78, 79))) and not third.contains(80)

    def test_a_frozen_server_costs_one_timeout(self, processes: Processes, monkeypatch) -> None:
        """The first write waits for it, no other does."""
        monkeypatch.setattr(shared_filter, "TIMEOUT", 1.0)
        with RedisServer() as own:
            cache, guard = processes.start(Ids(1), shared=own.url)
            ready(guard)
            own.freeze()
            try:
                cache.delete("user:77")
                began = time.monotonic()
                for number in range(100, 200):
                    cache.delete(f"user:{number}")
                assert time.monotonic() - began < 5  # of a hundred
                assert guard.contains(150) and not guard.contains(78)
            finally:
                own.thaw()
            until(lambda: not guard._shared.owes)

    def test_too_much_is_owed(
        self, shared: SharedFilter, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More than can be kept: what is published is taken back."""
        monkeypatch.setattr(shared_filter, "OWED_MOST", 5)
        assert shared.publish(b"bits", shared.begin())
        shared.owe(map(str, range(7)))
        assert shared.owes
        shared.settle()
        assert not shared.owes and shared.load() is None

    def test_away_from_the_beginning(self, processes: Processes, server: RedisServer) -> None:
        """Without Redis the guard builds for itself."""
        with Proxy(server.port) as proxy:
            proxy.is_refusing = True
            _, guard = processes.start(Ids(1), shared=proxy.url)
            ready(guard)
            assert guard.contains(1) and not guard.contains(77)


def test_is_noted_before_it_is_told(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order that a new process relies on: first the shared filter, then the bus."""
    cache, guard = processes.start(Ids(1))
    ready(guard)
    told_before: list[bool] = []
    add = SharedFilter.add

    def look(self: SharedFilter, *added: Any) -> None:
        log = cache.flow.l2.namespace._space.log
        told_before.append(any("user:77" in message.names for _, message in log))
        add(self, *added)

    monkeypatch.setattr(SharedFilter, "add", look)
    cache.delete("user:77")
    assert told_before == [False]
    log = cache.flow.l2.namespace._space.log
    assert any("user:77" in message.names for _, message in log)


def test_known_keys_take_no_room(processes: Processes, client: redis.Redis, server) -> None:
    """A write of what is published already costs one command, and notes nothing."""
    cache, guard = processes.start(Ids(1))
    ready(guard)
    adds = key_of(client, ":adds")
    count = client.zcard(adds)
    server.command("CONFIG", "RESETSTAT")
    for _ in range(5):
        cache.delete("user:1")
    assert server.command_calls()["evalsha"] == 5
    assert client.zcard(adds) == count
    cache.delete("user:77")
    assert client.zcard(adds) == count + 1


class TestAnIdThatCameBack:
    """Deleted, forgotten by a newer publication, and created again where it is still known."""

    @pytest.fixture
    def ids(self) -> Ids:
        return Ids(1, 2)

    @pytest.fixture
    def writer(self, processes: Processes, ids: Ids) -> tuple[Cache, BloomGuard]:
        cache, guard = processes.start(ids)
        ready(guard)
        return cache, guard

    @pytest.fixture
    def builder_of_more(self, processes: Processes, writer: Any, ids: Ids) -> BloomGuard:
        _, guard = processes.start(ids)
        ready(guard)
        return guard

    def assert_known(self, processes: Processes, key: int) -> None:
        _, third = processes.start(Ids())
        ready(third)
        assert third.contains(key) and third.contains(1) and not third.contains(78)

    def test_after_it_was_published(self, processes, writer, builder_of_more, ids) -> None:
        """A writer that knows the key notes it all the same, since the publication is another."""
        ids.rows.remove(2)
        builder_of_more.rebuild()
        until(lambda: builder_of_more.stats().builds == 2)
        assert writer[1].contains(2) and not builder_of_more.contains(2)
        writer[0].know_of(["user:2"])
        self.assert_known(processes, 2)

    def test_while_it_is_built(self, processes, writer, builder_of_more, ids) -> None:
        """Likewise while another is being made that has not seen it."""
        ids.rows.remove(2)
        ids.is_reading.clear()
        ids.may_read.clear()
        builder_of_more.rebuild()
        assert ids.is_reading.wait(10)
        ids.rows.append(2)
        builder_of_more._members._recent.clear()
        writer[0].know_of(["user:2"])  # its message, to the builder, is late
        ids.may_read.set()
        until(lambda: builder_of_more.stats().builds == 2)
        assert not builder_of_more.contains(2)
        self.assert_known(processes, 2)

    def test_announced_before_its_commit(self, processes, writer, builder_of_more) -> None:
        """What was added before a build that could not see it yet is noted when it is written."""
        writer[0].know_of(["user:77"])
        builder_of_more.rebuild()
        until(lambda: builder_of_more.stats().builds == 2)
        writer[1].rebuild()
        until(lambda: writer[1].stats().builds == 2)
        assert writer[1].contains(77) and not builder_of_more.contains(77)
        self.assert_known(processes, 77)
        writer[0].know_of(["user:77"])
        self.assert_known(processes, 77)


def test_a_writer_catches_up(processes: Processes) -> None:
    """Who finds that something newer is published takes it over by itself."""
    ids = Ids(1, 2)
    cache, first = processes.start(ids)
    ready(first)
    _, second = processes.start(Ids())
    ready(second)
    ids.rows.remove(2)
    _, third = processes.start(ids)
    ready(third)
    third.rebuild()
    until(lambda: third.stats().builds == 2)
    assert first.contains(2)
    cache.delete("user:1")
    until(lambda: first.stats().builds == 2)
    assert not first.contains(2) and first.contains(1) and second.contains(2)


@pytest.mark.parametrize("options", [{}, {"decode_responses": True}, {"protocol": 3}])
def test_a_client(processes: Processes, server: RedisServer, options: dict[str, Any]) -> None:
    """Of a client only where it leads is used; it stays open."""
    with redis.Redis(port=server.port, **options) as client:
        cache, first = processes.start(Ids(1), shared=client)
        ready(first)
        cache.delete("user:77")
        _, second = processes.start(Ids(), shared=client)
        ready(second)
        assert second.contains(77)
        cache.close()
        assert client.ping()


def test_needs_an_l2(make_cache: MakeCache) -> None:
    """Without a bus nobody would hear what is added later."""
    with pytest.raises(ConfigurationError, match="l2="):
        Cache("alone", plugins=[BloomGuard([1], key=KEY, shared="redis://localhost")])
