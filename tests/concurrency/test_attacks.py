"""Attacks that once succeeded: each is a bug that stays dead."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import threading
import time
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from tests.gates import GatedStore
from tests.kinds import Kind
from tests.waiting import until
from tiercache import LRU, MISS, Cache, LoadErrors, StoreError, UncacheableArguments
from tiercache.keys import KeyMaker
from tiercache.testing import DictStore, FaultyStore


def test_clear_between_a_slow_hit_and_its_shortcut(cache: Cache) -> None:
    """A shortcut is never made to an entry that a clear has dropped meanwhile."""
    rows = {1: "old"}
    clear_at = 0

    class User:
        reads = 0

        @property
        def id(self) -> int:
            self.reads += 1
            if self.reads == clear_at:
                rows[1] = "new"
                thread = threading.Thread(target=cache.clear)
                thread.start()
                thread.join()
            return 1

    @cache.cached("u:{user.id}", ttl=None)
    def f(user: User) -> str:
        return rows[1]

    for step in range(1, 4):
        clear_at, rows[1] = 0, "old"
        cache.clear()
        f(User())
        clear_at = step
        f(User())
        clear_at = 0
        assert f(User()) == rows[1]
        assert f(User()) == rows[1]


def test_refresh_that_is_not_to_be_stored(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """What a refresh finds outdated goes from both tiers, though nothing takes its place."""
    rows: dict[int, Any] = {1: "v0"}
    cache = make_cache(l2=DictStore())
    f = cache.cached("r:{x}", when=lambda value: value is not None)(
        kind.function(lambda x: rows[x])
    )
    assert kind.call(f, 1) == "v0"
    rows[1] = None
    assert kind.call(f.refresh, 1) is None
    assert kind.do(cache, "get", "r:1", MISS) is MISS


@pytest.mark.filterwarnings("ignore::tiercache.UncacheableValueWarning")
def test_refresh_to_what_l2_cannot_take(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """After a refresh L2 does not bring the older value back, though it took no newer one."""
    rows: dict[int, Any] = {1: "v0", 2: "v0"}
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store)
    f = cache.cached("r:{x}")(kind.function(lambda x: rows[x]))
    for key in rows:
        kind.call(f, key)
    rows[1] = "v1"
    store.fail("fill", "delete")
    assert kind.call(f.refresh, 1) == "v1"
    store.heal()
    rows[2] = object()
    kind.call(f.refresh, 2)
    cache.memory.clear()
    assert kind.call(f, 1) == "v1"
    assert kind.call(f, 2) is rows[2]


def test_a_delete_that_fails_while_another_is_delivered(make_cache: Callable[..., Cache]) -> None:
    """Making up for one lost invalidation does not forget another that is lost meanwhile."""
    store = GatedStore()
    faulty = FaultyStore(store)
    cache = make_cache(l1=None, l2=faulty)
    cache.set("k", "v1")
    faulty.fail("delete")
    cache.delete("k")
    faulty.heal()
    gate = store.gate("delete", is_after=True)
    with ThreadPoolExecutor(1) as pool:
        delivering = pool.submit(cache.get, "k", MISS)
        gate.until_reached()
        store.namespace("test").write("k", cache.codec.encode("k", "v1"), 60)
        cache.delete("k")  # cannot be done now: what is owed comes first
        gate.open()
        delivering.result(5)
    assert cache.get("k", MISS) is MISS
    until(lambda: store.namespace("test").read("k") is None)  # the bus may be at it


def test_blocking_delete_in_the_loop_of_a_fill(make_cache: Callable[..., Cache]) -> None:
    """A blocking delete on an event loop's own thread neither stalls nor believes the fill."""
    rows = {1: "old"}
    store = GatedStore()
    cache = make_cache(l2=store)

    @cache.cached("row")
    async def f() -> str:
        return rows[1]

    async def main() -> None:
        gate = store.gate("fill", is_after=True)
        loading = asyncio.create_task(f())
        await gate.auntil_reached()
        rows[1] = "new"
        started = time.monotonic()
        cache.delete("row")
        assert time.monotonic() - started < 2
        assert await f() == "new"
        gate.open()
        assert await loading == "old"
        cache.memory.clear()
        assert await f() == "new"

    asyncio.run(main())


