"""ErrorMemory: a failing cold key is left alone for a moment, and no longer than it should be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds import Kind
from tiercache import (
    BulkheadFull,
    Cache,
    CircuitOpen,
    ConfigurationError,
    Event,
    LoadTimeout,
)
from tiercache.testing import FakeClock
from tiercache_plugins import ErrorMemory


class Down(Exception):
    """The loader's error, which holds something."""

    def __init__(self, message: str, host: str = "db1") -> None:
        super().__init__(message)
        self.host = host


class Source:
    """A cached function that fails while it has an error."""

    def __init__(self, kind: Kind, cache: Cache, **options: Any) -> None:
        self.kind, self.loads = kind, 0
        self.error: Exception | None = Down("is down", "db2")
        self.read = cache.cached("row:{key}", **options)(kind.function(self._load))

    def _load(self, key: int) -> int:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return key

    def ask(self, key: int = 1) -> Any:
        try:
            return self.kind.call(self.read, key)
        except Exception as error:
            return error


@pytest.fixture
def memory(clock: FakeClock) -> ErrorMemory:
    return ErrorMemory("1s", clock=clock)


@pytest.fixture
def cache(make_cache: Callable[..., Cache], memory: ErrorMemory) -> Cache:
    return make_cache(plugins=[memory])


@pytest.fixture
def source(kind: Kind, cache: Cache) -> Source:
    return Source(kind, cache)


def test_a_failing_key_is_not_loaded_again(source: Source, memory: ErrorMemory) -> None:
    """The same error, as bare copies, without loading; other keys are loaded."""
    first, *others = [source.ask() for _ in range(20)]
    assert source.loads == 1 and first is source.error
    assert {type(other) for other in others} == {Down} and len({id(each) for each in others}) == 19
    assert {(str(other), other.host) for other in others} == {("is down", "db2")}
    assert all(other.__context__ is None and other.__cause__ is None for other in others)
    source.ask(2)
    assert source.loads == 2
    assert memory.measures() == {"error_memory.entries": 2, "error_memory.raised": 19}


def test_it_forgets(source: Source, clock: FakeClock) -> None:
    """After its ttl it is loaded, and remembered, anew."""
    source.ask()
    clock.advance(0.99)
    source.ask()
    assert source.loads == 1
    clock.advance(0.02)
    source.ask()
    source.ask()
    assert source.loads == 2
    clock.advance(1.01)
    source.error = None
    assert source.ask() == 1


def test_a_write_ends_it(kind: Kind, source: Source, cache: Cache) -> None:
    """Set or invalidated, the key is asked for again at once."""
    source.ask()
    kind.do(cache, "set", "row:1", 7)
    assert source.ask() == 7
    kind.do(cache, "delete", "row:1")
    source.error = None
    assert source.ask() == 1 and source.loads == 2


def test_an_invalidation_ends_it(kind: Kind, source: Source) -> None:
    """``f.invalidate`` of a key that failed has it loaded."""
    source.ask()
    kind.call(source.read.invalidate, 1)
    source.error = None
    assert source.ask() == 1


def test_a_refresh_loads(kind: Kind, source: Source) -> None:
    """``f.refresh`` means now; its success ends the memory."""
    source.ask()
    source.error = None
    assert kind.call(source.read.refresh, 1) == 1 and source.ask() == 1 and source.loads == 2


def test_a_key_with_a_stale_value_is_not_remembered(
    kind: Kind, cache: Cache, clock: FakeClock, memory: ErrorMemory
) -> None:
    """Its callers get the stale value."""
    source = Source(kind, cache, ttl=10, stale_if_error="1h")
    source.error = None
    source.ask()
    clock.advance(11)
    source.error = Down("now")
    assert source.ask() == 1 and source.loads == 2
    assert memory.measures()["error_memory.entries"] == 0


@pytest.mark.parametrize("error", [CircuitOpen("no"), BulkheadFull("no")])
def test_what_was_not_tried_is_not_remembered(source: Source, error: Exception) -> None:
    """A breaker and a bulkhead have their own mind of when to load again."""
    source.error = error
    source.ask()
    source.ask()
    assert source.loads == 2


