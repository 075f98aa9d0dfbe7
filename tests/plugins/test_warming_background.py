"""Warming in the background, what is shown of it, and its arithmetic."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from tiercache import WarmReport
from tiercache.runtime import run as complete
from tiercache.warming import carrier, progress, room, sources
from tiercache.warming.run import Limits, Pace, Run


class Held:
    """A blocking loader whose loads wait until they are let go."""

    def __init__(self):
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.calls = 0

    def __call__(self, i):
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(10)
        return i


@pytest.fixture
def held():
    held = Held()
    yield held
    held.go_on.set()


class TestWarmup:
    """What ``start_warming`` returns."""

    def test_it_is_ready_when_all_is_warm(self, cache, held):
        """Not before: a readiness gate."""
        cache.warmer(cache.cached("n:{i}")(lambda i: held(i)))(lambda: range(3))
        warmup = cache.start_warming(concurrency=1)
        assert held.begun.wait(10)
        assert not warmup.is_ready
        assert not warmup.wait(0)
        held.go_on.set()
        assert warmup.wait(10)
        assert warmup.is_ready
        assert (warmup.report.loaded, warmup.report.stopped_because) == (3, "")
        assert warmup.error is None

    def test_async_functions_in_a_loop_of_its_own(self, cache):
        """It works where no loop is running, and where one is."""

        @cache.cached("n:{i}")
        async def load(i):
            await asyncio.sleep(0)
            return i

        cache.warmer(load)(lambda: range(10))
        assert cache.start_warming().wait(10)
        assert len(cache.memory) == 10

        async def main():
            return cache.start_warming()

        assert asyncio.run(main()).wait(10)

    def test_stop_begins_nothing_more(self, cache, held):
        """The load under way lands, and is kept."""
        cache.warmer(cache.cached("n:{i}")(lambda i: held(i)))(lambda: range(1000))
        warmup = cache.start_warming(concurrency=1)
        assert held.begun.wait(10)
        warmup.stop()
        held.go_on.set()
        assert warmup.wait(10)
        assert (warmup.report.loaded, warmup.report.stopped_because) == (1, "stopped")
        assert held.calls == 1

    def test_closing_the_cache_stops_it(self, make_cache, held):
        """No thread is left behind."""
        cache = make_cache()
        cache.warmer(cache.cached("n:{i}")(lambda i: held(i)))(lambda: range(1000))
        warmup = cache.start_warming(concurrency=4)
        assert held.begun.wait(10)
        threading.Timer(0.05, held.go_on.set).start()
        cache.close()
        assert warmup.is_ready
        assert not [t for t in threading.enumerate() if t.name.startswith("tiercache-warm")]

    def test_a_loader_may_close_its_cache(self, make_cache, monkeypatch):
        """Nobody waits for himself for good."""
        monkeypatch.setattr("tiercache.cache.CLOSING_SECONDS", 0.2)
        cache = make_cache()
        cache.warmer(cache.cached("n:{i}")(lambda i: cache.close()))(lambda: [1])
        assert cache.start_warming(concurrency=1).wait(20)

    def test_what_a_source_raises_is_there(self, cache, caplog):
        """It ends the run, is said in the log without its text, and is not raised anywhere."""

        def ids():
            yield 1
            raise LookupError("sec" + "ret")

        cache.warmer(cache.cached("n:{i}")(lambda i: i))(ids)
        warmup = cache.start_warming()
        assert warmup.wait(10)
        assert isinstance(warmup.error, LookupError)
        assert warmup.report.stopped_because == "stopped"
        assert "LookupError" in caplog.text
        assert "secret" not in caplog.text

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_does_not_wait_for_it(self, cache, held):
        """The thread is the parent's: in the child it is as ready as it will be."""
        cache.warmer(cache.cached("n:{i}")(lambda i: held(i)))(lambda: [1])
        warmup = cache.start_warming()
        assert held.begun.wait(10)
        child = os.fork()
        if child == 0:
            os._exit(0 if warmup.is_ready and warmup.wait(1) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not warmup.is_ready

    def test_sources_are_kept_when_a_cache_is_configured(self, make_cache):
        """As its functions are."""
        cache = make_cache()
        cache.warmer(cache.cached("n:{i}")(lambda i: i))(lambda: [1])
        cache.reconfigure(ttl=60)
        assert cache.warm().loaded == 1
        cache.close()


class TestThreads:
    """Where threads cannot be had."""

    def test_too_few_threads_leave_none_behind(self, cache, monkeypatch):
        """The error reaches the caller, and those that were started end."""
        cache.warmer(cache.cached("n:{i}")(lambda i: i))(lambda: range(100))
        started, start = [], threading.Thread.start

        def few(thread):
            if len(started) == 2:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", few)
        with pytest.raises(RuntimeError, match="can't start"):
            cache.warm(concurrency=4)
        assert [thread.is_alive() for thread in started] == [False, False]


class TestReading:
    """How sources are read."""

    def test_by_one_thread(self, cache, kind):
        """From the first item to the last, and its close: it may hold a cursor."""
        threads = set()
        load = cache.cached("n:{i}")(kind.function(lambda i: i))

        @cache.warmer(load)
        def ids():
            try:
                for i in range(500):
                    threads.add(threading.get_ident())
                    yield i
            finally:
                threads.add(threading.get_ident())

        assert kind.do(cache, "warm", concurrency=8).loaded == 500
        assert len(threads) == 1

    def test_no_further_than_needed(self, cache, kind):
        """A source without end is read only a little ahead, and closed where warming stops."""
        read, closed, generators = [], [], []

        @cache.cached("n:{i}")
        @kind.function
        def load(i):
            raise ConnectionError

        def ids():
            try:
                for i in range(10**9):
                    read.append(i)
                    yield i
            finally:
                closed.append(True)

        @cache.warmer(load)
        def held():
            generators.append(ids())
            return generators[0]

        assert kind.do(cache, "warm", stop_on_errors=3).stopped_because == "errors"
        assert len(read) < 2000
        assert closed == [True]

    def test_a_slow_source_is_not_waited_for(self, monkeypatch):
        """What it has yielded is loaded, before there are as many as could be loaded at once."""
        jobs = iter(range(5))
        assert sources.read_some(jobs, 2) == [0, 1]
        monkeypatch.setattr(sources, "READ_SECONDS", -1.0)
        assert [sources.read_some(jobs, 64) for _ in range(4)] == [[2], [3], [4], []]


class TestProgress:
    """What is seen."""

    def test_nothing_where_there_is_no_terminal(self, cache, capsys):
        """By default, and on request anywhere."""
        assert isinstance(progress.progress_of(new_run(), "c", wanted=None), progress.Nothing)
        assert isinstance(progress.progress_of(new_run(), "c", wanted=False), progress.Nothing)

    def test_a_bar_on_a_terminal(self, monkeypatch):
        """It shows how many of how many."""
        monkeypatch.setattr("sys.stderr", Terminal())
        assert isinstance(progress.progress_of(new_run(), "c", wanted=None), progress.Bar)
        written = io.StringIO()
        run = new_run()
        run.expect(40)
        with progress.Bar(run, "users", Console(file=written, force_terminal=True)) as bar:
            run.note("loaded", 30)
            bar.show()
        assert "users" in written.getvalue()
        assert "30/40" in written.getvalue()

    def test_lines_without_rich(self, monkeypatch, caplog):
        """Now and then a line in the log; never one per key."""
        monkeypatch.setattr("sys.stderr", Terminal())
        monkeypatch.setitem(sys.modules, "rich.console", None)
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        run = new_run()
        lines = progress.progress_of(run, "users", wanted=True)
        assert isinstance(lines, progress.Lines)
        run.note("loaded", 30)
        with caplog.at_level(logging.INFO), lines:
            lines.show()
        assert "30 loaded" in caplog.text
        monkeypatch.setattr(progress, "LINE_SECONDS", 1000.0)
        lines = progress.progress_of(run, "users", wanted=True)
        caplog.clear()
        for _ in range(100):
            lines.show()
        assert caplog.text == ""

    def test_the_end_is_a_line(self, cache, caplog):
        """What came of it, once."""
        cache.warmer(cache.cached("n:{i}")(lambda i: 1 // i))(lambda: [0, 1])
        with caplog.at_level(logging.INFO, "tiercache.warming"):
            cache.warm()
        assert "warmed cache 'test': 1 loaded, 0 skipped, 1 failed" in caplog.text
        assert "ZeroDivisionError" in caplog.text


class TestCarrying:
    """How a few keys are brought."""

    def test_loads_that_take_long_are_broken_off(self, cache, monkeypatch):
        """Keys whose turn does not come soon are let go of, for callers, and boarded again."""
        boarded, loaded = [], []
        load = cache.cached("n:{i}")(lambda i: loaded.append(i))
        cache.warmer(load)(list)
        board = carrier._Visit._board

        def noted(visit):
            led, others = board(visit)
            boarded.append(len(led))
            return led, others

        async def pause(seconds):
            return True

        monkeypatch.setattr(carrier._Visit, "_board", noted)
        monkeypatch.setattr(carrier, "HOLD_SECONDS", 0.0)
        run, (source,) = new_run(), cache._warm_sources
        carried = carrier.Carrier(cache.flow, cache.blocking, source, run, pause)
        complete(carried.bring([source.job(i) for i in range(5)]))
        assert loaded == [0, 1, 2, 3, 4]
        assert boarded == [5, 4, 3, 2, 1]
        assert run.report().loaded == 5

    def test_chunks_are_as_long_as_a_caller_may_wait(self, cache):
        """One key at first, many where loads are quick, one where they are slow."""

        async def pause(seconds):
            return True

        cache.warmer(cache.cached("n:{i}")(lambda i: i))(list)
        (source,) = cache._warm_sources
        carried = carrier.Carrier(cache.flow, cache.blocking, source, new_run(), pause)
        sizes = [carried.size]
        for seconds in (0.0001, 0.005, 10.0):
            carried.note_load(seconds)
            sizes.append(carried.size)
        assert sizes == [1, 64, 10, 1]

    def test_a_room_counts_no_hit(self, cache):
        """What is found is not asked for by anybody."""
        cache.set("k", 1)
        entry = cache.memory.get("k")
        room.Room(cache.memory, lambda count: None).touch(entry)
        assert entry.hits == 0


class TestArithmetic:
    """Pace, deadline, report."""

    def test_a_pace_is_even(self):
        """Reservations follow one another; an idle time is not made up for."""
        pace = Pace(10)
        assert [pace.reserve(1, 0.0) for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
        assert pace.reserve(5, 0.0) == pytest.approx(0.3)
        assert pace.reserve(1, 0.0) == pytest.approx(0.8)
        assert pace.reserve(1, 100.0) == 0
        assert pace.reserve(1, 100.0) == pytest.approx(0.1)

    def test_a_deadline_by_the_clock(self, clock):
        """It stops the run, and bounds what it waits for."""
        run = Run(Limits.of(1, None, 10, None), clock)
        assert (run.is_stopping, run.within(60)) == (False, 10)
        clock.advance(9)
        assert run.within(60) == 1
        clock.advance(1)
        assert run.is_stopping
        run.stop("stopped")
        assert run.report().stopped_because == "deadline"

    def test_a_success_ends_a_row_of_failures(self):
        """Only those that follow one another count."""
        run = Run(Limits.of(1, None, None, 3))
        for _ in range(5):
            run.note_error(ValueError())
            run.note_error(ValueError())
            run.note("loaded")
        assert not run.is_stopping
        for _ in range(3):
            run.note_error(ValueError())
        assert run.report().stopped_because == "errors"

    def test_a_report_is_frozen_and_says_itself(self):
        """As text, for a log."""
        report = WarmReport(loaded=2, skipped=1, seconds=1.5, stopped_because="full")
        assert str(report) == "2 loaded, 1 skipped, 0 failed in 1.5 s, stopped: full"
        assert report.total == 3
        with pytest.raises(AttributeError):
            report.loaded = 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


def new_run():
    return Run(Limits.of(1, None, None, None))


def test_importing_does_not_load_asyncio():
    """A blocking program that warms nothing pays for none of it."""
    code = "import sys, tiercache; print([m for m in ('asyncio', 'rich') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
