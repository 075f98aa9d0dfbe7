"""Concurrent single reads share a round trip: by hand over a fake, and counted on a server."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import Proxy
from tests.waiting import until
from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers.merging import LONE_READS, MAX_BATCH, MergedTasks, MergedThreads
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Item


class Wire:
    """A fake round trip that a test holds open; answers each key with itself in capitals."""

    def __init__(self, *, timeout=5.0):
        self.batches = []
        self.budgets = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.errors = []
        self.merged = MergedThreads(self.fetch, timeout)

    def fetch(self, keys, budget):
        self.batches.append(list(keys))
        self.budgets.append(budget)
        error = self.errors.pop(0) if self.errors else None
        self.started.release()
        assert self.gate.acquire(timeout=10)
        if error is not None:
            raise error
        return [key.upper() for key in keys]

    def until_waiting(self, count):
        """Return once that many readers are lined up."""
        deadline = time.monotonic() + 10
        while len(self.merged._waiting) < count:
            assert time.monotonic() < deadline
            time.sleep(0.0005)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as pool:
        yield pool


class TestThreads:
    def test_a_lone_read_goes_out_at_once_and_alone(self):
        """Nobody to wait for: one fetch of one key, with the whole timeout."""
        wire = Wire()
        wire.gate.release()
        assert wire.merged.read("a") == "A"
        assert (wire.batches, wire.budgets) == ([["a"]], [None])

    def test_reads_during_a_round_trip_form_the_next(self, pool):
        """What arrives while one is under way goes out together, in order of arrival."""
        wire = Wire()
        first = pool.submit(wire.merged.read, "first")
        assert wire.started.acquire(timeout=10)
        others = []
        for number in range(20):
            others.append(pool.submit(wire.merged.read, f"k{number}"))
            wire.until_waiting(number + 1)
        wire.gate.release(2)
        assert first.result(10) == "FIRST"
        assert [each.result(10) for each in others] == [f"K{n}" for n in range(20)]
        assert wire.batches == [["first"], [f"k{n}" for n in range(20)]]

    def test_a_failing_batch_fails_its_readers_only(self, pool):
        """All of a batch get the error, each an exception of its own; the next is served."""
        wire = Wire()
        first = pool.submit(wire.merged.read, "first")
        assert wire.started.acquire(timeout=10)
        wire.errors.append(StoreTimeout("too late"))
        failing = [pool.submit(wire.merged.read, key) for key in "abc"]
        wire.until_waiting(3)
        wire.gate.release()
        assert first.result(10) == "FIRST"
        assert wire.started.acquire(timeout=10)
        later = pool.submit(wire.merged.read, "later")
        wire.until_waiting(1)
        wire.gate.release(2)
        errors = [each.exception(10) for each in failing]
        assert [type(error) for error in errors] == [StoreTimeout] * 3
        assert len({id(error) for error in errors}) == 3
        assert later.result(10) == "LATER"

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug"), SystemExit()])
    def test_a_broken_leader_strands_nobody(self, pool, error):
        """Whatever ends a leader, its followers are told and the next read goes out."""
        wire = Wire()
        first = pool.submit(wire.merged.read, "first")
        assert wire.started.acquire(timeout=10)
        wire.errors.append(error)
        followers = [pool.submit(wire.merged.read, key) for key in "abc"]
        wire.until_waiting(3)
        wire.gate.release(3)
        first.result(10)
        kinds = [type(each.exception(10)) for each in followers]
        assert sorted(kinds, key=str) == sorted([type(error), StoreError, StoreError], key=str)
        assert wire.merged.read("after") == "AFTER"

    def test_a_broken_lone_reader_strands_nobody(self, pool):
        """The first reader failing hands over to those who waited meanwhile."""
        wire = Wire()
        wire.errors.append(KeyboardInterrupt())
        first = pool.submit(wire.merged.read, "first")
        assert wire.started.acquire(timeout=10)
        second = pool.submit(wire.merged.read, "second")
        wire.until_waiting(1)
        wire.gate.release(2)
        assert isinstance(first.exception(10), KeyboardInterrupt)
        assert second.result(10) == "SECOND"

    def test_a_follower_does_not_wait_for_a_stuck_leader(self, pool):
        """A follower gives up soon after the timeout, and reads go on without the stuck one."""
        wire = Wire(timeout=0.2)
        stuck = pool.submit(wire.merged.read, "stuck")
        assert wire.started.acquire(timeout=10)
        began = time.monotonic()
        late = pool.submit(wire.merged.read, "late")
        assert isinstance(late.exception(10), StoreTimeout)
        assert 0.2 < time.monotonic() - began < 5
        fresh = pool.submit(wire.merged.read, "fresh")
        assert wire.started.acquire(timeout=10)  # it went out although "stuck" is still out
        wire.gate.release(2)
        assert fresh.result(10) == "FRESH"
        assert stuck.result(10) == "STUCK"
        wire.gate.release()
        assert wire.merged.read("after") == "AFTER"

    def test_a_batch_that_waited_gets_less_time(self, pool):
        """Patience counts from arrival: the batch's budget is what is left of the timeout."""
        wire = Wire(timeout=2.0)
        first = pool.submit(wire.merged.read, "first")
        assert wire.started.acquire(timeout=10)
        second = pool.submit(wire.merged.read, "second")
        wire.until_waiting(1)
        time.sleep(0.4)
        wire.gate.release(2)
        first.result(10)
        second.result(10)
        assert 0 < wire.budgets[1] <= 1.6

    def test_a_batch_is_bounded(self, monkeypatch, pool):
        """More readers than fit wait for the batch after."""
        monkeypatch.setattr("tiercache.tiers.merging.MAX_BATCH", 4)
        wire = Wire()
        first = pool.submit(wire.merged.read, "first")
        assert wire.started.acquire(timeout=10)
        others = [pool.submit(wire.merged.read, f"k{n}") for n in range(10)]
        wire.until_waiting(10)
        wire.gate.release(10)
        first.result(10)
        assert sorted(each.result(10) for each in others) == [f"K{n}" for n in range(10)]
        assert [len(batch) for batch in wire.batches] == [1, 4, 4, 2]

    def test_many_rounds_of_many_threads(self, pool):
        """With threads switched as often as can be, every reader gets its own answer."""
        merged = MergedThreads(lambda keys, budget: [key.upper() for key in keys], 10.0)
        barrier = threading.Barrier(16)

        def work(name):
            barrier.wait()
            return all(merged.read(f"{name}-{n}") == f"{name}-{n}".upper() for n in range(200))

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            assert all(pool.map(work, map(str, range(16))))
        finally:
            sys.setswitchinterval(interval)
        assert not merged._is_busy
        assert not merged._waiting


