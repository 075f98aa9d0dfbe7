"""Warming beside others: callers, writers, and processes that warm the same keys."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import RedisServer
from tests.waiting import until
from tiercache import LRU, Cache, Redis, SQLite
from tiercache.testing import DictStore, FaultyStore


@pytest.fixture
def store(clock):
    return DictStore(clock=clock)


class Held:
    """A blocking loader whose loads wait until they are let go."""

    def __init__(self):
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.calls = Counter()

    def __call__(self, i):
        self.calls[i] += 1
        self.begun.set()
        assert self.go_on.wait(10)
        return i


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


class TestCallers:
    """Who asks for a key while it is being warmed."""

    def test_a_caller_joins_the_load(self, cache, pool):
        """One load for both; the call is the caller's miss, and nobody else's."""
        held = Held()
        load = cache.cached("n:{i}")(lambda i: held(i))
        cache.warmer(load)(lambda: [1])
        warming = pool.submit(cache.warm)
        assert held.begun.wait(10)
        calling = pool.submit(load, 1)
        until(lambda: cache.flow.flights.under_way()[0].passengers == 2)
        held.go_on.set()
        assert calling.result(10) == 1
        assert warming.result(10).loaded == 1
        assert held.calls == {1: 1}
        assert (cache.stats().misses, cache.stats().joined, cache.stats().loads) == (1, 1, 1)

    def test_warming_does_not_wait_for_a_callers_load(self, cache, pool):
        """What somebody is loading already is passed over, and stays the caller's."""
        held = Held()
        load = cache.cached("n:{i}")(lambda i: held(i) if i == 1 else i)
        cache.warmer(load)(lambda: [1, 2])
        calling = pool.submit(load, 1)
        assert held.begun.wait(10)
        report = cache.warm()
        assert (report.loaded, report.skipped) == (1, 1)
        assert [flight.passengers for flight in cache.flow.flights.under_way()] == [1]
        held.go_on.set()
        assert calling.result(10) == 1
        assert held.calls == {1: 1}

    def test_cancelling_awarm_leaves_a_callers_load_alone(self, cache):
        """The caller who has joined gets its value; nothing is begun any more."""

        async def main():
            begun, go_on, calls = asyncio.Event(), asyncio.Event(), []

            @cache.cached("n:{i}")
            async def load(i):
                calls.append(i)
                begun.set()
                await go_on.wait()
                return i

            cache.warmer(load)(lambda: range(100))
            warming = asyncio.ensure_future(cache.awarm(concurrency=1))
            await begun.wait()
            calling = asyncio.ensure_future(load(calls[0]))
            await asyncio.sleep(0.01)
            warming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await warming
            assert not calling.done()
            go_on.set()
            assert await calling == calls[0]
            assert len(calls) == 1

        asyncio.run(main())

    def test_cancelling_awarm_ends_what_nobody_wants(self, cache):
        """A load of its own is cancelled with it."""

        async def main():
            begun, ended = asyncio.Event(), asyncio.Event()

            @cache.cached("n:{i}")
            async def load(i):
                begun.set()
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.set()

            cache.warmer(load)(lambda: [1])
            warming = asyncio.ensure_future(cache.awarm())
            await begun.wait()
            warming.cancel()
            with pytest.raises(asyncio.CancelledError):
                await warming
            await asyncio.wait_for(ended.wait(), 10)
            until(lambda: not cache.flow.flights.under_way())

        asyncio.run(main())


class TestWriters:
    """A write that comes between."""

    @pytest.mark.parametrize("uses_l2", [False, True])
    @pytest.mark.parametrize("write", ["delete", "set", "invalidate_tags", "clear"])
    def test_no_resurrection(self, make_cache, store, pool, write, uses_l2):
        """A value loaded before a write does not land after it, in either tier."""
        held = Held()
        cache = make_cache(l2=store if uses_l2 else None)
        load = cache.cached("n:{i}", tags=["t"])(lambda i: held(i))
        cache.warmer(load)(lambda: [1])
        warming = pool.submit(cache.warm)
        assert held.begun.wait(10)
        args = {"delete": ["n:1"], "set": ["n:1", "new"], "invalidate_tags": ["t"], "clear": []}
        getattr(cache, write)(*args[write])
        held.go_on.set()
        assert warming.result(10).loaded == 1
        expected = "new" if write == "set" else None
        assert cache.get("n:1") == expected
        if uses_l2:
            assert make_cache(l2=store).get("n:1") == expected

    def test_what_l2_refuses_is_not_kept_in_l1(self, make_cache, store, pool):
        """A peer's delete ends the lease, even where its message has not come yet."""
        held = Held()
        faulty = FaultyStore(store)
        cache = make_cache(l2=faulty)
        cache.warmer(cache.cached("n:{i}")(lambda i: held(i)))(lambda: [1])
        warming = pool.submit(cache.warm)
        assert held.begun.wait(10)
        faulty.fail("tail")
        store.namespace("test").delete(["n:1"])
        held.go_on.set()
        assert warming.result(10).loaded == 1
        assert "n:1" not in cache.memory


