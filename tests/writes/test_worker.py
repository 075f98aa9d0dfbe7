"""What becomes of what was accepted: batches, retries, dead letters, claims."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tests.writes.conftest import Place
from tiercache import MISS, StoreError
from tiercache.writes.backoff import Backoff


class Table:
    """A database: rows by item, and everything that was written, in order."""

    def __init__(self) -> None:
        self.rows: dict = {}
        self.seen: list = []
        self.batches: list[int] = []
        self.broken: set = set()  # items that cannot be written
        self.is_down = False
        self._lock = threading.Lock()

    def write(self, operations) -> None:
        if self.is_down or any(each.item in self.broken for each in operations):
            raise OSError("cannot write this")
        with self._lock:
            self.batches.append(len(operations))
            for each in operations:
                self.seen.append((each.item, each.value, each.version))
                self.rows[each.item] = None if each.kind == "delete" else each.value


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_batch_is_handed_over_when_it_is_full(place, table):
    """At max_batch keys, however long the delay; and no more at once."""
    behind = place.behind(table.write, max_batch=3, max_delay="1h")
    for number in range(2):
        behind.put(number, number)
    assert behind.stats().depth == 2
    behind.put(2, 2)
    until(lambda: table.rows == {0: 0, 1: 1, 2: 2})
    assert table.batches == [3]


def test_without_merge_operations_make_a_batch_full(place, table):
    """However few keys they are of."""
    behind = place.behind(table.write, max_batch=4, max_delay="1h", merge=False)
    for number in range(4):
        behind.put(1, number)
    until(lambda: table.batches == [4])


def test_hot_keys_wait_for_the_delay(place, table):
    """A full batch of keys that were just put is not written at once: it would never merge."""
    behind = place.behind(table.write, max_batch=3, max_delay="40ms")
    for number in range(3000):
        behind.put(number % 3, number)
    assert behind.flush() == 0
    assert table.rows == {0: 2997, 1: 2998, 2: 2999}
    assert len(table.batches) <= 300


def test_a_batch_is_handed_over_after_the_delay(place, table):
    """However few there are."""
    behind = place.behind(table.write, max_delay="20ms")
    began = time.monotonic()
    behind.put(1, "a")
    until(lambda: table.rows)
    assert time.monotonic() - began >= 0.018


def test_flush_waits_until_all_is_written(place, table, kind: Kind):
    """What was accepted before; with nothing to do it returns at once."""
    behind = place.behind(table.write, max_delay="1h")
    assert kind.do(behind, "flush") == 0
    for number in range(250):
        behind.put(number, number)
    assert kind.do(behind, "flush") == 0
    assert len(table.rows) == 250
    assert max(table.batches) <= 100


def test_flush_gives_up_in_time(place, table, kind):
    """And says how many are left."""
    table.is_down = True
    behind = place.behind(table.write, max_delay="1h", max_attempts=None)
    behind.put(1, "a")
    assert kind.do(behind, "flush", "30ms") == 1
    table.is_down = False


def test_a_failed_batch_is_tried_again(place, table):
    """Until the database is back; nothing is lost and nothing out of order."""
    table.is_down = True
    behind = place.behind(table.write, max_attempts=None)
    for number in range(20):
        behind.put(number, number)
    until(lambda: behind.stats().failures >= 3)
    table.is_down = False
    assert behind.flush() == 0
    assert table.rows == {number: number for number in range(20)}
    assert behind.stats().dead == 0


def test_a_poison_operation_does_not_stop_others(place, table):
    """It becomes a dead letter after max_attempts; those of its batch are written."""
    table.broken = {3}
    behind = place.behind(table.write, max_delay="1h", max_attempts=3)
    for number in range(10):
        behind.put(number, number)
    assert behind.flush() == 0
    assert table.rows == {number: number for number in range(10) if number != 3}
    (letter,) = behind.dead_letters()
    assert (letter.operation.item, letter.operation.value) == (3, 3)
    assert letter.attempts == 3
    assert letter.error == "OSError: cannot write this"
    stats = behind.stats()
    assert (stats.dead, stats.buried, stats.written) == (1, 1, 9)


def test_what_has_failed_alone_is_tried_alone(place, table):
    """It is not in a batch again, which would fail with it."""
    table.broken = {3}
    calls = []

    def writer(operations):
        calls.append({each.item for each in operations})
        table.write(operations)

    behind = place.behind(writer, max_delay="1h", max_attempts=5)
    for number in range(5):
        behind.put(number, number)
    assert behind.flush() == 0
    assert sum(3 in call for call in calls) == 6  # with the batch, and five times alone
    assert sum(call == {3} for call in calls) == 5


def test_what_was_given_up_is_not_served(place, table):
    """The cache forgets it: readers get what the database has."""
    cache = place.cache()
    table.broken = {1}
    behind = place.behind(table.write, cache, max_attempts=1)
    behind.put(1, "poison")
    assert behind.flush() == 0
    until(lambda: cache.get("user:1", MISS) is MISS)


def test_a_later_operation_of_the_key_is_tried_anew(place, table):
    """With all its attempts, whatever became of the one before."""
    table.broken = {1}
    behind = place.behind(table.write, max_attempts=2)
    behind.put(1, "poison")
    behind.flush()
    assert len(behind.dead_letters()) == 1
    table.broken = set()
    behind.put(1, "good")
    assert behind.flush() == 0
    assert table.rows == {1: "good"}


def test_without_merge_the_next_of_the_key_goes_on(place, table):
    """Each carries the whole value, so one that was given up does not hold up those after it."""
    behind = place.behind(table.write, max_delay="1h", merge=False, max_attempts=2)
    write = table.write

    def writer(operations):
        if any(each.value == "poison" for each in operations):
            raise ValueError("poison")
        write(operations)

    behind._writer = writer
    for worker in behind._crew._workers:
        worker._writer = writer
    for value in ("a", "poison", "b"):
        behind.put(1, value)
    assert behind.flush() == 0
    assert [value for _, value, _ in table.seen] == ["a", "b"]
    assert [each.operation.value for each in behind.dead_letters()] == ["poison"]


def test_a_dead_letter_can_be_replayed(place, table, kind):
    """It is visible again, and written with its own version."""
    cache = place.cache()
    table.broken = {1}
    behind = place.behind(table.write, cache, max_attempts=1)
    version = behind.put(1, "a")
    behind.flush()
    (letter,) = kind.do(behind, "dead_letters")
    table.broken = set()
    assert kind.do(behind, "replay", letter) == 1
    assert behind.flush() == 0
    assert table.seen == [(1, "a", version)]
    assert kind.do(behind, "replay") == 0


def test_a_replayed_operation_is_visible_before_it_is_written(shared, table):
    """Readers are told of it by the journal."""
    cache = shared.cache()
    table.broken = {1}
    behind = shared.behind(table.write, cache, max_attempts=1, max_delay="1h")
    behind.put(1, "a")
    behind.flush()
    table.broken = set()
    assert behind.replay() == 1
    assert cache.get_or_load("user:1", lambda: "older row") == "a"
    assert table.rows == {}


def test_an_outdated_dead_letter_is_not_replayed(place, table, kind):
    """Its key was written since; it can only be discarded."""
    table.broken = {1}
    behind = place.behind(table.write, max_attempts=1)
    behind.put(1, "a")
    behind.flush()
    table.broken = set()
    behind.put(1, "b")
    behind.flush()
    assert kind.do(behind, "replay") == 0
    assert kind.do(behind, "discard", *behind.dead_letters()) == 1
    assert behind.dead_letters() == []
    assert table.rows == {1: "b"}


def test_an_asyncio_writer_runs_in_a_loop_of_its_own(place, table):
    """In a thread of the cache's; the caller may be blocking."""
    loops = []

    async def writer(operations):
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        table.write(operations)

    behind = place.behind(writer)
    for number in range(2):
        behind.put(number, number)
        behind.flush()
    assert table.rows == {0: 0, 1: 1}
    assert len(set(loops)) == 1
    behind.close()
    assert loops[0].is_closed()


