"""Tags and clear: whatever carries a tag is gone at once, everywhere, however much that is."""

from __future__ import annotations

import random
import threading
import time

import pytest

from tests.coherence.conftest import hear_all, listen
from tests.gates import Gate
from tests.waiting import until
from tiercache import LRU, MISS, Cache, ConfigurationError
from tiercache import singleflight as singleflight_module


@pytest.fixture
def pair(processes):
    """The caches of two processes."""
    return processes.several(2)


def invalidate(kind, how, cache):
    """Invalidate what carries the tag "team:1"; or everything, which that is part of."""
    if how == "tag":
        kind.do(cache, "invalidate_tags", "team:1")
    else:
        kind.do(cache, "clear")


def boarded(cache):
    """Return how many callers share the flights under way."""
    return sum(flight.passengers for flight in cache.flow.flights.under_way())


class TestWhatCarriesATag:
    @pytest.mark.parametrize(
        "tags", [["users", "team:1"], lambda value: ["users", f"team:{value}"]]
    )
    def test_functions(self, kind, pair, loader, tags):
        """Tags given, or made from the value: invalidating one of them reaches every process."""
        one, two = pair
        functions = [cache.cached("user:{x}", tags=tags)(loader.function) for cache in pair]
        others = [cache.cached("other:{x}", tags=["o"])(loader.function) for cache in pair]
        loader.rows = {1: 1, 2: 1}
        for f in (*functions, *others):
            assert kind.call(f.many, [1, 2]) == {1: 1, 2: 1}
        assert len(loader.loads) == 4
        for tag in ("team:1", "users"):
            loader.loads.clear()
            kind.do(one, "invalidate_tags", tag)
            hear_all(one, two)  # until then a fill is refused whose tags are not known before
            assert kind.call(functions[0], 1) == 1
            assert loader.loads == [1]
            hear_all(two, one)
            assert kind.call(functions[1].many, [1, 2]) == {1: 1, 2: 1}
            assert loader.loads == [1, 2]
            assert kind.call(others[0], 1) == kind.call(others[1], 2) == 1
            assert loader.loads == [1, 2]

    def test_only_those_whose_value_has_it(self, kind, pair, loader):
        """With tags from the value, other values of the function stay."""
        one, two = pair
        functions = [
            cache.cached("user:{x}", tags=lambda value: [f"team:{value}"])(loader.function)
            for cache in pair
        ]
        loader.rows = {1: 1, 2: 2, 3: 1}
        for f in functions:
            kind.call(f.many, [1, 2, 3])
        loader.loads.clear()
        kind.do(two, "invalidate_tags", "team:1")
        hear_all(one, two)
        for f in functions:
            kind.call(f.many, [1, 2, 3])
        assert sorted(loader.loads) == [1, 3]

    def test_cache_aside(self, kind, pair):
        """Values that were set, or loaded by key, alone or together."""
        one, two = pair
        load = kind.function(lambda: "loaded")
        load_many = kind.function(lambda keys: dict.fromkeys(keys, "loaded"))
        kind.do(one, "set", "a", 1, tags=["t"])
        kind.do(one, "set_many", {"b": 1, "c": 1}, tags=["t", "u"])
        kind.do(one, "get_or_load", "d", load, tags=["t"])
        kind.do(one, "get_or_load_many", ["e", "f"], load_many, tags=["t"])
        kind.do(one, "set", "kept", 1, tags=["u"])
        keys = ["a", "b", "c", "d", "e", "f", "kept"]
        assert len(kind.do(two, "get_many", keys)) == 7
        kind.do(one, "invalidate_tags", "t")
        assert kind.do(one, "get_many", keys) == {"kept": 1}
        hear_all(two, one)
        assert kind.do(two, "get_many", keys) == {"kept": 1}

    def test_many_at_once(self, kind, pair):
        """One call for any number of tags; each key goes that carries one of them."""
        one, two = pair
        for number in range(20):
            kind.do(one, "set", f"k{number}", number, tags=[f"t{number}"])
        keys = [f"k{number}" for number in range(20)]
        kind.do(two, "get_many", keys)
        kind.do(one, "invalidate_tags", *[f"t{number}" for number in range(15)])
        hear_all(two, one)
        for cache in pair:
            assert kind.do(cache, "get_many", keys) == {f"k{n}": n for n in range(15, 20)}

    @pytest.mark.parametrize("tag", ["é漢🎈", "{braces}", "a:b", " ", "x" * 300, "nul\0"])
    def test_odd_tags(self, kind, pair, tag):
        """Any text is a tag, and no other."""
        one, two = pair
        kind.do(one, "set", "k", 1, tags=[tag])
        kind.do(one, "set", "other", 1, tags=[f"{tag}x"])
        assert kind.do(two, "get_many", ["k", "other"]) == {"k": 1, "other": 1}
        kind.do(two, "invalidate_tags", tag)
        hear_all(one, two)
        assert kind.do(one, "get_many", ["k", "other"]) == {"other": 1}

    @pytest.mark.parametrize("tags", [[5], [None], [""], "users", [b"users"]], ids=repr)
    def test_what_is_no_tag(self, kind, cache, tags):
        """Is refused, with the remedy, wherever it is given."""
        with pytest.raises(ConfigurationError, match="tag"):
            kind.do(cache, "set", "k", 1, tags=tags)
        with pytest.raises(ConfigurationError, match="tag"):
            cache.cached(tags=tags)(lambda x: x)
        with pytest.raises(ConfigurationError, match="tag"):
            kind.do(cache, "invalidate_tags", *(tags if isinstance(tags, list) else [""]))
        kind.do(cache, "invalidate_tags")  # of none: nothing to do

    def test_caches_of_other_names_have_their_own(self, kind, processes):
        """A tag means something within its cache only, and so does clear."""
        one = processes.start()
        other = Cache("other", l2=one.store)
        kind.do(one, "set", "k", 1, tags=["t"])
        kind.do(other, "set", "k", 2, tags=["t"])
        kind.do(one, "invalidate_tags", "t")
        other.memory.clear()
        assert kind.do(other, "get", "k") == 2
        kind.do(one, "clear")
        other.memory.clear()
        assert kind.do(other, "get", "k") == 2
        other.close()

    def test_without_l2(self, kind, cache, loader):
        """A cache in memory only does the same."""
        loader.rows = {1: "old"}
        f = cache.cached("f:{x}", tags=["t"])(loader.function)
        for _ in range(3):
            kind.call(f, 1)
        loader.rows[1] = "new"
        kind.do(cache, "invalidate_tags", "t")
        assert kind.call(f, 1) == "new"
        assert loader.loads == [1, 1]

    def test_without_l1(self, kind, processes, loader):
        """So does one without memory."""
        one, two = processes.start(l1=None), processes.start(l1=None)
        loader.rows = {1: "old"}
        functions = [cache.cached("f:{x}", tags=["t"])(loader.function) for cache in (one, two)]
        assert [kind.call(f, 1) for f in functions] == ["old", "old"]
        loader.rows[1] = "new"
        kind.do(one, "invalidate_tags", "t")
        assert [kind.call(f, 1) for f in functions] == ["new", "new"]
        assert loader.loads == [1, 1]


