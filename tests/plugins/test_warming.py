"""Warming: what is brought, what is not, and what it leaves alone."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.waiting import until
from tiercache import LRU, CircuitOpen, ConfigurationError, LoadErrors, Plugin
from tiercache.testing import DictStore, FaultyStore
from tiercache.tiers.store import Kind


@pytest.fixture
def store(clock):
    return DictStore(clock=clock)


def numbers(cache, kind, calls, **options):
    """Decorate a function of this kind that doubles a number and notes that it was called."""

    @cache.cached("n:{i}", **options)
    @kind.function
    def double(i):
        calls.append(i)
        return i * 2

    return double


class TestKeys:
    """A source of a cached function's arguments."""

    def test_what_a_source_yields_is_loaded(self, cache, kind):
        """Each key once, in both shapes of source; the calls after it are hits in L1."""
        calls = []
        double = numbers(cache, kind, calls)
        cache.warmer(double)(lambda: range(5))

        @cache.warmer(double)
        def more():
            yield from (4, 5, 6)

        report = kind.do(cache, "warm")
        assert (report.loaded, report.skipped, report.failed) == (7, 1, 0)
        assert report.stopped_because == ""
        assert sorted(calls) == list(range(7))
        assert [kind.call(double, i) for i in range(7)] == [0, 2, 4, 6, 8, 10, 12]
        assert len(calls) == 7

    def test_an_async_source_of_an_async_function(self, cache, kind):
        """An async generator, and a coroutine that returns a list, are read in the loop."""
        calls = []

        @cache.cached("n:{i}")
        async def double(i):
            calls.append(i)
            return i * 2

        @cache.warmer(double)
        async def generated():
            for i in range(3):
                await asyncio.sleep(0)
                yield i

        @cache.warmer(double)
        async def returned():
            return [3, 4]

        assert kind.do(cache, "warm").loaded == 5
        assert sorted(calls) == [0, 1, 2, 3, 4]

    def test_functions_of_both_kinds_in_one_cache(self, cache, kind):
        """Each is called as it is made: in a thread, or in an event loop."""
        seen = {}

        @cache.cached("b:{i}")
        def blocking(i):
            seen["blocking"] = threading.current_thread()
            return i

        @cache.cached("a:{i}")
        async def awaited(i):
            seen["asyncio"] = asyncio.get_running_loop()
            return i

        cache.warmer(blocking)(lambda: [1])
        cache.warmer(awaited)(lambda: [1])
        assert kind.do(cache, "warm").loaded == 2
        assert seen["blocking"] is not threading.main_thread()
        assert (seen["asyncio"] is getattr(kind, "_runner", None)) is False
        assert kind.do(cache, "warm").skipped == 2

    def test_several_arguments_are_a_tuple(self, cache, kind):
        """One argument that is a tuple is not taken apart."""

        @cache.cached("s:{a}:{b}")
        @kind.function
        def add(a, b=10):
            return a + b

        @cache.cached(ignore=())
        @kind.function
        def first(pair):
            return pair[0]

        cache.warmer(add)(lambda: [(1, 2), (3, 4), (5,)])
        cache.warmer(first)(lambda: [(7, 8)])
        assert kind.do(cache, "warm").loaded == 4
        assert cache.stats().loads == 4
        assert [kind.call(add, 1, 2), kind.call(add, 5), kind.call(first, (7, 8))] == [3, 15, 7]
        assert cache.stats().loads == 4

    def test_a_method_is_warmed_for_its_instance(self, cache, kind):
        """A bound method is registered with its instance."""

        class Users:
            def __init__(self, name):
                self.name = name

            @cache.cached("{self.name}:{i}")
            def get(self, i):
                return self.name * i

        users = Users("u")
        cache.warmer(users.get)(lambda: [1, 2])
        assert kind.do(cache, "warm").loaded == 2
        assert cache.get("u:2") == "uu"

    def test_a_bulk_loader_is_used(self, cache, kind):
        """Items are loaded through ``batch``, hundreds at a time."""
        batches = []

        @kind.function
        def load_many(ids):
            batches.append(len(ids))
            return {i: i * 2 for i in ids}

        double = numbers(cache, kind, [], batch=load_many)
        cache.warmer(double)(lambda: range(600))
        assert kind.do(cache, "warm").loaded == 600
        assert sum(batches) == 600
        assert len(batches) == 3
        assert kind.call(double, 599) == 1198
        assert cache.stats().loads == 3

    def test_what_makes_no_key_fails_alone(self, cache, kind):
        """An argument that cannot be part of a key is counted, and the others go on."""

        @cache.cached()
        @kind.function
        def double(i):
            return i

        cache.warmer(double)(lambda: [1, object(), 2])
        report = kind.do(cache, "warm")
        assert (report.loaded, report.failed) == (2, 1)
        assert "cannot be part of a key" in str(report.error)

    def test_values_that_are_not_to_be_stored_are_not(self, cache, kind):
        """``when``, tags and TTL are those of the function."""
        double = numbers(cache, kind, [], when=lambda value: value > 2, tags=["t"], ttl=60)
        cache.warmer(double)(lambda: [1, 2])
        kind.do(cache, "warm")
        assert list(cache.memory) == ["n:2"]
        kind.do(cache, "invalidate_tags", "t")
        assert cache.get("n:2") is None