def test_a_writer_that_returns_an_awaitable_is_awaited(place, table):
    """A lambda around an async function is as good."""

    async def write(operations):
        table.write(operations)

    behind = place.behind(lambda operations: write(operations))
    behind.put(1, "a")
    assert behind.flush() == 0
    assert table.rows == {1: "a"}


def test_an_asyncio_writer_that_hangs_is_cancelled(place, table):
    """After claim_timeout; that is an attempt like any other."""
    calls = []

    async def writer(operations):
        calls.append(len(operations))
        if len(calls) <= 2:
            await asyncio.sleep(60)
        table.write(operations)

    behind = place.behind(writer, claim_timeout="60ms", max_attempts=None)
    behind.put(1, "a")
    assert behind.flush() == 0
    assert table.rows == {1: "a"}


def test_a_blocking_writer_that_hangs_is_replaced(place, table):
    """Another thread goes on with its operations; what it does in the end is not acknowledged."""
    release, hung = threading.Event(), threading.Event()

    def writer(operations):
        if not hung.is_set():
            hung.set()
            release.wait(10)
        table.write(operations)

    behind = place.behind(writer, claim_timeout="100ms")
    behind.put(1, "a")
    assert hung.wait(10)
    behind.put(2, "b")
    until(lambda: set(table.rows) == {1, 2})
    assert behind.stats().stuck == 1
    release.set()
    until(lambda: behind.stats().stuck == 0)
    assert behind.stats().lost_claims == 1
    assert behind.stats().dead == 0


