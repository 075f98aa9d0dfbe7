"""SQLite between processes: shared entries, leases, fences and messages; forks; sudden ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import statistics
import time
import warnings
from collections import Counter
from contextlib import closing

import pytest

from tests.waiting import until
from tiercache.tiers import _sqlite_log as log
from tiercache.tiers import _sqlite_sessions as sessions
from tiercache.tiers.sqlite import SQLite
from tiercache.tiers.store import Fill, Kind

spawning = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def store(path):
    store = SQLite(path, timeout=20)
    yield store
    store.close()


@pytest.fixture
def space(store):
    return store.namespace("c", "parent")


def run_four(work, path):
    """Run a function in four processes at once; return what each puts into its queue."""
    start, results = spawning.Barrier(4), spawning.Queue()
    workers = [spawning.Process(target=work, args=(path, n, start, results)) for n in range(4)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(30)
    results.close()
    results.join_thread()
    assert [worker.exitcode for worker in workers] == [0] * 4
    return answers


def hammer(path, number, start, results):
    store = SQLite(path, timeout=20)
    space = store.namespace("c")
    start.wait(60)
    for turn in range(100):
        space.write(f"{number}", b"%d" % turn, 60)
        assert bytes(space.read(f"{number}").payload) == b"%d" % turn
        space.write(f"shared{turn % 10}", b"%d" % number, 60, (f"tag{turn % 7}",))
    store.close()
    results.put(None)


def claim_all(path, number, start, results):
    store = SQLite(path, timeout=20)
    space = store.namespace("c", f"{number}")
    start.wait(60)
    won = []
    for turn in range(50):
        nonce = os.urandom(8)
        (claim,) = space.claim([f"{turn}"], [nonce], seconds=60)
        if claim.lease is not None:
            won.append(turn)
            assert space.fill([Fill(f"{turn}", claim.lease, b"%d" % number, 60)]) == [True]
    store.close()
    results.put(won)


def lock_all(path, number, start, results):
    store = SQLite(path, timeout=20)
    start.wait(60)
    fences = [
        store.namespace(f"{number % 2}").lock(f"{number}-{turn}", os.urandom(8), 60).fence
        for turn in range(50)
    ]
    store.close()
    results.put(fences)


class TestTogether:
    def test_several_processes_share_a_file(self, path, space):
        """Four processes that start and write at once lose nothing and see one another."""
        run_four(hammer, path)
        assert [bytes(space.read(f"{n}").payload) for n in range(4)] == [b"99"] * 4
        assert None not in space.read_many([f"shared{n}" for n in range(10)])

    def test_one_process_gets_each_lease(self, path, space):
        """Of four that want every key each is loaded by one, and all see its value."""
        won = run_four(claim_all, path)
        assert Counter(turn for each in won for turn in each) == Counter(range(50))
        assert None not in space.read_many([f"{turn}" for turn in range(50)])

    def test_fences_of_all_processes_grow(self, path):
        """No fence is given twice, and each process sees its own grow."""
        fences = run_four(lock_all, path)
        assert all(each == sorted(each) for each in fences)
        assert len({fence for each in fences for fence in each}) == 200


def answer(path, is_ready):
    """Say pong, in another process, to each ping."""
    store = SQLite(path, timeout=20)
    space = store.namespace("c", "child")
    with closing(space.tail(space.log_end())) as tail:
        is_ready.set()
        while True:
            for message in tail.read(5):
                if message.names == ("end",):
                    store.close()
                    return
                if message.origin == "parent":
                    space.announce(Kind.NEWS, ["pong", *message.names])


class TestMessages:
    def test_messages_arrive_within_a_tenth_of_a_second(self, path, space):
        """From one process to another and back takes two of the tails' looks."""
        is_ready = spawning.Event()
        child = spawning.Process(target=answer, args=(path, is_ready))
        child.start()
        assert is_ready.wait(60)
        trips = []
        with closing(space.tail(space.log_end())) as tail:
            for turn in range(30):
                began = time.monotonic()
                space.announce(Kind.NEWS, [f"{turn}"])
                hear(tail, ("pong", f"{turn}"))
                trips.append(time.monotonic() - began)
        space.announce(Kind.NEWS, ["end"])
        child.join(30)
        assert child.exitcode == 0
        assert statistics.median(trips) < 0.2

    def test_a_tail_costs_next_to_nothing(self, space):
        """Waiting is not a busy loop."""
        with closing(space.tail(space.log_end())) as tail:
            tail.read(0)
            began = time.thread_time()
            assert tail.read(1) == []
            assert time.thread_time() - began < 0.1