class TestPairs:
    """A source of keys with their values."""

    def test_pairs_are_stored_in_both_tiers(self, make_cache, store, kind):
        """Without a load, under their keys; nothing is told to peers, who have nothing older."""
        cache = make_cache(l2=store)

        @cache.warmer
        def pairs():
            return {f"k{i}": i for i in range(300)}

        tail = store.namespace("test").tail(store.namespace("test").log_end())
        report = kind.do(cache, "warm")
        assert (report.loaded, cache.stats().loads) == (300, 0)
        assert cache.get("k7") == 7
        assert make_cache(l2=store).get("k299") == 299
        assert [each for each in tail.read(0) if each.kind is Kind.SET] == []

    def test_what_is_there_is_not_overwritten(self, make_cache, store, kind):
        """A value that somebody has set is newer than what the source has read."""
        cache, peer = make_cache(l2=store), make_cache(l2=store)
        peer.set("k", "set")
        cache.warmer(lambda: [("k", "read before")])
        assert kind.do(cache, "warm").skipped == 1
        assert cache.get("k") == peer.get("k") == "set"

    def test_keys_from_a_template(self, cache, kind):
        """``key=`` makes keys of ids; tags and TTL are given with it."""
        cache.warmer(key="user:{}", values=True, tags=["users"], ttl=10)(lambda: [(1, "Ada")])
        kind.do(cache, "warm")
        assert cache.get("user:1") == "Ada"
        cache.invalidate_tags("users")
        assert cache.get("user:1") is None

    def test_values_of_a_function(self, cache, kind):
        """``values=True`` stores as the function would have."""
        calls = []
        double = numbers(cache, kind, calls)
        cache.warmer(double, values=True)(lambda: [(1, "one"), (2, "two")])
        assert kind.do(cache, "warm").loaded == 2
        assert [kind.call(double, 1), kind.call(double, 2), calls] == ["one", "two", []]

    @pytest.mark.parametrize("wrong", [["k"], ["ab"], [(1, 2)], [("k", 1, 2)]], ids=str)
    def test_no_pair(self, cache, kind, wrong):
        """Something else than a text and a value is counted as failed, and said."""
        cache.warmer(lambda: wrong)
        report = kind.do(cache, "warm")
        assert report.failed == 1
        assert str(report.error)

    def test_an_async_source_of_pairs(self, cache, kind):
        """It is read in an event loop."""

        @cache.warmer
        async def pairs():
            yield "k", 1

        assert kind.do(cache, "warm").loaded == 1
        assert cache.get("k") == 1