class TestHits:
    """A hit asks nobody for tags: what they touch has left before."""

    def test_fast_hits_do_not_survive(self, kind, pair, loader):
        """Not the function's shortcuts in this process, nor, once it has heard, in another."""
        one, two = pair
        first, second = (cache.cached("f:{x}", tags=["t"])(loader.function) for cache in pair)
        loader.rows = {1: "old"}
        for f in (first, second):
            assert [kind.call(f, 1) for _ in range(4)] == ["old"] * 4
            assert f.__globals__["_tc_table"]
        loader.rows[1] = "new"
        kind.do(one, "invalidate_tags", "t")
        assert kind.call(first, 1) == "new"
        hear_all(two, one)
        assert kind.call(second, 1) == "new"
        assert loader.loads == [1, 1]

    def test_shortcuts_of_other_functions_stay(self, kind, cache, loader):
        """Those that lead to no value with the tag."""
        loader.rows = {1: 1}
        tagged = cache.cached("f:{x}", tags=["t"])(loader.function)
        other = cache.cached("g:{x}", tags=["u"])(loader.function)
        plain = cache.cached("h:{x}")(loader.function)
        for f in (tagged, other, plain):
            for _ in range(3):
                kind.call(f, 1)
        kind.do(cache, "invalidate_tags", "t")
        assert not tagged.__globals__["_tc_table"]
        assert other.__globals__["_tc_table"]
        assert plain.__globals__["_tc_table"]

    def test_hits_are_still_counted(self, kind, cache, loader):
        """What a dropped shortcut had counted is not lost."""
        loader.rows = {1: 1}
        f = cache.cached("f:{x}", tags=["t"])(loader.function)
        for _ in range(5):
            for _ in range(4):
                kind.call(f, 1)
            kind.do(cache, "invalidate_tags", "t")
        info = f.cache_info()
        assert (info.hits_l1, info.misses) == (15, 5)
        assert cache.stats().hits_l1 == 15

    def test_more_tags_than_are_remembered(self, kind, make_cache, monkeypatch, loader):
        """Past the bound entries are given up early, never served late."""
        monkeypatch.setattr(singleflight_module, "TAGS", 10)
        cache = make_cache()
        f = cache.cached("f:{x}", tags=lambda value: [f"t{value}"])(loader.function)
        loader.rows = dict.fromkeys(range(30), 1)
        for number in range(30):
            loader.rows[number] = number
            kind.call(f, number)
            kind.call(f, number)
        for number in range(15):
            kind.do(cache, "invalidate_tags", f"t{number}")
        loader.loads.clear()
        for number in range(30):
            assert kind.call(f, number) == number
        assert set(range(15)) <= set(loader.loads)

    def test_what_is_gone_takes_no_place(self, kind, cache):
        """Invalidated values are let go of, not only no longer served."""
        for number in range(100):
            kind.do(cache, "set", f"k{number}", number, tags=["t"])
        kind.do(cache, "set", "kept", 1)
        kind.do(cache, "invalidate_tags", "t")
        until(lambda: len(cache.memory) == 1)
        assert cache.stats().evictions["invalidated"] == 100


