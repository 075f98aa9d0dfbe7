"""Bulkhead: how many loads run and wait, in threads, tasks and both; who gets the next permit."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kinds import Kind
from tests.waiting import until
from tiercache import Cache, CacheError, ConfigurationError
from tiercache.errors import BulkheadFull
from tiercache_plugins import Bulkhead
from tiercache_plugins._permits import Permits, ThreadWaiter


class Gauge:
    """Counts who is inside, and the most there ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.total = 0

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """What blocking loads wait for; set at the end in any case."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def threads() -> Iterator[Callable[..., list[Any]]]:
    """Start calls in threads of their own; return what will hold their outcomes."""
    started: list[threading.Thread] = []

    def start(function: Callable[..., Any], *calls: Any) -> list[Any]:
        outcomes: list[Any] = []

        def work(call: Any) -> None:
            try:
                outcomes.append(function(call))
            except BaseException as error:
                outcomes.append(error)

        for call in calls:
            started.append(threading.Thread(target=work, args=(call,)))
            started[-1].start()
        return outcomes

    yield start
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


def blocking(cache: Cache, gauge: Gauge, let_go: threading.Event) -> Any:
    @cache.cached("row:{key}")
    def read(key: int) -> int:
        with gauge:
            assert let_go.wait(10)
        return key

    return read


def running(bulkhead: Bulkhead) -> tuple[float, float]:
    measures = bulkhead.measures()
    return measures["bulkhead.running"], measures["bulkhead.waiting"]


def test_the_limit_in_threads(
    make_cache: Callable[..., Cache], gauge: Gauge, let_go: threading.Event, threads: Any
) -> None:
    """Of eight, three run, two wait, and three are refused at once."""
    bulkhead = Bulkhead(3, 2, wait=None)
    outcomes = threads(blocking(make_cache(plugins=[bulkhead]), gauge, let_go), *range(8))
    until(lambda: len(outcomes) == 3 and running(bulkhead) == (3, 2))
    assert all(isinstance(each, BulkheadFull) for each in outcomes)
    let_go.set()
    until(lambda: len(outcomes) == 8)
    assert gauge.most == 3 and gauge.total == 5 and running(bulkhead) == (0, 0)
    assert bulkhead.measures()["bulkhead.refused"] == 3


async def test_the_limit_in_tasks(make_cache: Callable[..., Cache], gauge: Gauge) -> None:
    """Of eight, three run, two wait, and three are refused at once."""
    bulkhead, go = Bulkhead(3, 2, wait=None), asyncio.Event()
    cache = make_cache(plugins=[bulkhead])

    @cache.cached("row:{key}")
    async def read(key: int) -> int:
        with gauge:
            await go.wait()
        return key

    tasks = [asyncio.create_task(read(key)) for key in range(8)]
    while sum(task.done() for task in tasks) < 3 or running(bulkhead) != (3, 2):
        await asyncio.sleep(0)
    go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(each, BulkheadFull) for each in outcomes) == 3
    assert gauge.most == 3 and gauge.total == 5 and running(bulkhead) == (0, 0)


def test_one_limit_for_threads_and_loops(
    make_cache: Callable[..., Cache], gauge: Gauge, threads: Any
) -> None:
    """Four threads and two event loops, 240 loads: never more than three, and all get through."""
    bulkhead = Bulkhead(3, 500, wait=None)
    cache = make_cache(plugins=[bulkhead])

    @cache.cached("row:{key}")
    def read(key: int) -> int:
        with gauge:
            return key

    @cache.cached("arow:{key}")
    async def aread(key: int) -> int:
        with gauge:
            await asyncio.sleep(0)
        return key

    def many(first: int) -> int:
        return sum(read(first + each) - first for each in range(40))

    def loop(first: int) -> int:
        async def main() -> int:
            return sum(await asyncio.gather(*[aread(first + each) for each in range(40)]))

        return asyncio.run(main()) - 40 * first

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        done = threads(many, 0, 1000, 2000, 3000)
        looped = threads(loop, 0, 1000)
        until(lambda: len(done) == 4 and len(looped) == 2)
    finally:
        sys.setswitchinterval(interval)
    assert done == [780] * 4 and looped == [780] * 2
    assert gauge.most <= 3 and gauge.total == 240 and running(bulkhead) == (0, 0)


def test_it_is_fair(
    make_cache: Callable[..., Cache], threads: Any, let_go: threading.Event
) -> None:
    """Who came first goes first, thread or task."""
    bulkhead, order = Bulkhead(1, 10, wait=None), []
    cache = make_cache(plugins=[bulkhead])

    @cache.cached("row:{key}")
    def read(key: int) -> None:
        order.append(key)
        assert let_go.wait(10)

    @cache.cached("arow:{key}")
    async def aread(key: int) -> None:
        order.append(key)

    for number, function in enumerate([read, read, lambda key: asyncio.run(aread(key)), read]):
        threads(function, number)
        until(lambda number=number: sum(running(bulkhead)) == number + 1)
    let_go.set()
    until(lambda: len(order) == 4)
    assert order == [0, 1, 2, 3]


def test_impatience(
    kind: Kind, make_cache: Callable[..., Cache], gauge: Gauge, threads: Any, let_go: Any
) -> None:
    """After ``wait`` it raises, names what is full, and leaves the queue."""
    bulkhead = Bulkhead(1, 1, wait="10ms")
    cache = make_cache(plugins=[bulkhead])
    threads(blocking(cache, gauge, let_go), 0)
    until(lambda: gauge.now == 1)
    other = cache.cached("other:{key}")(kind.function(lambda key: key))
    with pytest.raises(BulkheadFull, match="all 1 loads of the bulkhead 'bulkhead' are under way"):
        kind.call(other, 1)
    assert running(bulkhead) == (1, 0)
    let_go.set()
    until(lambda: running(bulkhead) == (0, 0))
    assert kind.call(other, 1) == 1


async def test_a_cancelled_waiter_leaves_no_permit_behind(
    make_cache: Callable[..., Cache], gauge: Gauge
) -> None:
    """Cancelled in the queue, or just as it is handed one: the next gets it."""
    bulkhead, go = Bulkhead(1, 10, wait=None), asyncio.Event()
    cache = make_cache(plugins=[bulkhead])

    @cache.cached("row:{key}")
    async def read(key: int) -> int:
        with gauge:
            await go.wait()
        return key

    tasks = [asyncio.create_task(read(key)) for key in range(5)]
    while running(bulkhead) != (1, 4):
        await asyncio.sleep(0)
    tasks[1].cancel()  # while it waits
    while running(bulkhead) != (1, 3):
        await asyncio.sleep(0)
    go.set()
    await tasks[0]
    tasks[2].cancel()  # when the permit has been handed to it, or a little later
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[3:] == [3, 4] and isinstance(outcomes[1], asyncio.CancelledError)
    assert running(bulkhead) == (0, 0) and gauge.most == 1


@pytest.mark.parametrize("after", range(6))
async def test_cancelled_at_every_step(after: int) -> None:
    """A waiter is cancelled so many steps after the permit came: it is used, or given back."""
    bulkhead = Bulkhead(1, 1, wait=None)
    load: Any = type("Load", (), {"is_async": True, "notes": {}, "function": "f()", "key": "k"})()
    assert bulkhead._permits.try_to_take()

    async def work() -> int:
        return 1

    task = asyncio.create_task(bulkhead.around_load(load, work))
    while running(bulkhead) != (1, 1):
        await asyncio.sleep(0)
    bulkhead._permits.give_back()
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert running(bulkhead) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_random_cancellation(
    make_cache: Callable[..., Cache], gauge: Gauge, threads: Any, seed: int
) -> None:
    """Two loops whose tasks are cancelled at random, beside threads: no permit is lost or added."""
    bulkhead = Bulkhead(3, 1000, wait=None)
    cache = make_cache(plugins=[bulkhead])

    @cache.cached("arow:{key}")
    async def aread(key: int) -> None:
        with gauge:
            await asyncio.sleep(0)

    @cache.cached("row:{key}")
    def read(key: int) -> int:
        with gauge:
            return key

    def loop(number: int) -> int:
        draw = random.Random(seed * 10 + number)

        async def main() -> int:
            tasks = [asyncio.create_task(aread(number * 1000 + key)) for key in range(100)]
            while not all(task.done() for task in tasks):
                if draw.random() < 0.5:
                    draw.choice(tasks).cancel()
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            return sum(outcome is not None for outcome in outcomes)  # cancelled

        return asyncio.run(main())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        cancelled = threads(loop, 1, 2)
        done = threads(lambda first: sum(read(first + each) > 0 for each in range(100)), 10**4)
        until(lambda: len(cancelled) == 2 and len(done) == 1)
    finally:
        sys.setswitchinterval(interval)
    assert done == [100] and all(isinstance(each, int) for each in cancelled) and any(cancelled)
    until(lambda: running(bulkhead) == (0, 0))
    assert gauge.most <= 3


def test_a_loop_that_is_gone_gets_no_permit() -> None:
    """Its task stands first in the queue and can hear nothing: the next gets the permit."""
    permits, reached = Permits(1, 10), []
    assert permits.try_to_take()

    class Gone(ThreadWaiter):
        def wake(self) -> bool:
            reached.append(self)
            return False

    gone, here = Gone(), ThreadWaiter()
    assert permits.enqueue(gone) and permits.enqueue(here)
    permits.give_back()
    assert reached == [gone] and here.has_permit and permits.taken == 1


def test_a_closed_loops_task_is_passed_over(
    make_cache: Callable[..., Cache], gauge: Gauge, threads: Any, let_go: Any
) -> None:
    """A loop is stopped and closed with a task in the queue: a later load gets through."""
    bulkhead = Bulkhead(1, 10, wait=None)
    cache = make_cache(plugins=[bulkhead])
    read = blocking(cache, gauge, let_go)
    threads(read, 0)
    until(lambda: gauge.now == 1)

    @cache.cached("arow")
    async def aread() -> None: ...

    loop = asyncio.new_event_loop()
    task = loop.create_task(aread())
    while running(bulkhead) != (1, 1):
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.close()
    last = threads(read, 1)
    until(lambda: running(bulkhead) == (1, 2))
    let_go.set()
    until(lambda: last == [1])
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # meant to be left pending
    for other in cache.asyncio._tasks:
        other._log_destroy_pending = False  # type: ignore[attr-defined]
    cache.asyncio._tasks.clear()
    del task
    gc.collect()
    assert running(bulkhead) == (0, 0)


def test_a_load_within_a_load_passes(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Three levels deep through a bulkhead of one, which is free again after it."""
    bulkhead = Bulkhead(1, 1, wait=None)
    cache = make_cache(plugins=[bulkhead])
    if kind.name == "blocking":

        @cache.cached("row:{key}")
        def read(key: int) -> int:
            return key if key == 0 else read(key - 1) + 1
    else:

        @cache.cached("row:{key}")
        async def read(key: int) -> int:
            return key if key == 0 else await read(key - 1) + 1

    assert kind.call(read, 3) == 3 and running(bulkhead) == (0, 0)


