"""Processes that do not know of a writer: what they bring into L2 does not outlive the flush."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tests.writes.conftest import Place
from tiercache import Cache, Redis


class Rows:
    """A database that takes no write until it is let."""

    def __init__(self) -> None:
        self.rows = {1: "old", 2: "old"}
        self.may_write = threading.Event()

    def write(self, operations) -> None:
        self.may_write.wait(10)
        for each in operations:
            self.rows[each.item] = None if each.kind == "delete" else each.value


@pytest.fixture
def rows():
    rows = Rows()
    yield rows
    rows.may_write.set()


@pytest.fixture(params=["redis", "sqlite", "journal in memory"])
def apart(request, tmp_path):
    """A place with an L2, whose journal may be in memory all the same."""
    server = request.getfixturevalue("server") if request.param == "redis" else None
    place = Place("redis" if server else "sqlite", server, str(tmp_path / "cache.db"))
    place.is_durable = request.param != "journal in memory"
    yield place
    for cache in place.caches:
        cache.close()


def writer_on(place, rows, cache: Cache | None = None, **options):
    """Return the WriteBehind of a process, by default a new one."""
    cache = cache or place.cache()
    return cache.write_behind(
        rows.write, key="user:{}", max_delay="1ms", durable=place.is_durable, **options
    )


def reader_on(place, rows, kind: Kind):
    """Return the function of a process that knows of no writer."""
    return place.cache().cached("user:{user_id}")(kind.function(lambda user_id: rows.rows[user_id]))


def stands(cache: Cache, key: str) -> bytes | None:
    """Return the payload that L2 has under a key."""
    stored = cache.flow.l2.namespace.read(key)
    return stored and bytes(stored.payload)


@pytest.mark.parametrize("op", ["put", "delete"])
def test_an_older_row_does_not_stay(apart, rows, kind, op):
    """Loaded while the write was pending and its entry gone: it goes with the acknowledgement."""
    cache = apart.cache()
    behind = writer_on(apart, rows, cache)
    get = reader_on(apart, rows, kind)
    own = cache.cached("user:{user_id}")(kind.function(lambda user_id: rows.rows[user_id]))
    if op == "put":
        behind.put(1, "new")
    else:
        behind.delete(1)
    cache.clear()
    assert kind.call(get, 1) == "old"
    rows.may_write.set()
    assert behind.flush() == 0
    expected = "new" if op == "put" else None
    until(lambda: kind.call(get, 1) == expected)
    until(lambda: kind.call(own, 1) == expected)


def held_load(rows):
    """Return a loader that holds on to what it has read; and events: it has read, it may go."""
    read, may_go = threading.Event(), threading.Event()

    def load(user_id):
        row = rows.rows[user_id]
        read.set()
        may_go.wait(10)
        return row

    return load, read, may_go


def test_a_load_under_way_is_not_kept(apart, rows, kind):
    """It began before the write was made, and ends after: its lease is gone."""
    cache = apart.cache()
    behind = writer_on(apart, rows, cache)
    reader = apart.cache()
    load, read, may_go = held_load(rows)
    get = reader.cached("user:{user_id}")(load)
    behind.put(1, "new")
    cache.clear()
    thread = threading.Thread(target=get, args=(1,))
    thread.start()
    assert read.wait(10)
    rows.may_write.set()
    assert behind.flush() == 0
    may_go.set()
    thread.join()
    until(lambda: kind.do(reader, "get", "user:1") != "old")
    assert kind.do(cache, "get", "user:1") != "old"


def test_a_refresh_under_way_is_not_kept(apart, rows):
    """The write's own entry stands there, and would have been replaced by the older row."""
    cache = apart.cache()
    behind = writer_on(apart, rows, cache)
    reader = apart.cache()
    load, read, may_go = held_load(rows)
    get = reader.cached("user:{user_id}")(load)
    behind.put(1, "new")
    thread = threading.Thread(target=get.refresh, args=(1,))
    thread.start()
    assert read.wait(10)
    rows.may_write.set()
    assert behind.flush() == 0
    may_go.set()
    thread.join()
    until(lambda: get(1) == "new")


def test_its_own_entry_stays(apart, rows):
    """Nothing is loaded again where nobody has meddled."""
    cache = apart.cache()
    behind = writer_on(apart, rows, cache, tags=["people", "all"])
    behind.put(1, "new")
    before = stands(cache, "user:1")
    assert before
    rows.may_write.set()
    assert behind.flush() == 0
    assert stands(cache, "user:1") == before


def test_an_entry_of_a_newer_write_stays(apart, rows):
    """The acknowledgement of the one before is none of its business."""
    cache = apart.cache()
    written, may_go = threading.Event(), threading.Event()

    def write(operations):
        rows.write(operations)
        if not written.is_set():
            written.set()
            may_go.wait(10)
        else:
            rows.may_write.clear()
            rows.may_write.wait(10)

    behind = cache.write_behind(write, key="user:{}", max_delay="1ms", durable=apart.is_durable)
    rows.may_write.set()
    behind.put(1, "first")
    assert written.wait(10)
    behind.put(1, "second")
    second = stands(cache, "user:1")
    may_go.set()
    until(lambda: behind.stats().written == 1)
    assert stands(cache, "user:1") == second
    rows.may_write.set()
    until(lambda: rows.rows[1] == "second")
    rows.may_write.set()


def test_in_a_cluster(rows, kind):
    """The entries are on other nodes than the journal."""
    from tests.clusters import RedisCluster

    @contextmanager
    def caches(cluster):
        with (
            Cache("users", l2=Redis.cluster(cluster.url, timeout=5), jitter=0) as cache,
            Cache("users", l2=Redis.cluster(cluster.url, timeout=5), jitter=0) as other,
        ):
            yield cache, other

    with RedisCluster() as cluster, caches(cluster) as (cache, reader):
        behind = cache.write_behind(rows.write, key="user:{}", max_delay="1ms")
        get = reader.cached("user:{user_id}")(kind.function(lambda user_id: rows.rows[user_id]))
        behind.put(1, "new")
        behind.put(2, "new")
        reader.delete("user:1")
        assert (kind.call(get, 1), kind.call(get, 2)) == ("old", "new")
        kept = stands(cache, "user:2")
        rows.may_write.set()
        assert behind.flush() == 0
        until(lambda: kind.call(get, 1) == "new")
        assert stands(cache, "user:2") == kept
