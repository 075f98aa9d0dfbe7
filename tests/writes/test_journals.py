"""What every journal promises: see tiercache/tiers/journal.py."""

from __future__ import annotations

import pytest

from tests.waiting import until
from tests.writes.conftest import Place
from tiercache.tiers.journal import Burial, Change, Draft, JournalMismatch, OpKind, Retry
from tiercache.tiers.memory_journal import MemoryJournal
from tiercache.tiers.store import Item, Kind

MOST = 100
CLAIM = 30.0


def journal_in(place: Place, *, keeps_all: bool = False, name: str = "w"):
    if place.kind == "memory":
        return MemoryJournal(name, keeps_all=keeps_all)
    return place.cache().flow.l2.namespace.journal(name, keeps_all=keeps_all)


@pytest.fixture(params=[False, True], ids=["merged", "all"])
def journal(request, place):
    return journal_in(place, keeps_all=request.param)


@pytest.fixture
def merged(place):
    return journal_in(place)


def put(journal, key: str, body: bytes = b"body", *, deletes: bool = False, most: int = MOST):
    return journal.put(Draft(key, deletes, body, False), None, most)


def take(journal, worker: str = "a", *, most: int = 10, claim: float = CLAIM, patience=0.0):
    return journal.take(worker, most, claim, patience)


def test_what_is_put_is_taken_in_order(journal):
    """A ticket for each dirty key, the first first."""
    for key in ("b", "a", "c"):
        put(journal, key, key.encode())
    tickets = take(journal).tickets
    assert [ticket.key for ticket in tickets] == ["b", "a", "c"]
    assert [ticket.records[0].body for ticket in tickets] == [b"b", b"a", b"c"]


def test_versions_increase_across_keys_and_objects(place):
    """Whoever puts, a later operation has a greater version."""
    if place.kind == "memory":
        journals = [journal_in(place)] * 3
    else:
        journals = [journal_in(place) for _ in range(3)]
    versions = [put(journal, key).version for key in "ab" for journal in journals]
    assert versions == sorted(set(versions))


def test_merged_operations_are_the_last(merged):
    """One operation of a key is left, and what it is to its row is told by all of them."""
    put(merged, "a", b"1")
    last = put(merged, "a", b"2")
    (ticket,) = take(merged).tickets
    (record,) = ticket.records
    assert (record.body, record.kind, record.version) == (b"2", OpKind.CREATE, last.version)
    assert merged.level().depth == 1


def test_all_operations_are_kept_in_order(place):
    """With keeps_all each of them is there, with its own kind."""
    journal = journal_in(place, keeps_all=True)
    put(journal, "a", b"1")
    put(journal, "a", b"2")
    put(journal, "a", b"", deletes=True)
    put(journal, "a", b"4")
    assert journal.level().depth == 4
    (ticket,) = take(journal).tickets
    kinds = [record.kind for record in ticket.records]
    assert kinds == [OpKind.CREATE, OpKind.UPDATE, OpKind.DELETE, OpKind.CREATE]
    assert [record.body for record in ticket.records] == [b"1", b"2", b"", b"4"]


def test_keys_that_begin_alike_are_apart(place):
    """Whatever is in a key, no operation of another is taken for its."""
    journal = journal_in(place, keeps_all=True)
    keys = ["a", "a:", "1:a:", "a:b", "é\udcff"]
    for key in keys:
        put(journal, key, key.encode("utf-8", "surrogatepass"))
    tickets = take(journal).tickets
    assert [ticket.key for ticket in tickets] == keys
    assert all(len(ticket.records) == 1 for ticket in tickets)
    assert journal.done("a", tickets) == []
    assert journal.level().depth == 0


def test_no_two_workers_hold_a_key(journal):
    """What one has taken, and what comes meanwhile, is nobody else's until that one is done."""
    put(journal, "a", b"1")
    tickets = take(journal, "a").tickets
    put(journal, "a", b"2")
    assert not take(journal, "b").tickets
    assert journal.done("a", tickets) == []
    (ticket,) = take(journal, "b").tickets
    assert [record.body for record in ticket.records] == [b"2"]
    assert ticket.records[0].kind is OpKind.UPDATE


