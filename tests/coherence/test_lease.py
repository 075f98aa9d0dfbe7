"""Leases: one load per key in the cluster, whoever dies, hangs, fails or is too late."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.coherence.conftest import Loader, hear_all, listen
from tests.kinds import Blocking
from tests.waiting import until, until_then
from tiercache import MISS, Cache, LoadErrors, Redis
from tiercache.l2 import L2
from tiercache.tiers.store import LeaseMode

ROOT = Path(__file__).parents[2]
LOAD = 0.1  # seconds that a slow load takes
PROMPTLY = 2.0  # less than a lease lasts


@pytest.fixture
def short_leases(monkeypatch):
    """Have leases end after 0.3 s unless renewed."""
    monkeypatch.setattr("tiercache.l2.LEASE_SECONDS", 0.3)
    return 0.3


@pytest.fixture
def no_renewals(monkeypatch):
    """Have nobody renew a lease, as if all who hold one were frozen."""
    monkeypatch.setattr(L2, "keep", lambda *args: SimpleNamespace(let_go=lambda: None))


def slow(kind, body, seconds=LOAD):
    """Return a loader of this kind that takes its time."""
    if kind.name == "blocking":

        def load(x):
            time.sleep(seconds)
            return body(x)

        return load

    async def aload(x):
        await asyncio.sleep(seconds)
        return body(x)

    return aload


def call(function, *args):
    """What is called side by side: a function of one process or another."""
    return function(*args)


class TestOneLoad:
    @pytest.mark.parametrize("with_l1", [True, False], ids=["l1", "no l1"])
    def test_in_all_processes(self, kind, any_processes, with_l1):
        """Many callers in each of several processes of one cold key cause one load."""
        options = {} if with_l1 else {"l1": None}
        caches = [any_processes.start(**options) for _ in range(4)]
        loads = []
        functions = [
            cache.cached("f:{x}")(slow(kind, lambda x: loads.append(x) or "value"))
            for cache in caches
        ]
        outcomes = kind.side_by_side(call, [(f, 1) for f in functions for _ in range(8)])
        assert outcomes == ["value"] * 32
        assert loads == [1]
        infos = [f.cache_info() for f in functions]
        assert sum(info.loads for info in infos) == 1
        assert sum(info.hits + info.misses for info in infos) == 32
        assert sum(info.joined for info in infos) >= 32 - 1 - sum(info.hits for info in infos)

    def test_of_many_keys_at_once(self, kind, processes):
        """Each of many keys is loaded once, by whichever process came first."""
        caches = processes.several(3)
        loads = []
        functions = [
            cache.cached("f:{x}")(slow(kind, lambda x: loads.append(x) or x, 0.01))
            for cache in caches
        ]
        calls = [(f, x) for x in range(20) for f in functions]
        random.Random(3).shuffle(calls)
        assert kind.side_by_side(call, calls) == [x for _, x in calls]
        assert sorted(loads) == list(range(20))

    def test_by_key(self, kind, processes):
        """get_or_load is no different."""
        caches = processes.several(3)
        loads = []
        if kind.name == "blocking":

            def load():
                time.sleep(LOAD)
                loads.append(1)
                return "value"

            methods = [cache.get_or_load for cache in caches]
        else:

            async def load():
                await asyncio.sleep(LOAD)
                loads.append(1)
                return "value"

            methods = [cache.aget_or_load for cache in caches]
        outcomes = kind.side_by_side(call, [(method, "k", load) for method in methods * 4])
        assert outcomes == ["value"] * 12
        assert loads == [1]

    def test_by_both_kinds_of_callers(self, processes):
        """A blocking and an awaited function of one process and key share no flight, but this."""
        cache = processes.start()
        loads = []

        @cache.cached("k:{x}")
        def f(x):
            time.sleep(LOAD)
            loads.append("blocking")
            return "value"

        @cache.cached("k:{x}")
        async def g(x):
            await asyncio.sleep(LOAD)
            loads.append("asyncio")
            return "value"

        async def main():
            return await asyncio.gather(*[g(1) for _ in range(5)])

        with ThreadPoolExecutor(6) as pool:
            blocking = [pool.submit(f, 1) for _ in range(5)]
            assert asyncio.run(main()) == ["value"] * 5
            assert [each.result(10) for each in blocking] == ["value"] * 5
        assert len(loads) == 1

    @pytest.mark.parametrize("style", ["threads", "tasks"])
    def test_in_real_processes(self, redis_processes, redis_server, style):
        """The same with processes that share nothing but Redis."""
        workers = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, redis_server.url, style],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for _ in range(3)
        ]
        try:
            for worker in workers:
                assert worker.stdout.readline() == "ready\n"
            for worker in workers:
                worker.stdin.write("go\n")
                worker.stdin.flush()
            answers = [worker.communicate(timeout=30)[0] for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
        assert [answer.split()[0] for answer in answers] == ["25"] * 3
        assert sum(int(answer.split()[1]) for answer in answers) == 1
        assert redis_server.command("EXISTS", "tc:{workers:f:1}:lease").startswith(b":0")


WORKER = """
import asyncio, sys, threading, time
from tiercache import Cache, Redis