class TestUnderWay:
    """An invalidation wins over whatever began before it."""

    @pytest.mark.parametrize("how", ["tag", "clear"])
    @pytest.mark.parametrize("by", ["itself", "peer"])
    @pytest.mark.parametrize("given", ["before", "by the value"])
    def test_over_a_load(self, kind, pair, loader, beside, how, by, given):
        """The value goes to who waits for it, and is kept nowhere."""
        one, two = pair
        tags = ["team:1"] if given == "before" else lambda value: ["team:1"]
        functions = [cache.cached("user:{x}", tags=tags)(loader.function) for cache in pair]
        loader.rows = {1: "old"}
        gate = loader.gate()
        loading = beside(functions[0], 1)
        gate.until_reached()
        loader.rows[1] = "new"
        invalidate(kind, how, one if by == "itself" else two)
        if by == "peer":
            hear_all(one, two)
        late = beside(functions[0], 1)
        until(lambda: late.done() or len(one.flow.waits) or boarded(one) > 1)
        gate.open()
        assert (loading.result(10), late.result(10)) == ("old", "new")
        assert [kind.call(f, 1) for f in functions] == ["new", "new"]
        one.memory.clear()
        two.memory.clear()
        assert [kind.call(f, 1) for f in functions] == ["new", "new"]
        assert loader.loads == [1, 1]

    @pytest.mark.parametrize("how", ["tag", "clear"])
    @pytest.mark.parametrize("by", ["itself", "peer"])
    @pytest.mark.parametrize("given", ["before", "by the value"])
    def test_over_a_refresh(self, kind, pair, loader, beside, how, by, given):
        """A load beside a value that stands is no different."""
        one, two = pair
        tags = ["team:1"] if given == "before" else lambda value: ["team:1"]
        functions = [cache.cached("user:{x}", tags=tags)(loader.function) for cache in pair]
        loader.rows = {1: "older"}
        assert [kind.call(f, 1) for f in functions] == ["older", "older"]
        loader.rows[1] = "old"
        gate = loader.gate()
        refreshing = beside(functions[0].refresh, 1)
        gate.until_reached()
        loader.rows[1] = "new"
        invalidate(kind, how, one if by == "itself" else two)
        if by == "peer":
            hear_all(one, two)
        gate.open()
        assert refreshing.result(10) == "old"
        hear_all(two, one)
        assert [kind.call(f, 1) for f in functions] == ["new", "new"]
        one.memory.clear()
        two.memory.clear()
        assert [kind.call(f, 1) for f in functions] == ["new", "new"]

    @pytest.mark.parametrize("how", ["tag", "clear"])
    def test_over_a_batch(self, kind, pair, beside, how):
        """One bulk load for several keys is no different."""
        one, two = pair
        rows = {"a": "old", "b": "old"}
        gates = []

        def load(keys):
            found = {key: rows[key] for key in keys}
            if gates:
                gates.pop().hold()
            return found

        gate = Gate(is_after=True)
        gates.append(gate)
        name = "get_or_load_many" if kind.name == "blocking" else "aget_or_load_many"
        loading = beside(
            lambda: getattr(one, name)(["a", "b"], kind.function(load), tags=["team:1"])
        )
        gate.until_reached()
        rows.update(a="new", b="new")
        invalidate(kind, how, two)
        hear_all(one, two)
        gate.open()
        assert loading.result(10) == {"a": "old", "b": "old"}
        assert kind.do(one, "get_many", ["a", "b"]) == {}
        assert kind.do(two, "get_many", ["a", "b"]) == {}

    @pytest.mark.parametrize("how", ["tag", "clear"])
    @pytest.mark.parametrize("by", ["itself", "peer"])
    def test_between_l2_and_l1(self, kind, dict_processes, inner, beside, how, by):
        """What was read from L2 just before is not put in L1 after it."""
        one, two = dict_processes.several(2)
        kind.do(two, "set", "k", "old", tags=["team:1"])
        hear_all(one, two)
        gate = inner.gate("read", is_after=True)
        reading = beside(one.get if kind.name == "blocking" else one.aget, "k")
        gate.until_reached()
        invalidate(kind, how, one if by == "itself" else two)
        if by == "peer":
            hear_all(one, two)
        gate.open()
        assert reading.result(10) == "old"
        assert kind.do(one, "get", "k", MISS) is MISS

    @pytest.mark.parametrize("how", ["tag", "clear"])
    def test_over_a_write_whose_answer_is_late(self, kind, dict_processes, inner, beside, how):
        """A value that L2 took before the invalidation does not stand in L1 after it."""
        one, two = dict_processes.several(2)
        gate = inner.gate("write", is_after=True)
        method = "set" if kind.name == "blocking" else "aset"
        writing = beside(lambda: getattr(one, method)("k", "old", tags=["team:1"]))
        gate.until_reached()
        invalidate(kind, how, two)
        until(lambda: inner.done[-1][0] in ("invalidate_tags", "clear"))
        marks = len(inner.done)
        two.set("mark", 1)
        until(lambda: len(inner.done) > marks)
        until(lambda: one.get("mark") == 1)
        gate.open()
        writing.result(10)
        hear_all(one, two)
        assert kind.do(one, "get", "k", MISS) is MISS

    def test_a_waiting_process_loads_again(self, kind, pair, loader, beside):
        """Who waited for a load that was invalidated gets a newer value, and loads it but once."""
        _, two = pair
        functions = [cache.cached("user:{x}", tags=["t"])(loader.function) for cache in pair]
        loader.rows = {1: "old"}
        gate = loader.gate()
        leading = beside(functions[0], 1)
        gate.until_reached()
        waiting = beside(functions[1], 1)
        until(lambda: len(two.flow.waits) == 1)
        loader.rows[1] = "new"
        kind.do(two, "invalidate_tags", "t")
        after = beside(functions[1], 1)
        gate.open()
        assert leading.result(10) == "old"
        assert after.result(10) == "new"
        assert waiting.result(10) == "new"
        assert loader.loads == [1, 1]