def test_a_writer_that_is_always_too_slow_is_acknowledged(place, table):
    """It is at work in this process: nothing has died, and what it wrote is not written anew."""
    behind = None

    def writer(operations):
        table.write(operations)
        until(lambda: len(table.batches) == 2)  # another has its claim by then
        if behind.stats().lost_claims:
            until(lambda: behind.stats().written)  # and the third has that one's

    behind = place.behind(writer, claim_timeout="60ms", max_attempts=1)
    behind.put(1, "a")
    until(lambda: behind.stats().depth == 0)
    until(lambda: behind.stats().lost_claims >= 1)
    assert behind.stats().dead == 0
    assert (table.rows, len(table.batches)) == ({1: "a"}, 2)


def test_an_operation_that_hangs_takes_two_workers_and_no_more(place, table):
    """The others are written; it is acknowledged when the writer returns after all."""
    release, hung = threading.Event(), []

    def writer(operations):
        if any(each.item == 1 for each in operations):
            hung.append(1)
            release.wait(20)
        table.write(operations)

    behind = place.behind(writer, claim_timeout="60ms", max_attempts=1, max_batch=1)
    behind.put(1, "a")
    until(lambda: len(hung) == 2)
    until(lambda: behind.stats().put_off == 1)
    behind.put(2, "b")
    until(lambda: 2 in table.rows)
    assert (len(hung), behind.stats().dead) == (2, 0)
    release.set()
    assert behind.flush() == 0
    assert (len(hung), table.rows) == (2, {1: "a", 2: "b"})


@pytest.mark.parametrize("method", ["take", "done"])
def test_an_answer_of_the_journal_is_lost(shared, table, monkeypatch, method):
    """What the worker then holds it gives back, and does not wait for its own claim to end."""
    behind = shared.behind(table.write, max_delay="1h")
    real, lost = getattr(behind.journal, method), []

    def fail_once(*args):
        if method == "take" or lost:
            result = real(*args)
        if not lost and (method == "done" or result.tickets):
            lost.append(args)
            raise StoreError("the connection was cut")
        return result

    monkeypatch.setattr(behind.journal, method, fail_once)
    for item in range(3):
        behind.put(item, "a")
    assert behind.flush("10s") == 0
    assert (len(lost), table.batches) == (1, [3])
    assert (behind.stats().lost_claims, behind.stats().dead) == (0, 0)


def test_what_is_written_late_counts_once(place, table):
    """As a claim that was lost, by whoever was late; as written by whoever acknowledged it."""
    hung, may_go = threading.Event(), threading.Event()

    def writer(operations):
        table.write(operations)
        if not hung.is_set():
            hung.set()
            may_go.wait(20)

    behind = place.behind(writer, claim_timeout="60ms")
    behind.put(1, "a")
    until(lambda: behind.stats().written == 1)
    may_go.set()
    until(lambda: behind.stats().lost_claims == 1)
    assert (behind.stats().written, behind.stats().batches) == (1, 1)


@pytest.mark.parametrize("result", ["False", "generator"])
def test_a_writer_that_says_it_wrote_nothing_has_not(place, table, result):
    """False, and a generator that never ran, are failures; the operation is not lost."""

    def writer(operations):
        return False if result == "False" else (each for each in operations)

    behind = place.behind(writer, max_attempts=1)
    behind.put(1, "a")
    behind.flush()
    (letter,) = behind.dead_letters()
    assert letter.operation.value == "a"
    assert result in letter.error


def test_what_the_writer_returns_otherwise_is_ignored(place, table):
    """A cursor, a count: raising is what says that something went wrong."""
    behind = place.behind(lambda operations: table.write(operations) or len(operations))
    behind.put(1, "a")
    assert behind.flush() == 0
    assert behind.stats().dead == 0


