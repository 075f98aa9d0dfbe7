"""SQLite beyond the contract: files, bounds, processes, forks, boots and locks."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sqlite3
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.waiting import until
from tiercache.errors import ConfigurationError, StoreError, StoreTimeout
from tiercache.tiers import _sqlite_files as files
from tiercache.tiers import _sqlite_tags as tags
from tiercache.tiers._sqlite_tail import _pause
from tiercache.tiers._sqlite_tidying import Tidying
from tiercache.tiers.sqlite import SQLite
from tiercache.tiers.store import Fill, Item, Kind, LogGap, Store, StoreRefused


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def store(path):
    store = SQLite(path)
    yield store
    store.close()


@pytest.fixture
def space(store):
    return store.namespace("c", "this")


def opened(path, **options):
    """A store on a file, and a namespace of it."""
    store = SQLite(path, **options)
    return store, store.namespace("c", "this")


def rows(path, table):
    """How many rows a table has."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


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

    @pytest.mark.parametrize("options", [{"timeout": 0}, {"max_bytes": 1000}, {"log_length": 0}])
    def test_a_bad_option_is_refused(self, path, options):
        """Illegal options are named."""
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            SQLite(path, **options)

    def test_another_versions_tables_are_made_anew(self, path):
        """A file of an older or newer tiercache is emptied, not misread."""
        store, space = opened(path)
        space.write("1", b"old", 60)
        store.close()
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 999")
            db.execute("ALTER TABLE entry RENAME COLUMN payload TO value")
        store, space = opened(path)
        assert space.read("1") is None
        space.write("1", b"new", 60)
        assert space.read("1") is not None
        store.close()

    def test_a_file_of_the_first_version_is_made_anew(self, path):
        """A file as tiercache made it before namespaces is emptied, and works."""
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA application_id = 0x74636163")
            db.execute("PRAGMA user_version = 1")
            db.execute(
                "CREATE TABLE entry (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,"
                " deadline INTEGER, payload BLOB NOT NULL)"
            )
            db.execute("CREATE INDEX entry_deadline ON entry (deadline)")
            db.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
            db.execute("INSERT INTO entry VALUES (1, x'63', NULL, x'31')")
        store, space = opened(path)
        assert space.read("c") is None
        space.write("c", b"new", 60, ("t",))
        assert space.lock("l", b"n" * 8, 60).fence
        assert bytes(space.read("c").payload) == b"new"
        store.close()

    def test_a_file_made_anew_is_a_gap(self, path):
        """Who listens learns that the log it followed is gone, and hears the new one."""
        store, space = opened(path)
        space.announce(Kind.NEWS, ["1"])
        tail = space.tail(space.log_end())
        assert tail.read(0) == []
        with closing(sqlite3.connect(path)) as db:
            db.execute("PRAGMA user_version = 999")
        other, peer = opened(path)
        for turn in range(5):
            peer.announce(Kind.NEWS, [f"{turn}"])
        with pytest.raises(LogGap):
            tail.read(0)
        peer.announce(Kind.NEWS, ["after"])
        assert [message.names for message in tail.read(1)] == [("after",)]
        other.close()
        store.close()

    def test_a_strange_position_is_a_gap(self, space):
        """A position of another store, or of nothing, reaches back to nowhere."""
        for position in ("", "1", "1-2", "x-y", "1732-5-7", "\u0661-\u0662"):
            with closing(space.tail(position)) as tail:
                with pytest.raises(LogGap):
                    tail.read(0)
                assert tail.read(0) == []

    def test_entries_outlive_the_process_that_wrote_them(self, path):
        """Closed and opened again within one boot, everything is there."""
        store, space = opened(path)
        space.write("1", b"1", 60)
        store.close()
        store, space = opened(path)
        assert bytes(space.read("1").payload) == b"1"
        store.close()

    def test_another_boot_empties_the_file(self, path, monkeypatch):
        """Deadlines of a clock that has started anew mean nothing: all entries go."""
        store, space = opened(path)
        space.write("1", b"1", 60)
        store.close()
        monkeypatch.setattr(files, "boot_identity", lambda: "another boot")
        store, space = opened(path)
        assert space.read("1") is None
        store.close()

    def test_another_boot_ends_leases_and_locks(self, path, monkeypatch):
        """Nobody is left to hold them; fences go on all the same, whatever the clock says."""
        store, space = opened(path)
        space.claim(["1"], [b"n" * 8], seconds=1000)
        fence = space.lock("l", b"n" * 8, 1000).fence
        store.close()
        monkeypatch.setattr(files, "boot_identity", lambda: "another boot")
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        store, space = opened(path)
        assert space.claim(["1"], [b"m" * 8], seconds=1)[0].lease is not None
        assert space.lock("l", b"m" * 8, 1).fence == fence + 1
        store.close()

    def test_lost_fences_go_on_from_the_clock(self, path, space, monkeypatch):
        """The clock's microseconds are ahead of every fence given before."""
        before = space.lock("a", b"n" * 8, 60).fence
        with closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM fence")
            db.commit()
        after = space.lock("b", b"n" * 8, 60).fence
        assert before < after <= time.time_ns() // 1000
        monkeypatch.setattr(time, "time_ns", lambda: 0)
        assert space.lock("c", b"n" * 8, 60).fence == after + 1

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
        store, space = opened(path)
        space.write("1", b"1", 60)
        store.close()
        for each in path.parent.iterdir():
            each.unlink()
        assert space.read("1") is None
        space.write("1", b"2", 60)
        assert bytes(space.read("1").payload) == b"2"
        store.close()

    def test_damage_found_later_is_a_store_error(self, path):
        """A file overwritten while in use fails calls with StoreError, nothing else."""
        store, space = opened(path)
        space.write_many([Item(f"{n}", os.urandom(2000), 60) for n in range(500)])
        store.close()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(100)
            file.write(os.urandom(size - 100))
        tail = space.tail("1-1")
        for call in (
            lambda: tail.read(0),
            lambda: space.read_many([f"{n}" for n in range(500)]),
            lambda: asyncio.run(space.aread("1")),
            lambda: space.write("1", b"1", 60),
        ):
            with pytest.raises(StoreError, match="sqlite:"):
                call()
        store.close()