class TestLostTokens:
    """A token that is lost invalidates, and never revives."""

    def test_of_a_tag(self, kind, redis_processes, redis_server):
        """What was written under it stays away, though the tag is used anew."""
        writer, reader = redis_processes.start(), redis_processes.start(l1=None)
        kind.do(writer, "set_many", {"a": 1, "b": 1}, tags=["t"])
        kind.do(writer, "set", "c", 1, tags=["u"])
        assert kind.do(reader, "get_many", ["a", "b", "c"]) == {"a": 1, "b": 1, "c": 1}
        assert redis_server.command("DEL", "tc:{test}:tag:t").startswith(b":1")
        assert kind.do(reader, "get_many", ["a", "b", "c"]) == {"c": 1}
        kind.do(writer, "set", "d", 2, tags=["t"])
        assert kind.do(reader, "get_many", ["a", "b", "c", "d"]) == {"c": 1, "d": 2}

    def test_of_everything(self, kind, redis_processes, redis_server):
        """Without its generation no entry is valid, and a new one makes none so."""
        writer, reader = redis_processes.start(), redis_processes.start(l1=None)
        kind.do(writer, "set_many", {"a": 1, "b": 1})
        assert redis_server.command("DEL", "tc:{test}:generation").startswith(b":1")
        assert kind.do(reader, "get_many", ["a", "b"]) == {}
        kind.do(writer, "set", "c", 2)
        assert kind.do(reader, "get_many", ["a", "b", "c"]) == {"c": 2}

    @pytest.mark.parametrize("given", ["before", "by the value"])
    def test_during_a_load(self, kind, redis_processes, redis_server, loader, beside, given):
        """Where nobody can tell whether the tag was invalidated meanwhile, nothing is kept."""
        one, reader = redis_processes.start(l1=None), redis_processes.start(l1=None)
        listen(one)
        tags = ["t"] if given == "before" else lambda value: ["t"]
        f = one.cached("k:{x}", tags=tags)(loader.function)
        loader.rows = {1: "old"}
        kind.call(f, 1)
        kind.do(one, "delete", "k:1")
        gate = loader.gate()
        loading = beside(f, 1)
        gate.until_reached()
        kind.do(reader, "invalidate_tags", "t")
        redis_server.command("DEL", "tc:{test}:tag:t")
        gate.open()
        assert loading.result(10) == "old"
        assert kind.do(reader, "get", "k:1", MISS) is MISS

    @pytest.mark.parametrize("given", ["before", "by the value"])
    def test_flushed_during_a_load(
        self, kind, redis_processes, redis_server, loader, beside, given
    ):
        """FLUSHALL takes the lease, too: nothing loaded before it is stored after it."""
        one, reader = redis_processes.start(l1=None), redis_processes.start(l1=None)
        listen(one)
        tags = ["t"] if given == "before" else lambda value: ["t"]
        f = one.cached("k:{x}", tags=tags)(loader.function)
        loader.rows = {1: "old"}
        gate = loader.gate()
        loading = beside(f, 1)
        gate.until_reached()
        redis_server.command("FLUSHALL")
        gate.open()
        assert loading.result(10) == "old"
        assert kind.do(reader, "get", "k:1", MISS) is MISS
        loader.rows[1] = "new"
        assert kind.call(f, 1) == "new"
        assert kind.do(reader, "get", "k:1") == "new"


