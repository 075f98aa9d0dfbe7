"""HotKeys: what is remembered of one process, and what the next one begins with."""

from __future__ import annotations

import asyncio
import os
import threading
from dataclasses import dataclass

import pytest

from tests.servers import RedisServer
from tests.waiting import until
from tiercache import LRU, Cache, ConfigurationError, HotKey, Redis, SQLite
from tiercache.testing import DictStore, FaultyStore
from tiercache_plugins import HotKeys
from tiercache_plugins._hot_places import InFile, from_bytes, to_bytes
from tiercache_plugins._hot_ratings import Ratings


@dataclass
class User:
    id: int
    name: str


@pytest.fixture
def store(clock):
    return DictStore(clock=clock)


#: A cache holds its functions weakly, as a module does not.
FUNCTIONS = []


@pytest.fixture(autouse=True)
def _hold_functions():
    yield
    FUNCTIONS.clear()


def users(cache, calls, **options):
    """Decorate a blocking function of one argument, and note its loads."""

    @cache.cached("user:{user_id}", **options)
    def get_user(user_id: int) -> User:
        calls.append(user_id)
        return User(user_id, f"name {user_id}")

    FUNCTIONS.append(get_user)
    return get_user


def use(function, uses):
    """Call a function for each argument, so many times."""
    for argument, times in uses.items():
        for _ in range(times):
            function(argument)