def test_values_die_outside_every_lock(cache: Cache) -> None:
    """A value's finalizer may wait for a load of another thread, which the cache must not hold."""
    started, go = threading.Event(), threading.Event()

    @cache.cached
    def f(x: int) -> int:
        started.set()
        go.wait(5)
        return x

    class Value:
        def __del__(self) -> None:
            go.set()
            f(1)

    cache.set("k", Value())
    other = threading.Thread(target=f, args=(1,))
    other.start()
    started.wait(5)
    began = time.monotonic()
    cache.set("k", 1)
    other.join()
    assert time.monotonic() - began < 2


def test_finalizers_may_call_the_function(cache: Cache) -> None:
    """Garbage collected inside the machinery may call the same function again."""

    @cache.cached
    def f(x: int) -> int:
        return x

    class Node:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            f(1)

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for i in range(300):
            Node()
            f(i % 50)
    finally:
        gc.set_threshold(*threshold)


def test_signal_handlers_may_call_the_function(cache: Cache) -> None:
    """A signal handler that calls the function it interrupts does not deadlock."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs setitimer")

    @cache.cached
    def f(x: int) -> int:
        return x

    previous = signal.signal(signal.SIGALRM, lambda *_: f(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for i in range(3000):
            f(i % 100)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("weigh", [len, lambda value: -1, lambda value: 1 / 0])
def test_a_weigh_that_fails(make_cache: Callable[..., Cache], weigh: Any) -> None:
    """A weigh that fails costs the value its place in L1, and nothing else."""
    cache = make_cache(l1=LRU(100, weigh=weigh))
    f = cache.cached(lambda x: x)
    assert f(5) == 5
    cache.set_many({"a": 5, "b": "x"})
    cache.set("b", "x")
    assert cache.get("b") == ("x" if weigh is len else None)
    assert not cache.flow.flights.fences


def test_deep_recursion(cache: Cache) -> None:
    """A cached function may recurse a hundred deep; deeper, its flights land all the same."""

    @cache.cached
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(80) == 23416728348467685

    @cache.cached
    def down(n: int) -> int:
        return 0 if n == 0 else down(n - 1)

    with pytest.raises(RecursionError):
        down(5000)
    assert not cache.flow.flights.under_way()
    assert down(3) == 0


async def test_cancelled_batch_stops_loading(cache: Cache) -> None:
    """When nobody wants the rest of a batch any more, its loads are cancelled."""
    ended = []

    @cache.cached
    async def f(x: int) -> int:
        await asyncio.sleep(0.01 if x == 3 else 5)
        ended.append(x)
        return x

    caller = asyncio.create_task(f.many([1, 2, 3]))
    while not ended:
        await asyncio.sleep(0.005)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not cache.asyncio._tasks
    assert ended == [3]


def test_many_of_items_that_are_equal(kind: Kind, cache: Cache) -> None:
    """1 and True are one item to a dict, and two keys to the cache: neither gets the other's."""
    f = cache.cached(batch=kind.function(lambda items: {i: type(i).__name__ for i in items}))(
        kind.function(lambda x: type(x).__name__)
    )
    kind.call(f.many, [1, True])
    assert kind.call(f, 1) == "int"


def test_one_item_that_cannot_be_judged(kind: Kind, cache: Cache) -> None:
    """A ttl= that fails for one item of a batch fails that item only."""
    f = cache.cached(
        ttl=lambda value: 1 / value, batch=kind.function(lambda items: {i: i for i in items})
    )(kind.function(lambda x: x))
    with pytest.raises(LoadErrors) as caught:
        kind.call(f.many, [0, 1, 2])
    assert caught.value.results == {1: 1, 2: 2}
    assert isinstance(caught.value.errors[0], ZeroDivisionError)


def test_many_of_unhashable_items(kind: Kind, cache: Cache) -> None:
    """Items that cannot be in a dict are refused with the remedy."""
    f = cache.cached(kind.function(lambda x: x))
    with pytest.raises(UncacheableArguments, match="not hashable"):
        kind.call(f.many, [[1]])


def test_nested_bulk_load_of_one_key(cache: Cache) -> None:
    """A bulk loader that asks for a key it is loading gets the bulk loader's answer."""
    depth = 0

    def load(keys: list[str]) -> dict[str, int]:
        nonlocal depth
        depth += 1
        if depth == 1:
            return cache.get_or_load_many(keys, load)
        return dict.fromkeys(keys, 7)

    assert cache.get_or_load_many(["a"], load) == {"a": 7}


