"""LoaderBreaker in a cache: what callers get while loads fail, for blocking and asyncio alike."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.kinds import Asyncio, Kind
from tests.waiting import until
from tiercache import (
    MISS,
    Cache,
    CircuitOpen,
    ConfigurationError,
    Event,
    Load,
    LoadTimeout,
    Plugin,
)
from tiercache.testing import FakeClock
from tiercache_plugins import Bulkhead, ErrorMemory, LoaderBreaker


class Events(Plugin):
    """Hears the breaker's events."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def on_event(self, event: Event) -> None:
        if event.name.startswith("breaker_"):
            self.heard.append(event)

    @property
    def names(self) -> list[str]:
        return [event.name.removeprefix("breaker_") for event in self.heard]


class Notes(Plugin):
    """Keeps what plugins note on each load."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    async def around_load(self, load: Load, call_next: Callable[[], Any]) -> Any:
        try:
            return await call_next()
        finally:
            self.states.append(load.notes.get("breaker.state"))


class Database:
    """Fails while ``error`` is set; a new key each time, so that each call is a load."""

    def __init__(self, kind: Kind, cache: Cache, name: str = "", **options: Any) -> None:
        self.kind = kind
        self.error: BaseException | None = None
        self.loads = 0
        self._keys = iter(range(10**6))
        body = kind.function(self._query)

        def query(key: int) -> Any:
            return body(key)

        async def aquery(key: int) -> Any:
            return await body(key)

        function = aquery if isinstance(kind, Asyncio) else query
        function.__qualname__ = f"query{name}"
        self.read = cache.cached(f"row{name}:{{key}}", **options)(function)

    def _query(self, key: int) -> int:
        self.loads += 1
        if self.error is not None:
            raise self.error
        return key

    def ask(self, key: int | None = None) -> Any:
        """Return the value, or the class of the error."""
        try:
            return self.kind.call(self.read, next(self._keys) if key is None else key)
        except Exception as error:
            return type(error)

    def fail(self, times: int, error: Exception | None = None) -> None:
        self.error = error or OSError("down")
        for _ in range(times):
            assert self.ask() is type(self.error)
        self.error = None


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def with_breaker(make_cache: Callable[..., Cache], clock: FakeClock, events: Events) -> Any:
    def make(fail_max: int | None = 3, **options: Any) -> Cache:
        breaker = LoaderBreaker(fail_max, clock=clock, **options)
        return make_cache(plugins=[breaker, events])

    return make


def test_it_opens_and_closes(kind: Kind, with_breaker: Any, clock: FakeClock, events: Any) -> None:
    """Failures open it, nothing is loaded, one probe closes it; the events say so, in order."""
    database = Database(kind, with_breaker())
    database.fail(3)
    assert [database.ask() for _ in range(5)] == [CircuitOpen] * 5
    assert database.loads == 3 and events.names == ["opened"]
    clock.advance(30)
    assert database.ask() not in (CircuitOpen, OSError)
    assert database.loads == 4 and events.names == ["opened", "half_open", "closed"]
    assert database.ask() is not CircuitOpen
    opened, _, closed = events.heard
    assert opened.cause.endswith("query") and opened.seconds == 30 and closed.seconds == 30


def test_the_error_says_when_to_try_again(kind: Kind, with_breaker: Any, clock: FakeClock) -> None:
    """``retry_after`` and the message name the seconds that are left; nothing else hangs on it."""
    database = Database(kind, with_breaker())
    database.fail(3)
    clock.advance(12.5)
    with pytest.raises(
        CircuitOpen, match=r"query\(\) is not loaded: .* open; .* in 17\.5 s"
    ) as error:
        kind.call(database.read, -1)
    assert error.value.retry_after == 17.5
    assert error.value.__cause__ is None and error.value.__context__ is None


def test_the_loaders_error_passes_unchanged(kind: Kind, with_breaker: Any) -> None:
    """It is the very object, with no more frames and no context than without a breaker."""
    database = Database(kind, with_breaker(1))
    database.error = error = OSError("down")
    with pytest.raises(OSError, match="down") as raised:
        kind.call(database.read, 1)
    frames, at = [], raised.value.__traceback__
    while at is not None:
        frames.append(at.tb_frame.f_code.co_filename)
        at = at.tb_next
    assert raised.value is error and error.__context__ is None
    assert not [name for name in frames if "pybreaker" in name]


def test_a_failed_probe_opens_it_again(kind: Kind, with_breaker: Any, clock: FakeClock) -> None:
    """For another reset_timeout, with one load."""
    database = Database(kind, with_breaker(reset_timeout="10s"))
    database.fail(3)
    clock.advance(10)
    database.fail(1)
    assert database.ask() is CircuitOpen and database.loads == 4


def test_each_function_has_its_own(kind: Kind, with_breaker: Any) -> None:
    """One that fails does not keep another from loading."""
    cache = with_breaker()
    one, two = Database(kind, cache, "one"), Database(kind, cache, "two")
    one.fail(3)
    assert one.ask() is CircuitOpen and two.ask() == 0


def test_functions_of_one_name_in_two_modules_are_two(kind: Kind, with_breaker: Any) -> None:
    """``users.get`` and ``orders.get`` fail apart."""
    cache, reads, fails = with_breaker(1), [], True

    def load(module: str) -> Any:
        if module == "users" and fails:
            raise ConnectionError
        return module

    for module in ("users", "orders"):
        body = kind.function(load)
        body.__module__, body.__qualname__ = module, "get"
        reads.append(cache.cached("{module}:get")(body))
    with pytest.raises(ConnectionError):
        kind.call(reads[0], "users")
    with pytest.raises(CircuitOpen):
        kind.call(reads[0], "users")
    assert kind.call(reads[1], "orders") == "orders"


def test_one_name_is_one_circuit(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Across functions and caches; all caches hear of it."""
    databases, ears, name = [], [], f"postgres for {kind.name}"
    for number in range(2):
        ears.append(Events())
        breaker = LoaderBreaker(3, name=name, clock=clock)
        cache = make_cache(f"cache{number}", plugins=[breaker, ears[-1]])
        databases.append(Database(kind, cache))
    databases[0].fail(2)
    databases[1].fail(1)
    assert [each.ask() for each in databases] == [CircuitOpen, CircuitOpen]
    assert [ear.names for ear in ears] == [["opened"], ["opened"]]
    assert {event.cause for ear in ears for event in ear.heard} == {name}