class TestNextProcess:
    """What a new cache does with what the last one left."""

    def test_hot_keys_are_promoted_from_l2(self, make_cache, store):
        """Without a load, as what they are, with no hit counted; what nobody asked for is not."""
        calls = []
        old = make_cache(l2=store, plugins=[HotKeys()])
        use(users(old, calls), {1: 5, 2: 3, 3: 1})
        old.close()
        calls.clear()
        new = make_cache(l2=store, plugins=[HotKeys()])
        get_user = users(new, calls)
        until(lambda: len(new.memory) == 2)
        assert sorted(new.memory) == ["user:1", "user:2"]
        assert (new.stats().hits, new.stats().misses, new.stats().loads) == (0, 0, 0)
        assert get_user(1) == User(1, "name 1")
        assert calls == []

    def test_what_l2_has_lost_is_loaded(self, make_cache, store):
        """By the call that is remembered with the key."""
        calls = []
        old = make_cache(l2=store, plugins=[HotKeys()])
        get_user = users(old, calls)
        use(get_user, {1: 5, 2: 3})
        old.close()
        store.namespace("test").delete(["user:1"])
        calls.clear()
        new = make_cache(l2=store, plugins=[HotKeys()])
        users(new, calls)
        until(lambda: len(new.memory) == 2)
        assert calls == [1]

    def test_a_file_remembers_without_l2(self, make_cache, tmp_path):
        """All is loaded again, through the bulk loader where there is one."""
        calls, batches = [], []
        path = tmp_path / "hot"
        old = make_cache(plugins=[HotKeys(path)])
        use(users(old, calls), {1: 5, 2: 3, 7: 2})
        old.close()

        def load_many(ids):
            batches.append(sorted(ids))
            return {i: User(i, "many") for i in ids}

        new = make_cache(plugins=[HotKeys(path)])
        users(new, [], batch=load_many)
        until(lambda: len(new.memory) == 3)
        assert batches == [[1, 2, 7]]
        assert os.listdir(tmp_path) == ["hot"]

    def test_keys_of_no_function_are_promoted(self, make_cache, store):
        """Those of the cache-aside API, and of functions whose arguments a key does not tell."""
        old = make_cache(l2=store, plugins=[HotKeys()])

        @old.cached(key=lambda i: f"odd/{i}")
        def odd(i):
            return i

        old.set("plain", 1)
        for _ in range(3):
            old.get("plain")
            odd(4)
        old.close()
        new = make_cache(l2=store, plugins=[HotKeys()])
        until(lambda: len(new.memory) == 2)
        assert sorted(new.memory) == ["odd/4", "plain"]

    def test_keys_made_of_parts_of_arguments_are_promoted_only(self, make_cache, store):
        """``{user.id}`` says the id, and not the user: it cannot be loaded, but read."""
        calls = []

        def decorate(cache):
            @cache.cached("friends:{user.id}")
            def friends(user) -> list[User]:
                calls.append(user.id)
                return [user]

            FUNCTIONS.append(friends)
            return friends

        old = make_cache(l2=store, plugins=[HotKeys()])
        decorated = decorate(old)
        for _ in range(3):
            decorated(User(1, "a"))
            decorated(User(2, "b"))
        old.close()
        store.namespace("test").delete(["friends:2"])
        new = make_cache(l2=store, plugins=[HotKeys()])
        again = decorate(new)
        until(lambda: "friends:1" in new.memory)
        assert again(User(1, "a")) == [User(1, "a")]
        assert calls == [1, 2]

    def test_async_functions_are_loaded_in_the_applications_loop(self, make_cache, store, caplog):
        """In the background they are only promoted; ``awarm`` loads what is missing."""
        loops = []

        def decorate(cache):
            @cache.cached("n:{i}:{j}")
            async def load(i: int, j: str) -> int:
                loops.append(asyncio.get_running_loop())
                return i

            FUNCTIONS.append(load)
            return load

        async def before():
            load = decorate(old)
            for _ in range(3):
                await load(1, "a")
                await load(2, "b")
            await old.aclose()

        async def after():
            hot_keys = HotKeys()
            new = make_cache(l2=store, plugins=[hot_keys])
            decorate(new)
            while hot_keys.measures()["hot_keys.lost"] == 0:
                await asyncio.sleep(0.005)
            assert list(new.memory) == ["n:1:a"]
            assert len(loops) == 2
            assert "failed" not in caplog.text
            report = await hot_keys.awarm()
            assert report.loaded == 1
            assert sorted(new.memory) == ["n:1:a", "n:2:b"]
            assert loops[2] is asyncio.get_running_loop()
            await new.aclose()

        old = make_cache(l2=store, plugins=[HotKeys()])
        asyncio.run(before())
        store.namespace("test").delete(["n:2:b"])
        asyncio.run(after())

    def test_awarm_at_once_waits_for_what_is_remembered(self, make_cache, tmp_path, monkeypatch):
        """It is read in a thread, which a service that warms at startup may be ahead of."""
        path, slowly = tmp_path / "hot", InFile.load

        def decorate(cache):
            @cache.cached("n:{i}")
            async def load(i: int) -> int:
                return i

            FUNCTIONS.append(load)
            return load

        async def before():
            load = decorate(old)
            await load(1), await load(1)
            await old.aclose()

        async def after():
            hot_keys = HotKeys(path)
            new = make_cache(plugins=[hot_keys])
            decorate(new)
            warming = asyncio.ensure_future(hot_keys.awarm())
            await asyncio.sleep(0.02)
            may_read.set()
            await warming
            assert list(new.memory) == ["n:1"]
            await new.aclose()

        old, may_read = make_cache(plugins=[HotKeys(path)]), threading.Event()
        asyncio.run(before())
        monkeypatch.setattr(InFile, "load", lambda self: may_read.wait(10) and slowly(self))
        asyncio.run(after())

    def test_a_call_that_makes_another_key_now_is_not_loaded(self, make_cache, tmp_path):
        """A new deploy with another template loads nothing under the wrong key."""
        path = tmp_path / "hot"
        old = make_cache(plugins=[HotKeys(path)])
        use(users(old, []), {1: 5})
        old.close()
        calls = []
        hot_keys = HotKeys(path)
        new = make_cache(plugins=[hot_keys])

        @new.cached("v2:{user_id}")
        def get_user(user_id):
            calls.append(user_id)

        get_user.__wrapped__.__qualname__ = "users.<locals>.get_user"
        until(lambda: hot_keys.measures()["hot_keys.lost"] == 1)
        assert (calls, len(new.memory)) == ([], 0)

    @pytest.mark.parametrize("make", ["redis", "sqlite"])
    def test_on_real_stores(self, make, tmp_path):
        """Redis and SQLite keep the list through a deploy, out of the way of the cache's keys."""
        server = RedisServer() if make == "redis" else None
        calls = []

        def new_cache():
            store = Redis(server.url, timeout=5) if server else SQLite(tmp_path / "cache.db")
            return Cache("users", l2=store, plugins=[HotKeys()])

        try:
            with new_cache() as old:
                use(users(old, calls), {1: 5, 2: 3})
                old.clear()
                use(users(old, calls), {1: 5, 2: 3})
            calls.clear()
            with new_cache() as new:
                users(new, calls)
                until(lambda: len(new.memory) == 2)
            assert calls == []
        finally:
            if server:
                server.stop()