url, style = sys.argv[1:]
cache = Cache("workers", l2=Redis(url, timeout=5))
loads = []

@cache.cached("f:{x}")
def f(x):
    loads.append(x)
    time.sleep(0.2)
    return "value"

@cache.cached("f:{x}")
async def g(x):
    loads.append(x)
    await asyncio.sleep(0.2)
    return "value"

async def main():
    return await asyncio.gather(*[g(1) for _ in range(25)])

cache.get("warm")
print("ready", flush=True)
sys.stdin.readline()
results = []
if style == "tasks":
    results = asyncio.run(main())
else:
    threads = [threading.Thread(target=lambda: results.append(f(1))) for _ in range(25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(results.count("value"), len(loads))
cache.close()
"""


class TestWaiting:
    @pytest.fixture
    def pair(self, processes):
        return processes.several(2)

    def waiting(self, kind, pair, loader, beside, **options):
        """Have the first process load f(1), and the second wait for it; return how to go on."""
        functions = [cache.cached("f:{x}", **options)(loader.function) for cache in pair]
        loader.rows.setdefault(1, "first")
        gate = loader.gate()
        leading = beside(functions[0], 1)
        gate.until_reached()
        waiting = beside(functions[1], 1)
        until(lambda: len(pair[1].flow.waits) == 1)
        return gate, leading, waiting, functions

    def test_the_fill_wakes_who_waits(self, kind, pair, loader, beside):
        """Long before the lease would end, and without a second load."""
        gate, leading, waiting, functions = self.waiting(kind, pair, loader, beside)
        began = time.monotonic()
        gate.open()
        assert waiting.result(10) == leading.result(10) == "first"
        assert time.monotonic() - began < PROMPTLY
        assert loader.loads == [1]
        info = functions[1].cache_info()
        # Where it landed just before the wait began, L2 has answered.
        assert (info.loads, info.misses + info.hits_l2) == (0, 1)
        assert info.joined == info.misses
        assert "f:1" in pair[1].memory

    def test_nobody_polls(self, kind, dict_processes, loader, beside, inner):
        """While it waits, a process asks L2 for nothing."""
        pair = dict_processes.several(2)
        gate, leading, waiting, _ = self.waiting(kind, pair, loader, beside)

        def asked():
            return [name for name, _ in inner.done if name != "renew"]

        until(lambda: asked().count("claim") == 3)
        before = asked()
        time.sleep(0.3)
        assert asked() == before
        gate.open()
        assert waiting.result(10) == leading.result(10) == "first"
        assert asked()[len(before) :] == ["fill", "claim"]

    def test_where_the_bus_is_cut_off(self, kind, dict_processes, loader, beside):
        """It looks now and then instead."""
        pair = dict_processes.several(2, blind_ttl=0.3)
        pair[1].store.fail("tail")
        until(lambda: not pair[1].flow.bus.is_live)
        gate, leading, waiting, _ = self.waiting(kind, pair, loader, beside)
        gate.open()
        began = time.monotonic()
        assert waiting.result(10) == leading.result(10) == "first"
        assert time.monotonic() - began < PROMPTLY

    def test_a_delete_ends_the_lease(self, kind, pair, loader, beside):
        """Who waited loads at once; what the first one loaded before is refused."""
        gate, leading, waiting, functions = self.waiting(kind, pair, loader, beside)
        loader.rows[1] = "second"
        kind.do(pair[1], "delete", "f:1")
        assert kind.call(functions[1], 1) == "second"
        assert waiting.result(10) == "second"
        gate.open()
        assert leading.result(10) == "first"
        for cache in pair:
            assert kind.do(cache, "get", "f:1") == "second"

    def test_a_set_is_the_answer(self, kind, pair, loader, beside):
        """A value that somebody sets meanwhile is what those who wait get."""
        gate, leading, waiting, _ = self.waiting(kind, pair, loader, beside)
        kind.do(pair[0], "set", "f:1", "set")
        assert waiting.result(10) == "set"
        gate.open()
        assert leading.result(10) == "first"
        for cache in pair:
            assert kind.do(cache, "get", "f:1") == "set"
        assert loader.loads == [1]

    def test_a_clear_leaves_nobody_waiting(self, kind, pair, loader, beside):
        """A load that a clear has made obsolete holds nobody up."""
        gate, leading, waiting, functions = self.waiting(kind, pair, loader, beside)
        loader.rows[1] = "second"
        kind.do(pair[0], "clear")
        assert waiting.result(10) == "second"
        assert kind.call(functions[0], 1) == "second"
        gate.open()
        assert leading.result(10) == "first"
        for cache in pair:
            assert kind.do(cache, "get", "f:1") == "second"

    def test_a_value_that_is_not_kept(self, kind, pair, loader, beside):
        """Where the first finds nothing to share, those who wait load, and not one by one."""
        gate, leading, waiting, _ = self.waiting(
            kind, pair, loader, beside, when=lambda value: False
        )
        gate.open()
        assert leading.result(10) == waiting.result(10) == "first"
        assert loader.loads == [1, 1]

    @pytest.mark.filterwarnings("ignore::tiercache.UncacheableValueWarning")
    def test_a_value_without_bytes(self, kind, pair, loader, beside):
        """Nor where L2 cannot hold it."""
        loader.rows[1] = object()
        gate, leading, waiting, functions = self.waiting(kind, pair, loader, beside)
        gate.open()
        assert leading.result(10) is waiting.result(10) is loader.rows[1]
        assert loader.loads == [1, 1]
        assert kind.call(functions[0], 1) is loader.rows[1]

    def test_no_longer_than_a_load_may_take(self, kind, processes, loader, beside):
        """A process whose patience is over loads alongside: another's trouble is not its own."""
        one, two = processes.several(2)[0], processes.start(load_timeout=0.2)
        first = one.cached("f:{x}")(loader.function)
        second = two.cached("f:{x}")(kind.function(lambda x: "alongside"))
        loader.rows[1] = "value"
        gate = loader.gate()
        leading = beside(first, 1)
        gate.until_reached()
        began = time.monotonic()
        assert kind.call(second, 1) == "alongside"
        assert 0.2 <= time.monotonic() - began < PROMPTLY
        gate.open()
        assert leading.result(10) == "value"


class TestFailing:
    def test_everyone_fails_in_about_two_loads(self, kind, processes):
        """A load that fails is tried by each process once, all of them at the same time."""
        caches = processes.several(4)
        loads = []

        def all_wait():
            flights = [flight for cache in caches for flight in cache.flow.flights.under_way()]
            waits = sum(len(cache.flow.waits) for cache in caches)
            return sum(flight.passengers for flight in flights) == 20 and waits == 3

        def fail(number):
            def may_end():  # the first alone, the others only together
                if (len(loads) == 1 and all_wait()) or len(loads) == 4:
                    raise KeyError(f"process {number}")
                return False

            return until_then(kind, lambda x: loads.append(number), may_end)

        functions = [cache.cached("f:{x}")(fail(number)) for number, cache in enumerate(caches)]
        calls = [(f, 1) for f in functions for _ in range(5)]
        outcomes = kind.side_by_side(call, calls)
        for number in range(4):
            of_process = outcomes[number * 5 : number * 5 + 5]
            assert [error.args for error in of_process] == [(f"process {number}",)] * 5
            assert len(set(map(id, of_process))) == 1
        assert sorted(loads) == [0, 1, 2, 3]

    def test_the_next_call_loads(self, kind, processes, loader):
        """A failure leaves no lease behind."""
        one, two = processes.several(2)
        functions = [cache.cached("f:{x}")(loader.function) for cache in (one, two)]
        loader.rows[1] = KeyError("down")
        for f in functions:
            with pytest.raises(KeyError):
                kind.call(f, 1)
        loader.rows[1] = "up"
        assert [kind.call(f, 1) for f in functions] == ["up", "up"]
        assert len(loader.loads) == 3

    async def test_a_leader_that_is_cancelled(self, processes):
        """Nobody else's load fails for it: another process takes over at once."""
        one, two = processes.several(2)
        loader = Loader(type("K", (), {"name": "asyncio"}))
        loader.rows[1] = "value"
        first, second = (cache.cached("f:{x}")(loader.function) for cache in (one, two))
        gate = loader.gate()
        leading = asyncio.create_task(first(1))
        await gate.auntil_reached()
        waiting = asyncio.create_task(second(1))
        while len(two.flow.waits) == 0:
            await asyncio.sleep(0.001)
        began = time.monotonic()
        leading.cancel()
        assert await waiting == "value"
        assert time.monotonic() - began < PROMPTLY
        with pytest.raises(asyncio.CancelledError):
            await leading

    @pytest.mark.parametrize("kind", [Blocking], indirect=True, ids=["blocking"])
    def test_a_leader_that_is_interrupted(self, processes, beside, kind):
        """A key press in one process is no failure of the load."""
        one, two = processes.several(2)
        entered, go = threading.Event(), threading.Event()

        @one.cached("f:{x}")
        def first(x):
            entered.set()
            go.wait(10)
            raise KeyboardInterrupt

        second = two.cached("f:{x}")(lambda x: "value")
        leading = beside(first, 1)
        entered.wait(10)
        waiting = beside(second, 1)
        until(lambda: len(two.flow.waits) == 1)
        go.set()
        began = time.monotonic()
        assert waiting.result(10) == "value"
        assert time.monotonic() - began < PROMPTLY
        assert isinstance(leading.exception(10), KeyboardInterrupt)


class TestDying:
    def test_a_dead_holder(self, kind, any_processes, short_leases, loader):
        """A lease that nobody renews ends by itself, and whoever waits takes over."""
        one, two = any_processes.several(2)
        f = two.cached("f:{x}")(loader.function)
        loader.rows[1] = "value"
        (claim,) = one.flow.l2.namespace.claim(["f:1"], [b"the dead"], seconds=short_leases)
        assert claim.lease is not None
        began = time.monotonic()
        assert kind.call(f, 1) == "value"
        assert short_leases * 0.5 < time.monotonic() - began < short_leases + PROMPTLY
        assert loader.loads == [1]

    def test_a_killed_process(self, kind, redis_processes, redis_server, loader):
        """The same with a real one, killed while it loads."""
        (cache,) = redis_processes.several(1)
        f = cache.cached("f:{x}")(loader.function)
        loader.rows[1] = "mine"
        program = (
            "import sys, time, tiercache.l2\n"
            "tiercache.l2.LEASE_SECONDS = 1.2\n"
            "from tiercache import Cache, Redis\n"
            "cache = Cache('test', l2=Redis(sys.argv[1], timeout=5))\n"
            "cache.get_or_load('f:1', lambda: print('loading', flush=True) or time.sleep(60))\n"
        )
        victim = subprocess.Popen(
            [sys.executable, "-c", program, redis_server.url],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            assert victim.stdout.readline() == "loading\n"
            time.sleep(1.4)  # longer than the lease: it is being renewed
            assert kind.do(cache, "get", "f:1", MISS) is MISS
            assert not cache.flow.l2.namespace.claim(["f:1"], [b"somebody"], seconds=1)[0].lease
        finally:
            victim.kill()
            victim.communicate()
        began = time.monotonic()
        assert kind.call(f, 1) == "mine"
        assert time.monotonic() - began < 1.2 + PROMPTLY

    def test_a_frozen_leader_is_too_late(
        self, kind, processes, short_leases, no_renewals, loader, beside
    ):
        """What it brings after its lease has ended is refused by L2, and not put in its own L1."""
        one, two = processes.several(2)
        first, second = (cache.cached("f:{x}")(loader.function) for cache in (one, two))
        loader.rows[1] = "old"
        gate = loader.gate()
        leading = beside(first, 1)
        gate.until_reached()
        loader.rows[1] = "new"
        assert kind.call(second, 1) == "new"  # once the lease has ended
        gate.open()
        assert leading.result(10) == "old"
        assert "f:1" not in one.memory
        assert kind.call(first, 1) == "new"
        assert kind.do(two, "get", "f:1") == "new"
        assert loader.loads == [1, 1]

    def test_a_long_load_keeps_its_lease(self, kind, processes, monkeypatch, loader, beside):
        """It is renewed as long as the load lasts: nobody takes over from who is alive."""
        monkeypatch.setattr("tiercache.l2.LEASE_SECONDS", 1.0)
        one, two = processes.several(2)
        first, second = (cache.cached("f:{x}")(loader.function) for cache in (one, two))
        loader.rows[1] = "value"
        gate = loader.gate()
        leading = beside(first, 1)
        gate.until_reached()
        waiting = beside(second, 1)
        time.sleep(1.3)
        gate.open()
        assert leading.result(10) == waiting.result(10) == "value"
        assert loader.loads == [1]

    def test_l2_down_while_loading(self, kind, dict_processes, loader, beside):
        """A fill that L2 cannot take costs nobody the value."""
        (one,) = dict_processes.several(1)
        f = one.cached("f:{x}")(loader.function)
        loader.rows[1] = "value"
        gate = loader.gate()
        leading = beside(f, 1)
        gate.until_reached()
        one.store.fail()
        gate.open()
        assert leading.result(10) == "value"
        one.store.heal()

    @pytest.mark.parametrize("trouble", ["fail", "hang"])
    def test_l2_down_while_another_loads(self, kind, dict_processes, loader, beside, trouble):
        """Who waits for the value of another process loads, instead of waiting out its lease."""
        pair = dict_processes.several(2)
        functions = [cache.cached("f:{x}")(loader.function) for cache in pair]
        loader.rows.update({1: "value", 2: "other"})
        gate = loader.gate()
        leading = beside(functions[0], 1)
        gate.until_reached()
        waiting = beside(functions[1], 1)
        until(lambda: len(pair[1].flow.waits) == 1)
        began = time.monotonic()
        getattr(pair[1].store, trouble)()
        assert kind.call(functions[1], 2) == "other"  # somebody finds out
        assert waiting.result(10) == "value"
        assert time.monotonic() - began < PROMPTLY
        pair[1].store.heal()
        gate.open()
        assert leading.result(10) == "value"

    def test_l2_down_before_loading(self, kind, dict_processes, loader):
        """Without L2 each process loads for itself, and waits for nobody."""
        one, two = dict_processes.several(2)
        functions = [cache.cached("f:{x}")(loader.function) for cache in (one, two)]
        loader.rows[1] = "value"
        for cache in (one, two):
            cache.store.fail()
        began = time.monotonic()
        assert [kind.call(f, 1) for f in functions] == ["value", "value"]
        assert time.monotonic() - began < PROMPTLY
        assert loader.loads == [1, 1]


class TestRefreshing:
    def test_it_takes_the_lease(self, kind, processes, loader, beside):
        """A load that began before may have read before the reason to refresh: it is refused."""
        one, two = processes.several(2)
        first, second = (cache.cached("f:{x}")(loader.function) for cache in (one, two))
        loader.rows[1] = "old"
        gate = loader.gate()
        leading = beside(first, 1)
        gate.until_reached()
        loader.rows[1] = "new"
        assert kind.call(second.refresh, 1) == "new"
        gate.open()
        assert leading.result(10) == "old"
        assert [kind.call(f, 1) for f in (first, second)] == ["new", "new"]
        one.memory.clear()
        assert kind.call(first, 1) == "new"
        assert loader.loads == [1, 1]

    def test_who_waited_gets_what_it_brings(self, kind, processes, loader, beside):
        """Those who waited for the first load need not wait for it any longer."""
        one, two = processes.several(2)
        first, second = (cache.cached("f:{x}")(loader.function) for cache in (one, two))
        loader.rows[1] = "old"
        gate = loader.gate()
        leading = beside(first, 1)
        gate.until_reached()
        waiting = beside(second, 1)
        until(lambda: len(two.flow.waits) == 1)
        loader.rows[1] = "new"
        assert kind.call(first.refresh, 1) == "new"
        assert waiting.result(10) == "new"
        gate.open()
        assert leading.result(10) == "old"

    def test_peers_drop_what_it_replaces(self, kind, processes, loader):
        """And get the newer value from L2, without a load."""
        one, two = processes.several(2)
        first, second = (cache.cached("f:{x}")(loader.function) for cache in (one, two))
        loader.rows[1] = "old"
        assert [kind.call(f, 1) for f in (first, second)] == ["old", "old"]
        loader.rows[1] = "new"
        assert kind.call(first.refresh, 1) == "new"
        hear_all(two, one)
        assert kind.call(second, 1) == "new"
        assert loader.loads == [1, 1]

    @pytest.mark.parametrize("how", ["tag", "clear"])
    def test_a_process_that_only_refreshes(self, kind, processes, loader, how):
        """It reads nothing, and so must hear what its next fill has to be written under."""
        one, two = processes.several(2)
        first, second = (cache.cached("f:{x}", tags=["t"])(loader.function) for cache in (one, two))
        loader.rows[1] = "value"
        kind.call(first.refresh, 1)
        for _ in range(2):
            if how == "tag":
                kind.do(two, "invalidate_tags", "t")
            else:
                kind.do(two, "clear")
            hear_all(one, two)
            kind.call(first.refresh, 1)
            loader.loads.clear()
            assert kind.call(second, 1) == "value"
            assert loader.loads == []

    def test_a_process_that_only_refreshes_after_a_restart(
        self, kind, redis_processes, redis_server, loader
    ):
        """Nothing that was known before is taken for known where everything is lost."""
        one, two = redis_processes.several(2)
        first, second = (cache.cached("f:{x}", tags=["t"])(loader.function) for cache in (one, two))
        loader.rows[1] = "value"
        kind.call(first.refresh, 1)
        redis_server.command("FLUSHALL")
        redis_server.command("CLIENT", "KILL", "TYPE", "normal")  # as a restart would
        until(lambda: all(cache.stats().bus_gaps for cache in (one, two)))
        kind.call(first.refresh, 1)
        loader.loads.clear()
        assert kind.call(second, 1) == "value"
        assert loader.loads == []


class TestWithoutLease:
    def test_each_process_loads_for_itself(self, kind, processes, loader, beside):
        """lease=False: nobody waits for another process."""
        one, two = processes.several(2)
        first, second = (
            cache.cached("f:{x}", lease=False)(loader.function) for cache in (one, two)
        )
        loader.rows[1] = "value"
        gates = [loader.gate(), loader.gate()]
        calls = []
        for f, gate in zip((first, second), gates, strict=True):
            calls.append(beside(f, 1))
            gate.until_reached()
        for gate in gates:
            gate.open()
        assert [each.result(10) for each in calls] == ["value", "value"]
        assert loader.loads == [1, 1]
        three = processes.start()
        assert kind.do(three, "get", "f:1") == "value"

    def test_a_delete_still_wins(self, kind, processes, loader, beside):
        """What was loaded before it is refused all the same, by whomever."""
        one, two = processes.several(2)
        first, second = (
            cache.cached("f:{x}", lease=False)(loader.function) for cache in (one, two)
        )
        loader.rows[1] = "old"
        gates = [loader.gate(), loader.gate()]
        calls = []
        for f, gate in zip((first, second), gates, strict=True):
            calls.append(beside(f, 1))
            gate.until_reached()
        loader.rows[1] = "new"
        kind.do(two, "delete", "f:1")
        hear_all(one, two)
        assert kind.call(first, 1) == "new"
        for gate in gates:
            gate.open()
        assert [each.result(10) for each in calls] == ["old", "old"]
        for cache in (one, two):
            assert kind.do(cache, "get", "f:1") == "new"

    def test_it_does_not_end_anothers_lease(self, kind, processes, loader, beside):
        """Nor is it kept waiting by one that is held exclusively: it shares it."""
        one, two = processes.several(2)
        first = one.cached("f:{x}")(loader.function)
        second = two.cached("f:{x}", lease=False)(loader.function)
        loader.rows[1] = "value"
        gate = loader.gate()
        leading = beside(first, 1)
        gate.until_reached()
        began = time.monotonic()
        assert kind.call(second, 1) == "value"
        assert time.monotonic() - began < PROMPTLY
        gate.open()
        assert leading.result(10) == "value"
        assert kind.do(processes.start(), "get", "f:1") == "value"


class TestBatches:
    def test_overlapping_batches(self, kind, processes):
        """Each key of overlapping batches in several processes is loaded once."""
        caches = processes.several(3)
        loads = []

        def batch(ids):
            loads.extend(ids)
            return {i: -i for i in ids}

        functions = [
            cache.cached("f:{x}", batch=self.slow_batch(kind, batch))(kind.function(lambda x: -x))
            for cache in caches
        ]
        wanted = [range(20), range(10, 30), range(5, 25)]
        calls = [(f.many, items) for f, items in zip(functions, wanted, strict=True)]
        outcomes = kind.side_by_side(call, calls)
        assert outcomes == [{i: -i for i in items} for items in wanted]
        assert sorted(loads) == list(range(30))

    def slow_batch(self, kind, body):
        def batch(ids):
            time.sleep(LOAD)
            return body(ids)

        async def abatch(ids):
            await asyncio.sleep(LOAD)
            return body(ids)

        return batch if kind.name == "blocking" else abatch

    def test_two_that_want_each_others_keys(self, kind, processes, beside):
        """Each loads its own before it waits for the other's: neither waits for ever."""
        one, two = processes.several(2)
        gates = {cache: Loader(kind) for cache in (one, two)}
        functions = {}
        for cache, loader in gates.items():
            loader.rows = {i: i for i in range(4)}
            loads = []

            def load(ids, loader=loader, loads=loads):
                return {i: i for i in ids}

            functions[cache] = cache.cached("f:{x}", batch=kind.function(load))(loader.function)
        held = {one: gates[one].gate(), two: gates[two].gate()}
        singles = [beside(functions[one], 1), beside(functions[two], 2)]
        for gate in held.values():
            gate.until_reached()
        # Each process loads one key alone; the batches want both, and two keys more.
        batches = [beside(functions[one].many, [2, 3]), beside(functions[two].many, [1, 0])]
        for cache in (one, two):
            until(lambda cache=cache: len(cache.flow.waits) == 1)
        for gate in held.values():
            gate.open()
        assert [each.result(10) for each in singles] == [1, 2]
        assert [each.result(10) for each in batches] == [{2: 2, 3: 3}, {1: 1, 0: 0}]

    def test_many_random_batches(self, kind, processes):
        """Whatever they have in common, all end, and no key is loaded twice."""
        caches = processes.several(3)
        loads = []
        functions = [
            cache.cached(
                "f:{x}",
                batch=kind.function(lambda ids: loads.extend(ids) or {i: i for i in ids}),
            )(kind.function(lambda x: loads.append(x) or x))
            for cache in caches
        ]
        rng = random.Random(11)
        calls = []
        for _ in range(24):
            items = rng.sample(range(40), rng.randrange(1, 12))
            f = rng.choice(functions)
            calls.append((f.many, items) if rng.random() < 0.7 else (f, items[0]))
        outcomes = kind.side_by_side(call, calls)
        for (_, wanted), outcome in zip(calls, outcomes, strict=True):
            items = wanted if isinstance(wanted, list) else None
            assert outcome == ({i: i for i in items} if items else wanted)
        assert len(loads) == len(set(loads))

    def test_by_key(self, kind, processes):
        """get_or_load_many is no different."""
        caches = processes.several(2)
        loads = []
        name = "get_or_load_many" if kind.name == "blocking" else "aget_or_load_many"
        load = self.slow_batch(kind, lambda keys: loads.extend(keys) or dict.fromkeys(keys, 1))
        keys = ["a", "b", "c"]
        outcomes = kind.side_by_side(call, [(getattr(c, name), keys, load) for c in caches * 2])
        assert outcomes == [dict.fromkeys(keys, 1)] * 4
        assert sorted(loads) == keys

    def test_without_a_bulk_loader(self, kind, processes):
        """Keys that load one by one have a lease each, too."""
        caches = processes.several(2)
        loads = []
        functions = [
            cache.cached("f:{x}")(slow(kind, lambda x: loads.append(x) or x, 0.02))
            for cache in caches
        ]
        outcomes = kind.side_by_side(call, [(f.many, range(10)) for f in functions])
        assert outcomes == [{i: i for i in range(10)}] * 2
        assert sorted(loads) == list(range(10))

    def test_one_that_fails(self, kind, processes):
        """Fails its own process; the other loads what it waited for, all at once."""
        one, two = processes.several(2)
        entered = threading.Event()

        def fail(ids):
            entered.set()
            time.sleep(LOAD)
            raise OSError("down")

        first = one.cached("f:{x}", batch=kind.function(fail))(kind.function(lambda x: x))
        second = two.cached(
            "f:{x}", batch=kind.function(lambda ids: loads.append(ids) or {i: i for i in ids})
        )(kind.function(lambda x: x))
        loads = []
        outcomes = kind.side_by_side(call, [(first.many, [1, 2]), (second.many, [1, 2, 3])])
        assert isinstance(outcomes[0], LoadErrors) or outcomes[0] == {1: 1, 2: 2}
        assert outcomes[1] == {1: 1, 2: 2, 3: 3}

    def test_a_refused_fill(self, kind, processes, beside):
        """What was deleted while a batch was loading is not kept; its other keys are."""
        one, two = processes.several(2)
        entered, go = threading.Event(), threading.Event()

        def body(ids):
            found = dict.fromkeys(ids, "old")
            entered.set()
            assert go.wait(10)
            return found

        f = one.cached("f:{x}", batch=kind.function(body))(kind.function(lambda x: "single"))
        loading = beside(f.many, [1, 2])
        assert entered.wait(10)
        kind.do(two, "delete", "f:1")
        go.set()
        assert loading.result(10) == {1: "old", 2: "old"}
        assert "f:1" not in one.memory
        assert kind.do(two, "get_many", ["f:1", "f:2"]) == {"f:2": "old"}


class TestRoundTrips:
    """Commands on a real server, once it knows the scripts and the bus is open."""

    @pytest.fixture
    def cache(self, redis_processes):
        cache = redis_processes.start(l1=None)
        listen(cache)
        for tags in ((), ["t"], lambda value: ["t"]):
            f = cache.cached("warm:{x}", tags=tags)(lambda x: x)
            f(1)
            f.refresh(1)
            f.invalidate(1)
        cache.set("warm", 1, tags=["t"])
        cache.invalidate_tags("t")
        # Until the bus has heard of it, a value with such a tag is refused, to be safe.
        plans = cache.flow.l2.namespace.plans
        until(lambda: plans.heard is not None and plans.heard.encode() == plans.said)
        f(1)
        return cache

    @pytest.fixture
    def count(self, kind, redis_server):
        """Return what a call sends, but for the bus and what scripts call inside."""

        def count(function, *args):
            redis_server.command("CONFIG", "RESETSTAT")
            kind.call(function, *args)
            calls = redis_server.command_calls()
            names = ("mget", "evalsha", "eval", "unlink", "set")
            return {name: calls[name] for name in names if name in calls}

        return count

    def do(self, kind, cache, name, *args, **options):
        """Return a call of a method of a cache."""
        if kind.name == "blocking":
            return lambda: getattr(cache, name)(*args, **options)
        return lambda: getattr(cache, f"a{name}")(*args, **options)

    @pytest.mark.parametrize("tags", [(), ["t"], ["t", "u"]], ids=str)
    def test_a_hit_is_one(self, kind, cache, count, tags):
        """With the function's tags, if it has some."""
        f = cache.cached("f:{x}", tags=tags)(kind.function(lambda x: x))
        kind.call(f, 1)
        assert count(f, 1) == {"mget": 1}

    def test_a_hit_with_tags_of_its_value_is_two(self, kind, cache, count):
        """Nobody knows which before it is there."""
        f = cache.cached("f:{x}", tags=lambda value: ["t"])(kind.function(lambda x: x))
        kind.call(f, 1)
        assert count(f, 1) == {"mget": 2}

    def test_a_miss_is_three(self, kind, cache, count):
        """Read, claim, fill."""
        f = cache.cached("f:{x}")(kind.function(lambda x: x))
        calls = count(f, 1)
        assert (calls["mget"], calls["evalsha"]) == (1, 2)

    @pytest.mark.parametrize("tags", [["t"], lambda value: ["t"]], ids=["given", "of the value"])
    def test_a_miss_with_tags_is_three(self, kind, cache, count, tags):
        """Once the tokens of its tags exist."""
        f = cache.cached("f:{x}", tags=tags)(kind.function(lambda x: x))
        kind.call(f, 0)
        calls = count(f, 1)
        assert (calls["mget"], calls["evalsha"]) == (1, 2)

    def test_a_refresh_is_two(self, kind, cache, count):
        """Claim and fill."""
        f = cache.cached("f:{x}")(kind.function(lambda x: x))
        kind.call(f, 1)
        calls = count(f.refresh, 1)
        assert calls.get("mget", 0) == 0
        assert calls["evalsha"] == 2

    def test_a_bulk_load_is_three(self, kind, cache, count):
        """However many keys: a script for each, sent together."""
        load = kind.function(lambda keys: dict.fromkeys(keys, 1))
        keys = [f"k{n}" for n in range(30)]
        calls = count(self.do(kind, cache, "get_or_load_many", keys, load))
        assert (calls["mget"], calls["evalsha"]) == (1, 60)
        assert count(self.do(kind, cache, "get_many", keys)) == {"mget": 1}

    def test_a_set_and_a_delete_are_one(self, kind, cache, count):
        """One round trip each."""
        calls = count(self.do(kind, cache, "set", "k", 1))
        assert (calls["evalsha"], calls.get("mget", 0)) == (1, 0)
        assert count(self.do(kind, cache, "delete", "k")) == {"unlink": 2}

    def test_leases_leave_nothing_behind(self, kind, cache, redis_server):
        """Neither a load, nor one that failed, nor one that was not kept leaves its lease."""

        def load(x):
            if x == 2:
                raise KeyError(x)
            return x

        f = cache.cached("f:{x}", when=lambda value: value != 3)(kind.function(load))
        for x in (1, 2, 3):
            try:
                kind.call(f, x)
            except KeyError:
                assert x == 2
        for x in (1, 2, 3):
            assert redis_server.command("EXISTS", f"tc:{{test:f:{x}}}:lease").startswith(b":0")


def test_a_shared_lease_ends_with_a_write(dict_processes):
    """The store's part of lease=False: one nonce for all who share, none after a delete."""
    (cache,) = dict_processes.several(1)
    space = cache.flow.l2.namespace
    first, second = (
        space.claim(["k"], [nonce], seconds=5, mode=LeaseMode.SHARED)[0].lease
        for nonce in (b"nonce--1", b"nonce--2")
    )
    assert first.nonce == second.nonce
    space.delete(["k"])
    third = space.claim(["k"], [b"nonce--3"], seconds=5, mode=LeaseMode.SHARED)[0].lease
    assert third.nonce != first.nonce


def test_a_frozen_redis_does_not_hold_up_a_load(redis_server):
    """A claim that gets no answer costs one timeout; then the function is called."""
    with Cache("test", l2=Redis(redis_server.url, timeout=0.1)) as cache:
        listen(cache)
        f = cache.cached("f:{x}")(Blocking().function(lambda x: x))
        redis_server.freeze()
        try:
            began = time.monotonic()
            assert f(1) == 1
            assert time.monotonic() - began < PROMPTLY
        finally:
            redis_server.thaw()
