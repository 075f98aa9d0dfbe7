"""BloomGuard: what it rules out, when it knows nothing, and what its user sees of it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tiercache import Cache, ConfigurationError, UncacheableArguments
from tiercache_plugins import BloomGuard
from tiercache_plugins.bloom import GuardState

KEY = "user:{user_id}"
MakeCache = Callable[..., Cache]


class Users:
    """A table of users, and who reads it."""

    def __init__(self, *ids: Any) -> None:
        self.rows = set(ids)
        self.loads: list[Any] = []
        self.may_read = threading.Event()
        self.may_read.set()
        self.is_reading = threading.Event()

    def get(self, user_id: Any) -> str | None:
        self.loads.append(user_id)
        return f"user {user_id}" if user_id in self.rows else None

    def ids(self) -> Iterator[Any]:
        """Read the first id, wait until told, and read the others as they were at first."""
        rows = sorted(self.rows)
        yield from rows[:1]
        self.is_reading.set()
        assert self.may_read.wait(10)
        yield from rows[1:]


@pytest.fixture
def users() -> Users:
    return Users(1, 2, 3)


def ready(guard: BloomGuard) -> BloomGuard:
    assert guard.wait_until_ready(10), guard.stats()
    return guard


class TestRulesOut:
    def test_what_is_not_there(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """A key that no id has is answered without a load, the others are loaded."""
        guard = BloomGuard(users.ids, key=KEY)
        cache = make_cache(plugins=[guard])
        f = cache.cached(KEY)(kind.function(users.get))
        ready(guard)
        assert [kind.call(f, x) for x in (1, 77, 2, 77)] == ["user 1", None, "user 2", None]
        assert users.loads == [1, 2]
        stats = guard.stats()
        assert (stats.lookups, stats.saved, stats.entries) == (4, 2, 3)
        assert cache.stats().absent == f.cache_info().absent == 2

    def test_nothing_of_other_keys(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """Keys that are not of the template are let through, and not counted."""
        guard = BloomGuard(users.ids, key=KEY)
        cache = make_cache(plugins=[guard])
        posts = cache.cached("post:{post_id}")(kind.function(lambda post_id: post_id))
        ready(guard)
        assert kind.call(posts, 77) == 77
        assert guard.stats().lookups == 0

    def test_raises_what_is_wanted(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """An exception class is raised with the key, afresh each time."""
        guard = BloomGuard(users.ids, key=KEY, absent=LookupError)
        f = make_cache(plugins=[guard]).cached(KEY)(kind.function(users.get))
        ready(guard)
        errors = []
        for _ in range(2):
            with pytest.raises(LookupError, match="user:77") as caught:
                kind.call(f, 77)
            errors.append(caught.value)
        assert errors[0] is not errors[1]

    def test_answers_what_is_wanted(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """A function of the key says what a caller gets."""
        guard = BloomGuard(users.ids, key=KEY, absent=lambda key: f"no {key}")
        f = make_cache(plugins=[guard]).cached(KEY)(kind.function(users.get))
        ready(guard)
        assert kind.call(f, 77) == "no user:77"

    def test_several_fields(self, kind: Kind, make_cache: MakeCache) -> None:
        """Ids of a template with several fields are tuples."""
        guard = BloomGuard([("a", 1), ("b", 2)], key="item:{shop}:{number}")
        cache = make_cache(plugins=[guard])
        f = cache.cached("item:{shop}:{number}")(kind.function(lambda shop, number: shop * number))
        ready(guard)
        assert [kind.call(f, *args) for args in (("b", 2), ("b", 1))] == ["bb", None]
        assert guard.contains(("a", 1)) and not guard.contains(("a", 2))

    def test_many(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """A bulk read loads only what may be there."""
        guard = BloomGuard(users.ids, key=KEY)
        f = make_cache(plugins=[guard]).cached(KEY)(kind.function(users.get))
        ready(guard)
        assert kind.call(f.many, [1, 77]) == {1: "user 1", 77: None}
        assert users.loads == [1]


async def _async_ids() -> AsyncIterator[int]:
    for each in (1, 2, 3):
        await asyncio.sleep(0)
        yield each


async def _async_list() -> list[int]:
    await asyncio.sleep(0)
    return [1, 2, 3]


async def _async_of_async() -> AsyncIterator[int]:
    await asyncio.sleep(0)
    return _async_ids()


class _AsyncIterable:
    def __aiter__(self) -> AsyncIterator[int]:
        return _async_ids()


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2, 3],
        range(1, 4),
        {1: "a", 2: "b", 3: "c"},
        lambda: [1, 2, 3],
        lambda: iter([1, 2, 3]),
        lambda: (x for x in (1, 2, 3)),
        _async_ids,
        _async_list,
        _async_of_async,
        _AsyncIterable(),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_ids_of_every_kind(make_cache: MakeCache, ids: Any) -> None:
    """Whatever gives the ids, gives them again for the next build."""
    guard = BloomGuard(ids, key=KEY)
    make_cache(plugins=[guard])
    ready(guard)
    guard.rebuild()
    until(lambda: guard.stats().builds == 2)
    assert [guard.contains(x) for x in range(5)] == [False, True, True, True, False]


class TestUnknown:
    def test_until_built(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """While the ids are read nothing is ruled out, not even what was not there."""
        users.may_read.clear()
        guard = BloomGuard(users.ids, key=KEY)
        f = make_cache(plugins=[guard]).cached(KEY)(kind.function(users.get))
        assert users.is_reading.wait(10)
        assert kind.call(f, 77) is None
        assert users.loads == [77]
        assert guard.state is GuardState.BUILDING and not guard.is_ready
        assert not guard.wait_until_ready("10ms") and guard.contains(77)
        assert guard.stats().progress == 1
        users.may_read.set()
        ready(guard)
        assert guard.state is GuardState.READY
        assert kind.call(f, 78) is None and users.loads == [77]

    def test_ids_that_fail_half_way(
        self, make_cache: MakeCache, users: Users, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What was read is not used; state, statistics and log say so, and it is tried again."""
        fails = True
        tries = 0

        def ids() -> Iterator[int]:
            nonlocal tries
            tries += 1
            yield 1
            if fails:
                raise OSError("the database is away")
            yield 2

        guard = BloomGuard(ids, key=KEY, retry="1ms")
        f = make_cache(plugins=[guard]).cached(KEY)(users.get)
        until(lambda: tries >= 3)
        assert guard.state in (GuardState.UNKNOWN, GuardState.BUILDING)
        assert "OSError: the database is away" in guard.stats().error
        assert "failed after 1" in guard.stats().error
        assert "BloomGuard rules nothing out: ids failed after 1" in caplog.text
        assert f(77) is None and users.loads == [77]
        fails = False
        ready(guard)
        assert guard.stats().error == ""
        assert guard.contains(2) and not guard.contains(77)

    def test_retries_back_off(self, caplog: pytest.LogCaptureFixture) -> None:
        """Each failure doubles the pause, within a quarter, and never beyond five minutes."""

        def ids() -> list[int]:
            raise OSError("away")

        guard = BloomGuard(ids, key=KEY, retry=8)
        builder = guard._builder
        pauses = []
        for _ in range(9):
            builder._failed(OSError("away"))
            pauses.append(builder._due - time.monotonic())
        for pause, nominal in zip(pauses, [8, 16, 32, 64, 128, 256, 300, 300, 300], strict=True):
            assert 0.7 * nominal < pause < 1.26 * nominal

    def test_a_failing_rebuild_keeps_the_old(self, make_cache: MakeCache, users: Users) -> None:
        """A filter that is complete goes on, with the error shown."""
        fails = False

        def ids() -> Iterator[int]:
            if fails:
                raise OSError("away")
            yield from (1, 2)

        guard = BloomGuard(ids, key=KEY, retry="1h")
        make_cache(plugins=[guard])
        ready(guard)
        fails = True
        guard.rebuild()
        until(lambda: "away" in guard.stats().error)
        assert guard.state is GuardState.READY
        assert guard.contains(1) and not guard.contains(77)

    @pytest.mark.parametrize("bad", [lambda: 5, lambda: "text", lambda: None])
    def test_ids_that_are_none(self, make_cache: MakeCache, bad: Any) -> None:
        """A function that gives no ids is an error that says so, and no empty filter."""
        guard = BloomGuard(bad, key=KEY)
        make_cache(plugins=[guard])
        until(lambda: "not an iterable of ids" in guard.stats().error)
        assert guard.contains(77)

    def test_ids_that_fit_no_key(self, make_cache: MakeCache) -> None:
        """An id that makes no key fails the build."""
        guard = BloomGuard([1, object()], key=KEY)
        make_cache(plugins=[guard])
        until(lambda: "UncacheableArguments" in guard.stats().error)
        assert guard.contains(77)
        with pytest.raises(UncacheableArguments):
            guard.add(object())