class TestBounds:
    def test_the_file_stays_within_max_bytes(self, path):
        """Written over many times, the file never passes its bound and keeps what is newest."""
        store, space = opened(path, max_bytes=2**20)
        for number in range(4000):
            space.write(f"{number}", os.urandom(1000), 1000 + number)
            if number % 250 == 0:
                assert path.stat().st_size <= 2**20
        assert path.stat().st_size <= 2**20
        kept = [n for n in range(4000) if space.read(f"{n}") is not None]
        assert len(kept) > 400  # beside the log, which may have an eighth
        assert kept[-1] == 3999
        assert min(kept) > 2500
        store.close()

    def test_entries_without_ttl_are_evicted_too(self, path):
        """Where nothing expires, the oldest go."""
        store, space = opened(path, max_bytes=2**20)
        for number in range(3000):
            space.write(f"{number}", os.urandom(1000), None)
        assert path.stat().st_size <= 2**20
        assert space.read("2999") is not None
        assert space.read("0") is None
        store.close()

    def test_big_payloads_among_small_ones_fit(self, path):
        """A big payload finds room even when the file is full of small ones."""
        store, space = opened(path, max_bytes=2**20)
        for number in range(3000):
            space.write(f"{number}", os.urandom(300), 1000)
        for number in range(10):
            space.write(f"big{number}", os.urandom(200_000), 5000)
            stored = space.read(f"big{number}")
            assert stored is None or len(stored.payload) == 200_000
        assert space.read("big9") is not None
        assert path.stat().st_size <= 2**20
        store.close()

    def test_a_batch_bigger_than_the_file_is_survived(self, path):
        """What cannot fit at once is not stored; no old value stays behind, nothing breaks."""
        store, space = opened(path, max_bytes=2**20)
        space.write("0", b"old", 1000)
        space.write_many([Item(f"{n}", os.urandom(50_000), 1000) for n in range(100)])
        stored = space.read("0")
        assert stored is None or bytes(stored.payload) != b"old"
        space.write("after", b"after", 1000)
        assert space.read("after") is not None
        store.close()

    def test_an_oversize_payload_is_not_stored_and_leaves_nothing(self, path):
        """Too big for the file: neither it nor the value before it is served."""
        store, space = opened(path, max_bytes=2**20)
        space.write("1", b"old", 60)
        space.write("1", b"x" * 2**19, 60)
        assert space.read("1") is None
        space.write_many([Item("2", b"small", 60), Item("3", b"x" * 2**20, 60)])
        assert space.read("2") is not None
        assert space.read("3") is None
        store.close()

    def test_a_smaller_bound_shrinks_the_file(self, path):
        """Opened with a bound below its size, the file is emptied and made small."""
        store, space = opened(path, max_bytes=8 * 2**20)
        space.write_many([Item(f"{n}", os.urandom(1000), 60) for n in range(4000)])
        store.close()
        assert path.stat().st_size > 2**20
        store, space = opened(path, max_bytes=2**20)
        space.write("1", b"1", 60)
        assert path.stat().st_size <= 2**20
        store.close()

    def test_expired_rows_are_removed_by_writes(self, path, store, space):
        """Expired rows leave the file as others are written, a bounded batch at a time."""
        space.write_many([Item(f"{n}", b"x", 0.001) for n in range(300)])
        time.sleep(0.01)
        for number in range(100):
            space.write("live", b"%d" % number, 60)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM entry").fetchone() == (1,)

    def test_many_short_lives_do_not_pile_up(self, path, store, space):
        """However many entries come and expire, the table stays near what lives."""
        for number in range(3000):
            space.write(f"{number}", b"x" * 100, 0.001)
        with closing(sqlite3.connect(path)) as db:
            (rows,) = db.execute("SELECT count(*) FROM entry").fetchone()
        assert rows < 600

    def test_a_fill_into_a_full_file_finds_room(self, path):
        """A loaded value is stored where a written one would be; one too big leaves nothing."""
        store, space = opened(path, max_bytes=2**20)
        for number in range(3000):
            space.write(f"{number}", os.urandom(300), 1000)
        for size, is_stored in ((200_000, True), (2**19, False)):
            space.write("1", b"old", 1000)
            (claim,) = space.claim(["1"], [b"n" * 8], seconds=60, anew=True)
            fill = Fill("1", claim.lease, os.urandom(size), 5000, ("t",))
            assert space.fill([fill]) == [True]
            stored = space.read("1")
            assert stored is None or len(stored.payload) == size
            assert is_stored == (stored is not None)
        assert path.stat().st_size <= 2**20
        store.close()

    def test_a_log_stays_within_its_length(self, path):
        """However much is said, in few words or many, what is kept is bounded."""
        store, space = opened(path, log_length=100)
        for number in range(1000):
            space.announce(Kind.NEWS, [f"{number}"])
            if number % 100 == 0:
                space.write_many([Item(f"{n}", b"x", 60) for n in range(700)])
                assert rows(path, "log") <= 164
        assert 100 <= rows(path, "log") <= 164
        store.close()

    def test_logs_give_way_in_a_full_file(self, path):
        """What many namespaces say cannot fill the file: the room is for entries."""
        store, space = opened(path, max_bytes=2**20)
        for number in range(60):
            store.namespace(f"{number % 7}").delete([f"{n}{'x' * 100}" for n in range(500)])
            space.write(f"{number}", os.urandom(1000), 1000 + number)
        for number in range(1000):
            space.write(f"{number}", os.urandom(1000), 2000 + number)
        assert path.stat().st_size <= 2**20
        assert (
            sum(each is not None for each in space.read_many([f"{n}" for n in range(1000)])) > 400
        )
        tail = space.tail(space.log_end())
        space.announce(Kind.NEWS, ["heard"])
        assert [message.names for message in tail.read(1)] == [("heard",)]
        store.close()

    def test_a_file_that_stays_full_is_a_refusal(self, path, monkeypatch):
        """Where nothing can be removed the store says no: it is well, and full."""
        monkeypatch.setattr(Tidying, "_evict", lambda *_: None)
        store, space = opened(path, max_bytes=2**18)
        with pytest.raises(StoreRefused, match="full"):
            space.announce(Kind.NEWS, ["x" * 2**19])
        assert space.read("1") is None
        store.close()

    @pytest.mark.parametrize("ttl", [0.001, None])
    def test_tags_do_not_pile_up(self, path, space, ttl, monkeypatch):
        """A token is forgotten when no entry needs it: expired, deleted, replaced or cleared."""
        monkeypatch.setattr(tags, "_KEPT_SECONDS", 0.001)
        for number in range(2000):
            space.write(f"{number % 10}", b"x", ttl, (f"{number}", "all", f"{number % 50}"))
            if number % 3 == 0:
                space.invalidate_tags([f"{number}", f"never{number}"])
            if number % 7 == 0:
                space.delete([f"{number % 10}"])
            if number % 500 == 0:
                space.clear()
        assert rows(path, "tag") < 300

    def test_uses_of_tags_are_counted_rightly(self, path, space):
        """After any mixture of changes each token knows how many rows name it."""
        chance = random.Random(3)
        for _ in range(1500):
            change(space, chance)
        with closing(sqlite3.connect(path)) as db:
            counted = db.execute(
                "SELECT uses, (SELECT count(*) FROM entry, json_each(entry.tags) AS each"
                " WHERE each.value = tag.token) FROM tag"
            ).fetchall()
            orphans = db.execute(
                "SELECT count(*) FROM tag WHERE space NOT IN (SELECT id FROM space)"
            )
            assert orphans.fetchone() == (0,)
        assert all(uses == count for uses, count in counted)

    def test_what_was_cleared_is_swept_away(self, path, space):
        """Clearing takes no longer for more entries; others' changes remove them bit by bit."""
        space.write_many([Item(f"{n}", b"x", None, ("t",)) for n in range(3000)])
        for _ in range(3):
            space.clear()
        assert rows(path, "entry") == 3000
        for number in range(900):
            space.write("1", b"%d" % number, None)
        assert rows(path, "entry") == 1
        assert rows(path, "garbage") == 0
        assert rows(path, "tag") == 0

    def test_leases_and_locks_do_not_pile_up(self, path, space):
        """Those that have ended by themselves are removed."""
        for number in range(1000):
            space.claim([f"{number}"], [b"n" * 8], seconds=0.001)
            space.lock(f"{number}", b"n" * 8, 0.001)
        assert rows(path, "held") < 200


