"""What accepting a write does, and what it refuses."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tests.writes.conftest import Place
from tiercache import MISS, Cache
from tiercache.errors import (
    CacheError,
    ConfigurationError,
    EncodeError,
    JournalFull,
    UncacheableArguments,
    WriteFailed,
)
from tiercache.l2 import L2
from tiercache.tiers.store import StoreBusy
from tiercache.writes import entering


@dataclass(frozen=True)
class User:
    id: int
    name: str


def idle(place: Place, **options):
    """Return a WriteBehind whose worker does nothing until it is made to."""
    return place.behind(lambda operations: None, max_delay="1h", **options)


def do(kind: Kind, behind, method: str, *args):
    return kind.do(behind, method, *args)


def test_a_put_is_visible_at_once(place, kind):
    """To this process, and to others that share the place."""
    cache = place.cache()
    behind = idle(place, cache=cache)
    do(kind, behind, "put", 1, "ann")
    assert kind.do(cache, "get", "user:1") == "ann"
    if place.kind != "memory":
        assert kind.do(place.cache(), "get", "user:1") == "ann"
    do(kind, behind, "put", 1, "bob")
    assert kind.do(cache, "get", "user:1") == "bob"
    do(kind, behind, "delete", 1)
    assert kind.do(cache, "get", "user:1", MISS) is MISS


def test_peers_hear_of_it(shared, kind):
    """What another process has in L1 goes as soon as its bus brings the message."""
    mine, other = shared.cache(), shared.cache()
    other.set("user:1", "old")
    assert other.get("user:1") == "old"
    do(kind, idle(shared, cache=mine), "put", 1, "new")
    until(lambda: other.get("user:1") == "new")


def test_a_put_fences_loads_under_way(place, kind):
    """A load that began before the write serves those who wait for it, and is not kept."""
    cache = place.cache()
    behind = idle(place, cache=cache)
    inside, go_on = threading.Event(), threading.Event()

    def load():
        inside.set()
        assert go_on.wait(10)
        return "from before"

    loaded = []
    thread = threading.Thread(target=lambda: loaded.append(cache.get_or_load("user:1", load)))
    thread.start()
    assert inside.wait(10)
    do(kind, behind, "put", 1, "written")
    go_on.set()
    thread.join()
    assert loaded == ["from before"]
    assert cache.get("user:1") == "written"


def test_the_writer_gets_what_was_put(place, kind):
    """Kind, key, item, value; ids that differ, versions that grow."""
    got = []
    behind = place.behind(got.extend)
    versions = [
        do(kind, behind, "put", 1, User(1, "ann")),
        do(kind, behind, "put", "two", None),
        do(kind, behind, "delete", 3),
    ]
    assert do(kind, behind, "flush") == 0
    by_item = {operation.item: operation for operation in got}
    found = [by_item[item] for item in (1, "two", 3)]
    assert [each.kind for each in found] == ["create", "create", "delete"]
    assert [each.key for each in found] == ["user:1", "user:two", "user:3"]
    assert [each.value for each in found] == [User(1, "ann"), None, None]
    assert [each.version for each in found] == versions == sorted(versions)
    assert len({each.id for each in found}) == 3


def test_kinds_follow_what_the_cache_knows(place):
    """Create, then update, then delete, then create again; merging tells from before it all."""
    got = []
    behind = place.behind(got.extend)
    for step in (lambda: behind.put(1, "a"), lambda: behind.put(1, "b"), lambda: behind.delete(1)):
        step()
        behind.flush()
    behind.put(1, "c")
    behind.flush()
    assert [each.kind for each in got] == ["create", "update", "delete", "create"]


def test_several_operations_are_merged_to_the_last(place):
    """The writer sees the newest value of each key only."""
    got = []
    behind = place.behind(got.extend, max_delay="1h")
    for number in range(50):
        behind.put(number % 2, number)
    behind.flush()
    assert sorted((each.item, each.value) for each in got) == [(0, 48), (1, 49)]


def test_without_merge_all_are_written_in_order(place):
    """Each of them, with its own id and version."""
    got = []
    behind = place.behind(got.extend, max_delay="1h", merge=False)
    for number in range(250):
        behind.put(number % 2, number)
    behind.flush()
    for item in (0, 1):
        assert [each.value for each in got if each.item == item] == list(range(item, 250, 2))
    assert len({each.id for each in got}) == 250


def test_templates_of_several_fields_take_tuples(place):
    """The item comes back as it was given."""
    got = []
    behind = place.behind(got.extend, key="user:{}:{}")
    behind.put((1, "en"), "hello")
    behind.flush()
    assert [(each.key, each.item) for each in got] == [("user:1:en", (1, "en"))]


def test_an_item_that_does_not_fit_is_refused(place, kind):
    """Nothing is accepted."""
    behind = idle(place, key="user:{}:{}")
    with pytest.raises(UncacheableArguments):
        do(kind, behind, "put", 1, "x")
    assert behind.stats().depth == 0


def test_a_value_without_bytes_is_refused(place, kind):
    """Nothing has changed: neither the journal nor what readers see."""
    cache = place.cache()
    behind = idle(place, cache=cache)
    do(kind, behind, "put", 1, "good")
    with pytest.raises(EncodeError):
        do(kind, behind, "put", 1, object())
    assert cache.get("user:1") == "good"
    assert behind.stats().puts == 1


def test_a_full_journal_refuses(place, kind):
    """By choice at once; what readers see has not changed, and a known key has room."""
    go_on, cache = threading.Event(), place.cache()
    behind = place.behind(
        lambda _: go_on.wait(10), cache=cache, max_pending=2, max_batch=2, when_full="raise"
    )
    do(kind, behind, "put", 1, "a")
    do(kind, behind, "put", 2, "b")
    with pytest.raises(JournalFull, match="max_pending is 2"):
        do(kind, behind, "put", 3, "c")
    assert cache.get("user:3", MISS) is MISS
    do(kind, behind, "put", 2, "merged")
    go_on.set()


def test_a_full_journal_makes_puts_wait(place, kind):
    """Until the writer has made room."""
    go_on, got = threading.Event(), []

    def writer(operations):
        assert go_on.wait(10)
        got.extend(operations)

    behind = place.behind(writer, max_pending=2, max_batch=2)
    do(kind, behind, "put", 1, "a")
    do(kind, behind, "put", 2, "b")
    threading.Timer(0.05, go_on.set).start()
    do(kind, behind, "put", 3, "c")
    assert go_on.is_set()
    assert do(kind, behind, "flush") == 0
    assert sorted(each.value for each in got) == ["a", "b", "c"]


def test_a_full_journal_is_a_full_batch(place, kind):
    """A max_pending below max_batch needs no second option: what fills the journal is written."""
    got = []
    behind = place.behind(got.extend, max_pending=2, max_delay="1h")
    for item in (1, 2, 3):
        do(kind, behind, "put", item, "a")
    until(lambda: {each.item for each in got} >= {1, 2})


def test_a_put_waits_for_a_connection(shared, kind, monkeypatch):
    """More puts at once than there are connections are many, not an outage."""
    cache = shared.cache()
    behind, demand, busy = idle(shared, cache=cache), L2.demand, []

    async def demand_in_vain(self, port, place, operation, *args):
        if operation == "put" and len(busy) < 3:
            busy.append(args)
            raise StoreBusy("all connections are in use")
        return await demand(self, port, place, operation, *args)

    monkeypatch.setattr(L2, "demand", demand_in_vain)
    do(kind, behind, "put", 1, "a")
    assert (len(busy), cache.get("user:1"), behind.stats().puts) == (3, "a", 1)
    monkeypatch.setattr(entering, "BUSY_SECONDS", -1)
    busy.clear()
    with pytest.raises(WriteFailed, match="in use"):
        do(kind, behind, "put", 1, "b")
    assert cache.get("user:1") == "a"


def test_waiting_for_room_ends(place, kind):
    """After max_wait, with an error that says why."""
    release = threading.Event()
    behind = place.behind(
        lambda _: release.wait(10), max_pending=1, max_batch=1, max_wait="50ms", max_delay="1ms"
    )
    do(kind, behind, "put", 1, "a")
    with pytest.raises(JournalFull):
        do(kind, behind, "put", 2, "b")
    release.set()


def test_a_closed_one_accepts_nothing(place, kind):
    """And says so; closing twice is fine."""
    behind = place.behind(lambda operations: None)
    do(kind, behind, "put", 1, "a")
    assert do(kind, behind, "close") == 0
    assert do(kind, behind, "close") == 0
    with pytest.raises(CacheError, match="is closed"):
        do(kind, behind, "put", 1, "b")


def test_without_l2_it_must_be_said(kind):
    """A journal in memory is lost with the process, so it is asked for by name."""
    with (
        Cache("u", l2=None) as cache,
        pytest.raises(ConfigurationError, match="durable=False: a crash loses them"),
    ):
        cache.write_behind(lambda operations: None, key="user:{}")


def test_a_journal_out_of_reach_is_an_error(server, kind):
    """The write is not accepted, says so, and leaves nothing that readers might believe."""
    from tests.servers import RedisServer

    with RedisServer() as own:
        place = Place("redis", own, "")
        cache = place.cache()
        behind = idle(place, cache=cache)
        do(kind, behind, "put", 1, "a")
        own.kill()
        with pytest.raises(WriteFailed, match="write it again"):
            do(kind, behind, "put", 1, "b")
        assert cache.get("user:1", MISS) is MISS
        assert behind.stats().depth is None
        own.start()
        until(lambda: _can_put(behind))
        cache.close()


def _can_put(behind) -> bool:
    try:
        behind.put(1, "c")
    except WriteFailed:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_batch": 0}, "max_batch must be at least 1, got 0"),
        ({"max_pending": True}, "max_pending must be at least 1"),
        ({"max_delay": 0}, "max_delay must be positive"),
        ({"max_attempts": 0}, "max_attempts must be at least 1"),
        ({"when_full": "drop"}, 'when_full must be "wait" or "raise"'),
        ({"backoff": ("1s", "1ms")}, "swap the two"),
        ({"backoff": (1, 2, 3)}, "the first delay and the longest"),
        ({"claim_timeout": "soon"}, "claim_timeout is not a duration"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"merge": "x"}, "merge must be True or False, got 'x'"),
        ({"durable": None}, "durable must be True or False, got None"),
        ({"on_sigterm": 3}, "on_sigterm must be True or False, got 3"),
        ({"workers": 0}, "use durable=True or workers=1"),
        ({"key": "users"}, "has no field"),
        ({"name": ""}, "name must be a text"),
    ],
)
def test_illegal_options_are_named(options, match):
    """With the value and the remedy, before anything is begun."""
    options = {"key": "user:{}", "durable": False, **options}
    with Cache("u", l2=None) as cache, pytest.raises(ConfigurationError, match=match):
        cache.write_behind(lambda operations: None, **options)


def generator(operations):
    yield operations


@pytest.mark.parametrize(
    ("writer", "match"),
    [
        (None, "a function of a list of operations"),
        (lambda: None, "must take one argument"),
        (generator, "is a generator"),
    ],
)
def test_what_cannot_be_a_writer_is_refused(writer, match):
    """At once, not when the first batch is due."""
    with Cache("u", l2=None) as cache, pytest.raises(ConfigurationError, match=match):
        cache.write_behind(writer, key="user:{}", durable=False)


def test_two_writers_of_one_name_are_refused():
    """A journal has one; another name makes another journal."""
    with Cache("u", l2=None) as cache:
        cache.write_behind(print, key="user:{}", durable=False)
        with pytest.raises(ConfigurationError, match="another name="):
            cache.write_behind(print, key="team:{}", durable=False, name="user:{}")
        cache.write_behind(print, key="team:{}", durable=False, name="teams")


@pytest.mark.parametrize("key", ["user:{}", "user:{id}"])
@pytest.mark.parametrize("name", [None, "audit"])
def test_two_writers_of_one_template_are_refused(key, name):
    """Whatever they are named: nothing would tell whose operation of a key is the newer."""
    with Cache("u", l2=None) as cache:
        cache.write_behind(print, key="user:{}", durable=False, name="first")
        with pytest.raises(ConfigurationError, match="named 'first'"):
            cache.write_behind(print, key=key, durable=False, name=name)
        cache.write_behind(print, key="user:{:04}", durable=False)