class TestProcesses:
    """Several that warm the same keys."""

    def test_what_another_is_loading_is_passed_over(self, make_cache, store, pool):
        """Its lease is not waited for; a caller here waits as ever."""
        held = Held()
        one, two = make_cache(l2=store), make_cache(l2=store)
        for cache in (one, two):
            cache.warmer(cache.cached("n:{i}")(lambda i: held(i)))(lambda: [1])
        warming = pool.submit(one.warm)
        assert held.begun.wait(10)
        report = two.warm()
        assert (report.loaded, report.skipped) == (0, 1)
        held.go_on.set()
        assert warming.result(10).loaded == 1
        assert two.get("n:1") == 1
        assert held.calls == {1: 1}

    def test_a_caller_who_joined_what_is_passed_over_gets_the_value(self, make_cache, store, pool):
        """A flight that warming gives up is flown again by who else is aboard."""
        held = Held()
        one, two = make_cache(l2=store), make_cache(l2=store)
        loads = [c.cached("n:{i}")(lambda i: held(i)) for c in (one, two)]
        two.warmer(loads[1])(lambda: [1])
        calling = pool.submit(loads[0], 1)
        assert held.begun.wait(10)
        callers = [pool.submit(loads[1], 1) for _ in range(3)]
        for _ in range(20):
            two.warm()
        held.go_on.set()
        assert [each.result(10) for each in (calling, *callers)] == [1] * 4
        assert held.calls == {1: 1}

    @pytest.mark.parametrize("uses_batch", [False, True])
    def test_side_by_side_each_key_is_loaded_once(self, make_cache, store, pool, uses_batch):
        """Four caches on one store share the work."""
        calls = Counter()

        def load_one(i):
            calls[i] += 1
            return i

        def load_many(ids):
            calls.update(ids)
            return {i: i for i in ids}

        caches = [make_cache(l1=LRU(5000), l2=store) for _ in range(4)]
        for cache in caches:
            load = cache.cached("n:{i}", batch=load_many if uses_batch else None)(load_one)
            cache.warmer(load)(lambda: range(2000))
        reports = list(pool.map(lambda cache: cache.warm(concurrency=2), caches))
        assert sum(report.loaded for report in reports) == 2000
        assert set(calls.values()) == {1}
        assert len(store) == 2000

    def test_real_processes_share_a_file(self, tmp_path):
        """Two processes warm 300 keys over SQLite: 300 loads between them."""
        command = [sys.executable, "-c", WORKER, str(tmp_path / "cache.db"), str(tmp_path)]
        workers = [
            subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."})
            for _ in range(2)
        ]
        loaded = [int(worker.communicate(timeout=60)[0]) for worker in workers]
        assert sum(loaded) == 300
        with Cache("w", l2=SQLite(tmp_path / "cache.db", timeout=5)) as cache:
            assert len(cache.get_many([f"n:{i}" for i in range(300)])) == 300


class TestRealStores:
    """Over connections that belong to threads and event loops."""

    @pytest.mark.parametrize("make", ["redis", "sqlite"])
    def test_both_kinds_of_functions(self, make, kind, server_url, tmp_path):
        """Nothing is left open, whoever calls; a new process finds all of it."""

        def new_cache():
            return Cache(
                "w",
                l2=Redis(server_url, timeout=5)
                if make == "redis"
                else SQLite(tmp_path / "db", timeout=5),
            )

        cache = new_cache()
        calls = []

        @cache.cached("a:{i}", tags=["t"])
        async def awaited(i):
            calls.append(i)
            return i

        @cache.cached("b:{i}", batch=lambda ids: {i: i for i in ids})
        def blocking(i):
            raise AssertionError

        cache.clear()
        cache.warmer(awaited)(lambda: range(200))
        cache.warmer(blocking)(lambda: range(600))
        report = kind.do(cache, "warm")
        assert (report.loaded, report.failed) == (800, 0)
        assert sorted(calls) == list(range(200))
        with new_cache() as other:
            assert len(other.get_many([f"a:{i}" for i in range(200)])) == 200
            assert len(other.get_many([f"b:{i}" for i in range(600)])) == 600
            other.invalidate_tags("t")
            assert other.get("a:1") is None
        kind.do(cache, "close")


@pytest.fixture(scope="module")
def server_url():
    with RedisServer() as server:
        yield server.url


WORKER = """
import pathlib, sys, time
from tiercache import Cache, SQLite

path, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with Cache("w", l2=SQLite(path, timeout=5)) as cache:
    @cache.cached("n:{i}")
    def load(i):
        time.sleep(0.001)
        return i

    cache.warmer(load)(lambda: range(300))
    (folder / str(time.monotonic_ns())).touch()
    while len([each for each in folder.iterdir() if each.name.isdecimal()]) < 2:
        time.sleep(0.001)
    print(cache.warm(concurrency=4).loaded)
"""