class TestAdding:
    WAYS = ("set", "delete", "add", "invalidates")

    def create(self, way: str, kind: Kind, cache: Cache, guard: BloomGuard, user_id: int) -> None:
        if way == "set":
            kind.do(cache, "set", f"user:{user_id}", "new")
        elif way == "delete":
            kind.do(cache, "delete", f"user:{user_id}")
        elif way == "add":
            kind.call(guard.add if kind.name == "blocking" else guard.aadd, user_id)
        else:
            save = cache.invalidates("user:{result}")(kind.function(lambda: user_id))
            kind.call(save)

    @pytest.mark.parametrize("way", WAYS)
    def test_what_is_created_is_known_at_once(
        self, kind: Kind, make_cache: MakeCache, users: Users, way: str
    ) -> None:
        """Before the writer returns its key is let through, however it was written."""
        guard = BloomGuard(users.ids, key=KEY)
        cache = make_cache(plugins=[guard])
        f = cache.cached(KEY)(kind.function(users.get))
        ready(guard)
        assert kind.call(f, 77) is None
        users.rows.add(77)
        self.create(way, kind, cache, guard, 77)
        assert kind.call(f, 77) in {"user 77", "new"}
        assert guard.stats().adds >= 1

    def test_what_is_being_created(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """With creates=True a key is known before the function has run, and if it fails, too."""
        guard = BloomGuard(users.ids, key=KEY)
        cache = make_cache(plugins=[guard])
        ready(guard)
        seen: list[bool] = []

        def save(user_id: int) -> None:
            seen.append(guard.contains(user_id))
            raise OSError("no, after all")

        with pytest.raises(OSError, match="after all"):
            kind.call(cache.invalidates(KEY, creates=True)(kind.function(save)), 77)
        assert seen == [True] and not guard.contains(78)

    @pytest.mark.parametrize("first", [True, False], ids=["first build", "rebuild"])
    def test_during_a_build(self, kind: Kind, make_cache: MakeCache, users: Users, first) -> None:
        """What is created while the ids are read is in the old filter and in the new one."""
        users.may_read.set()
        guard = BloomGuard(users.ids, key=KEY)
        if first:
            users.may_read.clear()
        cache = make_cache(plugins=[guard])
        if not first:
            ready(guard)
            users.is_reading.clear()
            users.may_read.clear()
            guard.rebuild()
        assert users.is_reading.wait(10)
        kind.do(cache, "delete", "user:77")
        assert guard.contains(77)
        assert guard.contains(78) is first
        users.may_read.set()
        until(lambda: guard.stats().builds == (1 if first else 2))
        assert guard.contains(77) and not guard.contains(78)

    def test_before_its_transaction_is_seen(self, make_cache: MakeCache, users: Users) -> None:
        """What was added shortly before the ids are read is not forgotten by that build."""
        guard = BloomGuard(users.ids, key=KEY)
        cache = make_cache(plugins=[guard])
        ready(guard)
        cache.delete("user:77")  # say, by a transaction that has not been committed yet
        guard.rebuild()
        until(lambda: guard.stats().builds == 2)
        assert guard.contains(77)

    def test_a_rebuild_forgets_what_was_deleted(self, make_cache: MakeCache, users: Users) -> None:
        """An id that is gone is ruled out after the next build."""
        guard = BloomGuard(users.ids, key=KEY)
        make_cache(plugins=[guard])
        ready(guard)
        users.rows.discard(3)
        guard.rebuild()
        until(lambda: guard.stats().builds == 2)
        assert guard.contains(2) and not guard.contains(3)

    def test_an_interrupted_add_is_not_trusted(self, make_cache: MakeCache, users: Users) -> None:
        """If an add does not come to its end, the guard knows nothing, and builds anew."""
        guard = BloomGuard(users.ids, key=KEY)
        make_cache(plugins=[guard])
        ready(guard)
        series = guard._members.live

        def interrupted(key: str) -> bool:
            raise KeyboardInterrupt

        series.add = interrupted
        with pytest.raises(KeyboardInterrupt):
            guard.on_write(["user:77"])
        until(lambda: guard.stats().builds == 2)
        assert guard.contains(77)


class TestWhoseKeys:
    def test_the_only_function(self, kind: Kind, make_cache: MakeCache, users: Users) -> None:
        """Without key= the guard finds its function once it is decorated."""
        guard = BloomGuard([1, 2, 3])
        cache = make_cache(plugins=[guard])
        until(lambda: "no function" in guard.stats().error)
        f = cache.cached(kind.function(users.get))
        ready(guard)
        assert [kind.call(f, x) for x in (1, 77)] == ["user 1", None]
        assert users.loads == [1]
        guard.add(77)
        assert kind.call(f, 77) is None and users.loads == [1, 77]

    def test_a_second_function(
        self, kind: Kind, make_cache: MakeCache, users: Users, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With a second one nothing is ruled out, and one line says what to do."""
        guard = BloomGuard([1, 2, 3])
        cache = make_cache(plugins=[guard])
        f = cache.cached(KEY)(kind.function(users.get))
        ready(guard)
        g = cache.cached("page:{user_id}")(kind.function(users.get))
        assert kind.call(f, 77) is None and kind.call(f, 78) is None and kind.call(g, 79) is None
        assert users.loads == [77, 78, 79]
        assert guard.state is GuardState.UNKNOWN
        assert "use key=" in guard.stats().error
        assert caplog.text.count("key=") == 1

    def test_two_functions_from_the_beginning(
        self, make_cache: MakeCache, users: Users, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing is built where it is not clear for which."""
        reads = threading.Event()

        def ids() -> list[int]:
            reads.set()
            return [1]

        guard = BloomGuard(ids)
        cache = make_cache()
        f = cache.cached(KEY)(users.get)
        g = cache.cached("post:{user_id}")(users.get)
        guard.start(cache)
        until(lambda: "key=" in guard.stats().error)
        assert "several functions" in guard.stats().error and not reads.is_set()
        assert f.__name__ == g.__name__ == "get"
        guard.stop()

    def test_adding_before_there_is_a_key(self, make_cache: MakeCache) -> None:
        """Without a function and without key= an id cannot be added by hand."""
        guard = BloomGuard([1])
        make_cache(plugins=[guard])
        with pytest.raises(ConfigurationError, match="key="):
            guard.add(1)


class TestLife:
    def test_stops_a_slow_reading(self, make_cache: MakeCache) -> None:
        """Closing the cache ends a build that a rate limit spreads over hours."""
        guard = BloomGuard(range(1_000_000), key=KEY, rate_limit=10)
        cache = make_cache(plugins=[guard])
        until(lambda: guard.stats().progress)
        began = time.monotonic()
        cache.close()
        assert time.monotonic() - began < 10
        assert guard.state is GuardState.STOPPED and guard.contains(77)
        assert not bloom_threads()

    def test_stops_an_async_reading_that_waits(self, make_cache: MakeCache) -> None:
        """Closing the cache cancels what an async source waits for; it can clean up."""
        is_waiting, is_clean = threading.Event(), threading.Event()

        async def ids() -> AsyncIterator[int]:
            try:
                yield 1
                is_waiting.set()
                await asyncio.sleep(3600)
            finally:
                is_clean.set()

        guard = BloomGuard(ids, key=KEY)
        cache = make_cache(plugins=[guard])
        assert is_waiting.wait(10)
        cache.close()
        assert is_clean.is_set() and not bloom_threads()

    def test_leaves_user_code_that_hangs(
        self, make_cache: MakeCache, users: Users, monkeypatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Closing does not wait for ever for a source that does not return; it is said."""
        monkeypatch.setattr("tiercache_plugins._bloom_builder.PATIENCE", 0.05)
        users.may_read.clear()
        guard = BloomGuard(users.ids, key=KEY)
        cache = make_cache(plugins=[guard])
        assert users.is_reading.wait(10)
        cache.close()
        assert "left alone" in caplog.text
        users.may_read.set()
        until(lambda: not bloom_threads())
        assert guard.stats().builds == 0

    def test_a_cache_that_is_forgotten(self) -> None:
        """The thread ends with a cache that nobody has closed."""
        guard = BloomGuard([1, 2], key=KEY)
        cache = Cache("forgotten", plugins=[guard])
        gone = weakref.ref(cache)
        ready(guard)
        del cache
        gc.collect()
        assert gone() is None
        until(lambda: not bloom_threads())

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_forked_child_begins_anew(self, make_cache: MakeCache, users: Users) -> None:
        """A child knows nothing at first, and builds its own filter when it is asked."""
        guard = BloomGuard(users.ids, key=KEY)
        f = make_cache(plugins=[guard]).cached(KEY)(users.get)
        ready(guard)
        assert f(77) is None and users.loads == []
        pid = os.fork()
        if pid == 0:
            try:
                is_right = not guard.is_ready and f(78) is None and users.loads == [78]
                is_right = is_right and guard.wait_until_ready(10)
                is_right = is_right and f(79) is None and users.loads == [78]
                os._exit(0 if is_right else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert guard.is_ready

    def test_rebuilds_on_schedule(self, make_cache: MakeCache, users: Users) -> None:
        """rebuild_every builds anew, again and again."""
        guard = BloomGuard(users.ids, key=KEY, rebuild_every="10ms")
        make_cache(plugins=[guard])
        until(lambda: guard.stats().builds >= 3)

    def test_serves_one_cache(self, make_cache: MakeCache) -> None:
        """A guard given to a second cache is refused: each has keys of its own."""
        guard = BloomGuard([1], key=KEY)
        first = make_cache("first", plugins=[guard])
        with pytest.raises(ConfigurationError, match="'first' already"):
            Cache("second", plugins=[guard])
        assert first.name == "first"

    async def test_awaits(self, make_cache: MakeCache, users: Users) -> None:
        """A task waits without holding up its event loop."""
        users.may_read.clear()
        guard = BloomGuard(users.ids, key=KEY)
        make_cache(plugins=[guard])
        waiting = asyncio.create_task(guard.await_until_ready(10))
        assert not await guard.await_until_ready("30ms")
        users.may_read.set()
        assert await waiting


class TestPace:
    def test_rate_limit(self, make_cache: MakeCache) -> None:
        """No more ids are read than the limit allows."""
        guard = BloomGuard(range(200), key=KEY, rate_limit=1000)
        began = time.monotonic()
        make_cache(plugins=[guard])
        ready(guard)
        assert time.monotonic() - began > 0.19

    def test_progress(self, make_cache: MakeCache, caplog: pytest.LogCaptureFixture) -> None:
        """Progress is told every 10,000 ids and at the end; a callback that fails ends nothing."""
        told: list[tuple[int, int | None]] = []

        def on_progress(done: int, total: int | None) -> None:
            told.append((done, total))
            raise OSError("no terminal")

        guard = BloomGuard(range(25_000), key=KEY, on_progress=on_progress)
        make_cache(plugins=[guard])
        ready(guard)
        assert told == [(10_000, 25_000), (20_000, 25_000), (25_000, 25_000)]
        assert caplog.text.count("on_progress failed") == 3

    def test_measures(self, make_cache: MakeCache, users: Users) -> None:
        """What telemetry exports is what the statistics say."""
        guard = BloomGuard(users.ids, key=KEY)
        cache = make_cache(plugins=[guard])
        ready(guard)
        measures = dict(cache.hooks.measures())
        stats = guard.stats()
        assert measures["bloom.entries"] == stats.entries == 3
        assert measures["bloom.bytes"] == stats.bytes > 0
        assert measures["bloom.ready"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": 5}, "ids must be an iterable"),
        ({"ids": "abc"}, "ids must be an iterable"),
        ({"ids": iter([1]), "rebuild_every": "1h"}, "rebuild_every needs ids that can be read"),
        ({"ids": _async_ids(), "rebuild_every": 5}, "rebuild_every needs ids that can be read"),
        ({"ids": iter([1]), "shared": "redis://x", "key": KEY}, "shared needs ids that can be"),
        ({"key": "user"}, "has no field"),
        ({"capacity": 0}, "capacity must be"),
        ({"error_rate": 0}, "error_rate must be above 0"),
        ({"error_rate": 1}, "error_rate must be above 0"),
        ({"error_rate": float("nan")}, "error_rate must be above 0"),
        ({"absent": KeyError("x")}, "must be an exception class, got the instance"),
        ({"absent": int}, "must be an exception class"),
        ({"absent": "nothing"}, "exception class or a function"),
        ({"absent": _async_list}, "absent must be a plain function"),
        ({"rebuild_every": -1}, "rebuild_every must be positive"),
        ({"rate_limit": 0}, "rate_limit must be ids per second"),
        ({"snapshot": 3}, "snapshot must be the path"),
        ({"trust_snapshot": True}, "trust_snapshot needs snapshot="),
        ({"shared": "localhost:6379", "key": KEY}, "shared must be a URL"),
        ({"shared": 5, "key": KEY}, "shared must be a redis://"),
        ({"shared": "redis://x"}, "shared needs key="),
    ],
)
def test_illegal_options(options: dict[str, Any], message: str) -> None:
    """What cannot work is refused at construction, with the remedy."""
    with pytest.raises(ConfigurationError, match=message):
        BloomGuard(**{"ids": [1], **options})


def test_spent_ids(make_cache: MakeCache, caplog: pytest.LogCaptureFixture) -> None:
    """An iterator serves for one build; after that the filter stays, and the log says why."""
    guard = BloomGuard(iter([1, 2]), key=KEY)
    make_cache(plugins=[guard])
    ready(guard)
    with caplog.at_level(logging.ERROR):
        guard.rebuild()
        until(lambda: "only once" in guard.stats().error)
    assert guard.is_ready and not guard.contains(77)


def bloom_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "tiercache-bloom"]
