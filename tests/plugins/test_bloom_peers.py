"""BloomGuard over an L2: it hears what other processes create, and knows when it may not have."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kinds import Kind
from tests.servers import RedisServer, binaries
from tests.waiting import until
from tiercache import Cache, Event, Redis
from tiercache.testing import DictStore, FaultyStore
from tiercache_plugins import BloomGuard
from tiercache_plugins.bloom import GuardState

KEY = "user:{user_id}"
MakeCache = Callable[..., Cache]


@pytest.fixture
def store() -> FaultyStore:
    """A store that several caches of one name share, as processes would."""
    return FaultyStore(DictStore(), timeout=0.05)


def process(
    make_cache: MakeCache, store: Any, ids: Any = (1, 2, 3), **options: Any
) -> tuple[Cache, BloomGuard]:
    """Return a cache as another process would have it, and its guard."""
    guard = BloomGuard(ids, key=KEY, **options)
    return make_cache(l2=store, plugins=[guard], blind_ttl=0.3), guard


def ready(guard: BloomGuard) -> None:
    assert guard.wait_until_ready(10), guard.stats()


@pytest.mark.parametrize("how", ["set", "delete", "add", "invalidates"])
def test_hears_what_another_creates(
    kind: Kind, make_cache: MakeCache, store: FaultyStore, how: str
) -> None:
    """What is created in one process is let through in the other, however it was written."""
    one, creator = process(make_cache, store)
    _, guard = process(make_cache, store)
    ready(creator)
    ready(guard)
    assert not guard.contains(77)
    if how == "set":
        kind.do(one, "set", "user:77", "new")
    elif how == "delete":
        kind.do(one, "delete", "user:77")
    elif how == "add":
        kind.call(creator.add if kind.name == "blocking" else creator.aadd, 77)
    else:
        kind.call(one.invalidates(KEY)(kind.function(lambda user_id: None)), 77)
    until(lambda: guard.contains(77))
    assert not guard.contains(78)


def test_listens_before_it_reads(make_cache: MakeCache, store: FaultyStore) -> None:
    """What another process creates while the ids are read is in the filter."""
    is_reading, may_read = threading.Event(), threading.Event()

    def ids() -> Iterator[int]:
        yield 1
        is_reading.set()
        assert may_read.wait(10)

    other = make_cache(l2=store)
    _, guard = process(make_cache, store, ids)
    assert is_reading.wait(10)
    other.delete("user:77")
    until(lambda: guard.stats().adds)
    may_read.set()
    ready(guard)
    assert guard.contains(77) and not guard.contains(78)


def test_nothing_is_read_before_it_hears(make_cache: MakeCache, store: FaultyStore) -> None:
    """While L2 is out of reach nothing is built; then it is."""
    reads: list[int] = []

    def ids() -> list[int]:
        reads.append(1)
        return [1]

    store.fail()
    _, guard = process(make_cache, store, ids)
    until(lambda: "L2 is out of reach" in guard.stats().error)
    assert reads == [] and guard.contains(77) and guard.state is GuardState.UNKNOWN
    store.heal()
    ready(guard)
    assert not guard.contains(77)


def test_rules_nothing_out_while_it_cannot_hear(
    kind: Kind, make_cache: MakeCache, store: FaultyStore
) -> None:
    """Cut off, the guard lets everything through; what it then hears of late is not missed."""
    cache, guard = process(make_cache, store)
    other = make_cache(l2=store)
    f = cache.cached(KEY)(kind.function(lambda user_id: f"user {user_id}"))
    ready(guard)
    store.fail("tail")
    until(lambda: not guard.is_ready)
    assert "out of reach" in guard.stats().error
    other.delete("user:77")
    assert kind.call(f, 77) == "user 77" and kind.call(f, 78) == "user 78"
    store.heal()
    ready(guard)
    assert guard.stats().builds == 1
    until(lambda: guard.contains(77))
    assert not guard.contains(78)


@pytest.mark.parametrize("is_blind", [False, True], ids=["a short cut", "blind"])
def test_builds_anew_after_a_gap(make_cache: MakeCache, store: FaultyStore, is_blind: bool) -> None:
    """If messages were lost the guard knows nothing until it has read all ids again."""
    rows, may_read = [1, 2, 3], threading.Event()
    may_read.set()

    def ids() -> list[int]:
        assert may_read.wait(10)
        return list(rows)

    cache, guard = process(make_cache, store, ids)
    other = make_cache(l2=store)
    ready(guard)
    store.fail("tail")
    until(lambda: cache.flow.bus.is_blind if is_blind else not cache.hears_peers)
    may_read.clear()
    rows.append(77)
    store._store.log_length = 3
    for name in ("user:77", *(f"other:{n}" for n in range(20))):
        other.delete(name)
    store.heal()
    until(lambda: cache.hears_peers)
    assert guard.contains(77) and guard.contains(78)  # unknown
    until(lambda: guard.state is GuardState.BUILDING)
    may_read.set()
    ready(guard)
    assert guard.stats().builds == 2
    assert guard.contains(77) and not guard.contains(78)


def test_a_gap_during_a_build(make_cache: MakeCache, store: FaultyStore) -> None:
    """A build that was under way when messages were lost is not used."""
    is_reading, may_read = threading.Event(), threading.Event()
    reads = 0

    def ids() -> Iterator[int]:
        nonlocal reads
        reads += 1
        is_reading.set()
        assert may_read.wait(10)
        yield from (1, 2, 3) if reads == 1 else (1, 2, 3, 77)

    cache, guard = process(make_cache, store, ids)
    assert is_reading.wait(10)
    cache.hooks.tell(Event("bus_gap", cache.name, ""))
    may_read.set()
    ready(guard)
    assert reads == 2 and guard.stats().builds == 1
    assert guard.contains(77)


@pytest.mark.skipif(not binaries(), reason="no Redis server here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_listens_for_itself() -> None:
    """A child of a process with an L2 rules nothing out until it hears, and has built, itself."""
    with RedisServer() as server, Cache("forks", l2=Redis(server.url, timeout=5)) as other:
        guard = BloomGuard([1, 2, 3], key=KEY)
        with Cache("forks", l2=Redis(server.url, timeout=5), plugins=[guard]) as cache:
            ready(guard)
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    is_right = not guard.is_ready and cache.get("user:1") is None
                    is_right = is_right and guard.admits("user:77")
                    is_right = is_right and guard.wait_until_ready(10) and not guard.contains(77)
                    os.write(write, b"ready")
                    until(lambda: guard.contains(77))
                    os._exit(0 if is_right else 1)
                finally:
                    os._exit(2)
            assert os.read(read, 5) == b"ready"
            other.delete("user:77")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            os.close(read)
            os.close(write)