def test_a_name_lives_as_long_as_its_breakers(clock: FakeClock) -> None:
    """When the last one is gone the name is free, for other settings, too."""
    first = LoaderBreaker(3, name="shared", clock=clock)
    with pytest.raises(ConfigurationError, match="'shared' is there already with fail_max=3"):
        LoaderBreaker(4, name="shared", clock=clock)
    del first
    gc.collect()
    LoaderBreaker(4, name="shared", clock=clock)


def test_it_may_be_for_some_functions(kind: Kind, with_breaker: Any) -> None:
    """Others fail as often as they like."""
    cache = with_breaker(functions=["queryone", "rowtwo:{key}"])
    one, two, three = (Database(kind, cache, name) for name in ("one", "two", "three"))
    for database in (one, two, three):
        database.fail(4 if database is three else 3)
    assert [each.ask() for each in (one, two, three)] == [CircuitOpen, CircuitOpen, 4]


def test_business_errors_are_answers(kind: Kind, with_breaker: Any, clock: FakeClock) -> None:
    """By class or by predicate: they do not open it, begin the count anew, and close it."""
    cache = with_breaker(exclude=[KeyError, lambda error: "404" in str(error)])
    database = Database(kind, cache)
    database.fail(2)
    database.fail(5, KeyError("no such row"))
    database.fail(2)
    database.fail(5, OSError("404"))
    database.fail(3)
    assert database.ask() is CircuitOpen
    clock.advance(30)
    database.fail(1, KeyError("it answers"))
    assert database.ask() is not CircuitOpen


