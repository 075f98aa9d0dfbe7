"""SQLite beyond the contract: files, bounds, processes, forks, boots and locks."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import sqlite3
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tiercache.errors import ConfigurationError, StoreError, StoreTimeout
from tiercache.tiers import _sqlite_files as files
from tiercache.tiers.sqlite import SQLite
from tiercache.tiers.store import Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def store(path):
    store = SQLite(path)
    yield store
    store.close()


def open_files(path):
    """How many descriptors of this process are the database's files."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += str(link.readlink()).startswith(str(path))
        except OSError:
            continue
    return count


class TestFile:
    def test_a_good_path_is_taken(self, path):
        """A path may be text or a Path, the file may exist or not."""
        SQLite(str(path)).close()
        store = SQLite(path)
        assert store.label == f"sqlite:{path}"
        assert repr(store) == f"SQLite({str(path)!r})"
        assert isinstance(store, Store)
        store.close()

    def test_a_path_that_cannot_be_written_is_refused(self, tmp_path):
        """A missing directory, a directory, no name: each is named, with a remedy."""
        for bad in (tmp_path / "missing" / "cache.db", tmp_path, "", ":memory:", "a\0b"):
            with pytest.raises(ConfigurationError, match="SQLite path") as caught:
                SQLite(bad)
            assert repr(str(bad))[1:-1] in str(caught.value)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
    def test_a_readonly_file_is_refused(self, path):
        """A file without write permission is refused."""
        SQLite(path).close()
        path.chmod(0o444)
        with pytest.raises(ConfigurationError, match="readonly"):
            SQLite(path)

    def test_a_file_that_is_no_database_is_left_alone(self, path):
        """Someone's text file is refused and stays as it is."""
        path.write_text("Dear diary, " * 1000)
        with pytest.raises(ConfigurationError, match="not a database"):
            SQLite(path)
        assert path.read_text() == "Dear diary, " * 1000

    def test_another_programs_database_is_left_alone(self, path):
        """A database with tables of something else is refused and stays as it is."""
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE entry (mine)")
            db.execute("INSERT INTO entry VALUES (1)")
            db.commit()
        before = path.read_bytes()
        with pytest.raises(ConfigurationError, match="another program"):
            SQLite(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("options", [{"timeout": 0}, {"max_bytes": 1000}])
    def test_a_bad_option_is_refused(self, path, options):
        """Illegal options are named."""
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            SQLite(path, **options)

    def test_another_versions_tables_are_made_anew(self, path):
        """A file of an older or newer tiercache is emptied, not misread."""
        store = SQLite(path)
        store.write("c:1", b"old", 60)
        store.close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 999")
            db.execute("ALTER TABLE entry RENAME COLUMN payload TO value")
        store = SQLite(path)
        assert store.read("c:1") is None
        store.write("c:1", b"new", 60)
        assert store.read("c:1") is not None
        store.close()

    def test_entries_outlive_the_process_that_wrote_them(self, path):
        """Closed and opened again within one boot, everything is there."""
        store = SQLite(path)
        store.write("c:1", b"1", 60)
        store.close()
        store = SQLite(path)
        assert bytes(store.read("c:1").payload) == b"1"
        store.close()

    def test_another_boot_empties_the_file(self, path, monkeypatch):
        """Deadlines of a clock that has started anew mean nothing: all entries go."""
        store = SQLite(path)
        store.write("c:1", b"1", 60)
        store.close()
        monkeypatch.setattr(files, "boot_identity", lambda: "another boot")
        store = SQLite(path)
        assert store.read("c:1") is None
        store.close()

    def test_a_derived_boot_time_tolerates_clock_adjustments(self, monkeypatch):
        """Without a name for the boot, minutes of difference are the same boot, hours are not."""
        monkeypatch.setattr(files, "_BOOT_ID", Path("/nonexistent"))
        boot = files.boot_identity()
        seconds = float(boot.removeprefix("at "))
        assert files.is_same_boot(boot, f"at {seconds + 60}")
        assert not files.is_same_boot(boot, f"at {seconds + 3600}")
        assert not files.is_same_boot(boot, "0f1e-2d3c")

    def test_a_file_removed_under_us_is_made_again(self, path):
        """After the file was deleted, a new thread's connection finds or makes its tables."""
        store = SQLite(path)
        store.write("c:1", b"1", 60)
        store.close()
        for each in path.parent.iterdir():
            each.unlink()
        assert store.read("c:1") is None
        store.write("c:1", b"2", 60)
        assert bytes(store.read("c:1").payload) == b"2"
        store.close()

    def test_damage_found_later_is_a_store_error(self, path):
        """A file overwritten while in use fails calls with StoreError, nothing else."""
        store = SQLite(path)
        store.write_many([(f"c:{n}", os.urandom(2000), 60) for n in range(500)])
        store.close()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(100)
            file.write(os.urandom(size - 100))
        for call in (
            lambda: store.read_many([f"c:{n}" for n in range(500)]),
            lambda: asyncio.run(store.aread("c:1")),
            lambda: store.write("c:1", b"1", 60),
        ):
            with pytest.raises(StoreError, match="sqlite:"):
                call()
        store.close()


class TestBounds:
    def test_the_file_stays_within_max_bytes(self, path):
        """Written over many times, the file never passes its bound and keeps what is newest."""
        store = SQLite(path, max_bytes=2**20)
        for number in range(4000):
            store.write(f"c:{number}", os.urandom(1000), 1000 + number)
            if number % 250 == 0:
                assert path.stat().st_size <= 2**20
        assert path.stat().st_size <= 2**20
        kept = [n for n in range(4000) if store.read(f"c:{n}") is not None]
        assert len(kept) > 500
        assert kept[-1] == 3999
        assert min(kept) > 2500
        store.close()

    def test_entries_without_ttl_are_evicted_too(self, path):
        """Where nothing expires, the oldest go."""
        store = SQLite(path, max_bytes=2**20)
        for number in range(3000):
            store.write(f"c:{number}", os.urandom(1000), None)
        assert path.stat().st_size <= 2**20
        assert store.read("c:2999") is not None
        assert store.read("c:0") is None
        store.close()

    def test_big_payloads_among_small_ones_fit(self, path):
        """A big payload finds room even when the file is full of small ones."""
        store = SQLite(path, max_bytes=2**20)
        for number in range(3000):
            store.write(f"c:{number}", os.urandom(300), 1000)
        for number in range(10):
            store.write(f"c:big{number}", os.urandom(200_000), 5000)
            stored = store.read(f"c:big{number}")
            assert stored is None or len(stored.payload) == 200_000
        assert store.read("c:big9") is not None
        assert path.stat().st_size <= 2**20
        store.close()

    def test_a_batch_bigger_than_the_file_is_survived(self, path):
        """What cannot fit at once is not stored; no old value stays behind, nothing breaks."""
        store = SQLite(path, max_bytes=2**20)
        store.write("c:0", b"old", 1000)
        store.write_many([(f"c:{n}", os.urandom(50_000), 1000) for n in range(100)])
        stored = store.read("c:0")
        assert stored is None or bytes(stored.payload) != b"old"
        store.write("c:after", b"after", 1000)
        assert store.read("c:after") is not None
        store.close()

    def test_an_oversize_payload_is_not_stored_and_leaves_nothing(self, path):
        """Too big for the file: neither it nor the value before it is served."""
        store = SQLite(path, max_bytes=2**20)
        store.write("c:1", b"old", 60)
        store.write("c:1", b"x" * 2**19, 60)
        assert store.read("c:1") is None
        store.write_many([("c:2", b"small", 60), ("c:3", b"x" * 2**20, 60)])
        assert store.read("c:2") is not None
        assert store.read("c:3") is None
        store.close()

    def test_a_smaller_bound_shrinks_the_file(self, path):
        """Opened with a bound below its size, the file is emptied and made small."""
        store = SQLite(path, max_bytes=8 * 2**20)
        store.write_many([(f"c:{n}", os.urandom(1000), 60) for n in range(4000)])
        store.close()
        assert path.stat().st_size > 2**20
        store = SQLite(path, max_bytes=2**20)
        store.write("c:1", b"1", 60)
        assert path.stat().st_size <= 2**20
        store.close()

    def test_expired_rows_are_removed_by_writes(self, path, store):
        """Expired rows leave the file as others are written, a bounded batch at a time."""
        store.write_many([(f"c:{n}", b"x", 0.001) for n in range(300)])
        time.sleep(0.01)
        for number in range(100):
            store.write("c:live", b"%d" % number, 60)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM entry").fetchone() == (1,)

    def test_many_short_lives_do_not_pile_up(self, path, store):
        """However many entries come and expire, the table stays near what lives."""
        for number in range(3000):
            store.write(f"c:{number}", b"x" * 100, 0.001)
        with closing(sqlite3.connect(path)) as db:
            (rows,) = db.execute("SELECT count(*) FROM entry").fetchone()
        assert rows < 600


class TestLocks:
    def test_a_locked_file_is_a_timeout(self, path):
        """Another writer that does not finish costs about the timeout; reading goes on."""
        store = SQLite(path, timeout=0.2)
        store.write("c:1", b"1", 60)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(StoreTimeout, match="sqlite:"):
                store.write("c:1", b"2", 60)
            with pytest.raises(StoreTimeout):
                asyncio.run(store.awrite("c:1", b"2", 60))
            assert 0.3 < time.monotonic() - began < 1.5
            assert bytes(store.read("c:1").payload) == b"1"
            other.execute("ROLLBACK")
        store.write("c:1", b"2", 60)
        store.close()

    def test_a_store_can_be_made_on_a_locked_file(self, path):
        """A busy file is no configuration error."""
        SQLite(path).close()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store = SQLite(path, timeout=0.1)
            assert store.read("c:1") is None
            other.execute("ROLLBACK")
        store.write("c:1", b"1", 60)
        store.close()

    def test_a_full_queue_of_asyncio_calls_is_a_timeout(self, path):
        """Calls that never get one of our threads are told in time."""
        store = SQLite(path, timeout=0.2)

        async def main():
            writes = (store.awrite(f"c:{n}", b"1", 60) for n in range(30))
            began = time.monotonic()
            errors = await asyncio.gather(*writes, return_exceptions=True)
            assert {type(error) for error in errors} == {StoreTimeout}
            assert time.monotonic() - began < 1.5

        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asyncio.run(main())
            other.execute("ROLLBACK")
        store.close()


def hammer(path, number):
    """What each process of the test below does."""
    store = SQLite(path, timeout=20)
    for turn in range(100):
        store.write(f"c:{number}", b"%d" % turn, 60)
        assert bytes(store.read(f"c:{number}").payload) == b"%d" % turn
        store.write(f"c:shared{turn % 10}", b"%d" % number, 60)
    store.close()


class TestProcesses:
    def test_several_processes_share_a_file(self, path):
        """Four processes that start and write at once lose nothing and see one another."""
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=hammer, args=(path, n)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)
        assert [worker.exitcode for worker in workers] == [0] * 4
        store = SQLite(path)
        assert [bytes(store.read(f"c:{n}").payload) for n in range(4)] == [b"99"] * 4
        assert None not in store.read_many([f"c:shared{n}" for n in range(10)])
        store.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_has_connections_of_its_own(self, path, store):
        """A child reads and writes, blocking and awaited, while the parent does."""
        store.write("c:1", b"1", 60)
        asyncio.run(store.aread("c:1"))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                warnings.simplefilter("error")
                for turn in range(50):
                    store.write("c:child", b"%d" % turn, 60)
                    assert bytes(store.read("c:1").payload) == b"1"
                assert bytes(asyncio.run(store.aread("c:child")).payload) == b"49"
                store.close()
                code = 0
            finally:
                os._exit(code)
        for _ in range(50):
            store.write("c:parent", b"1", 60)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert bytes(store.read("c:child").payload) == b"49"