class TestRegistering:
    """What cannot be a warmer."""

    def test_the_source_is_returned_as_it_is(self, cache):
        """It can still be called by hand."""
        double = cache.cached("n:{i}")(lambda i: i)

        @cache.warmer(double)
        def ids():
            return [1]

        assert ids() == [1]

    def test_a_source_takes_no_arguments(self, cache):
        """A function of arguments under a bare ``@warmer`` was meant to be warmed."""
        with pytest.raises(ConfigurationError, match="Decorate that with @cached first"):
            cache.warmer(lambda i: i)

    def test_a_function_of_another_cache(self, cache, make_cache):
        """It is warmed by its own cache."""
        double = make_cache("other").cached("n:{i}")(lambda i: i)
        with pytest.raises(ConfigurationError, match="called without arguments"):
            cache.warmer(double)

    def test_an_async_source_of_a_blocking_function(self, cache):
        """There is no loop to read it in where the function is called."""
        double = cache.cached("n:{i}")(lambda i: i)
        with pytest.raises(ConfigurationError, match="plain generator"):

            @cache.warmer(double)
            async def ids():
                yield 1

    def test_a_function_has_its_own_key(self, cache):
        """Its key, ttl and tags are not given twice."""
        double = cache.cached("n:{i}")(lambda i: i)
        with pytest.raises(ConfigurationError, match="own key"):
            cache.warmer(double, key="x:{}")(list)

    def test_a_source_that_returns_nothing(self, cache, kind):
        """A forgotten ``return`` is said, with what came instead."""
        double = cache.cached("n:{i}")(lambda i: i)
        cache.warmer(double)(lambda: None)
        with pytest.raises(ConfigurationError, match="returned None"):
            kind.do(cache, "warm")

    def test_what_a_source_raises_reaches_the_caller(self, cache, kind):
        """What was yielded before it is warmed or not; nothing hangs."""
        double = cache.cached("n:{i}")(lambda i: i)

        @cache.warmer(double)
        def ids():
            yield 1
            raise LookupError("the database is gone")

        with pytest.raises(LookupError, match="the database is gone"):
            kind.do(cache, "warm")

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("concurrency", 0),
            ("concurrency", 1.5),
            ("rate_limit", 0),
            ("rate_limit", "fast"),
            ("deadline", -1),
            ("stop_on_errors", 0),
        ],
    )
    def test_illegal_options(self, cache, kind, option, value):
        """Each is named with what it got."""
        with pytest.raises(ConfigurationError, match=f"(?s){option}.*{value!r}"):
            kind.do(cache, "warm", **{option: value})


class TestTiers:
    """Which tier takes what."""

    def test_what_l2_has_is_promoted_without_a_load(self, make_cache, store, kind):
        """A new process takes over what stands in L2, and loads the rest."""
        calls = []
        old, new = make_cache(l2=store), make_cache(l2=store)
        double = numbers(old, kind, calls)
        for i in range(10):
            kind.call(double, i)
        again = numbers(new, kind, calls)
        new.warmer(again)(lambda: range(15))
        report = kind.do(new, "warm")
        assert (report.loaded, report.skipped) == (5, 10)
        assert sorted(new.memory) == sorted(f"n:{i}" for i in range(15))

    def test_a_stale_value_is_loaded_again(self, make_cache, store, clock, kind):
        """What has expired in both tiers is no value; what stands past its TTL, neither."""
        calls = []
        cache = make_cache(l2=store)
        double = numbers(cache, kind, calls, ttl=10, stale_if_error=100)
        kind.call(double, 1)
        cache.warmer(double)(lambda: [1])
        clock.advance(50)
        assert kind.do(cache, "warm").loaded == 1
        assert calls == [1, 1]
        assert kind.call(double, 1) == 2
        assert calls == [1, 1]

    def test_a_full_l1_evicts_nothing(self, make_cache, store, kind):
        """L2 takes what L1 has no room for; what was there before stays."""
        cache = make_cache(l1=LRU(10), l2=store)
        double = numbers(cache, kind, [])
        for i in range(6):
            kind.call(double, i)
        before = set(cache.memory)
        cache.warmer(double)(lambda: range(30))
        report = kind.do(cache, "warm")
        assert (report.loaded, report.refused) == (24, 20)
        assert before < set(cache.memory)
        assert len(cache.memory) == 10
        assert cache.stats().evictions["size"] == 0
        assert len(store) == 30

    def test_without_l2_a_full_l1_ends_it(self, make_cache, kind):
        """Nothing more could be kept."""
        calls = []
        cache = make_cache(l1=LRU(100))
        double = numbers(cache, kind, calls)
        cache.warmer(double)(lambda: range(100_000))
        report = kind.do(cache, "warm")
        assert report.stopped_because == "full"
        assert len(cache.memory) == 100
        assert len(calls) < 5000

    def test_weighed_values(self, make_cache, kind):
        """Room is weight where the L1 weighs."""
        cache = make_cache(l1=LRU(100, weigh=lambda value: value))
        cache.warmer(lambda: [("a", 60), ("b", 60), ("c", 40), ("d", 1)])
        report = kind.do(cache, "warm")
        assert sorted(cache.memory) == ["a", "c"]
        assert report.refused == 2

    def test_without_l1_only_l2_is_warmed(self, make_cache, store, kind):
        """What is loaded goes to the other processes' L2."""
        cache = make_cache(l1=None, l2=store)
        double = numbers(cache, kind, [])
        cache.warmer(double)(lambda: range(20))
        assert kind.do(cache, "warm").loaded == 20
        assert len(store) == 20
        assert kind.do(cache, "warm").skipped == 20

    def test_a_broken_l2_does_not_keep_l1_cold(self, make_cache, clock, kind):
        """L2 in trouble: its breaker opens, and L1 is warmed all the same."""
        store = FaultyStore(DictStore(clock=clock), timeout=0.01)
        store.fail()
        cache = make_cache(l2=store)
        double = numbers(cache, kind, [])
        cache.warmer(double)(lambda: range(50))
        report = kind.do(cache, "warm")
        assert (report.loaded, report.stopped_because) == (50, "")

    def test_an_open_breaker_of_l2_ends_what_is_for_l2_only(self, make_cache, clock, kind):
        """Without room in L1 there is nobody to load for."""
        store = FaultyStore(DictStore(clock=clock), timeout=0.01)
        store.hang()
        cache = make_cache(l1=None, l2=store)
        calls = []
        double = numbers(cache, kind, calls)
        cache.warmer(double)(lambda: range(100_000))
        report = kind.do(cache, "warm", concurrency=2)
        assert report.stopped_because == "breaker"
        assert len(calls) < 1000