def test_a_predicate_that_fails_excludes_nothing(
    kind: Kind, with_breaker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The loader's error still reaches the caller, and counts."""

    def broken(error: Exception) -> bool:
        raise ZeroDivisionError

    database = Database(kind, with_breaker(1, exclude=broken))
    database.fail(1)
    assert database.ask() is CircuitOpen and "exclude= failed" in caplog.text


def test_a_rate_opens_it(kind: Kind, with_breaker: Any) -> None:
    """Half of the loads fail, never two in a row."""
    cache = with_breaker(None, failure_rate=0.5, window="1m", min_calls=6)
    database = Database(kind, cache)
    for _ in range(3):
        assert database.ask() is not CircuitOpen
        database.fail(1)
    assert database.ask() is CircuitOpen


def test_a_stale_value_comes_first(kind: Kind, with_breaker: Any, clock: FakeClock) -> None:
    """Open, ``stale_if_error`` serves what is there, before ``fallback``."""
    cache = with_breaker(fallback="nothing")
    database = Database(kind, cache, ttl=10, stale_if_error="1h")
    assert database.ask(-7) == -7
    clock.advance(11)
    database.fail(3)
    loads = database.loads
    assert database.ask(-7) == -7 and database.ask(-8) == "nothing" and database.loads == loads


@pytest.mark.parametrize("fallback", [None, 0, [], "text", lambda load: load.args[0] * 2])
def test_a_fallback_is_returned_and_not_kept(
    kind: Kind, with_breaker: Any, clock: FakeClock, fallback: Any
) -> None:
    """A value, or what a function of the load returns; the next call asks again."""
    database = Database(kind, with_breaker(fallback=fallback))
    database.fail(3)
    assert database.ask(21) == (42 if callable(fallback) else fallback)
    clock.advance(30)
    assert database.ask(21) == 21


def test_each_load_notes_the_state(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """For its span: as it was when the load was let through, or was not."""
    notes = Notes()
    cache = make_cache(plugins=[notes, LoaderBreaker(1, clock=clock)])
    database = Database(kind, cache)
    database.ask()
    database.fail(1)
    database.ask()
    clock.advance(30)
    database.ask()
    assert notes.states == ["closed", "closed", "open", "half-open"]


def test_measures_and_states(kind: Kind, make_cache: Callable[..., Cache], clock: Any) -> None:
    """What is exported: state, failures and refusals of each circuit."""
    breaker = LoaderBreaker(2, clock=clock)
    database = Database(kind, make_cache(plugins=[breaker]))
    database.fail(2)
    database.ask()
    (name, state), *others = breaker.states().items()
    assert state == "open" and not others
    assert breaker.measures() == {
        f"breaker.state.{name}": 1.0,
        f"breaker.failures.{name}": 2,
        f"breaker.refused.{name}": 1,
    }


def test_circuits_are_bounded(make_cache: Callable[..., Cache], clock: FakeClock) -> None:
    """Of very many functions the oldest closed circuit is forgotten, an open one is not."""
    breaker = LoaderBreaker(1, clock=clock)
    open_one = breaker._new(("", "open"), "open")
    open_one.failed(open_one.admit()[0])
    for number in range(1100):
        breaker._new(("", f"f{number}"), f"f{number}")
    assert len(breaker.states()) == 1000 and breaker.states()["open"] == "open"


def test_sheltered_loads_say_nothing(
    kind: Kind, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """What a bulkhead or another breaker refused, or an error memory repeats, is no failure."""
    breaker, memory = LoaderBreaker(3, clock=clock), ErrorMemory(clock=clock)
    database = Database(kind, make_cache(plugins=[breaker, memory]))
    database.error = OSError()
    assert [database.ask(-1) for _ in range(10)] == [OSError] * 10
    assert database.loads == 1 and set(breaker.states().values()) == {"closed"}
    for _ in range(5):
        database.fail(1, CircuitOpen("of another"))
    assert set(breaker.states().values()) == {"closed"}
    assert breaker.measures()[f"breaker.failures.{next(iter(breaker.states()))}"] == 1


async def test_cancellation_is_neutral(make_cache: Callable[..., Cache], clock: FakeClock) -> None:
    """Ten cancelled loads open nothing; a cancelled probe gives its permit back."""
    cache = make_cache(plugins=[breaker := LoaderBreaker(2, clock=clock)])
    mode, began = "hang", asyncio.Event()

    @cache.cached("row:{key}")
    async def read(key: int) -> int:
        if mode == "hang":
            began.set()
            await asyncio.Event().wait()
        if mode == "fail":
            raise ConnectionError
        return key

    async def cancel_one(key: int) -> None:
        began.clear()
        task = asyncio.create_task(read(key))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while any(name.get_name() for name in cache.asyncio._tasks):  # until the load has ended
            await asyncio.sleep(0)

    for key in range(10):
        await cancel_one(key)
    assert set(breaker.states().values()) == {"closed"}
    mode = "fail"
    for key in range(2):
        with pytest.raises(ConnectionError):
            await read(key)
    clock.advance(30)
    mode = "hang"
    await cancel_one(10)
    assert set(breaker.states().values()) == {"half-open"}
    mode = "work"
    assert await read(11) == 11 and set(breaker.states().values()) == {"closed"}


async def test_one_task_of_fifty_is_the_probe(
    make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Fifty keys at once, half-open: one load, and forty-nine refusals."""
    cache = make_cache(plugins=[LoaderBreaker(1, clock=clock)])
    loads, gate, fails = [], asyncio.Event(), True

    @cache.cached("row:{key}")
    async def read(key: int) -> int:
        loads.append(key)
        if fails:
            raise ConnectionError
        await gate.wait()
        return key

    with pytest.raises(ConnectionError):
        await read(-1)
    fails = False
    clock.advance(30)
    tasks = [asyncio.create_task(read(key)) for key in range(50)]
    while sum(task.done() for task in tasks) < 49:
        await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(each, CircuitOpen) for each in outcomes) == 49 and len(loads) == 2


async def test_an_asyncio_load_that_takes_too_long_is_a_failure(
    make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """It is ended by cancelling it, and counts nevertheless."""
    cache = make_cache(plugins=[breaker := LoaderBreaker(2, clock=clock)])

    @cache.cached("row:{key}", timeout=0.01)
    async def read(key: int) -> int:
        await asyncio.Event().wait()
        return key

    for key in range(2):
        with pytest.raises(LoadTimeout):
            await read(key)
    while cache.asyncio._tasks:
        await asyncio.sleep(0)
    assert set(breaker.states().values()) == {"open"}
    with pytest.raises(CircuitOpen):
        await read(3)


def test_a_blocking_load_that_takes_too_long_is_a_failure(
    make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Its caller leaves it behind, and it counts."""
    cache = make_cache(plugins=[LoaderBreaker(2, clock=clock)])
    let_go = threading.Event()

    @cache.cached("row:{key}", timeout=0.01)
    def read(key: int) -> int:
        let_go.wait(10)
        return key

    for key in range(2):
        with pytest.raises(LoadTimeout):
            read(key)
    with pytest.raises(CircuitOpen):
        read(3)
    let_go.set()
    until(lambda: not [t for t in threading.enumerate() if t.name == "tiercache-load"])


def test_keyboard_interrupt_is_neutral(make_cache: Callable[..., Cache], clock: FakeClock) -> None:
    """What ends the program says nothing of the loader."""
    cache = make_cache(plugins=[breaker := LoaderBreaker(1, clock=clock)])

    @cache.cached("row")
    def read() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert set(breaker.states().values()) == {"closed"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail_max": 0}, "fail_max must be a whole number >= 1, got 0"),
        ({"fail_max": True}, "fail_max must be a whole number >= 1, got True"),
        ({"fail_max": 2.5}, "fail_max must be a whole number >= 1, got 2.5"),
        ({"failure_rate": 0}, "failure_rate must be above 0 and below 1, got 0"),
        ({"failure_rate": 1}, "failure_rate must be above 0 and below 1, got 1"),
        ({"failure_rate": 1.5}, "for failures in a row use fail_max"),
        ({"failure_rate": "half"}, "failure_rate must be above 0 and below 1, got 'half'"),
        ({"window": "1m"}, "window='1m' is for a failure_rate"),
        ({"min_calls": 5}, "min_calls=5 is for a failure_rate"),
        ({"failure_rate": 0.5, "window": 0}, "window must be positive, got 0"),
        ({"failure_rate": 0.5, "min_calls": 0}, "min_calls must be a whole number >= 1, got 0"),
        ({"reset_timeout": -1}, "reset_timeout must be positive, got -1"),
        ({"reset_timeout": "soon"}, "reset_timeout is not a duration: 'soon'"),
        ({"reset_timeout": None}, "reset_timeout must be a duration, got None"),
        ({"name": ""}, "a breaker's name must be a text that is not empty, got ''"),
        ({"exclude": "KeyError"}, "exclude takes exception classes and functions of the error"),
        ({"exclude": [KeyboardInterrupt]}, "exclude takes exception classes"),
        ({"exclude": [int]}, "exclude takes exception classes"),
        ({"functions": []}, "functions is empty"),
        ({"functions": [3]}, "functions takes functions, their names, or key templates, got 3"),
        ({"functions": 3}, "functions must be several names or templates, got 3"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    """Each illegal value and pair is named, with the remedy."""
    with pytest.raises(ConfigurationError) as error:
        LoaderBreaker(**options)
    assert message in str(error.value) and str(error.value).count("\n") < 2


def test_an_async_fallback_is_refused() -> None:
    """It would not be awaited."""

    async def fallback(load: Load) -> None: ...

    with pytest.raises(ConfigurationError, match="fallback must be a value or a plain def"):
        LoaderBreaker(fallback=fallback)


def test_a_fallback_that_takes_no_load() -> None:
    """Said when the breaker is made, not by a TypeError when it opens."""
    with pytest.raises(ConfigurationError, match="such as lambda load"):
        LoaderBreaker(fallback=lambda: "none")


def test_no_fallback_is_miss() -> None:
    """MISS, the default, means that there is none; None is a value."""
    assert LoaderBreaker()._fallback is MISS and LoaderBreaker(fallback=None)._fallback is None


def test_one_around_a_bulkhead(make_cache: Callable[..., Cache], clock: FakeClock) -> None:
    """Shed load is our own doing: it does not open the breaker."""
    breaker = LoaderBreaker(1, clock=clock)
    cache = make_cache(plugins=[breaker, Bulkhead(1)])
    inside, let_go = threading.Event(), threading.Event()

    @cache.cached("row:{key}")
    def read(key: int) -> int:
        inside.set()
        let_go.wait(10)
        return key

    first = threading.Thread(target=read, args=(1,))
    first.start()
    inside.wait(10)
    database = Database(Asyncio(), cache)
    assert database.ask() is not None and database.loads == 0
    database.kind.close()
    assert set(breaker.states().values()) == {"closed"}
    let_go.set()
    first.join()