def test_closing_writes_what_is_pending(place, table, kind):
    """However long the delay."""
    behind = place.behind(table.write, max_delay="1h")
    behind.put(1, "a")
    assert kind.do(behind, "close") == 0
    assert table.rows == {1: "a"}


def test_closing_the_cache_closes_its_writers(place, table, kind):
    """So that nothing waits for a process that has ended."""
    cache = place.cache()
    behind = place.behind(table.write, cache, max_delay="1h")
    behind.put(1, "a")
    kind.do(cache, "close")
    assert table.rows == {1: "a"}


def test_closing_says_what_is_left(shared, table, kind, caplog):
    """It stays in the journal, and the next process writes it."""
    table.is_down = True
    behind = shared.behind(table.write, max_attempts=None)
    behind.put(1, "a")
    assert kind.do(behind, "close", "20ms") == 1
    assert "1 operations left in the journal 'user:{}'" in caplog.text
    table.is_down = False
    shared.behind(table.write)
    until(lambda: table.rows == {1: "a"})


def test_closing_one_in_memory_says_what_is_lost(table, caplog):
    """Nobody can go on with it."""
    place = Place("memory", None, "")
    table.is_down = True
    behind = place.behind(table.write, max_attempts=None)
    behind.put(1, "a")
    assert behind.close("20ms") == 1
    assert "LOST 1 operations" in caplog.text
    place.caches[0].close()


def test_workers_of_several_processes_share_the_work(shared):
    """Each key is written by one at a time, in order, and nothing is left or lost."""
    tables = [Table(), Table()]
    behinds = [
        shared.behind(each.write, max_batch=5, max_delay="1ms", workers=2) for each in tables
    ]
    last = {}
    for number in range(400):
        last[number % 17] = number
        behinds[number % 2].put(number % 17, number)
    assert [behind.flush() for behind in behinds] == [0, 0]
    seen = sorted((each for table in tables for each in table.seen), key=lambda each: each[2])
    assert {item: value for item, value, _ in seen} == last
    for table in tables:
        for item in last:
            versions = [version for each, _, version in table.seen if each == item]
            assert versions == sorted(versions)


def test_two_threads_never_write_a_key_at_once(place):
    """Not even while one takes its time."""
    writing, clashes, lock = set(), [], threading.Lock()

    def writer(operations):
        items = {each.item for each in operations}
        with lock:
            clashes.extend(items & writing)
            writing.update(items)
        time.sleep(0.001)
        with lock:
            writing.difference_update(items)

    behind = place.behind(writer, max_batch=3, max_delay="1ms", workers=4)
    for number in range(300):
        behind.put(number % 7, number)
    assert behind.flush() == 0
    assert clashes == []


def test_a_process_without_workers_leaves_it_to_others(shared, table):
    """workers=0: its puts are written elsewhere."""
    putter = shared.behind(lambda operations: None, workers=0)
    shared.behind(table.write)
    putter.put(1, "a")
    until(lambda: table.rows == {1: "a"})
    assert putter.flush() == 0


def test_stats_tell_of_lag(place, table):
    """How old the oldest operation is, put-off ones included."""
    table.is_down = True
    behind = place.behind(table.write, max_attempts=None, backoff="1h")
    behind.put(1, "a")
    until(lambda: behind.stats().put_off == 1 and behind.stats().retries)
    first = behind.stats().lag_seconds
    until(lambda: behind.stats().lag_seconds > first > 0)
    stats = behind.stats()
    assert (stats.depth, stats.written) == (1, 0)
    behind.close("10ms")


def test_the_journal_may_be_gone_for_a_while(table):
    """Workers wait, and go on."""
    from tests.servers import RedisServer

    with RedisServer(options=("--appendonly", "yes", "--appendfsync", "always")) as server:
        place = Place("redis", server, "")
        behind = place.behind(table.write, max_delay="1h", workers=1)
        behind.put(1, "a")
        server.kill()
        until(lambda: behind._crew._workers[0]._is_in_trouble)
        server.start()
        until(lambda: behind.stats().depth is not None)
        assert behind.flush() == 0
        assert table.rows == {1: "a"}
        place.caches[0].close()


def test_delays_grow_and_are_bounded():
    """Threefold each time, shortened at random by up to 30 %."""
    backoff = Backoff(0.1, 5.0)
    assert [round(backoff.after(n, lambda: 0.0), 3) for n in (1, 2, 3, 4, 5, 900)] == [
        *(0.1, 0.3, 0.9, 2.7, 5.0, 5.0)
    ]
    assert backoff.after(1, lambda: 1.0) == pytest.approx(0.07)