class TestCounting:
    """What warming does not count."""

    def test_only_loads_are_counted(self, make_cache, store, kind):
        """Neither hits nor misses, in the cache's counts and in the function's; no hit of a key."""
        cache = make_cache(l2=store)
        double = numbers(cache, kind, [])
        cache.warmer(double)(lambda: range(40))
        for _ in range(3):
            kind.do(cache, "warm")
        cache.memory.clear()
        kind.do(cache, "warm")
        for counted in (cache.stats(), double.cache_info()):
            assert (counted.loads, counted.hits, counted.misses) == (40, 0, 0)
            assert (counted.joined, counted.absent, counted.hit_ratio) == (0, 0, 0)
        assert {cache.memory.get(key).hits for key in cache.memory} == {0}
        assert cache.stats().load_seconds.mean > 0

    def test_a_guard_is_asked(self, make_cache, kind):
        """What surely does not exist is not loaded."""

        class Odd(Plugin):
            def admits(self, key):
                return int(key[2:]) % 2 == 1

        calls = []
        cache = make_cache(plugins=[Odd()])
        double = numbers(cache, kind, calls)
        cache.warmer(double)(lambda: range(10))
        report = kind.do(cache, "warm")
        assert (report.loaded, report.skipped) == (5, 5)
        assert sorted(calls) == [1, 3, 5, 7, 9]
        assert cache.stats().absent == 0

    def test_plugins_see_the_loads(self, make_cache, kind):
        """``around_load``, ``ttl`` and events, as of any load."""
        seen = []

        class Spy(Plugin):
            async def around_load(self, load, call_next):
                seen.append(("around", load.args))
                return await call_next()

            def ttl(self, load):
                return 5.0

            def on_event(self, event):
                seen.append((event.name, event.key))

        cache = make_cache(plugins=[Spy()])
        double = numbers(cache, kind, [])
        cache.warmer(double)(lambda: [3])
        kind.do(cache, "warm")
        assert seen == [("around", (3,)), ("loaded", "n:3")]
        assert cache.memory.get("n:3").fresh_until == cache.clock() + 5