def test_an_abandoned_ticket_is_given_to_another(journal):
    """After claim_seconds; it counts as an attempt, and its old holder can do nothing with it."""
    put(journal, "a", b"1")
    old = take(journal, "a", claim=0.01).tickets
    until(lambda: take(journal, "b", claim=0.01).tickets)
    put(journal, "a", b"2")
    assert journal.done("a", old) == [old[0].id]
    assert journal.retry("a", [Retry(old[0], 0.0, 1)]) == 1
    assert journal.bury("a", [Burial(old[0], "boom")], MOST) == [None]
    assert journal.level().depth >= 1
    assert journal.level().dead == 0


def test_an_abandoned_ticket_is_suspect(journal):
    """The attempt that its holder did not survive is counted."""
    put(journal, "a")
    take(journal, "a", claim=0.01)
    found = []
    until(lambda: found.extend(take(journal, "b", claim=0.01).tickets) or found)
    assert found[0].is_suspect
    assert found[0].attempts == 1


def test_what_is_put_off_comes_later(journal):
    """Not before its time, with its attempts; and wait says when."""
    put(journal, "a")
    journal.retry("a", [Retry(take(journal).tickets[0], 60.0, 3)])
    taken = take(journal)
    assert not taken.tickets
    assert 59 < taken.wait <= 60
    put(journal, "b")
    (other,) = take(journal).tickets
    journal.retry("a", [Retry(other, 0.001, 2)])
    found = []
    until(lambda: found.extend(take(journal).tickets) or found)
    assert (found[0].key, found[0].attempts, found[0].is_suspect) == ("b", 2, False)


def test_a_new_operation_has_not_been_tried(merged):
    """What failed was another one."""
    put(merged, "a", b"1")
    merged.retry("a", [Retry(take(merged).tickets[0], 0.001, 5)])
    put(merged, "a", b"2")
    found = []
    until(lambda: found.extend(take(merged).tickets) or found)
    assert found[0].attempts == 0


def test_few_operations_wait_for_more(journal):
    """For ``patience`` seconds, unless there are enough."""
    put(journal, "a")
    taken = take(journal, most=2, patience=60.0)
    assert not taken.tickets
    assert 59 < taken.wait <= 60
    put(journal, "b")
    assert len(take(journal, most=2, patience=60.0).tickets) == 2


def test_a_full_journal_takes_nothing_new(place):
    """Without merging no operation, with it no new key; nothing changes."""
    merged, whole = journal_in(place), journal_in(place, keeps_all=True, name="all")
    for journal in (merged, whole):
        assert put(journal, "a", most=1).version is not None
        assert put(journal, "b", most=1).version is None
        assert journal.pending(["b"]) == [None]
    assert put(merged, "a", most=1).version is not None
    assert put(whole, "a", most=1).version is None


def test_pending_is_the_newest(journal):
    """Until it is written, held or not."""
    put(journal, "a", b"1")
    tickets = take(journal).tickets
    put(journal, "a", b"2")
    assert [each and each.body for each in journal.pending(["a", "b"])] == [b"2", None]
    journal.done("a", tickets)
    journal.done("a", take(journal).tickets)
    assert journal.pending(["a"]) == [None]


def test_the_level_says_what_there_is(journal):
    """Depth, what is held, put off and dead, and since when."""
    assert journal.level()._replace(newest=0) == (0, None, 0, 0, 0, 0, 0.0)
    first = put(journal, "a").version
    put(journal, "b")
    put(journal, "c")
    a, b = take(journal, most=2).tickets
    journal.retry("a", [Retry(b, 60.0, 1)])
    until(lambda: journal.level().lag_seconds > 0)  # in whole milliseconds
    level = journal.level()
    assert (level.depth, level.oldest, level.held, level.put_off) == (3, first, 1, 1)
    assert 0 < level.lag_seconds < 100
    assert journal.bury("a", [Burial(a, "boom")], MOST) == [True]
    assert journal.level().dead == 1


def test_a_dead_letter_is_kept_and_revived(journal):
    """It comes back as the same operation, not tried yet."""
    version = put(journal, "a", b"1").version
    (ticket,) = take(journal).tickets
    assert journal.bury("a", [Burial(ticket, "boom")], MOST) == [True]
    assert journal.level().depth == 0
    assert journal.pending(["a"]) == [None]
    (letter,) = journal.dead(10)
    assert (letter.key, letter.record.body, letter.error, letter.attempts) == ("a", b"1", "boom", 1)
    assert journal.revive([letter.id]) == [letter.id]
    assert not journal.dead(10)
    assert journal.revive([letter.id]) == []
    (ticket,) = take(journal).tickets
    assert (ticket.records[0].version, ticket.records[0].body) == (version, b"1")
    assert journal.done("a", [ticket]) == []
    assert journal.level().depth == 0