class TestTasks:
    async def test_reads_of_one_turn_go_out_together(self):
        """All tasks ready in a turn of the loop share one fetch."""
        batches = []

        async def fetch(keys, budget):
            batches.append(list(keys))
            return [key.upper() for key in keys]

        merged = MergedTasks(fetch, 1.0)

        async def read(key):
            return await merged.read(key)

        answers = await asyncio.gather(*(read(f"k{n}") for n in range(50)))
        assert answers == [f"K{n}" for n in range(50)]
        assert batches == [[f"k{n}" for n in range(50)]]

    async def test_reads_during_a_round_trip_form_the_next(self):
        """What arrives while one is under way goes out together."""
        batches, gate = [], asyncio.Event()

        async def fetch(keys, budget):
            batches.append(list(keys))
            await gate.wait()
            return keys

        merged = MergedTasks(fetch, 1.0)
        first = merged.read("first")
        await asyncio.sleep(0)
        others = []
        for key in "abc":
            others.append(merged.read(key))
            await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(first, *others) == ["first", "a", "b", "c"]
        assert batches == [["first"], ["a", "b", "c"]]

    async def test_cancelling_any_reader_leaves_the_others(self):
        """The I/O is nobody's: each of its readers may go, the first too."""
        for victim in range(3):
            gate = asyncio.Event()

            async def fetch(keys, budget, gate=gate):
                await gate.wait()
                return keys

            merged = MergedTasks(fetch, 1.0)
            readers = [merged.read(key) for key in "abc"]
            await asyncio.sleep(0)
            readers[victim].cancel()
            gate.set()
            answers = await asyncio.gather(*readers, return_exceptions=True)
            assert isinstance(answers[victim], asyncio.CancelledError)
            assert [a for n, a in enumerate(answers) if n != victim] == [
                k for n, k in enumerate("abc") if n != victim
            ]

    async def test_a_failing_batch_fails_its_readers_only(self):
        """Each reader gets an exception of its own; the next batch is served."""
        fails = True

        async def fetch(keys, budget):
            if fails:
                raise StoreTimeout("too late")
            return keys

        merged = MergedTasks(fetch, 1.0)
        errors = await asyncio.gather(*map(merged.read, "abc"), return_exceptions=True)
        assert [type(error) for error in errors] == [StoreTimeout] * 3
        assert len({id(error) for error in errors}) == 3
        fails = False
        assert await merged.read("a") == "a"

    async def test_a_cancelled_runner_strands_nobody(self):
        """Should the I/O's own task be cancelled, its readers get an error and the next go on."""

        async def fetch(keys, budget):
            if "slow" in keys:
                await asyncio.sleep(60)
            return keys

        merged = MergedTasks(fetch, 1.0)
        slow = merged.read("slow")
        await asyncio.sleep(0)
        waiting = merged.read("waiting")
        merged._runner.cancel()
        for reader in (slow, waiting):
            with pytest.raises(StoreError, match="cancelled"):
                await reader
        assert await merged.read("next") == "next"

    async def test_a_batch_is_bounded(self):
        """More readers than fit wait for the batch after."""
        sizes = []

        async def fetch(keys, budget):
            sizes.append(len(keys))
            return keys

        merged = MergedTasks(fetch, 1.0)
        await asyncio.gather(*(merged.read(str(n)) for n in range(MAX_BATCH + 10)))
        assert sizes == [MAX_BATCH, 10]