def test_timeouts_do_not_run_out_of_threads(cache: Cache) -> None:
    """More callers than threads wait for one instead of failing."""

    @cache.cached(timeout=10)
    def f(x: int) -> int:
        time.sleep(0.05)
        return x

    results: list[int] = []
    threads = [threading.Thread(target=lambda i=i: results.append(f(i))) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(50))


class Strict(pydantic.BaseModel):
    a: int


class Picky(Exception):
    def __init__(self, user: str, *, code: int) -> None:
        super().__init__(f"no {user}")
        self.code = code


def _raise_validation(x: int) -> None:
    Strict(a="x")  # type: ignore[arg-type]


def _raise_os(x: int) -> None:
    raise FileNotFoundError(2, "gone", "file")


def _raise_unicode(x: int) -> None:
    b"\xff".decode()


def _raise_picky(x: int) -> None:
    raise Picky("bob", code=4)


@pytest.mark.parametrize(
    "load", [_raise_validation, _raise_os, _raise_unicode, _raise_picky], ids=lambda f: f.__name__
)
def test_remembered_errors_of_any_class(cache: Cache, load: Callable[[int], None]) -> None:
    """A remembered error says what the first one said, and lets go of the loader's frames."""
    f = cache.cached(f"{load.__name__}:{{x}}", negative_ttl=60, negative_errors=Exception)(load)
    errors = []
    for _ in range(3):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of any class
            f(1)
        errors.append(caught.value)
    first, *rest = errors
    for error in rest:
        assert type(error) is type(first)
        assert str(error) == str(first)
        assert getattr(error, "errno", 0) == getattr(first, "errno", 0)
        assert getattr(error, "code", 0) == getattr(first, "code", 0)


def test_objects_with_more_state_than_their_fields() -> None:
    """Two arguments whose difference lies outside their declared fields do not share a key."""

    @dataclass
    class Base:
        a: int

    class Extended(Base):
        def __init__(self, a: int, extra: str) -> None:
            super().__init__(a)
            self.extra = extra

    class Private(pydantic.BaseModel):
        a: int
        _hidden: str = pydantic.PrivateAttr("")

    one, two = Private(a=1), Private(a=1)
    one._hidden, two._hidden = "x", "y"
    key = KeyMaker(lambda x: x).of
    assert key(Extended(1, "x")) != key(Extended(1, "y"))
    assert key(one) != key(two)
    assert key(OrderedDict(a=1, b=2)) != key(OrderedDict(b=2, a=1))
    first, second = namedtuple("Pt", "a b"), namedtuple("Pt", "c d")
    assert key(first(1, 2)) != key(second(1, 2))


@pytest.mark.parametrize("template", ["x:{o!r}", "x:{o!s}", "x:{o!r:>90}"])
def test_no_address_in_a_key(template: str) -> None:
    """A conversion does not smuggle an object's address into a key."""

    class Thing:
        pass

    with pytest.raises(UncacheableArguments):
        KeyMaker(lambda o: o, template).of(Thing())


def test_separators_of_several_bytes() -> None:
    """A separator beyond Latin-1 is escaped so that it cannot be spelled otherwise."""
    maker = KeyMaker(lambda a, b, c: None, "{a}!{b}→{c}")
    assert maker.of("→", "b", "c") != maker.of("!92", "b", "c")


def test_arguments_named_like_builtins(cache: Cache) -> None:
    """Parameters may hide the names that keys and wrappers are made with."""

    @cache.cached("{format:>3}:{str!s}:{repr!r}:{value}")
    def f(format: int, str: int, repr: int, value: int = 1, *, self: int = 2) -> int:  # noqa: A002
        return format + self

    @cache.cached
    def g(Exception: int, self: int) -> int:  # noqa: A002, N803
        return Exception + self

    for _ in range(3):
        assert f(1, 2, 3, self=5) == 6
        assert g(1, 2) == g(self=2, Exception=1) == 3
    f.set(9, 1, 2, 3, value=1)
    assert f(1, 2, 3) == 9


def test_lambdas_do_not_share(cache: Cache) -> None:
    """Two lambdas of one module have one name and values of their own."""
    f, g = cache.cached(lambda x: x + 1), cache.cached(lambda x: x * 100)
    for _ in range(3):
        assert (f(1), g(1)) == (2, 100)