async def test_what_a_loader_leaves_behind_is_not_within(
    make_cache: Callable[..., Cache], gauge: Gauge
) -> None:
    """A task that outlives its load inherits the context, and queues like everybody."""
    bulkhead, left, go = Bulkhead(1, 0), [], asyncio.Event()
    cache = make_cache(plugins=[bulkhead])

    @cache.cached("row:{key}")
    async def read(key: str) -> str:
        if key == "parent":
            left.append(asyncio.create_task(later()))
        if key == "other":
            await go.wait()
        return key

    async def later() -> str:
        while running(bulkhead)[0] == 0 or other is None:
            await asyncio.sleep(0)
        return await read("child")

    other: Any = None
    await read("parent")
    other = asyncio.create_task(read("other"))
    with pytest.raises(BulkheadFull):
        await left[0]
    go.set()
    assert await other == "other"


async def test_a_blocking_load_in_a_loop_does_not_wait(
    make_cache: Callable[..., Cache], gauge: Gauge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The permits may be with this very loop's tasks: it is refused at once, not hung."""

    def wait(*_: object) -> None:
        raise AssertionError("it would wait for itself")

    monkeypatch.setattr(ThreadWaiter, "wait", wait)
    bulkhead, go = Bulkhead(1, 5, wait=None), asyncio.Event()
    cache = make_cache(plugins=[bulkhead])

    @cache.cached("arow")
    async def aread() -> int:
        with gauge:
            await go.wait()
        return 1

    @cache.cached("row")
    def read() -> int:
        return 2

    task = asyncio.create_task(aread())
    while gauge.now == 0:
        await asyncio.sleep(0)
    with pytest.raises(BulkheadFull):
        read()
    go.set()
    assert await task == 1 and read() == 2


def test_a_failing_load_gives_its_permit_back(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """Whatever it raises."""
    bulkhead = Bulkhead(1)
    cache = make_cache(plugins=[bulkhead])
    errors: list[Any] = [OSError(), KeyboardInterrupt(), GeneratorExit()]

    def load(key: int) -> int:
        raise errors[key]

    read = cache.cached("row:{key}")(kind.function(load))
    for key in range(1 if kind.name == "asyncio" else 2):
        with pytest.raises(type(errors[key])):
            kind.call(read, key)
        assert running(bulkhead) == (0, 0)


def test_a_stale_value_is_served_instead(
    kind: Kind,
    make_cache: Callable[..., Cache],
    clock: Any,
    gauge: Gauge,
    threads: Any,
    let_go: Any,
) -> None:
    """With ``stale_if_error`` a full bulkhead is nobody's error."""
    cache = make_cache(plugins=[Bulkhead(1)])
    read = cache.cached("old:{key}", ttl=10, stale_if_error="1h")(kind.function(lambda key: key))
    assert kind.call(read, 5) == 5
    clock.advance(11)
    threads(blocking(cache, gauge, let_go), 0)
    until(lambda: gauge.now == 1)
    assert kind.call(read, 5) == 5
    with pytest.raises(BulkheadFull):
        kind.call(read, 6)


def test_it_may_be_for_some_functions(
    kind: Kind, make_cache: Callable[..., Cache], gauge: Gauge, threads: Any, let_go: Any
) -> None:
    """Others load past it."""
    cache = make_cache(plugins=[Bulkhead(1, functions="row:{key}")])
    threads(blocking(cache, gauge, let_go), 0)
    until(lambda: gauge.now == 1)
    assert kind.call(cache.cached("free:{key}")(kind.function(lambda key: key)), 1) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_all_permits(
    make_cache: Callable[..., Cache], gauge: Gauge, threads: Any, let_go: Any
) -> None:
    """The parent's loads do not run in it."""
    bulkhead = Bulkhead(1)
    cache = make_cache(plugins=[bulkhead])
    threads(blocking(cache, gauge, let_go), 0)
    until(lambda: gauge.now == 1)
    other = cache.cached("other:{key}")(lambda key: key)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if other(1) == 1 and running(bulkhead) == (0, 0) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and running(bulkhead) == (1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_concurrent": 0}, "max_concurrent must be a whole number >= 1, got 0"),
        ({"max_concurrent": True}, "max_concurrent must be a whole number >= 1, got True"),
        ({"max_concurrent": 2, "max_waiting": -1}, "max_waiting must be a whole number >= 0"),
        ({"max_concurrent": 2, "wait": 0}, "wait must be positive, got 0"),
        ({"max_concurrent": 2, "wait": "soon"}, "wait is not a duration: 'soon'"),
        ({"max_concurrent": 2, "functions": []}, "functions is empty"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    """Each illegal value is named."""
    with pytest.raises(ConfigurationError) as error:
        Bulkhead(**options)
    assert message in str(error.value)


def test_full_is_a_cache_error() -> None:
    """Callers may catch all that tiercache raises."""
    assert issubclass(BulkheadFull, CacheError)


def test_importing_it_is_light() -> None:
    """Neither asyncio nor pybreaker (which brings redis) comes with it."""
    code = (
        "import sys, tiercache_plugins.bulkhead, tiercache_plugins.error_memory,"
        " tiercache_plugins.adaptive_ttl;"
        "print({'asyncio', 'pybreaker', 'redis'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert printed.stdout.strip() == b"set()"
