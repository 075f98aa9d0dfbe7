"""A put into a journal in Redis is one command, and what happens where it is not the usual one."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.kinds import Kind
from tests.writes.conftest import Place
from tiercache.tiers.journal import Change, Draft, OpKind
from tiercache.tiers.store import Item
from tiercache.tiers.store import Kind as Told

MOST = 100


@pytest.fixture
def redis_place(server) -> Place:
    """A place on a server."""
    place = Place("redis", server, "")
    yield place
    for cache in place.caches:
        cache.close()


def sent(server) -> Counter[str]:
    """How often each command has come from clients; a script's own count as well."""
    text = server.command("INFO", "commandstats")
    lines = (text if isinstance(text, str) else text.decode()).splitlines()
    stats = [line.partition(":") for line in lines if line.startswith("cmdstat_")]
    return Counter(
        {name[8:]: int(rest.partition("=")[2].partition(",")[0]) for name, _, rest in stats}
    )


def idle(place: Place, **options):
    return place.behind(lambda operations: None, max_delay="1h", workers=0, **options)


def test_a_put_is_one_command(redis_place, server, kind: Kind):
    """Nothing is asked before it or after it, once the first has been made."""
    behind = idle(redis_place)
    kind.do(behind, "put", 1, "ann")
    before = sent(server)
    for number in range(5):
        kind.do(behind, "put", number, "bob")
    asked = sent(server) - before
    assert asked["evalsha"] == 5
    assert not asked["eval"]
    assert not asked["time"]
    assert not asked["del"]  # no key has a lease


def test_a_server_that_has_forgotten_the_script_is_told_it(redis_place, server, kind: Kind):
    """The put is accepted, once."""
    behind = idle(redis_place)
    first = kind.do(behind, "put", 1, "ann")
    server.command("SCRIPT", "FLUSH")
    assert kind.do(behind, "put", 2, "bob") > first
    assert kind.do(behind, "put", 2, "eve") > first
    assert kind.do(behind, "stats").depth == 2


def test_a_value_with_tags_is_put(redis_place, kind: Kind):
    """Its tag still invalidates it, and the write is still pending."""
    cache = redis_place.cache()
    behind = idle(redis_place, cache=cache, tags=["users"])
    kind.do(behind, "put", 1, "ann")
    other = redis_place.cache()
    assert kind.do(other, "get", "user:1") == "ann"
    kind.do(cache, "invalidate_tags", "users")
    namespace = redis_place.cache().flow.l2.namespace
    assert namespace.read("user:1") is None
    assert kind.do(behind, "stats").depth == 1


def test_a_put_ends_the_lease_of_a_load(redis_place):
    """So what the load brings is not kept over it."""
    namespace = redis_place.cache().flow.l2.namespace
    journal = namespace.journal("w", keeps_all=False)
    (claim,) = namespace.claim(["a"], [b"nonce..."], seconds=3.0)
    assert claim.lease is not None
    item = Item("a", b"new", 60.0)
    journal.put(Draft("a", False, b"head" + item.payload, False), Change(Told.SET, item), MOST)
    assert namespace.renew([("a", claim.lease.nonce)], 3.0) == [False]
    assert bytes(namespace.read("a").payload) == b"new"


def test_an_entry_without_a_ttl_is_put(redis_place):
    """It stays until it is replaced."""
    namespace = redis_place.cache().flow.l2.namespace
    journal = namespace.journal("w", keeps_all=False)
    item = Item("a", b"new", None)
    journal.put(Draft("a", False, item.payload, False), Change(Told.SET, item), MOST)
    stored = namespace.read("a")
    assert (bytes(stored.payload), stored.remaining) == (b"new", None)


def test_a_clock_behind_the_journal_does_not_take_versions_back(redis_place, server):
    """Numbers go on from the last one given, though it is ahead of every clock."""
    cache = redis_place.cache()
    behind = idle(redis_place, cache=cache)
    version = behind.put(1, "ann")
    journal = cache.flow.l2.namespace.plans.keys.journal(behind.name, "state").decode()
    ahead = version + 10**12
    server.command("HSET", journal, "last", str(ahead))
    assert [behind.put(1, "bob"), behind.put(2, "eve")] == [ahead + 1, ahead + 2]


def test_what_a_row_is_to_the_cache_is_told(redis_place):
    """An entry in L2 says that there is a row."""
    namespace = redis_place.cache().flow.l2.namespace
    journal = namespace.journal("w", keeps_all=False)
    namespace.write("there", b"old", 60.0)
    for key in ("there", "new"):
        item = Item(key, b"new", 60.0)
        journal.put(Draft(key, False, item.payload, False), Change(Told.SET, item), MOST)
    kinds = [record.kind for record in journal.pending(["there", "new"])]
    assert kinds == [OpKind.UPDATE, OpKind.CREATE]


def test_a_process_without_workers_keeps_no_keys_for_them(redis_place):
    """Nobody would ever take them out of the bell."""
    behind = idle(redis_place)
    behind.put(1, "ann")
    assert not behind._bell._put