def hear(tail, names):
    """Read until a message with these names; return the names of all before it."""
    heard = []
    until(lambda: names in heard or heard.extend(message.names for message in tail.read(5)))
    return heard[: heard.index(names)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestForks:
    def test_a_forked_child_has_connections_of_its_own(self, store, space):
        """A child reads and writes, blocking and awaited, while the parent does."""
        space.write("1", b"1", 60)
        asyncio.run(space.aread("1"))

        def in_child():
            for turn in range(50):
                space.write("child", b"%d" % turn, 60)
                assert bytes(space.read("1").payload) == b"1"
            assert bytes(asyncio.run(space.aread("child")).payload) == b"49"

        with forked(in_child, store):
            for _ in range(50):
                space.write("parent", b"1", 60)
        assert bytes(space.read("child").payload) == b"49"

    def test_a_tail_works_on_both_sides_of_a_fork(self, store, space):
        """Parent and child each hear everything from the position they had in common."""
        with closing(space.tail(space.log_end())) as tail:
            space.announce(Kind.NEWS, ["1"])
            assert [message.names for message in tail.read(5)] == [("1",)]

            session = tail._session

            def hear_both():
                assert hear(tail, ("3",)) == [("2",)]

            def in_child():
                hear_both()
                assert tail._session is not session  # nor may the parent's be closed
                assert any(kept is session._db for kept in sessions._inherited)

            with forked(in_child, store):
                space.announce(Kind.NEWS, ["2"])
                space.announce(Kind.NEWS, ["3"])
                hear_both()
                assert tail._session is session
            space.announce(Kind.NEWS, ["4"])
            assert [message.names for message in tail.read(5)] == [("4",)]


class forked:  # noqa: N801 - used as a function is
    """Do something in a forked child, and the body meanwhile; the child must end well."""

    def __init__(self, do, store):
        self._do = do
        self._store = store

    def __enter__(self):
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                warnings.simplefilter("error")
                self._do()
                self._store.close()
                code = 0
            finally:
                os._exit(code)

    def __exit__(self, *_):
        _, status = os.waitpid(self._pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0


def stop_inside(path, is_inside):
    """Stop for ever in the middle of a transaction that has changed everything already."""
    store = SQLite(path, timeout=20)
    space = store.namespace("c")

    def stop(*_):
        is_inside.set()
        time.sleep(60)

    log.append = stop
    space.write("1", b"half done", 60, ("t",))


class TestSuddenEnds:
    def test_a_process_killed_inside_a_transaction_hurts_nobody(self, path, store, space):
        """Its half of a change is not seen, its lock is gone, and the log has no hole."""
        space.write("1", b"whole", 60, ("t",))
        position = space.log_end()
        is_inside = spawning.Event()
        child = spawning.Process(target=stop_inside, args=(path, is_inside))
        child.start()
        assert is_inside.wait(60)
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        assert bytes(space.read("1").payload) == b"whole"
        began = time.monotonic()
        space.write("2", b"2", 60, ("t",))
        assert time.monotonic() - began < 5
        with closing(space.tail(position)) as tail:
            assert [message.names for message in tail.read(5)] == [("2",)]
        space.invalidate_tags(["t"])
        assert space.read_many(["1", "2"]) == [None, None]

    def test_a_process_killed_while_it_loads_is_followed_by_another(self, path, store, space):
        """Its lease ends by itself."""
        child = spawning.Process(target=die_with_lease, args=(path,))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        claims = []

        def is_had():
            claims.extend(space.claim(["1"], [os.urandom(8)], seconds=60))
            return claims[-1].lease is not None

        until(is_had)
        assert all(0 < claim.held_for <= 1 for claim in claims[:-1])
        assert space.fill([Fill("1", claims[-1].lease, b"x", 60)]) == [True]


def die_with_lease(path):
    space = SQLite(path, timeout=20).namespace("c")
    assert space.claim(["1"], [os.urandom(8)], seconds=1)[0].lease is not None
    os.kill(os.getpid(), signal.SIGKILL)