def test_an_outdated_dead_letter_is_not_revived(journal):
    """Something newer of its key was accepted, whether it is written yet or not."""
    put(journal, "a", b"1")
    journal.bury("a", [Burial(take(journal).tickets[0], "boom")], MOST)
    (letter,) = journal.dead(10)
    put(journal, "a", b"2")
    assert journal.revive([letter.id]) == []
    journal.done("a", take(journal).tickets)
    assert journal.revive([letter.id]) == []
    assert journal.discard([letter.id, "99-0" if "-" in letter.id else "99"]) == 1
    assert not journal.dead(10)


def test_dead_letters_are_bounded(journal):
    """Beyond, an operation stays where it is."""
    put(journal, "a")
    put(journal, "b")
    one, other = take(journal).tickets
    assert journal.bury("a", [Burial(one, "boom"), Burial(other, "boom")], 1) == [True, None]
    assert journal.level().depth == 1
    assert journal.retry("a", [Retry(other, 0.0, 1)]) == 0


def test_what_is_superseded_is_not_buried(merged):
    """Merged operations are one: the newest is tried in place of the one that failed."""
    put(merged, "a", b"1")
    tickets = take(merged).tickets
    put(merged, "a", b"2")
    assert merged.bury("a", [Burial(tickets[0], "boom")], MOST) == [False]
    assert not merged.dead(10)
    assert take(merged).tickets[0].records[0].body == b"2"


def test_burying_one_of_many_goes_on_with_the_next(place):
    """Without merging only the first operation of the ticket is given up."""
    journal = journal_in(place, keeps_all=True)
    put(journal, "a", b"1")
    put(journal, "a", b"2")
    (ticket,) = take(journal).tickets
    assert journal.bury("a", [Burial(ticket, "boom")], MOST) == [False]
    (ticket,) = take(journal).tickets
    assert [record.body for record in ticket.records] == [b"2"]
    assert len(journal.dead(10)) == 1


def test_the_mode_may_change_between_releases(shared):
    """What was accepted under another ``merge`` is written all the same, and nothing comes back."""
    whole, merged = journal_in(shared, keeps_all=True), journal_in(shared)
    put(whole, "a", b"1")
    put(whole, "a", b"2")
    (ticket,) = take(merged).tickets
    assert [record.body for record in ticket.records] == [b"2"]
    merged.done("a", [ticket])
    put(merged, "a", b"3")
    (ticket,) = take(whole).tickets
    assert [record.body for record in ticket.records] == [b"3"]


def test_a_put_brings_the_entry_in_line(shared):
    """In the same step: the entry, and a message for peers."""
    space = shared.cache().flow.l2.namespace
    journal = space.journal("w", keeps_all=False)
    tail = space.tail(space.log_end())
    change = Change(Kind.SET, Item("a", b"payload", 60.0, ("red",)))
    journal.put(Draft("a", False, b"head" + b"payload", False), change, MOST)
    stored = space.read("a")
    assert (bytes(stored.payload), stored.tags) == (b"payload", ("red",))
    assert take(journal).tickets[0].records[0].body == b"headpayload"
    journal.put(Draft("a", True, b"head", False), Change(Kind.DELETE), MOST)
    assert space.read("a") is None
    assert [(each.kind, each.names) for each in tail.read(1.0)] == [
        (Kind.SET, ("a",)),
        (Kind.DELETE, ("a",)),
    ]
    tail.close()


def test_a_put_ends_the_lease_of_a_load(shared):
    """What was loaded before the write is not kept after it."""
    from tiercache.tiers.store import Fill

    space = shared.cache().flow.l2.namespace
    journal = space.journal("w", keeps_all=False)
    (claim,) = space.claim(["a"], [b"12345678"], seconds=10)
    journal.put(Draft("a", True, b"head", False), Change(Kind.DELETE), MOST)
    assert space.fill([Fill("a", claim.lease, b"older", 60.0)]) == [False]
    assert space.read("a") is None


