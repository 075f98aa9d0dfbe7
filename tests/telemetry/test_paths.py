"""Every way out of a call ends its spans, once; and who is not sampled makes none."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tests.kinds import Asyncio, Kind
from tests.telemetry.trees import Recorder, context
from tests.waiting import until
from tiercache import LRU, Cache, LoadTimeout
from tiercache.testing import DictStore, FakeClock

MakeCache = Callable[..., Cache]


@pytest.fixture(autouse=True)
def _no_complaints(caplog: pytest.LogCaptureFixture) -> Any:
    """OpenTelemetry complains of spans that are ended twice, and of contexts not detached."""
    yield
    said = [record.name for record in caplog.get_records("call")]
    assert not [name for name in said if name.startswith("opentelemetry")]


def in_span(kind: Kind, span: Any, function: Any, *args: Any) -> Any:
    """Call a function with a span as the current one."""

    def call() -> Any:
        token = attach(trace.set_span_in_context(span))
        try:
            return function(*args)
        finally:
            detach(token)

    async def acall() -> Any:
        token = attach(trace.set_span_in_context(span))
        try:
            return await function(*args)
        finally:
            detach(token)

    return kind.call(call if kind.name == "blocking" else acall)


def span_of(*, is_remote: bool, is_sampled: bool) -> NonRecordingSpan:
    """Return a span that does not record."""
    flags = TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT)
    return NonRecordingSpan(SpanContext(1, 2, is_remote, flags))


@pytest.mark.parametrize("sampler", [ALWAYS_ON, None], ids=["always-on", "by-parent"])
def test_sampled_out(kind: Kind, traced: MakeCache, recorder: Recorder, sampler: Any) -> None:
    """Below a span that was sampled out nothing is started, whatever the sampler would say."""
    if sampler is not None:
        recorder.provider.sampler = sampler
    cache = traced()
    get = cache.cached("user:{user_id}")(kind.function(lambda user_id: user_id))
    span = span_of(is_remote=False, is_sampled=False)
    assert in_span(kind, span, get, 1) == 1
    in_span(kind, span, get.many, [2])
    in_span(kind, span, get.invalidate, 1)
    assert recorder.started == 0


def test_remote_parent(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A caller in another service is a parent like any other, though it does not record here."""
    get = traced(l2=None).cached("user:{user_id}")(kind.function(lambda user_id: user_id))
    in_span(kind, span_of(is_remote=True, is_sampled=True), get, 1)
    parent = recorder.one("tiercache.get").parent
    assert parent is not None and parent.span_id == 2
    assert len(recorder.settled()) == 2


def test_loader_knows_that_it_is_not_sampled(kind: Kind, make_cache: MakeCache) -> None:
    """Where the read itself is sampled out, its loader's spans are, too."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    seen = []

    def load(user_id: int) -> int:
        seen.append(trace.get_current_span().get_span_context())
        return user_id

    get = make_cache(tracer_provider=provider).cached(kind.function(load))
    kind.call(get, 1)
    assert seen[0].is_valid and not seen[0].trace_flags.sampled


def test_cancelled_follower(traced: MakeCache, recorder: Recorder) -> None:
    """A caller that is cancelled ends its own spans; the load goes on in the leader's trace."""
    gate = asyncio.Event()
    cache = traced(l2=None)

    @cache.cached("user:{user_id}")
    async def get(user_id: int) -> int:
        await gate.wait()
        return user_id

    async def main() -> None:
        leader, follower = asyncio.create_task(get(1)), asyncio.create_task(get(1))
        while not cache.flow.flights.under_way() or not cache.flow.flights.under_way()[0].span:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        follower.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower
        gate.set()
        assert await leader == 1

    asyncio.run(main())
    assert sorted(recorder.tree().splitlines()) == sorted(
        [
            "tiercache.get outcome=loaded ttl_s=300",
            "  tiercache.load",
            "tiercache.get outcome=error !CancelledError *exception",
            "  tiercache.wait !CancelledError *exception -> tiercache.load",
        ]
    )


def test_cancelled_leader(traced: MakeCache, recorder: Recorder) -> None:
    """A leader that is cancelled ends its read; the load ends later, and once."""
    gate = asyncio.Event()
    cache = traced()

    @cache.cached("user:{user_id}")
    async def get(user_id: int) -> int:
        await gate.wait()
        return user_id

    async def main() -> None:
        leader, follower = asyncio.create_task(get(1)), asyncio.create_task(get(1))
        while not cache.flow.flights.under_way() or not cache.flow.flights.under_way()[0].span:
            await asyncio.sleep(0)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        gate.set()
        assert await follower == 1
        await cache.asyncio.quiesce()

    asyncio.run(main())
    load = recorder.one("tiercache.load")
    lines = recorder.tree().splitlines()
    assert "tiercache.get outcome=error !CancelledError *exception" in lines
    assert "tiercache.get outcome=joined ttl_s=300" in lines
    assert "  tiercache.wait -> tiercache.load" in lines
    cancelled = next(s for s in recorder.named("tiercache.get") if not s.status.is_ok)
    assert load.parent == context(cancelled)
    assert recorder.one("tiercache.l2.set").parent == context(cancelled)