class TestRemembering:
    """When, where, and how much is written down."""

    def test_every_minute_too(self, make_cache, store):
        """A process that is killed leaves what it wrote last."""
        cache = make_cache(l2=store, plugins=[HotKeys(every=0.01)])
        use(users(cache, []), {1: 5})
        until(lambda: saved(store))
        until(lambda: [(hot.key, hot.args) for hot in saved(store)] == [("user:1", (1,))])

    def test_the_hottest_so_many(self, make_cache, store):
        """``top`` bounds the list, hottest first."""
        cache = make_cache(l2=store, plugins=[HotKeys(top=3)])
        use(users(cache, []), {i: i + 1 for i in range(10)})
        cache.close()
        assert [hot.key for hot in saved(store)] == ["user:9", "user:8", "user:7"]

    def test_processes_share_one_list(self, make_cache, store):
        """What is hot in one is remembered for all; the higher rating counts."""
        caches = [make_cache(l2=store, plugins=[HotKeys()]) for _ in range(2)]
        use(users(caches[0], []), {1: 9, 2: 3})
        use(users(caches[1], []), {2: 6, 3: 4})
        for cache in caches:
            cache.close()
        assert [hot.key for hot in saved(store)] == ["user:1", "user:2", "user:3"]

    def test_another_caches_keys_are_its_own(self, make_cache, store):
        """Caches of other names on the same store have other lists."""
        cache = make_cache("one", l2=store, plugins=[HotKeys()])
        use(users(cache, []), {1: 9})
        cache.close()
        assert saved(store, "two") == []
        assert len(saved(store, "one")) == 1

    def test_l2_in_trouble_is_no_error(self, make_cache, clock, caplog):
        """Neither at the start nor at the end; it is said in the log."""
        store = FaultyStore(DictStore(clock=clock))
        store.fail("read", "write")
        cache = make_cache(l2=store, plugins=[HotKeys()])
        until(lambda: "could not be read" in caplog.text)
        use(users(cache, []), {1: 5})
        cache.close()
        assert "could not be written down" in caplog.text

    def test_l2_that_comes_later(self, make_cache, clock, monkeypatch):
        """What could not be read at first is read when L2 is back."""
        monkeypatch.setattr("tiercache_plugins.warming.RETRY_SECONDS", 0.01)
        store = FaultyStore(DictStore(clock=clock))
        old = make_cache(l2=store, plugins=[HotKeys()])
        use(users(old, []), {1: 5})
        old.close()
        store.fail("read")
        new = make_cache(l2=store, plugins=[HotKeys()])
        users(new, [])
        before = store.calls["read"]
        until(lambda: store.calls["read"] > before + 2)
        store.heal()
        until(lambda: list(new.memory) == ["user:1"])

    def test_a_place_that_is_none(self, make_cache, tmp_path, caplog):
        """A folder that does not exist is said, and the cache works."""
        cache = make_cache(plugins=[HotKeys(tmp_path / "no" / "hot")])
        use(users(cache, []), {1: 5})
        cache.close()
        assert "could not be written down" in caplog.text

    @pytest.mark.parametrize(
        "data", [b"", b"\xc1garbage", to_bytes([HotKey("k", 3.0)])[:-3], b"\x00" * 100], ids=len
    )
    def test_a_damaged_file_is_none(self, make_cache, tmp_path, data):
        """It is replaced by a good one."""
        path = tmp_path / "hot"
        path.write_bytes(data)
        cache = make_cache(plugins=[HotKeys(path)])
        use(users(cache, []), {1: 5})
        cache.close()
        assert [hot.key for hot in from_bytes(path.read_bytes())] == ["user:1"]

    def test_foreign_rows_are_passed_over(self):
        """A list with other things in it gives what is a hot key."""
        good = HotKey("k", 3.0, "f", (1, "a"))
        rows = [good, HotKey(1, 3.0), HotKey("k", "hot"), HotKey("k", float("nan"))]
        assert from_bytes(to_bytes(rows)) == [good]
        assert from_bytes(None) == []

    def test_arguments_without_bytes_are_left_out(self):
        """Their keys are remembered, to be promoted."""
        rows = [HotKey("a", 3.0, "f", (object(),)), HotKey("b", 2.0, "f", (1,))]
        assert from_bytes(to_bytes(rows)) == [rows[0]._replace(args=None), rows[1]]

    def test_it_is_shown(self, make_cache, store):
        """How many keys are remembered, and how many were brought back."""
        old = make_cache(l2=store, plugins=[HotKeys()])
        use(users(old, []), {1: 5, 2: 5})
        old.close()
        hot_keys = HotKeys()
        users(make_cache(l2=store, plugins=[hot_keys]), [])
        expected = {"hot_keys.remembered": 2, "hot_keys.restored": 2, "hot_keys.lost": 0}
        until(lambda: hot_keys.measures() == expected)


