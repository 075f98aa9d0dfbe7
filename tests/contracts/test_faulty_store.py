"""FaultyStore does the harm it is told to, and no other."""

from __future__ import annotations

import threading
import time

import pytest

from tiercache.errors import StoreError, StoreTimeout
from tiercache.testing.stores import DictStore, FaultyStore
from tiercache.tiers.store import Store


@pytest.fixture
def store():
    store = FaultyStore(DictStore(), timeout=0.05)
    store.write("c:1", b"payload", 60)
    return store


def test_both_are_stores(store):
    """They follow the protocol, and say who they are."""
    assert isinstance(store, Store)
    assert isinstance(DictStore(), Store)
    assert store.label == "faulty dict"


async def test_it_counts_calls_of_both_kinds(store):
    """Both read and aread count as read."""
    store.read("c:1")
    await store.aread("c:1")
    await store.adelete(["c:1"])
    assert store.calls == {"write": 1, "read": 2, "delete": 1}


async def test_fail_fails_until_healed(store):
    """Each method raises StoreError, or the error given, until heal."""
    store.fail()
    with pytest.raises(StoreError, match="read"):
        store.read("c:1")
    with pytest.raises(StoreError, match="write_many"):
        await store.awrite_many([("c:2", b"2", 60)])
    store.fail(error=StoreTimeout("mine"))
    with pytest.raises(StoreTimeout, match="mine"):
        store.delete(["c:1"])
    store.heal()
    assert store.read("c:1") is not None


async def test_fail_can_be_for_some_methods(store):
    """Named methods fail, the others work."""
    store.fail("write", "awrite")
    with pytest.raises(StoreError):
        store.write("c:2", b"2", 60)
    with pytest.raises(StoreError):
        await store.awrite("c:2", b"2", 60)
    assert store.read("c:1") is not None


async def test_hang_takes_the_timeout(store):
    """Blocking and awaited calls wait for the timeout, then raise StoreTimeout."""
    store.hang()
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            store.read("c:1")
        with pytest.raises(StoreTimeout):
            await store.aread("c:1")
        assert 0.09 < time.monotonic() - began < 1


def test_heal_wakes_who_hangs():
    """A test need not wait for the timeout of a hung call."""
    store = FaultyStore(DictStore(), timeout=60)
    store.hang()
    caught = []

    def read():
        try:
            store.read("c:1")
        except StoreTimeout as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while not store.calls["read"]:
        time.sleep(0.001)
    store.heal()
    thread.join(10)
    assert caught


async def test_garbage_replaces_what_is_read(store):
    """Existing keys read as other bytes; missing ones stay missing; writing works."""
    store.garbage(b"junk")
    assert store.read("c:1").payload == b"junk"
    assert (await store.aread("c:1")).payload == b"junk"
    assert [each and each.payload for each in store.read_many(["c:1", "c:2"])] == [b"junk", None]
    store.heal()
    assert store.read("c:1").payload == b"payload"


def test_a_dict_store_follows_its_clock():
    """Entries expire when the clock given says so."""
    now = 100.0
    store = DictStore(clock=lambda: now)
    store.write("c:1", b"1", 10)
    assert len(store) == 1
    now = 109.0
    assert store.read("c:1").remaining == 1
    now = 110.0
    assert store.read("c:1") is None
    assert len(store) == 0
