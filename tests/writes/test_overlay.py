"""A reader never sees the database's older row while a newer write is pending."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tests.writes.conftest import Place
from tiercache import MISS


@dataclass(frozen=True)
class User:
    id: int
    name: str


def pending(place: Place, cache, **options):
    """Return a WriteBehind that writes nothing by itself."""
    return place.behind(lambda operations: None, cache, max_delay="1h", **options)


def test_an_evicted_value_is_read_from_the_journal(place, kind: Kind):
    """By a function, a batch, and the cache-aside API, each with its own type."""
    cache = place.cache()
    behind = pending(place, cache)
    loads = []

    def load(user_id: int) -> User:
        loads.append(user_id)
        return User(user_id, "older row")

    get = cache.cached("user:{user_id}")(kind.function(load))
    behind.put(1, User(1, "new"))
    behind.put(2, User(2, "new"))
    cache.clear()
    assert kind.call(get, 1) == User(1, "new")
    cache.clear()
    assert kind.call(get.many, [1, 2, 3])[2] == User(2, "new")
    cache.clear()
    if cache.flow.l2 is not None:
        assert kind.do(cache, "get", "user:1") == User(1, "new")
        cache.clear()
        assert kind.do(cache, "get_many", ["user:1", "user:2", "user:3"]) == {
            "user:1": User(1, "new"),
            "user:2": User(2, "new"),
        }
        cache.clear()
        assert kind.call(get.peek, 1) == User(1, "new")
    assert set(loads) <= {3}
    behind.flush()
    cache.clear()
    assert kind.call(get, 1) == User(1, "older row")


def test_a_bulk_loader_is_asked_for_the_rest_only(place, kind):
    """What is pending is not loaded with the others."""
    cache = place.cache()
    behind = pending(place, cache)
    asked = []

    def load_many(keys):
        asked.append(list(keys))
        return dict.fromkeys(keys, "older row")

    behind.put(1, "new")
    behind.delete(2)
    cache.clear()
    keys = ["user:1", "user:2", "user:3"]
    found = kind.do(cache, "get_or_load_many", keys, kind.function(load_many))
    assert found == {"user:1": "new", "user:2": None, "user:3": "older row"}
    assert asked == [["user:3"]]


def test_other_processes_read_it_from_the_journal(shared, kind):
    """Those that have the same writer."""
    mine, other = shared.cache(), shared.cache()
    behind = pending(shared, mine)
    pending(shared, other, workers=0)
    behind.put(1, "new")
    mine.clear()
    loader = kind.function(lambda: "older row")
    assert kind.do(other, "get_or_load", "user:1", loader) == "new"
    assert kind.do(other, "get", "user:1") == "new"


def test_keys_of_other_templates_are_not_asked_for(shared):
    """They cost nothing."""
    cache = shared.cache()
    behind = pending(shared, cache)
    behind.journal.pending = None  # type: ignore[assignment]  # would fail
    assert cache.get_or_load("order:1", lambda: "row") == "row"


def test_what_is_to_be_deleted_reads_as_absent(place, kind):
    """None by default; to those who only look it is a miss."""
    cache = place.cache()
    behind = pending(place, cache)
    loader = kind.function(lambda: "older row")
    kind.do(cache, "get_or_load", "user:1", loader)
    kind.do(behind, "delete", 1)
    assert kind.do(cache, "get", "user:1", MISS) is MISS
    assert kind.do(cache, "get_or_load", "user:1", loader) is None


def test_what_is_to_be_deleted_may_raise(place, kind):
    """As the loader does for a row that is not there."""
    cache = place.cache()
    behind = pending(place, cache, deleted=LookupError)
    behind.delete(1)
    loader = kind.function(lambda: "older row")
    with pytest.raises(LookupError):
        kind.do(cache, "get_or_load", "user:1", loader)
    with pytest.raises(BaseException, match="could not be loaded"):
        kind.do(cache, "get_or_load_many", ["user:1"], kind.function(lambda keys: [1]))


def test_a_stale_value_is_refreshed_from_the_journal(place, kind):
    """Refreshing asks the journal as any load does."""
    cache = place.cache()
    behind = pending(place, cache)
    get = cache.cached("user:{user_id}")(kind.function(lambda user_id: "older row"))
    behind.put(1, "new")
    kind.call(get.refresh, 1)
    assert kind.call(get, 1) == "new"


def test_a_delete_during_a_load_is_not_overwritten(shared):
    """The load has asked the journal before, and its lease ends."""
    cache, other = shared.cache(), shared.cache()
    behind = pending(shared, other)
    pending(shared, cache, workers=0)
    inside, go_on = threading.Event(), threading.Event()

    def load():
        inside.set()
        assert go_on.wait(10)
        return "older row"

    thread = threading.Thread(target=lambda: cache.get_or_load("user:1", load))
    thread.start()
    assert inside.wait(10)
    behind.delete(1)
    go_on.set()
    thread.join()
    until(lambda: cache.get_or_load("user:1", lambda: "older row") is None)


def test_without_the_journal_the_database_answers(kind):
    """While Redis is down, so is what is pending there."""
    from tests.servers import RedisServer

    with RedisServer() as server:
        place = Place("redis", server, "")
        cache = place.cache()
        behind = pending(place, cache)
        behind.put(1, "new")
        server.kill()
        cache.clear()
        loader = kind.function(lambda: "older row")
        assert kind.do(cache, "get_or_load", "user:1", loader) == "older row"
        behind.close("10ms")
        cache.close()


def test_a_closed_writer_is_not_asked(place):
    """Its journal may be somebody else's by then."""
    cache = place.cache()
    behind = pending(place, cache)
    behind.put(1, "new")
    behind.close()
    cache.clear()
    assert cache.get_or_load("user:1", lambda: "row") == "row"


def set_format(place: Place, cache, text: str) -> None:
    """Have the journal be of another format."""
    space = cache.flow.l2.namespace
    if place.kind == "redis":
        place._server.command("HSET", "tc:{users}:writes:user:{}:state", "format", text)
    else:
        with closing(sqlite3.connect(space._sessions.path)) as db, db:
            db.execute("UPDATE journal SET format = ?", (text,))


def test_a_journal_of_another_format_does_not_fail_reads(shared, kind, caplog):
    """The database answers, and nothing is kept: a newer write may wait there."""
    cache = shared.cache()
    behind = pending(shared, cache, workers=0)
    behind.put(1, "new")
    cache.clear()
    set_format(shared, cache, "9")
    loads = []

    def load(user_id):
        loads.append(user_id)
        return "row"

    get = cache.cached("user:{user_id}")(kind.function(load))
    for _ in range(2):
        assert kind.call(get, 1) == "row"
        assert kind.call(get.many, [1, 2]) == {1: "row", 2: "row"}
        assert kind.do(cache, "get", "user:1", MISS) is MISS
        keys = ["user:1", "user:2"]
        load_many = kind.function(lambda keys: dict.fromkeys(keys, "rows"))
        assert kind.do(cache, "get_or_load_many", keys, load_many) == dict.fromkeys(keys, "rows")
    assert sorted(loads) == [1, 1, 1, 1, 2, 2]
    assert cache.stats().store_errors >= 6
    told = [each.message for each in caplog.records if "of format '9'" in each.message]
    assert len(told) == 1
    set_format(shared, cache, "1")
    assert kind.call(get, 1) == "new"