class TestLife:
    """Threads, and what cannot be."""

    def test_closing_leaves_no_thread(self, make_cache, store):
        """Whether or not it is waiting for functions that never come."""
        before = set(threading.enumerate())
        for _ in range(3):
            cache = make_cache(l2=store, plugins=[HotKeys()])
            use(users(cache, []), {1: 5})
            cache.close()
        assert {t for t in threading.enumerate() if "hot-keys" in t.name} <= before

    def test_closing_does_not_wait_for_what_hangs(self, make_cache, store):
        """A load under way is left to end by itself."""
        old = make_cache(l2=store, plugins=[HotKeys()])
        use(users(old, []), {1: 5})
        old.close()
        store.namespace("test").delete(["user:1"])
        new = make_cache(l2=store, plugins=[HotKeys()])
        begun, may_end = threading.Event(), threading.Event()

        def slow(user_id):
            begun.set()
            may_end.wait(10)

        slow.__qualname__ = "users.<locals>.get_user"
        FUNCTIONS.append(new.cached("user:{user_id}")(slow))
        assert begun.wait(10)
        closing = threading.Thread(target=new.close)
        closing.start()
        may_end.set()
        closing.join(10)
        assert not closing.is_alive()

    def test_one_cache_each(self, make_cache, store):
        """Two caches cannot share one list in one object."""
        hot_keys = HotKeys()
        make_cache(l2=store, plugins=[hot_keys])
        with pytest.raises(ConfigurationError, match="one of its own"):
            make_cache("other", l2=store, plugins=[hot_keys])

    def test_it_goes_on_after_configure(self, make_cache, store):
        """A cache that is reconfigured stops it and starts it again."""
        hot_keys = HotKeys()
        cache = make_cache(l2=store, plugins=[hot_keys])
        cache.reconfigure(l2=store, plugins=[hot_keys])
        use(users(cache, []), {1: 5})
        cache.close()
        assert [hot.key for hot in saved(store)] == ["user:1"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_begins_anew(self, make_cache, store, tmp_path):
        """It has an empty L1, and a thread of its own that fills it."""
        path = tmp_path / "hot"
        path.write_bytes(to_bytes([HotKey("k", 9.0, f"{__name__}.loaded", ())]))
        cache = make_cache(l2=store, plugins=[HotKeys(path)])
        FUNCTIONS.append(cache.cached("k")(loaded))
        until(lambda: "k" in cache.memory)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                until(lambda: "k" in cache.memory)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0

    @pytest.mark.parametrize("option", ["path", "top", "every", "half_life", "concurrency"])
    def test_illegal_options(self, option):
        """Each is named."""
        with pytest.raises(ConfigurationError, match=option):
            HotKeys(**{option: 0})

    def test_it_needs_an_l1_and_a_place(self, make_cache, store):
        """Both are said when the cache is made."""
        with pytest.raises(ConfigurationError, match="l1=None"):
            make_cache(l1=None, l2=store, plugins=[HotKeys()])
        with pytest.raises(ConfigurationError, match="path="):
            make_cache(plugins=[HotKeys()])


class TestRatings:
    """How hits become ratings."""

    def test_new_hits_are_added(self):
        """Hits that were counted are not counted again; another entry's begin at nought."""
        ratings = Ratings(10, 1.0)
        for hits in (5, 8, 8, 2):
            ratings.count([HotKey("k", hits)])
        assert ratings.hottest() == [HotKey("k", 10)]

    def test_ratings_fade(self):
        """What is not asked for any more is overtaken, then forgotten."""
        ratings = Ratings(10, 0.5)
        ratings.count([HotKey("old", 100)])
        for hits in (10, 20, 30, 40, 50):
            ratings.count([HotKey("old", 100), HotKey("new", hits)])
        assert [hot.key for hot in ratings.hottest()] == ["new", "old"]
        for _ in range(20):
            ratings.count([])
        assert len(ratings) == 0

    def test_arguments_are_kept(self):
        """A key whose call is not known this time is loaded by the one known before."""
        ratings = Ratings(10, 1.0)
        ratings.count([HotKey("k", 5, "f", (1,))])
        ratings.count([HotKey("k", 9, "f")])
        assert ratings.hottest() == [HotKey("k", 9, "f", (1,))]

    def test_it_is_bounded(self):
        """The hottest stay."""
        ratings = Ratings(3, 0.9)
        for start in range(50):
            ratings.count([HotKey(f"{n}", n) for n in range(start, start + 10)])
            ratings.hear([HotKey(f"other{n}", n) for n in range(10)])
            assert len(ratings) == 3


def loaded():
    return 1


def saved(store, cache="test"):
    """Return what is written down for a cache."""
    stored = store.namespace(f"{cache}:hot-keys").read("hot-keys")
    return [] if stored is None else from_bytes(bytes(stored.payload))


def test_lru_hottest():
    """The entries with most hits, without those that have none."""
    cache = Cache("test", l1=LRU(100))
    for key, times in {"a": 2, "b": 0, "c": 5, "d": 1}.items():
        cache.set(key, key)
        for _ in range(times):
            cache.get(key)
    assert [entry.key for entry in cache.memory.hottest(2)] == ["c", "a"]
    assert [hot.key for hot in cache.hottest(10)] == ["c", "a", "d"]
    cache.close()
