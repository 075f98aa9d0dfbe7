"""One circuit, apart from any cache: states, permits, eras, the window, threads, forks."""

from __future__ import annotations

import datetime as dt
import os
import sys
import threading
from typing import Any

import pybreaker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiercache.testing import FakeClock
from tiercache_plugins._circuit import CLOSED, HALF_OPEN, OPEN, Change, Circuit, Settings
from tiercache_plugins._window import Window


def circuit_of(clock: Any, **options: Any) -> Circuit:
    defaults: dict[str, Any] = {
        "fail_max": 3,
        "failure_rate": None,
        "window": 10.0,
        "min_calls": 4,
        "reset_timeout": 30.0,
    }
    return Circuit("it", Settings(**(defaults | options)), clock)


@pytest.fixture
def circuit(clock: FakeClock) -> Circuit:
    return circuit_of(clock)


def admitted(circuit: Circuit) -> int:
    permit, wait = circuit.admit()
    assert wait == 0
    return permit


def wait_of(circuit: Circuit) -> float:
    _, wait = circuit.admit()
    assert wait > 0
    return wait


def fail(circuit: Circuit, times: int = 1) -> None:
    for _ in range(times):
        circuit.failed(admitted(circuit))


def test_failures_in_a_row_open_it(circuit: Circuit) -> None:
    """The third failure in a row opens a circuit of fail_max=3, and not the second."""
    fail(circuit, 2)
    assert circuit.state == CLOSED
    fail(circuit)
    assert circuit.state == OPEN
    assert wait_of(circuit) == 30


def test_a_success_begins_the_count_anew(circuit: Circuit) -> None:
    """Failures that are not in a row do not open it."""
    for _ in range(5):
        fail(circuit, 2)
        circuit.succeeded(admitted(circuit))
    assert circuit.state == CLOSED and circuit.failures == 10


def test_half_open_has_one_permit(circuit: Circuit, clock: FakeClock) -> None:
    """Of many that come when the time is over, one is let through; its success lets in all."""
    fail(circuit, 3)
    clock.advance(29.9)
    wait_of(circuit)
    clock.advance(0.1)
    permit = admitted(circuit)
    assert circuit.state == HALF_OPEN
    for _ in range(3):
        wait_of(circuit)
    circuit.succeeded(permit)
    assert circuit.state == CLOSED and circuit.refused == 4
    admitted(circuit)


def test_a_failed_probe_opens_it_for_another_period(circuit: Circuit, clock: FakeClock) -> None:
    """One failure is enough, and the time counts from it."""
    fail(circuit, 3)
    clock.advance(35)
    fail(circuit)
    assert circuit.state == OPEN
    assert wait_of(circuit) == 30


def test_a_probe_that_says_nothing_gives_its_permit_back(
    circuit: Circuit, clock: FakeClock
) -> None:
    """Cancelled, it neither opens nor closes, and the next caller may try."""
    fail(circuit, 3)
    clock.advance(30)
    circuit.gave_up(admitted(circuit))
    assert circuit.state == HALF_OPEN
    circuit.succeeded(admitted(circuit))
    assert circuit.state == CLOSED


def test_a_probe_that_hangs_is_written_off(circuit: Circuit, clock: FakeClock) -> None:
    """After reset_timeout another may try, and what the first one says is not heard any more."""
    fail(circuit, 3)
    clock.advance(30)
    hanging = admitted(circuit)
    clock.advance(10)
    assert wait_of(circuit) == 20
    clock.advance(20)
    second = admitted(circuit)
    circuit.failed(hanging)
    circuit.gave_up(hanging)
    assert circuit.state == HALF_OPEN
    wait_of(circuit)
    circuit.succeeded(second)
    assert circuit.state == CLOSED


@pytest.mark.parametrize("outcome", ["succeeded", "failed", "gave_up"])
def test_a_load_of_an_earlier_era_says_nothing(
    circuit: Circuit, clock: FakeClock, outcome: str
) -> None:
    """A load that was admitted before it opened ends during the probe, and decides nothing."""
    early = admitted(circuit)
    fail(circuit, 3)
    getattr(circuit, outcome)(early)
    assert circuit.state == OPEN
    clock.advance(30)
    admitted(circuit)
    getattr(circuit, outcome)(early)
    assert circuit.state == HALF_OPEN
    wait_of(circuit)