class Starting:
    """Reads that are begun by a call, and end when a test says so."""

    def __init__(self):
        self.batches = []
        self.tells = []
        self.fetched = []
        self.can_start = True
        self.merged = MergedTasks(self.fetch, 1.0, self.start)

    def start(self, keys, budget, tell):
        if not self.can_start:
            return False
        self.batches.append(keys)
        self.tells.append(tell)
        return True

    async def fetch(self, keys, budget):
        self.fetched.append(keys)
        return [key.upper() for key in keys]

    async def until_started(self, count):
        while len(self.batches) < count:
            await asyncio.sleep(0)


class TestStarted:
    async def test_it_needs_no_task(self):
        """Where reading can be begun by a call, no task is made, and none awaits."""
        wire = Starting()
        readers = [wire.merged.read(key) for key in "ab"]
        await wire.until_started(1)
        assert wire.batches == [["a", "b"]]
        assert len(asyncio.all_tasks()) == 1
        later = wire.merged.read("c")
        wire.tells[0](["A", "B"])
        assert await asyncio.gather(*readers) == ["A", "B"]
        assert wire.batches[1:] == [["c"]]
        wire.tells[1](StoreTimeout("too late"))
        with pytest.raises(StoreTimeout):
            await later

    async def test_what_is_left_to_do_is_done_in_a_task(self):
        """An outcome may be what is to be awaited; readers that are gone need no more of it."""
        wire = Starting()
        for is_gone in (False, True):
            reader = wire.merged.read("a")
            await wire.until_started(len(wire.tells) + 1)
            if is_gone:
                reader.cancel()
            wire.tells[-1](lambda: wire.fetch(["a"], None))
            if not is_gone:
                assert await reader == "A"
        assert wire.fetched == [["a"]]
        assert wire.merged.read("next") is not None
        await wire.until_started(3)

    async def test_where_it_cannot_be_begun_a_task_does_it(self):
        """And so it does where beginning it comes to grief."""
        wire = Starting()
        wire.can_start = False
        assert await wire.merged.read("a") == "A"
        wire.can_start = True
        wire.batches = None  # so that the next one raises
        assert await wire.merged.read("b") == "B"
        assert wire.fetched == [["a"], ["b"]]

    async def test_after_lone_reads_the_next_goes_out_at_once(self):
        """Without waiting for company; once there was some, reads of one turn go together again."""
        wire = Starting()
        for number in range(LONE_READS):
            reader = wire.merged.read("a")
            assert len(wire.batches) == number
            await wire.until_started(number + 1)
            wire.tells[-1](["A"])
            assert await reader == "A"
        first = wire.merged.read("first")
        assert wire.batches[LONE_READS:] == [["first"]]
        others = [wire.merged.read(key) for key in "bc"]
        wire.tells[-1](["FIRST"])
        assert wire.batches[LONE_READS + 1 :] == [["b", "c"]]
        wire.tells[-1](["B", "C"])
        assert await asyncio.gather(first, *others) == ["FIRST", "B", "C"]
        wire.batches.clear()
        readers = [wire.merged.read(key) for key in "de"]
        await wire.until_started(1)
        assert wire.batches == [["d", "e"]]
        wire.tells[-1](["D", "E"])
        assert await asyncio.gather(*readers) == ["D", "E"]

    async def test_a_runner_cancelled_before_it_began_strands_nobody(self):
        """Its readers are told, and the next read goes out."""
        wire = Starting()
        wire.can_start = False
        reader = wire.merged.read("a")
        while wire.merged._runner is None:
            await asyncio.sleep(0)
        wire.merged._runner.cancel()
        with pytest.raises(StoreError, match="cancelled"):
            await reader
        assert await wire.merged.read("b") == "B"