def test_all_cancelled(traced: MakeCache, recorder: Recorder) -> None:
    """When the last caller goes, the load is cancelled and ends its span."""
    cache = traced(l2=None)

    @cache.cached("user:{user_id}")
    async def get(user_id: int) -> int:
        await asyncio.Event().wait()
        return user_id

    async def main() -> None:
        task = asyncio.create_task(get(1))
        while not cache.flow.flights.under_way() or not cache.flow.flights.under_way()[0].span:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await cache.asyncio.quiesce()

    asyncio.run(main())
    assert recorder.tree().splitlines() == [
        "tiercache.get outcome=error !CancelledError *exception",
        "  tiercache.load !CancelledError *exception",
    ]


def test_abandoned_coroutine(traced: MakeCache, recorder: Recorder) -> None:
    """A coroutine that is thrown away half-way ends its spans, and nothing complains."""
    cache = traced(l2=None)
    get = cache.cached("user:{user_id}")(Asyncio().function(lambda user_id: user_id))
    loop = asyncio.new_event_loop()

    async def main() -> Any:
        coroutine = get(1)
        coroutine.send(None)
        return coroutine

    coroutine = loop.run_until_complete(main())
    coroutine.close()
    loop.run_until_complete(cache.asyncio.quiesce())
    loop.close()
    gc.collect()
    recorder.settled()
    assert not trace.get_current_span().get_span_context().is_valid


def test_timeout(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A load that takes too long is an error of the load."""
    gate = threading.Event()

    def slow(user_id: int) -> None:
        gate.wait(10)

    async def aslow(user_id: int) -> None:
        await asyncio.Event().wait()

    cache = traced(l2=None)
    body = slow if kind.name == "blocking" else aslow
    get = cache.cached("user:{user_id}", timeout=0.02)(body)
    with pytest.raises(LoadTimeout):
        kind.call(get, 1)
    gate.set()
    if kind.name == "asyncio":
        kind.call(cache.asyncio.quiesce)
    recorder.settled()
    assert recorder.one("tiercache.get").status.description == "LoadTimeout"
    assert not recorder.one("tiercache.load").status.is_ok


def test_load_that_asks_for_its_own_key(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A load within a load of the same key is seen as such."""
    cache = traced(l2=None)
    depth = iter([True, False])

    def load(user_id: int) -> int:
        return get(user_id) if next(depth) else user_id  # type: ignore[no-any-return]

    async def aload(user_id: int) -> int:
        return (await get(user_id)) if next(depth) else user_id  # type: ignore[no-any-return]

    get = cache.cached("user:{user_id}")(load if kind.name == "blocking" else aload)
    assert kind.call(get, 1) == 1
    assert recorder.tree().splitlines() == [
        "tiercache.get outcome=loaded ttl_s=300",
        "  tiercache.load",
        "    tiercache.get outcome=loaded",
        "      tiercache.load",
    ]


def test_waiting_for_another_process(traced: MakeCache, recorder: Recorder) -> None:
    """Where another process has the lease, the read says that it waited for it."""
    store = DictStore()
    here, there = traced(l2=store), traced(l2=store)
    gate, begun = threading.Event(), threading.Event()

    def slow(user_id: int) -> int:
        begun.set()
        gate.wait(10)
        return user_id

    def get_of(cache: Cache) -> Any:
        return cache.cached("user:{user_id}")(slow)

    first = threading.Thread(target=get_of(there), args=(1,))
    first.start()
    begun.wait(10)
    second = threading.Thread(target=get_of(here), args=(1,))
    second.start()
    until(lambda: len(here.flow.waits))
    gate.set()
    first.join()
    second.join()
    lines = recorder.tree().splitlines()
    assert "tiercache.get outcome=joined *tiercache.lease.held" in lines
    assert len(recorder.named("tiercache.load")) == 1


OPERATIONS = ("call", "fail", "many", "refresh", "invalidate", "set", "get", "advance", "clear")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 3)), max_size=25))
def test_what_was_started_is_ended(kind: Kind, operations: list[tuple[str, int]]) -> None:
    """Whatever is done in whatever order, each span is ended, and its parent is known."""
    recorder, clock = Recorder(), FakeClock()
    store = DictStore(clock=clock)
    options: dict[str, Any] = {"ttl": 10, "stale_while_revalidate": 10, "stale_if_error": 20}
    cache = Cache(
        "t", l1=LRU(2), l2=store, clock=clock, tracer_provider=recorder.provider, **options
    )
    fails = False

    def load(user_id: int) -> int:
        if fails:
            raise LookupError
        return user_id

    get = cache.cached("user:{user_id}")(kind.function(load))
    for operation, number in operations:
        fails = operation == "fail"
        try:
            if operation in {"call", "fail"}:
                kind.call(get, number)
            elif operation == "many":
                kind.call(get.many, range(number))
            elif operation in {"refresh", "invalidate"}:
                kind.call(getattr(get, operation), number)
            elif operation == "set":
                kind.do(cache, "set", f"user:{number}", number)
            elif operation == "get":
                kind.do(cache, "get", f"user:{number}")
            elif operation == "clear":
                kind.do(cache, "clear")
            else:
                clock.advance(7)
        except LookupError:
            pass
    if kind.name == "asyncio":
        kind.call(cache.asyncio.quiesce)
    cache.close()
    spans = recorder.settled()
    known = {context(span).span_id for span in spans}
    assert all(span.parent is None or span.parent.span_id in known for span in spans)
    assert not trace.get_current_span().get_span_context().is_valid