class TestCost:
    """O(1) in the number of entries, on the server and here."""

    @pytest.mark.parametrize("how", ["tag", "clear"])
    def test_commands(self, kind, redis_processes, redis_server, how):
        """The server does as much for a thousand entries as for one."""
        cache = redis_processes.start(l1=None)

        def count(entries):
            values = {f"k{number}": number for number in range(entries)}
            kind.do(cache, "set_many", values, tags=["team:1"])
            invalidate(kind, how, cache)  # scripts are known from now on
            kind.do(cache, "set_many", values, tags=["team:1"])
            redis_server.command("CONFIG", "RESETSTAT")
            invalidate(kind, how, cache)
            calls = redis_server.command_calls()
            assert kind.do(cache, "get_many", list(values)) == {}
            read_by_bus = ("xread", "xrange", "info", "config|resetstat", "time")
            return {name: n for name, n in calls.items() if name not in read_by_bus}

        assert count(1) == count(1000)
        assert sum(count(1).values()) <= 5

    def test_time_here(self, kind):
        """With many values in L1 it takes no longer than with a few."""
        big = Cache("big", l1=LRU(30_000))
        big.set_many({f"k{number}": number for number in range(30_000)}, tags=["t"])

        def seconds():
            began = time.perf_counter()
            kind.do(big, "invalidate_tags", "t")
            return time.perf_counter() - began

        assert min(seconds() for _ in range(20)) < 0.001
        assert kind.do(big, "get", "k7", MISS) is MISS
        big.close()


def test_threads_never_read_backwards(redis_processes):
    """Readers and updaters in threads of one process, over Redis, with tags: none sees the past."""
    cache = redis_processes.start()
    rows, done = dict.fromkeys(range(4), 0), dict.fromkeys(range(4), 0)
    locks = {key: threading.Lock() for key in rows}
    violations, checked = [], []

    given = cache.cached("given:{key}", tags=["all"])(lambda key: rows[key])
    by_value = cache.cached("value:{key}", tags=lambda value: [f"v{value % 3}", "all"])(
        lambda key: rows[key]
    )

    def update(seed):
        rng = random.Random(seed)
        for _ in range(60):
            key = rng.randrange(4)
            with locks[key]:
                old = rows[key]
                rows[key] = version = old + 1
                if rng.random() < 0.5:
                    cache.invalidate_tags("all")
                else:
                    cache.invalidate_tags(f"v{old % 3}")
                    given.invalidate(key)
                done[key] = version

    def read(seed):
        rng = random.Random(seed)
        for _ in range(300):
            key = rng.randrange(4)
            floor = done[key]
            seen = rng.choice([given, by_value])(key)
            checked.append(seen)
            if seen < floor:
                violations.append((key, floor, seen))

    threads = [threading.Thread(target=update, args=(i,)) for i in range(2)]
    threads += [threading.Thread(target=read, args=(10 + i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not violations
    assert len(checked) == 1200