def test_a_full_journal_leaves_the_entry_alone(shared):
    """What was not accepted has no effect."""
    space = shared.cache().flow.l2.namespace
    journal = space.journal("w", keeps_all=False)
    put(journal, "b", most=1)
    change = Change(Kind.SET, Item("a", b"new", 60.0))
    assert journal.put(Draft("a", False, b"new", False), change, 1).version is None
    assert space.read("a") is None


def test_the_entry_tells_create_from_update(shared):
    """Where the cache has a value there is a row."""
    space = shared.cache().flow.l2.namespace
    journal = space.journal("w", keeps_all=False)
    space.write("a", b"payload", 60.0)
    change = Change(Kind.SET, Item("a", b"new", 60.0))
    journal.put(Draft("a", False, b"new", False), change, MOST)
    assert take(journal).tickets[0].records[0].kind is OpKind.UPDATE


def test_a_journal_of_another_format_is_left_alone(shared, server, tmp_path):
    """Its operations are neither read nor changed, and every attempt says so."""
    journal = journal_in(shared)
    put(journal, "a")
    _set_format(shared, server, tmp_path, "9")
    for attempt in (lambda: put(journal, "a"), lambda: take(journal)):
        with pytest.raises(JournalMismatch, match="of format '9'"):
            attempt()
    _set_format(shared, server, tmp_path, "1")
    assert [ticket.records[0].body for ticket in take(journal).tickets] == [b"body"]


def _set_format(place, server, tmp_path, text: str) -> None:
    if place.kind == "redis":
        server.command("HSET", "tc:{users}:writes:w:state", "format", text)
        return
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "cache.db")) as db, db:
        db.execute("UPDATE journal SET format = ?", (text,))


def test_a_lost_queue_is_made_anew(server):
    """Every dirty key gets a ticket again."""
    place = Place("redis", server, "")
    journal = journal_in(place)
    put(journal, "a")
    put(journal, "b")
    server.command("DEL", "tc:{users}:writes:w:queue")
    assert {ticket.key for ticket in take(journal).tickets} == {"a", "b"}
    place.caches[0].close()


def test_a_server_that_evicts_anything_is_refused(server):
    """A journal must not be evicted: the remedy is named."""
    place = Place("redis", server, "")
    server.command("CONFIG", "SET", "maxmemory", "100mb")
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ValueError, match="set it to volatile-lru"):
            put(journal_in(place), "a")
        server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        assert put(journal_in(place), "a").version is not None
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        for cache in place.caches:
            cache.close()


def test_workers_that_left_are_forgotten(server):
    """And no others, that may be at work."""
    place = Place("redis", server, "")
    journal = journal_in(place)
    put(journal, "a")
    take(journal, "busy")
    take(journal, "lazy")
    journal.leave("lazy")
    found = server.command("XINFO", "CONSUMERS", "tc:{users}:writes:w:queue", "writers")
    assert b"busy" in found and b"lazy" not in found
    place.caches[0].close()


def test_a_worker_that_leaves_gives_back(shared):
    """What it held is due at once, and is not taken for what it died of; of others nothing is."""
    journal = journal_in(shared)
    put(journal, "a")
    take(journal, "leaver")
    put(journal, "b")
    take(journal, "stayer")
    journal.leave("leaver")
    (ticket,) = take(journal, "next").tickets
    assert (ticket.key, ticket.is_suspect, ticket.attempts) == ("a", False, 0)


def test_a_journal_outlives_the_cache_in_its_file(tmp_path):
    """Neither another format of the cache's tables nor a restart of the machine drops it."""
    import sqlite3
    from contextlib import closing

    path = tmp_path / "cache.db"
    restart = (
        "UPDATE meta SET value = 'b' WHERE name = 'boot'; UPDATE journal_ticket SET boot = 'b'"
    )
    for change in ("PRAGMA user_version = 1", restart):
        place = Place("sqlite", None, str(path))
        journal = journal_in(place)
        put(journal, "a", b"kept")
        take(journal, "dead")
        for cache in place.caches:
            cache.close()
        with closing(sqlite3.connect(path)) as db, db:
            db.executescript(change)
    place = Place("sqlite", None, str(path))
    (ticket,) = take(journal_in(place)).tickets
    assert ticket.records[0].body == b"kept"
    for cache in place.caches:
        cache.close()