def test_it_may_be_for_some_errors(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Only those of ``exceptions=`` are remembered."""
    source = Source(kind, make_cache(plugins=[ErrorMemory(exceptions=OSError, clock=clock)]))
    source.ask()
    source.ask()
    assert source.loads == 2
    source.error = ConnectionError("refused")
    source.ask()
    source.ask()
    assert source.loads == 3


def test_it_may_be_for_some_functions(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Only those of ``functions=``, here by template."""
    source = Source(kind, make_cache(plugins=[ErrorMemory(functions="row:{id}", clock=clock)]))
    source.ask()
    source.ask()
    assert source.loads == 1
    other = Source(kind, make_cache(plugins=[ErrorMemory(functions="user:{id}", clock=clock)]))
    other.ask()
    other.ask()
    assert other.loads == 2


def test_it_is_bounded(kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock) -> None:
    """The oldest goes first; and what has expired goes with the next."""
    memory = ErrorMemory(max_entries=10, clock=clock)
    source = Source(kind, make_cache(plugins=[memory]))
    for key in range(25):
        source.ask(key)
    assert memory.measures()["error_memory.entries"] == 10
    source.ask(15)
    assert source.loads == 25
    source.ask(14)
    assert source.loads == 26
    clock.advance(2)
    source.ask(100)
    assert memory.measures()["error_memory.entries"] == 1 and not memory._loading


def test_stop_iteration_is_remembered_as_it_is(
    make_cache: Callable[..., Cache], memory: ErrorMemory
) -> None:
    """It may not leave a coroutine, and comes out of its box as itself."""
    cache, loads = make_cache(plugins=[memory]), []

    @cache.cached
    def read() -> int:
        loads.append(1)
        raise StopIteration(3)

    for _ in range(3):
        with pytest.raises(StopIteration) as error:
            read()
        assert error.value.value == 3
    assert loads == [1]


def test_a_load_from_before_a_write_leaves_no_error(
    make_cache: Callable[..., Cache], memory: ErrorMemory
) -> None:
    """It began, the key was invalidated, it failed: it says nothing about the key as it is now."""
    cache = make_cache(plugins=[memory])
    inside, let_go, loads = threading.Event(), threading.Event(), []

    @cache.cached("row:{key}")
    def read(key: int) -> int:
        loads.append(key)
        if len(loads) == 1:
            inside.set()
            let_go.wait(10)
            raise Down("as it was")
        return key

    outcome: list[Any] = []

    def first() -> None:
        with pytest.raises(Down) as error:
            read(1)
        outcome.append(error.value)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(10)
    read.invalidate(1)
    let_go.set()
    thread.join()
    assert outcome and read(1) == 1


def test_a_gap_in_the_bus_ends_all(source: Source, memory: ErrorMemory) -> None:
    """Writes of other processes may have been missed."""
    source.ask()
    memory.on_event(Event("bus_gap", "test", ""))
    source.error = None
    assert source.ask() == 1


async def test_a_load_that_took_too_long_is_remembered(cache: Cache) -> None:
    """An asyncio load is cancelled then; its key is left alone all the same."""
    loads = []

    @cache.cached("row:{key}", timeout=0.01)
    async def read(key: int) -> int:
        loads.append(key)
        await asyncio.Event().wait()
        return key

    with pytest.raises(LoadTimeout):
        await read(1)
    while cache.asyncio._tasks:
        await asyncio.sleep(0)
    with pytest.raises(LoadTimeout, match="has just taken too long"):
        await read(1)
    assert loads == [1]


async def test_cancellation_is_not_remembered(cache: Cache, memory: ErrorMemory) -> None:
    """Who gives up has learned nothing about the key."""
    hangs, inside = True, asyncio.Event()

    @cache.cached("row:{key}")
    async def read(key: int) -> int:
        inside.set()
        if hangs:
            await asyncio.Event().wait()
        return key

    task = asyncio.create_task(read(1))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hangs = False
    assert await read(1) == 1 and not memory._loading


def test_a_stampede_of_failures_is_one_load(kind: Kind, source: Source) -> None:
    """Thirty at once, twice: whoever does not join the load gets what is remembered."""
    for _ in range(2):
        outcomes = kind.side_by_side(source.read, [(1,)] * 30)
        assert {type(outcome) for outcome in outcomes} == {Down}
    assert source.loads == 1


def test_it_is_one_caches(make_cache: Callable[..., Cache], memory: ErrorMemory) -> None:
    """Two caches' keys are not the same; a closed one's memory may be used again."""
    cache = make_cache("one", plugins=[memory])
    with pytest.raises(ConfigurationError, match="belongs to cache 'one'; give each cache its own"):
        make_cache("two", plugins=[memory])
    cache.close()
    make_cache("three", plugins=[memory])


def test_two_of_them_do_not_prolong_one_another(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Of two, the outer one does not prolong what the inner one remembers."""
    outer, inner = ErrorMemory(1, clock=clock), ErrorMemory(5, clock=clock)
    source = Source(kind, make_cache(plugins=[outer, inner]))
    for _ in range(10):  # until 5.4 s
        source.ask()
        clock.advance(0.6)
    assert source.loads == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0}, "ttl must be positive, got 0"),
        ({"ttl": "soon"}, "ttl is not a duration: 'soon'"),
        ({"ttl": None}, "ttl must be a duration, got None"),
        ({"max_entries": 0}, "max_entries must be a whole number >= 1, got 0"),
        ({"exceptions": [KeyboardInterrupt]}, "exceptions takes exception classes"),
        ({"exceptions": ["OSError"]}, "exceptions takes exception classes, got 'OSError'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    """Each illegal value is named."""
    with pytest.raises(ConfigurationError) as error:
        ErrorMemory(**options)
    assert message in str(error.value)