def change(space, chance):
    """Do something to a namespace that touches entries and their tags."""
    key = f"{chance.randrange(20)}"
    some = tuple(chance.sample(["a", "b", "c", "d"], chance.randrange(4)))
    ttl = chance.choice([None, 0.001, 60])
    changes = [
        lambda: space.write(key, b"x", ttl, some),
        lambda: space.write(key, b"x", ttl, some + some),
        lambda: space.delete([key, "1"]),
        lambda: space.invalidate_tags(some),
        lambda: space.clear(chance.choice(["", "1", "2"])),
        lambda: fill(space, key, some),
    ]
    chance.choice(changes)()


def fill(space, key, tags):
    (claim,) = space.claim([key], [os.urandom(8)], seconds=60, anew=True)
    if claim.lease is not None:
        space.fill([Fill(key, claim.lease, b"x", 60, tags)])


class TestLocks:
    def test_a_waiting_tail_holds_nothing(self, path, store, space):
        """While one listens others write, and the -wal file can be put away whole."""
        with ThreadPoolExecutor(1) as pool, closing(space.tail(space.log_end())) as tail:
            assert tail.read(0) == []
            listening = pool.submit(tail.read, 10)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                until(lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")
            tail.interrupt()
            assert listening.result(10) == []

    def test_a_tail_reads_beside_a_writer(self, path):
        """Who holds the file's lock keeps nobody from hearing what was said."""
        store, space = opened(path, timeout=0.2)
        with (
            closing(sqlite3.connect(path, isolation_level=None)) as other,
            closing(space.tail(space.log_end())) as tail,
        ):
            space.announce(Kind.NEWS, ["1"])
            other.execute("BEGIN IMMEDIATE")
            assert [message.names for message in tail.read(1)] == [("1",)]
            with pytest.raises(StoreTimeout, match="announce"):
                space.announce(Kind.NEWS, ["2"])
            with pytest.raises(StoreTimeout, match="claim"):
                space.claim(["1"], [b"n" * 8], seconds=1)
            other.execute("ROLLBACK")
        store.close()

    def test_a_tail_that_is_far_behind_misses_nothing(self, path):
        """More messages than it is given at once come in their order."""
        with closing(SQLite(path)) as store:
            space = store.namespace("c", "this")
            tail = space.tail(space.log_end())
            names = [f"k{number}" for number in range(2500)]
            for name in names:
                space.announce(Kind.DELETE, [name])
            heard: list[str] = []
            while found := tail.read(0.0):
                heard += [name for message in found for name in message.names]
            tail.close()
        assert heard == names

    def test_a_tail_looks_less_and_less_where_nothing_is_said(self):
        """After a message soon; after two seconds of silence seldom."""
        pauses = [_pause(silence) for silence in (0.0, 1.0, 10.0, 1e9)]
        assert pauses == sorted(pauses)
        assert pauses[0] <= 0.01
        assert pauses[-1] <= 0.04

    def test_a_locked_file_is_a_timeout(self, path):
        """Another writer that does not finish costs about the timeout; reading goes on."""
        store, space = opened(path, timeout=0.2)
        space.write("1", b"1", 60)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(StoreTimeout, match="sqlite:"):
                space.write("1", b"2", 60)
            with pytest.raises(StoreTimeout):
                asyncio.run(space.awrite("1", b"2", 60))
            assert 0.3 < time.monotonic() - began < 4
            assert bytes(space.read("1").payload) == b"1"
            other.execute("ROLLBACK")
        space.write("1", b"2", 60)
        store.close()

    def test_a_store_can_be_made_on_a_locked_file(self, path):
        """A busy file is no configuration error."""
        SQLite(path).close()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store, space = opened(path, timeout=0.1)
            assert space.read("1") is None
            other.execute("ROLLBACK")
        space.write("1", b"1", 60)
        store.close()

    def test_a_full_queue_of_asyncio_calls_is_a_timeout(self, path):
        """Calls that never get one of our threads are told in time."""
        store, space = opened(path, timeout=0.2)

        async def main():
            writes = (space.awrite(f"{n}", b"1", 60) for n in range(30))
            began = time.monotonic()
            errors = await asyncio.gather(*writes, return_exceptions=True)
            assert {type(error) for error in errors} == {StoreTimeout}
            assert time.monotonic() - began < 4

        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asyncio.run(main())
            other.execute("ROLLBACK")
        store.close()


class TestLeftovers:
    def test_close_leaves_nothing_behind(self, path):
        """After close: no descriptor, no thread, no warning."""
        threads = threading.enumerate()
        store, space = opened(path)

        async def main():
            await asyncio.gather(*(space.awrite(f"{n}", b"1", 60) for n in range(20)))

        tails = [space.tail(space.log_end()) for _ in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            asyncio.run(main())
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda n: space.read(f"{n}"), range(20)))
            assert None not in space.read_many([f"{n}" for n in range(20)])
            tails[0].close()
            assert all(tail.read(1) for tail in tails)
            tails[0].close()
            store.close()
            gc.collect()
        assert open_files(path) == 0
        assert set(threading.enumerate()) <= set(threads)

    async def test_aclose_leaves_nothing_behind(self, path):
        """The same for aclose, at once."""
        threads = set(threading.enumerate())
        store, space = opened(path)
        await asyncio.gather(*(space.awrite(f"{n}", b"1", 60) for n in range(20)))
        await store.aclose()
        assert open_files(path) == 0
        assert not [t for t in set(threading.enumerate()) - threads if "tiercache" in t.name]

    def test_a_thread_that_ends_closes_its_connection(self, path, store, space):
        """Threads come and go; their connections do not pile up."""
        space.read("1")
        before = open_files(path)
        for _ in range(10):
            thread = threading.Thread(target=space.read, args=("1",))
            thread.start()
            thread.join()
        gc.collect()
        assert len(store._sessions) == 1
        assert open_files(path) <= before + 1  # SQLite keeps a descriptor back, and uses it again