def test_one_function_with_two_ignores(cache: Cache) -> None:
    """A function decorated twice with other arguments ignored has two sets of keys."""

    def pair(a: int, b: int) -> tuple[int, int]:
        return a, b

    by_b, by_a = cache.cached(ignore=("a",))(pair), cache.cached(ignore=("b",))(pair)
    assert by_b(1, 2) == (1, 2)
    assert by_a(2, 1) == (2, 1)


def test_a_closure_does_not_inherit_from_one_that_is_gone(cache: Cache) -> None:
    """What a function cached that exists no more is not served by its successor of that name."""

    def make(rows: dict[int, str]) -> Callable[[int], str]:
        @cache.cached
        def get(x: int) -> str:
            return rows[x]

        return get

    get = make({1: "tenant A"})
    assert get(1) == "tenant A"
    gone = weakref.ref(get)
    del get
    gc.collect()
    assert gone() is None
    assert make({1: "tenant B"})(1) == "tenant B"


def test_numbered_names_stay_out_of_l2(make_cache: Callable[..., Cache], caplog: Any) -> None:
    """The second closure of one name is kept in L1 only: its number means nothing elsewhere."""
    store = FaultyStore(DictStore())
    cache = make_cache(l2=store)

    def make(rows: dict[int, str]) -> Any:
        @cache.cached
        def get(x: int) -> str:
            return rows[x]

        return get

    first, second = make({1: "A"}), make({1: "B"})
    assert "give it a key=" in caplog.text
    assert first(1) == "A"
    calls = store.calls.total()
    assert second(1) == second(1) == "B"
    assert second.many([1]) == {1: "B"}
    assert store.calls.total() == calls


def test_templates_need_no_name(make_cache: Callable[..., Cache], caplog: Any) -> None:
    """Closures with a template share it, as their author asked: no number, no warning."""
    cache = make_cache(l2=DictStore())

    def make(rows: dict[int, str]) -> Any:
        @cache.cached("row:{x}")
        def get(x: int) -> str:
            return rows[x]

        return get

    first, second = make({1: "A"}), make({1: "B"})
    assert first(1) == second(1) == "A"
    assert not caplog.records


def test_decorating_while_clearing(cache: Cache) -> None:
    """A clear in one thread and decorations in others do not get in each other's way."""
    errors: list[BaseException] = []
    done = threading.Event()

    def clear() -> None:
        try:
            while not done.is_set():
                cache.clear()
                cache.stats()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=clear)
    thread.start()
    for i in range(300):
        cache.cached(lambda x, i=i: x)
    done.set()
    thread.join()
    assert not errors


def test_concurrent_sets_without_l2_keep_one(cache: Cache) -> None:
    """Without L2 there is nothing to disagree with: the last of two overlapping sets stays."""
    for _ in range(200):
        barrier = threading.Barrier(2)

        def write(value: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            cache.set("k", value)

        threads = [threading.Thread(target=write, args=(i,)) for i in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cache.get("k") in (1, 2)
        cache.delete("k")


def test_nothing_grows_with_decorations(cache: Cache) -> None:
    """Functions decorated per request leave nothing behind when they go."""

    def handle(user: int) -> int:
        @cache.cached
        def load() -> int:
            return user

        return load()

    for user in range(500):
        assert handle(user) == user
    gc.collect()
    assert len(cache.functions()) < 10
    assert len(cache._function_counters) < 10
    assert len(cache._names._namesakes) < 10
    assert cache.stats().loads == 500


def test_store_that_raises_what_it_should_not(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A store of a third party that raises anything at all is a miss."""

    class Odd(DictStore):
        def namespace(self, name: str, origin: str = "") -> Any:
            return OddNamespace()

    class OddNamespace:
        def __getattr__(self, name: str) -> Any:
            raise next(errors)

        def tail(self, position: str | None) -> Any:
            return OddTail()

    class OddTail:
        def read(self, wait: float) -> Any:
            raise next(errors)

        def interrupt(self) -> None:
            pass

        def close(self) -> None:
            pass

    errors = itertools.cycle([ZeroDivisionError(), KeyError(), StoreError(), RuntimeError()])
    cache = make_cache(l2=Odd())
    f = cache.cached("f:{x}")(kind.function(lambda x: x))
    for _ in range(5):
        assert kind.call(f, 1) == kind.call(f, 1) == 1
        assert kind.call(f.many, [1, 2]) == {1: 1, 2: 2}
        kind.call(f.invalidate, 1)
        kind.do(cache, "set", "f:2", 2)
        kind.do(cache, "invalidate_tags", "tag")
        kind.do(cache, "clear")