class TestLeftovers:
    def test_close_leaves_nothing_behind(self, path):
        """After close: no descriptor, no thread, no warning."""
        threads = threading.enumerate()
        store = SQLite(path)

        async def main():
            await asyncio.gather(*(store.awrite(f"c:{n}", b"1", 60) for n in range(20)))

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            asyncio.run(main())
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda n: store.read(f"c:{n}"), range(20)))
            assert None not in store.read_many([f"c:{n}" for n in range(20)])
            store.close()
            gc.collect()
        assert open_files(path) == 0
        assert threading.enumerate() == threads

    async def test_aclose_leaves_nothing_behind(self, path):
        """The same for aclose, at once."""
        store = SQLite(path)
        await asyncio.gather(*(store.awrite(f"c:{n}", b"1", 60) for n in range(20)))
        await store.aclose()
        assert open_files(path) == 0
        assert not [t for t in threading.enumerate() if "tiercache" in t.name]

    def test_a_thread_that_ends_closes_its_connection(self, path, store):
        """Threads come and go; their connections do not pile up."""
        store.read("c:1")
        before = open_files(path)
        for _ in range(10):
            thread = threading.Thread(target=store.read, args=("c:1",))
            thread.start()
            thread.join()
        gc.collect()
        assert len(store._sessions) == 1
        assert open_files(path) <= before + 1  # SQLite keeps a descriptor back, and uses it again