class TestOnServer:
    def test_a_lone_read_is_one_command(self, server, space):
        """Reads one after another are an MGET each, of entry and generation."""
        space.write("1", b"1", 60)
        server.command("CONFIG", "RESETSTAT")
        for _ in range(10):
            space.read("1")
        calls = server.command_calls()
        assert (calls["mget"], calls.get("get", 0)) == (10, 0)

    async def test_tasks_of_one_turn_are_one_mget(self, server, store, space):
        """A hundred concurrent reads cost one command, whatever their tags."""
        items = [Item(f"{n}", b"%d" % n, 60, (f"t{n % 7}",)) for n in range(100)]
        await space.awrite_many(items)
        server.command("CONFIG", "RESETSTAT")
        for _ in range(5):
            answers = await asyncio.gather(*(space.aread(item.key, item.tags) for item in items))
            assert [bytes(each.payload) for each in answers] == [b"%d" % n for n in range(100)]
        calls = server.command_calls()
        assert (calls["mget"], calls.get("get", 0)) == (5, 0)
        await store.aclose()

    def test_threads_behind_a_slow_read_are_one_mget(self, server, pool):
        """While the first reply is held back, all others line up for one MGET."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5)
            space = store.namespace("u")
            space.write_many([Item(f"{n}", b"%d" % n, 60) for n in range(16)])
            server.command("CONFIG", "RESETSTAT")
            proxy.hold()
            reads = [pool.submit(space.read, f"{n}") for n in range(16)]
            until(lambda: len(space._threads._waiting) == 15)
            proxy.release()
            answers = [bytes(read.result(10).payload) for read in reads]
            store.close()
        assert answers == [b"%d" % n for n in range(16)]
        calls = server.command_calls()
        assert (calls["mget"], calls.get("get", 0)) == (2, 0)

    def test_a_hung_server_fails_every_reader_in_time(self, own_server, pool):
        """All readers of a frozen server are told within about the timeout."""
        store = Redis(own_server.url, timeout=0.3)
        space = store.namespace("u")
        space.write("1", b"1", 60)
        own_server.freeze()
        began = time.monotonic()
        errors = [pool.submit(space.read, f"{n}") for n in range(20)]
        assert {type(each.exception(10)) for each in errors} == {StoreTimeout}
        assert time.monotonic() - began < 3  # one after the other would take six
        own_server.thaw()
        until(lambda: _payload(space, "1") == b"1")
        store.close()


def _payload(space, key):
    try:
        return bytes(space.read(key).payload)
    except StoreTimeout:
        return None