class TestFailing:
    """Loads that fail, and what ends a run."""

    def test_a_failing_key_is_counted_and_passed_over(self, cache, kind):
        """The others are warmed; the report has the first error."""

        @cache.cached("n:{i}")
        @kind.function
        def load(i):
            if i % 3 == 0:
                raise LookupError(i)
            return i

        cache.warmer(load)(lambda: range(30))
        report = kind.do(cache, "warm")
        assert (report.loaded, report.failed, report.stopped_because) == (20, 10, "")
        assert isinstance(report.error, LookupError)
        assert cache.stats().load_errors == 10

    def test_many_failures_in_a_row_end_it(self, cache, kind):
        """The database is down: no use in asking a hundred thousand times."""
        calls = []

        @cache.cached("n:{i}")
        @kind.function
        def load(i):
            calls.append(i)
            raise ConnectionError

        cache.warmer(load)(lambda: range(100_000))
        report = kind.do(cache, "warm", stop_on_errors=5, concurrency=2)
        assert report.stopped_because == "errors"
        assert 5 <= len(calls) < 200
        assert report.failed == len(calls)

    def test_none_never_ends_for_failures(self, cache, kind):
        """``stop_on_errors=None`` tries every key."""

        @cache.cached("n:{i}")
        @kind.function
        def load(i):
            raise ConnectionError

        cache.warmer(load)(lambda: range(300))
        assert kind.do(cache, "warm", stop_on_errors=None).failed == 300

    def test_a_failing_batch_is_one_failure_in_a_row(self, cache, kind):
        """Its keys are all counted."""

        @kind.function
        def load_many(ids):
            raise ConnectionError

        double = numbers(cache, kind, [], batch=load_many)
        cache.warmer(double)(lambda: range(600))
        report = kind.do(cache, "warm", stop_on_errors=10)
        assert (report.failed, report.stopped_because) == (600, "")

    def test_an_open_breaker_of_the_loader_ends_it(self, cache, kind):
        """One CircuitOpen is enough: it says that more loads are not wanted."""
        calls = []

        @cache.cached("n:{i}")
        @kind.function
        def load(i):
            calls.append(i)
            if len(calls) > 10:
                raise CircuitOpen("open", 30.0)
            return i

        cache.warmer(load)(lambda: range(100_000))
        report = kind.do(cache, "warm", concurrency=1)
        assert report.stopped_because == "breaker"
        assert (report.loaded, report.failed) == (10, 1)

    def test_the_callers_error_is_not_a_warmings(self, cache, kind):
        """A caller who joins a load of warming gets its own error, as of any load."""

        @cache.cached("n:{i}")
        @kind.function
        def load(i):
            raise LookupError(i)

        cache.warmer(load)(lambda: [1])
        kind.do(cache, "warm")
        with pytest.raises(LoadErrors):
            kind.call(load.many, [1])


class TestLimits:
    """How fast, and until when."""

    def test_the_deadline_ends_it(self, cache, kind):
        """No load begins after it; those that landed stay."""
        calls = []

        @cache.cached("n:{i}")
        @kind.function
        def load(i):
            calls.append(i)
            if len(calls) == 3:
                until(lambda: gone.is_set())
            return i

        gone = threading.Event()
        threading.Timer(0.3, gone.set).start()
        cache.warmer(load)(lambda: iter(range(10**9)))
        report = kind.do(cache, "warm", deadline=0.2, concurrency=1)
        assert report.stopped_because in ("deadline", "full")
        assert report.loaded == len(calls)

    def test_the_rate_limit_is_kept(self, cache, kind):
        """Twenty loads at a hundred per second take no less than 0.18 s."""
        double = numbers(cache, kind, [])
        cache.warmer(double)(lambda: range(20))
        report = kind.do(cache, "warm", rate_limit=100, concurrency=8)
        assert report.loaded == 20
        assert report.seconds > 0.17

    def test_a_rate_limit_does_not_outlive_the_deadline(self, cache, kind):
        """Who waits for its turn is woken."""
        double = numbers(cache, kind, [])
        cache.warmer(double)(lambda: range(20))
        report = kind.do(cache, "warm", rate_limit=0.01, deadline=0.1)
        assert report.stopped_because == "deadline"
        assert report.loaded <= 1
        assert report.seconds < 5

    def test_so_many_load_at_once(self, cache, kind):
        """``concurrency`` loads are under way together, and no more."""
        if kind.name == "blocking":
            running, most = [], []
            gate = threading.Barrier(4)

            @cache.cached("n:{i}")
            def load(i):
                running.append(i)
                most.append(len(running))
                gate.wait(10)
                running.remove(i)
                return i
        else:
            running, most = [], []

            @cache.cached("n:{i}")
            async def load(i):
                running.append(i)
                most.append(len(running))
                for _ in range(200):
                    if len(running) == 4:
                        break
                    await asyncio.sleep(0)
                running.remove(i)
                return i

        cache.warmer(load)(lambda: range(4))
        assert kind.do(cache, "warm", concurrency=4).loaded == 4
        assert max(most) == 4
