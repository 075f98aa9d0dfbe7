"""FaultyStore does the harm it is told to, and no other."""

from __future__ import annotations

import threading
import time

import pytest

from tests.waiting import until
from tiercache.errors import StoreError, StoreTimeout
from tiercache.testing import DictStore, FaultyStore
from tiercache.tiers.store import Item, Kind, LogGap, Store


@pytest.fixture
def store():
    return FaultyStore(DictStore(), timeout=0.05)


@pytest.fixture
def space(store):
    space = store.namespace("c", "this")
    space.write("1", b"payload", 60)
    return space


def test_both_are_stores(store):
    """They follow the protocol, and say who they are."""
    assert isinstance(store, Store)
    assert isinstance(DictStore(), Store)
    assert store.label == "faulty dict"


async def test_it_counts_calls_of_both_kinds(store, space):
    """Both read and aread count as read, in whatever namespace; looks of a tail do not count."""
    space.read("1")
    await space.aread("1")
    await store.namespace("d").adelete(["1"])
    tail = space.tail(await space.alog_end())
    tail.read(0)
    tail.read(0)
    assert store.calls == {"write": 1, "read": 2, "delete": 1, "log_end": 1, "tail": 1}


async def test_fail_fails_until_healed(store, space):
    """Each method raises StoreError, or the error given, until heal."""
    store.fail()
    with pytest.raises(StoreError, match="read"):
        space.read("1")
    with pytest.raises(StoreError, match="write_many"):
        await space.awrite_many([Item("2", b"2", 60)])
    with pytest.raises(StoreError, match="claim"):
        await space.aclaim(["1"], [b"n" * 8], seconds=1)
    with pytest.raises(StoreError, match="lock"):
        space.lock("l", b"n" * 8, 1)
    store.fail(error=StoreTimeout("mine"))
    with pytest.raises(StoreTimeout, match="mine"):
        space.delete(["1"])
    store.heal()
    assert space.read("1") is not None


async def test_fail_can_be_for_some_methods(store, space):
    """Named methods fail, the others work; a twin's name stands for both."""
    store.fail("write", "afill")
    with pytest.raises(StoreError):
        space.write("2", b"2", 60)
    with pytest.raises(StoreError):
        await space.awrite("2", b"2", 60)
    with pytest.raises(StoreError):
        space.fill([])
    assert space.read("1") is not None
    assert space.tail(space.log_end()).read(0) == []


def test_a_method_that_does_not_exist_is_refused(store):
    """A fault that would never strike is a mistake in the test."""
    with pytest.raises(ValueError, match="raed"):
        store.fail("raed")


async def test_hang_takes_the_timeout(store, space):
    """Blocking and awaited calls wait for the timeout, then raise StoreTimeout."""
    store.hang()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            space.read("1")
        with pytest.raises(StoreTimeout):
            await space.aread("1")
        assert 0.09 < time.monotonic() - began < 5


def test_heal_wakes_who_hangs():
    """A test need not wait for the timeout of a hung call."""
    store = FaultyStore(DictStore(), timeout=60)
    space = store.namespace("c")
    store.hang()
    caught = in_thread(lambda: space.read("1"), StoreTimeout)
    until(lambda: store.calls["read"])
    store.heal()
    assert caught()


async def test_garbage_replaces_what_is_read(store, space):
    """Existing keys read as other bytes; missing ones stay missing; writing works."""
    store.garbage(b"junk")
    assert space.read("1").payload == b"junk"
    assert (await space.aread("1")).payload == b"junk"
    assert [each and each.payload for each in space.read_many(["1", "2"])] == [b"junk", None]
    (claim,) = space.claim(["1"], [b"n" * 8], seconds=60)
    assert claim.stored.payload == b"junk"
    store.heal()
    assert space.read("1").payload == b"payload"


async def test_garbage_can_be_for_some_methods(store, space):
    """Only the methods named return it."""
    store.garbage(b"junk", "read_many")
    assert space.read("1").payload == b"payload"
    assert (await space.aread_many(["1"]))[0].payload == b"junk"


def test_a_tail_fails_and_loses_nothing(store, space):
    """What is said during the outage is heard after it."""
    tail = space.tail(space.log_end())
    store.fail()
    with pytest.raises(StoreError, match="tail"):
        tail.read(0)
    store.fail("tail")
    space.announce(Kind.NEWS, ["1"])
    with pytest.raises(StoreError, match="tail"):
        tail.read(0)
    store.heal()
    assert [message.names for message in tail.read(0)] == [("1",)]


def test_a_tail_hangs_for_the_timeout(store, space):
    """A frozen store's log is late, too."""
    tail = space.tail(space.log_end())
    store.hang()
    began = time.monotonic()
    with pytest.raises(StoreTimeout, match="tail"):
        tail.read(0)
    assert 0.04 < time.monotonic() - began < 5


def test_a_tail_that_waits_sees_the_fault(store, space):
    """A read that began before the outage fails with it, as a cut connection does."""
    tail = space.tail(space.log_end())
    began = threading.Event()

    def listen():
        began.set()
        tail.read(60)

    caught = in_thread(listen, StoreError)
    assert began.wait(10)
    store.fail()
    assert caught()


def test_a_tail_that_hangs_can_be_interrupted():
    """So that a cache can be closed while its store is frozen."""
    store = FaultyStore(DictStore(), timeout=60)
    space = store.namespace("c")
    tail = space.tail(space.log_end())
    store.hang("tail")
    caught = in_thread(lambda: tail.read(60), StoreTimeout)
    tail.interrupt()
    assert caught()
    store.heal()
    space.announce(Kind.NEWS, ["1"])
    assert [message.names for message in tail.read(0)] == [("1",)]


def test_a_gap_comes_through():
    """What the log inside has lost is lost."""
    store = FaultyStore(DictStore(log_length=2))
    space = store.namespace("c")
    tail = space.tail(space.log_end())
    store.fail("tail")
    for number in range(5):
        space.announce(Kind.NEWS, [f"{number}"])
    store.heal()
    with pytest.raises(LogGap):
        tail.read(0)
    assert tail.read(0) == []


def in_thread(do, expected):
    """Do something in a thread; return what waits for its end and tells what it raised."""
    caught = []

    def work():
        try:
            do()
        except expected as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()

    def wait():
        thread.join(10)
        assert not thread.is_alive()
        return caught

    return wait


def test_a_dict_store_follows_its_clock():
    """Entries, leases and locks end when the clock given says so."""
    now = 100.0
    store = DictStore(clock=lambda: now)
    space = store.namespace("c")
    space.write("1", b"1", 10)
    space.claim(["2"], [b"n" * 8], seconds=10)
    space.lock("l", b"n" * 8, 10)
    assert len(store) == 1
    now = 109.0
    assert space.read("1").remaining == 1
    assert space.claim(["2"], [b"m" * 8], seconds=10)[0].held_for == 1
    assert space.lock("l", b"m" * 8, 10).held_for == 1
    now = 110.0
    assert space.read("1") is None
    assert len(store) == 0
    assert space.claim(["2"], [b"m" * 8], seconds=10)[0].lease is not None
    assert space.lock("l", b"m" * 8, 10).fence == 2
