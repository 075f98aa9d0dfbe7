"""What L2 does about an expiry that the store does not take."""

from __future__ import annotations

import pytest

from tests.waiting import until
from tiercache.testing import DictStore, FaultyStore


@pytest.fixture
def store(clock):
    return FaultyStore(DictStore(clock=clock), timeout=0.01)


@pytest.fixture
def cache(make_cache, store):
    return make_cache(l1=None, l2=store)


def expire(cache, kind, keys, seconds):
    """Call expire over the port of a kind of caller."""

    async def call():
        return await cache.flow.l2.expire(cache.asyncio, keys, seconds)

    if kind.name == "asyncio":
        return kind.call(call)
    from tiercache.runtime import run

    return run(cache.flow.l2.expire(cache.blocking, keys, seconds))


def test_it_is_the_stores(cache, store, kind):
    """One call; what comes back is how many there were."""
    cache.set("a", 1, ttl=100)
    assert expire(cache, kind, ["a", "missing"], [10, 0]) == 1
    assert 9 < store.namespace("test").read("a").remaining <= 10
    assert store.calls["expire"] == 1


def test_what_is_not_taken_is_owed_as_a_delete(cache, store, kind):
    """Rather nothing than a value that is fresh for longer than its author wants."""
    cache.set("a", 1, ttl=100)
    store.fail("expire", "delete")  # a delete that is taken may be paid before anybody looks
    assert expire(cache, kind, ["a"], [10]) == 0
    assert cache.stats().owed == 1
    store.heal()
    assert cache.get("a") is None
    until(lambda: cache.stats().owed == 0)  # the bus may be at it
    assert store.calls["delete"] >= 1
