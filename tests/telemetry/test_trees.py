"""Whole traces of what a call may go through, for blocking and asyncio callers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import trace

from tests.kinds import Kind
from tests.servers import RedisServer
from tests.telemetry.trees import Recorder, context
from tests.waiting import until
from tiercache import Cache, CircuitOpen, Plugin, Redis
from tiercache.testing import DictStore, FakeClock, FaultyStore

MakeCache = Callable[..., Cache]


def expect(recorder: Recorder, *lines: str) -> None:
    """Assert that these lines, and no others, are the traces so far; forget them."""
    assert recorder.tree().splitlines() == list(lines)
    recorder.clear()


def cached(cache: Cache, kind: Kind, body: Callable[..., Any], **options: Any) -> Any:
    """Return the body as a cached function of the kind."""
    options.setdefault("key", "user:{user_id}")
    return cache.cached(**options)(kind.function(body))


def request(kind: Kind, recorder: Recorder, function: Any, *args: Any) -> Any:
    """Call a function in a span of the test's own."""

    def call() -> Any:
        with recorder.tracer.start_as_current_span("GET /users"):
            return function(*args)

    async def acall() -> Any:
        with recorder.tracer.start_as_current_span("GET /users"):
            return await function(*args)

    return kind.call(call if kind.name == "blocking" else acall)


def double(user_id: int) -> int:
    """Load a value."""
    return 2 * user_id


def fail(user_id: int) -> int:
    """Raise."""
    raise ConnectionError("the database is down")