def test_late_failures_do_not_open_it_again(circuit: Circuit, clock: FakeClock) -> None:
    """Loads from before the outage that fail after it are not counted against the new era."""
    early = [admitted(circuit) for _ in range(5)]
    fail(circuit, 3)
    clock.advance(30)
    circuit.succeeded(admitted(circuit))
    for permit in early:
        circuit.failed(permit)
    assert circuit.state == CLOSED


@pytest.mark.parametrize("years", [-10, 10])
def test_the_wall_clock_decides_nothing(
    circuit: Circuit, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    """pybreaker's clock may be set by years while the circuit is open."""
    fail(circuit, 3)

    class Set(dt.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> dt.datetime:
            return dt.datetime.now(tz) + dt.timedelta(days=365 * years)

    monkeypatch.setattr(pybreaker, "datetime", Set)
    wait_of(circuit)
    clock.advance(30)
    fail(circuit)
    assert circuit.state == OPEN
    clock.advance(30)
    circuit.succeeded(admitted(circuit))
    assert circuit.state == CLOSED


def test_a_rate_opens_it(clock: FakeClock) -> None:
    """Half of the calls in the window fail: open, once there are min_calls of them."""
    circuit = circuit_of(clock, fail_max=None, failure_rate=0.5)
    fail(circuit, 3)
    assert circuit.state == CLOSED  # three calls say nothing
    circuit.succeeded(admitted(circuit))
    assert circuit.state == CLOSED  # judged when one fails
    fail(circuit)
    assert circuit.state == OPEN


def test_a_rate_below_the_threshold_does_not(clock: FakeClock) -> None:
    """A third of failures, for long, leaves it closed."""
    circuit = circuit_of(clock, fail_max=None, failure_rate=0.5)
    for _ in range(100):
        circuit.succeeded(admitted(circuit))
        circuit.succeeded(admitted(circuit))
        fail(circuit)
        clock.advance(0.05)
    assert circuit.state == CLOSED


def test_failures_leave_the_window(clock: FakeClock) -> None:
    """What failed longer ago than the window does not count."""
    circuit = circuit_of(clock, fail_max=None, failure_rate=0.5)
    fail(circuit, 3)
    clock.advance(11)
    for _ in range(5):
        circuit.succeeded(admitted(circuit))
    fail(circuit, 3)
    assert circuit.state == CLOSED


def test_the_window_begins_anew_when_it_closes(clock: FakeClock) -> None:
    """Failures from before the outage do not open it again at the first new one."""
    circuit = circuit_of(clock, fail_max=None, failure_rate=0.5, reset_timeout=1.0)
    fail(circuit, 4)
    clock.advance(1)
    circuit.succeeded(admitted(circuit))
    fail(circuit, 3)
    assert circuit.state == CLOSED


def test_both_thresholds_apply(clock: FakeClock) -> None:
    """With a rate and fail_max, failures in a row open it among many successes."""
    circuit = circuit_of(clock, fail_max=3, failure_rate=0.9)
    for _ in range(50):
        circuit.succeeded(admitted(circuit))
    fail(circuit, 3)
    assert circuit.state == OPEN


def test_a_window_counts_like_a_list() -> None:
    """Against a list of all calls: never one that is too old, never without one of nine tenths."""
    window, calls = Window(10.0), []
    for step in range(2000):
        now = step * 0.37 % 7 + step * 0.11
        now = max(now, calls[-1][0]) if calls else now
        calls.append((now, step % 3 == 0))
        window.add(now, failed=step % 3 == 0)
        total, failures = window.counts(now)
        assert (
            sum(at > now - 9 for at, _ in calls) <= total <= sum(at > now - 10 for at, _ in calls)
        )
        assert failures <= sum(failed for at, failed in calls if at > now - 10)


class Model:
    """A breaker in plain words, for one caller at a time: fail_max 3, reset_timeout 30."""

    def __init__(self) -> None:
        self.state, self.row, self.since, self.probe = CLOSED, 0, 0.0, None
        self.era = 0

    def go(self, state: str, now: float) -> None:
        self.state, self.since, self.row, self.probe = state, now, 0, None
        self.era += 1

    def admit(self, now: float) -> int | None:
        if self.state == OPEN and now - self.since >= 30:
            self.go(HALF_OPEN, now)
        if self.state == OPEN:
            return None
        if self.state == HALF_OPEN:
            if self.probe is not None and now - self.probe < 30:
                return None
            self.era += self.probe is not None
            self.probe = now
        return self.era

    def end(self, era: int, how: str, now: float) -> None:
        if era != self.era or self.state == OPEN:
            return
        if how == "gave_up":
            self.probe = None
        elif how == "succeeded":
            self.row = 0
            if self.state == HALF_OPEN:
                self.go(CLOSED, now)
        else:
            self.row += 1
            if self.row == 3 or self.state == HALF_OPEN:
                self.go(OPEN, now)


steps = st.one_of(
    st.tuples(st.just("admit"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([1, 10, 29, 30, 31])),
    st.tuples(st.sampled_from(["succeeded", "failed", "failed", "gave_up"]), st.integers(0, 5)),
)


@given(st.lists(steps, max_size=80))
def test_it_does_what_the_model_does(steps: list[tuple[str, int]]) -> None:
    """Whatever order loads begin and end in, both admit and refuse the same, in the same states."""
    clock, model = FakeClock(), Model()
    circuit, pending = circuit_of(clock), []
    for what, number in steps:
        if what == "wait":
            clock.advance(number)
        elif what == "admit":
            permit, wait = circuit.admit()
            era = model.admit(clock())
            assert (wait > 0) == (era is None)
            if era is not None:
                pending.append((permit, era))
        elif pending:
            permit, era = pending.pop(number % len(pending))
            getattr(circuit, what)(permit)
            model.end(era, what, clock())
        assert circuit.state == model.state


def test_changes_are_told_once_and_outages_logged_twice(
    circuit: Circuit, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody hears of each change; the log has a line for the beginning and one for the end."""

    class Ear:
        def __init__(self) -> None:
            self.heard: list[Change] = []

        def hear(self, change: Change) -> None:
            self.heard.append(change)

    ear = Ear()
    circuit.tell_to(ear)
    fail(circuit, 3)
    circuit.tell()
    for _ in range(2):  # two probes fail
        clock.advance(30)
        fail(circuit)
        circuit.tell()
    clock.advance(30)
    permit = admitted(circuit)
    wait_of(circuit)
    circuit.succeeded(permit)
    circuit.tell()
    circuit.tell()
    states = [change.new for change in ear.heard]
    assert states == [OPEN, HALF_OPEN, OPEN, HALF_OPEN, OPEN, HALF_OPEN, CLOSED]
    assert ear.heard[0] == Change("it", CLOSED, OPEN, 30, 0)
    assert ear.heard[-1] == Change("it", HALF_OPEN, CLOSED, 90, 1)
    assert [record.message for record in caplog.records] == [
        "breaker of it opened; one load tries again in 30 s (3 failures so far)",
        "breaker of it closed after 90.0 s; 1 loads were refused",
    ]


def test_one_thread_of_many_is_the_probe(clock: FakeClock) -> None:
    """Sixteen threads at once, again and again: each half-open circuit admits one."""
    circuit, threads, rounds = circuit_of(clock), 16, 30
    barrier = threading.Barrier(threads)
    permits: list[list[int]] = [[] for _ in range(rounds)]

    def work() -> None:
        for number in range(rounds):
            if barrier.wait() == 0:
                circuit.after_fork()
                fail(circuit, 3)
                clock.advance(30)
            barrier.wait()
            permit, wait = circuit.admit()
            if not wait:
                permits[number].append(permit)
            barrier.wait()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert [len(each) for each in permits] == [1] * rounds


def test_threads_lose_no_count(clock: FakeClock) -> None:
    """A thousand failures of eight threads at once are a thousand."""
    circuit, barrier = circuit_of(clock, fail_max=10**6), threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        fail(circuit, 125)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert circuit.failures == 1000 == circuit._storage.counter


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_begins_closed(circuit: Circuit) -> None:
    """Open, with its lock held by a thread that the child does not have."""
    fail(circuit, 3)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with circuit._lock:
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    pid = os.fork()
    if pid == 0:
        try:
            fail(circuit, 2)
            os._exit(circuit.state != CLOSED)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(status) == 0 and circuit.state == OPEN