def test_cold_load(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A cold load reads L2, loads and fills L2, all below the read."""
    get = cached(traced(), kind, double)
    assert kind.call(get, 1) == 2
    expect(
        recorder,
        "tiercache.get outcome=loaded ttl_s=300",
        "  tiercache.l2.get",
        "  tiercache.load",
        "  tiercache.l2.set",
    )


def test_l1_hit_is_silent(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A hit in L1 makes no span, on the slow path and on the fast one."""
    get = cached(traced(), kind, double)
    kind.call(get, 1)
    recorder.clear()
    for _ in range(3):
        kind.call(get, 1)
    expect(recorder)


def test_l1_hit_pays_nothing(
    kind: Kind, traced: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hit in L1 does not even look whether anybody records."""
    cache = traced()
    get = cached(cache, kind, double)
    kind.call(get, 1)

    def refuse(*_: object) -> None:
        raise AssertionError("a hit has asked for telemetry")

    for name in ("notice", "loaded", "served_stale"):
        monkeypatch.setattr(type(cache.telemetry), name, refuse)
    assert [kind.call(get, 1) for _ in range(3)] == [2] * 3
    assert kind.do(cache, "get", "user:1") == 2
    assert kind.call(get.many, [1]) == {1: 2}
    with pytest.raises(AssertionError):
        kind.call(get, 2)


def test_l1_hits_on_request(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """With ``trace_l1_hits`` each hit in L1 is a span, of a function and of a key."""
    cache = traced(trace_l1_hits=True)
    get = cached(cache, kind, double)
    kind.call(get, 1)
    recorder.clear()
    for _ in range(3):
        kind.call(get, 1)
    kind.do(cache, "get", "user:1")
    expect(recorder, *["tiercache.get outcome=l1_hit"] * 4)
    assert cache.stats().hits_l1 == 4


def test_batch_of_l1_hits_on_request(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """With ``trace_l1_hits`` a batch that L1 answers is one span."""
    get = cached(traced(trace_l1_hits=True), kind, double)
    kind.call(get, 1)
    recorder.clear()
    assert kind.call(get.many, [1]) == {1: 2}
    expect(recorder, "tiercache.get keys=1 outcome=l1_hit")


def test_l2_hit(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A hit in L2 is a read with one child."""
    store = DictStore()
    kind.call(cached(traced(l2=store), kind, double), 1)
    recorder.clear()
    assert kind.call(cached(traced(l2=store), kind, double), 1) == 2
    expect(recorder, "tiercache.get outcome=l2_hit", "  tiercache.l2.get")


def test_without_l2(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """Without L2 a cold load is the load alone."""
    kind.call(cached(traced(l2=None), kind, double), 1)
    expect(recorder, "tiercache.get outcome=loaded ttl_s=300", "  tiercache.load")


def test_attributes(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """Spans name cache and function, and no key."""
    get = cached(traced("users"), kind, double)
    kind.call(get, 1)
    for span in recorder.settled():
        assert span.attributes is not None
        assert span.attributes["tiercache.cache"] == "users"
        assert "tiercache.key" not in span.attributes
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "tiercache"
        assert span.kind is trace.SpanKind.INTERNAL
    for name in ("tiercache.get", "tiercache.load"):
        attributes = recorder.one(name).attributes
        assert attributes is not None
        assert attributes["tiercache.function"].endswith("double")


def test_keys_on_request(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """With ``trace_keys`` spans name the key."""
    kind.call(cached(traced(trace_keys=True), kind, double), 1)
    assert {span.attributes["tiercache.key"] for span in recorder.settled()} == {"user:1"}  # type: ignore[index]


def test_loader_stands_below_its_load(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """Spans of the loader, and the whole read, are where they belong in the caller's trace."""

    def query(user_id: int) -> int:
        with recorder.tracer.start_as_current_span("SELECT"):
            return user_id

    get = cached(traced(l2=None), kind, query)
    assert request(kind, recorder, get, 1) == 1
    expect(
        recorder,
        "GET /users",
        "  tiercache.get outcome=loaded ttl_s=300",
        "    tiercache.load",
        "      SELECT",
    )


def test_nothing_stays_current(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """After a call, failed or not, the caller's span is current as before."""
    seen = []

    def note() -> None:
        seen.append(trace.get_current_span().get_span_context())

    async def anote() -> None:
        note()

    get = cached(traced(), kind, fail)
    with pytest.raises(ConnectionError):
        request(kind, recorder, get, 1)
    request(kind, recorder, cached(traced(), kind, double), 1)
    kind.call(note if kind.name == "blocking" else anote)
    assert not seen[0].is_valid


def test_failing_load(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """An error is on the load, with its traceback, and on the read."""
    get = cached(traced(), kind, fail)
    with pytest.raises(ConnectionError):
        kind.call(get, 1)
    load, get_span = recorder.one("tiercache.load"), recorder.one("tiercache.get")
    expect(
        recorder,
        "tiercache.get outcome=error !ConnectionError *exception",
        "  tiercache.l2.get",
        "  tiercache.load !ConnectionError *exception",
    )
    for span in (load, get_span):
        attributes = span.events[0].attributes
        assert attributes is not None
        assert attributes["exception.type"] == "ConnectionError"
        assert attributes["exception.message"] == "the database is down"
    assert load.events[0].attributes is not None
    assert "in fail" in str(load.events[0].attributes["exception.stacktrace"])


def test_followers_link_to_the_load(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """Each follower waits, linked to the leader's load; the load is in one trace only."""
    cache = traced(l2=None)

    async def aslow(user_id: int) -> int:
        while cache.flow.flights.under_way()[0].passengers < 3:
            await asyncio.sleep(0)
        return user_id

    def slow(user_id: int) -> int:
        until(lambda: len(cache.flow.flights.under_way()[0].waiters or ()) == 2)
        return user_id

    body = slow if kind.name == "blocking" else aslow
    get = cache.cached("user:{user_id}")(body)
    assert kind.side_by_side(get, [(1,)] * 3) == [1] * 3
    lines = sorted(recorder.tree().splitlines())
    assert lines == sorted(
        [
            "tiercache.get outcome=loaded ttl_s=300",
            "  tiercache.load",
            *["tiercache.get outcome=joined ttl_s=300", "  tiercache.wait -> tiercache.load"] * 2,
        ]
    )
    traces = {context(span).trace_id for span in recorder.named("tiercache.get")}
    assert len(traces) == 3


def test_follower_of_a_failing_load(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A follower's read has the error, too, and shows whose load it was."""
    cache = traced(l2=None)

    async def aslow(user_id: int) -> int:
        while cache.flow.flights.under_way()[0].passengers < 2:
            await asyncio.sleep(0)
        raise LookupError

    def slow(user_id: int) -> int:
        until(lambda: len(cache.flow.flights.under_way()[0].waiters or ()) == 1)
        raise LookupError

    body = slow if kind.name == "blocking" else aslow
    outcomes = kind.side_by_side(cache.cached("user:{user_id}")(body), [(1,)] * 2)
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 2
    assert sorted(recorder.tree().splitlines()) == sorted(
        [
            *["tiercache.get outcome=error !LookupError *exception"] * 2,
            "  tiercache.load !LookupError *exception",
            "  tiercache.wait -> tiercache.load",
        ]
    )


def test_stale_with_refresh(
    kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock
) -> None:
    """A stale value is served at once; its refresh is a trace of its own, linked to the read."""
    cache = traced(ttl=60, stale_while_revalidate=60, l2=DictStore(clock=clock))
    get = cached(cache, kind, double)
    kind.call(get, 1)
    recorder.clear()
    clock.advance(90)

    assert request(kind, recorder, get, 1) == 2
    finish_refresh(kind, cache)
    expect(
        recorder,
        "GET /users",
        "  tiercache.get age_s=90 outcome=stale",
        "tiercache.refresh ttl_s=60 -> tiercache.get",
        "  tiercache.l2.get",
        "  tiercache.load",
        "  tiercache.l2.set",
    )


def finish_refresh(kind: Kind, cache: Cache) -> None:
    """Let the refresh behind run to its end."""
    if kind.name == "asyncio":
        kind.call(cache.asyncio.quiesce)
    else:
        assert cache.blocking.quiesce(10) == 0


def test_stale_in_l2(kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock) -> None:
    """A stale value of L2 is found by a read of L2, and served at once likewise."""
    store = DictStore(clock=clock)
    options = {"ttl": 60, "stale_while_revalidate": 60, "l2": store}
    kind.call(cached(traced(**options), kind, double), 1)
    recorder.clear()
    clock.advance(90)
    cache = traced(**options)
    assert kind.call(cached(cache, kind, double), 1) == 2
    finish_refresh(kind, cache)
    lines = recorder.tree().splitlines()
    assert lines[:2] == ["tiercache.get age_s=90 outcome=stale", "  tiercache.l2.get"]
    assert lines[2] == "tiercache.refresh ttl_s=60 -> tiercache.get"
    assert "  tiercache.load" in lines[3:]


def test_failing_refresh(
    kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock
) -> None:
    """A refresh that fails has the error; the read that set it off does not."""
    answers = iter([2])

    def once(user_id: int) -> int:
        for answer in answers:
            return answer
        raise ConnectionError

    cache = traced(ttl=60, stale_while_revalidate=60, l2=None)
    get = cached(cache, kind, once)
    kind.call(get, 1)
    recorder.clear()
    clock.advance(90)
    assert kind.call(get, 1) == 2
    finish_refresh(kind, cache)
    expect(
        recorder,
        "tiercache.get age_s=90 outcome=stale",
        "tiercache.refresh !ConnectionError *exception -> tiercache.get",
        "  tiercache.load !ConnectionError *exception",
    )


def test_stale_on_error(
    kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock
) -> None:
    """A stale value that stands in for a failed load: the load failed, the read did not."""
    answers = iter([2])

    def once(user_id: int) -> int:
        for answer in answers:
            return answer
        raise ConnectionError

    get = cached(traced(ttl=60, stale_if_error=600, l2=None), kind, once)
    kind.call(get, 1)
    recorder.clear()
    clock.advance(90)
    assert kind.call(get, 1) == 2
    expect(
        recorder,
        "tiercache.get age_s=90 outcome=stale",
        "  tiercache.load !ConnectionError *exception",
    )


def test_refresh_on_demand(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """``f.refresh()`` is waited for: part of its caller's trace."""
    get = cached(traced(), kind, double)

    assert request(kind, recorder, get.refresh, 1) == 2
    expect(
        recorder,
        "GET /users",
        "  tiercache.refresh ttl_s=300",
        "    tiercache.load",
        "    tiercache.l2.set",
    )


class NoOddIds(Plugin):
    """A guard."""

    def admits(self, key: str) -> bool:
        return int(key.rpartition(":")[2]) % 2 == 0


def test_absent_by_guard(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """What a guard rules out is one span that names it, and no I/O."""
    get = cached(traced(plugins=[NoOddIds()]), kind, double)
    assert kind.call(get, 1) is None
    expect(recorder, "tiercache.get guard=NoOddIds outcome=absent")


class Raising(NoOddIds):
    """A guard whose answer is an error."""

    def absent(self, key: str) -> Any:
        raise LookupError


def test_absent_as_an_error(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """What a guard raises is its answer: the span is absent, and no error."""
    get = cached(traced(plugins=[Raising()]), kind, double)
    with pytest.raises(LookupError):
        kind.call(get, 1)
    expect(recorder, "tiercache.get guard=Raising outcome=absent")


class Open(Plugin):
    """A breaker that is open."""

    async def around_load(self, load: Any, call_next: Any) -> Any:
        load.notes["breaker.state"] = "open"
        raise CircuitOpen("users: open", retry_after=3)


def test_open_breaker(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """An open breaker is an attribute of the load that it kept back, and of the read."""
    get = cached(traced(plugins=[Open()]), kind, double)
    with pytest.raises(CircuitOpen):
        kind.call(get, 1)
    expect(
        recorder,
        "tiercache.get breaker.state=open outcome=error !CircuitOpen *exception",
        "  tiercache.l2.get",
        "  tiercache.load breaker.state=open !CircuitOpen *exception",
    )


def test_redis_down(
    kind: Kind, traced: MakeCache, recorder: Recorder, own_server: RedisServer
) -> None:
    """With Redis dead, reads load; below them is seen what failed, and what was not even tried."""
    get = cached(traced(l2=Redis(own_server.url, timeout=5)), kind, double)
    kind.call(get, 0)
    recorder.clear()
    own_server.stop()
    for user_id in range(1, 30):
        assert kind.call(get, user_id) == 2 * user_id
    assert recorder.settled()
    failed = [span for span in recorder.named("tiercache.l2.get") if span.events]
    # None has, where the bus was the first to find out.
    assert {span.status.description for span in failed} <= {"StoreError", "StoreTimeout"}
    kept_off = recorder.named("tiercache.l2.get")[-1]
    assert kept_off.attributes is not None
    assert kept_off.attributes["tiercache.breaker.state"] in {"open", "half-open"}
    outcomes = [span.attributes["tiercache.outcome"] for span in recorder.named("tiercache.get")]  # type: ignore[index]
    assert outcomes == ["loaded"] * 29
    last = recorder.named("tiercache.get")[-1]
    children = [s.name for s in recorder.spans if s.parent and s.parent == context(last)]
    assert children == ["tiercache.l2.get", "tiercache.load"]


def test_keys_of_ones_own(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """``get``, ``set`` and their kin are spans, too."""
    cache = traced()
    kind.do(cache, "set", "a", 1)
    kind.do(cache, "get", "b")
    kind.do(cache, "set_many", {"c": 1, "d": 2})
    kind.do(cache, "get_many", ["e", "f"])
    expect(
        recorder,
        "tiercache.l2.set",
        "tiercache.get outcome=miss",
        "  tiercache.l2.get",
        "tiercache.l2.set keys=2",
        "tiercache.get keys=2 outcome=miss",
        "  tiercache.l2.get keys=2",
    )


def test_invalidations(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """Each way to invalidate is a span that says which, and of how many."""
    cache = traced()
    kind.do(cache, "delete", "a", "b")
    kind.do(cache, "expire", "a")
    kind.do(cache, "invalidate_tags", "t")
    kind.do(cache, "clear")
    expect(
        recorder,
        "tiercache.invalidate keys=2 operation=delete",
        "tiercache.invalidate keys=1 operation=expire",
        "  tiercache.l2.get",  # how long it may be stale is in it
        "tiercache.invalidate keys=1 operation=invalidate_tags",
        "tiercache.invalidate operation=clear",
    )


def test_invalidation_that_l2_does_not_take(
    kind: Kind, traced: MakeCache, recorder: Recorder
) -> None:
    """What fails in L2 is an event of the invalidation, which goes on: it is owed."""
    store = FaultyStore(DictStore())
    cache = traced(l2=store)
    store.fail("delete")
    kind.do(cache, "delete", "a")
    until(lambda: recorder.named("tiercache.invalidate"))
    lines = [line for line in recorder.tree().splitlines() if "invalidate" in line]
    assert lines == ["tiercache.invalidate keys=1 operation=delete *exception"]
    store.heal()


def test_bus(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """What another process invalidates is applied in a span of this one; its own is not."""
    store = DictStore()
    here, there = traced(l2=store), traced(l2=store)
    get = cached(here, kind, double)
    kind.call(get, 1)
    kind.do(there, "get", "user:1")
    recorder.clear()
    kind.do(there, "delete", "user:1")
    until(lambda: recorder.named("tiercache.bus.apply"))
    expect(
        recorder,
        "tiercache.invalidate keys=1 operation=delete",
        "tiercache.bus.apply messages=1",
    )


def test_batch(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A batch is one read: of many keys from L2, and a load for each that is missing."""
    cache = traced()
    get = cached(cache, kind, double)
    kind.call(get, 1)
    recorder.clear()
    assert kind.call(get.many, [1, 2]) == {1: 2, 2: 4}
    expect(
        recorder,
        "tiercache.get keys=2 outcome=loaded",
        "  tiercache.l2.get",
        "  tiercache.load",
        "  tiercache.l2.set",
    )


def test_batch_with_a_bulk_loader(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A bulk load is one span with the number of keys."""

    def batch(ids: list[int]) -> list[int]:
        return [2 * each for each in ids]

    get = cached(traced(), kind, double, batch=kind.function(batch))
    kind.call(get.many, [1, 2, 3])
    expect(
        recorder,
        "tiercache.get keys=3 outcome=loaded",
        "  tiercache.l2.get keys=3",
        "  tiercache.load keys=3",
        "  tiercache.l2.set keys=3",
    )


def test_bulk_refresh(kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock) -> None:
    """What a batch was served stale is refreshed in one trace of its own, linked to the read."""
    cache = traced(ttl=60, stale_while_revalidate=60, l2=DictStore(clock=clock))
    batch = kind.function(lambda ids: [2 * each for each in ids])
    get = cached(cache, kind, double, batch=batch)
    kind.call(get.many, [1, 2, 3])
    recorder.clear()
    clock.advance(90)
    kind.call(get.many, [1, 2, 3])
    finish_refresh(kind, cache)
    expect(
        recorder,
        "tiercache.get keys=3 outcome=stale",
        "tiercache.refresh keys=3 -> tiercache.get",
        "  tiercache.l2.get keys=3",
        "  tiercache.load keys=3",
        "  tiercache.l2.set keys=3",
    )


def test_failing_bulk_refresh(
    kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock
) -> None:
    """One that fails has the error, once."""
    cache = traced(ttl=60, stale_while_revalidate=60, l2=None)
    get = cached(cache, kind, double, batch=kind.function(fail))
    for each in (1, 2):
        kind.call(get, each)
    recorder.clear()
    clock.advance(90)
    assert kind.call(get.many, [1, 2]) == {1: 2, 2: 4}
    finish_refresh(kind, cache)
    expect(
        recorder,
        "tiercache.get keys=2 outcome=stale",
        "tiercache.refresh keys=2 !ConnectionError *exception -> tiercache.get",
        "  tiercache.load keys=2 !ConnectionError *exception",
    )


def test_single_refreshes_of_a_batch(
    kind: Kind, traced: MakeCache, recorder: Recorder, clock: FakeClock
) -> None:
    """Without a bulk loader each refresh is a trace of its own."""
    cache = traced(ttl=60, stale_while_revalidate=60, l2=None)
    get = cached(cache, kind, double)
    kind.call(get.many, [1, 2])
    recorder.clear()
    clock.advance(90)
    kind.call(get.many, [1, 2])
    finish_refresh(kind, cache)
    refresh = ["tiercache.refresh ttl_s=60 -> tiercache.get", "  tiercache.load"]
    expect(recorder, "tiercache.get keys=2 outcome=stale", *refresh, *refresh)


def test_failing_batch(kind: Kind, traced: MakeCache, recorder: Recorder) -> None:
    """A batch of which a part failed is an error."""
    get = cached(traced(l2=None), kind, fail)
    with pytest.raises(ExceptionGroup):
        kind.call(get.many, [1])
    expect(
        recorder,
        "tiercache.get keys=1 outcome=error !ConnectionError *exception",
        "  tiercache.load !ConnectionError *exception",
    )
