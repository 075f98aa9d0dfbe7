"""The checker of chaos: what it lets pass, and what it does not; on histories made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import pytest

from tests.chaos.checker import LOSING_SECONDS, SETTLING_SECONDS, UP_SECONDS, check
from tests.chaos.history import ALL, Change, Debt, Fault, Lag, Load, Process, Read, Round

BLIND = 1.0  # blind_ttl
BLIND_BOUND = BLIND + 2 * 0.2 + UP_SECONDS


def read(version: int, at: float, key: str = "k", of: str = "k") -> Read:
    """Return a read that began at some time."""
    return Read(key, of, version, at, at + 0.001, "call")


def change(version: int, at: float, *, delivered: bool = True, how: str = "delete") -> Change:
    """Return an invalidation of k that has returned at some time."""
    return Change(how, {"k": version}, at - 0.01, at, delivered, how == "refresh")


def broken(*processes: Process, faults: Sequence[Fault] = (), lags: Sequence[Lag] = ()) -> set[str]:
    """Return the promises that a history breaks."""
    played = Round(0, list(processes), list(faults), BLIND, 0.2, list(lags))
    return {violation.partition(":")[0] for violation in check(played).violations}


@pytest.mark.parametrize("delivered", [True, False])
def test_same_process_has_no_bound(delivered: bool) -> None:
    """After an invalidation has returned, owed or not, its process sees nothing older."""
    changes = [change(2, 10.0, delivered=delivered)]
    early = Process(0, reads=[read(1, 9.999), read(2, 10.001)], changes=changes)
    late = Process(0, reads=[read(1, 10.001)], changes=changes)
    assert not broken(early)
    assert broken(late) == {"stale in the same process"}


def test_highest_version_counts() -> None:
    """An invalidation that knew less takes nothing back of what one before has promised."""
    changes = [change(5, 10.0), change(3, 11.0)]
    assert broken(Process(0, reads=[read(4, 12.0)], changes=changes))
    assert not broken(Process(0, reads=[read(5, 12.0)], changes=changes))


def test_other_process_while_the_bus_is_up() -> None:
    """Where nothing ails its way to the store, a process knows within the bound."""
    writer = Process(0, changes=[change(2, 10.0)])
    assert not broken(writer, Process(1, reads=[read(1, 10.0 + UP_SECONDS - 0.01)]))
    stale = Process(1, reads=[read(1, 10.0 + UP_SECONDS + 0.01)])
    assert broken(writer, stale) == {"stale in another process"}


def test_other_process_while_its_line_is_down() -> None:
    """Whatever ails it, a process knows once it has been blind; another's fault is no excuse."""
    writer = Process(0, changes=[change(2, 10.0)])
    reader = Process(1, reads=[read(1, 11.0)])
    assert not broken(writer, reader, faults=[Fault("line down", 1, 9.0, 12.0)])
    assert not broken(writer, reader, faults=[Fault("line cut", 1, 9.0, 9.0)])
    assert not broken(writer, reader, faults=[Fault("killed", ALL, 10.9, 12.0)])
    assert broken(writer, reader, faults=[Fault("line down", 0, 9.0, 12.0)])
    assert broken(writer, reader, faults=[Fault("line cut", 1, 5.0, 10.5 - SETTLING_SECONDS)])
    late = Process(1, reads=[read(1, 10.01 + BLIND_BOUND)])
    assert broken(writer, late, faults=[Fault("line down", 1, 9.0, 20.0)])


def test_other_process_whose_bus_is_not_up() -> None:
    """A process that says it is cut off, or owes, has the longer bound, whatever the reason."""
    writer = Process(0, changes=[change(2, 10.0)])
    stale = [read(1, 11.0)]
    assert broken(writer, Process(1, reads=stale))
    assert not broken(writer, Process(1, reads=stale, cuts=[(10.9, 12.0)]))
    assert not broken(writer, Process(1, reads=stale, debts=[Debt(10.9, True), Debt(10.95, False)]))
    late = [read(1, 10.01 + BLIND_BOUND)]
    assert broken(writer, Process(1, reads=late, cuts=[(9.0, 20.0)]))


def test_owed_invalidations_count_from_their_delivery() -> None:
    """What is owed binds other processes once nothing is owed any more."""
    owed = [change(2, 10.0, delivered=False)]
    writer = Process(0, changes=owed, debts=[Debt(9.9, True), Debt(15.0, False)])
    assert not broken(writer, Process(1, reads=[read(1, 14.0)]))
    assert broken(writer, Process(1, reads=[read(1, 16.0)]))
    assert not broken(Process(0, changes=owed), Process(1, reads=[read(1, 99.0)]))


def test_without_l1_there_is_no_bound() -> None:
    """L2 serves nothing older than what was delivered, faults or not."""
    writer = Process(0, changes=[change(2, 10.0)])
    reader = Process(1, has_l1=False, reads=[read(1, 10.001)])
    assert broken(writer, reader, faults=[Fault("line cut", 1, 10.0, 10.0)])
    owed = Process(0, changes=[change(2, 10.0, delivered=False)])
    assert not broken(owed, reader)


def test_refresh_binds_its_own_process() -> None:
    """Of a refresh other processes are promised nothing."""
    changes = [change(2, 10.0, how="refresh")]
    assert broken(Process(0, reads=[read(1, 11.0)], changes=changes))
    assert not broken(Process(0, changes=changes), Process(1, reads=[read(1, 20.0)]))


def test_failover_loses_what_was_acknowledged_last() -> None:
    """What was delivered about the time of a failover is promised once it can be missed."""
    lost = Fault("failed over", ALL, 9.5, 10.5, loses=True)
    changes, found_out = [change(2, 10.0)], 10.5 + LOSING_SECONDS + SETTLING_SECONDS
    early = Process(0, reads=[read(1, found_out - 0.1)], changes=changes)
    assert broken(early)
    assert not broken(early, faults=[lost])
    assert broken(Process(0, reads=[read(1, found_out + 0.1)], changes=changes), faults=[lost])
    other = Process(1, reads=[read(1, found_out - 0.1)])
    assert not broken(Process(0, changes=changes), other, faults=[lost])
    assert broken(Process(0, reads=[read(1, 21.0)], changes=[change(2, 20.0)]), faults=[lost])


def test_convergence_after_a_failover() -> None:
    """Stale reads may go on for longer where something was lost, and not for ever."""
    lost = Fault("failed over", ALL, 9.5, 10.5, loses=True)
    assert broken(Process(0, converged=3.0))
    assert not broken(Process(0, converged=3.0), faults=[lost])
    assert broken(Process(0, converged=inf), faults=[lost])


@pytest.mark.parametrize("whose", ["reader", "lines"])
def test_time_without_running_does_not_count(whose: str) -> None:
    """A process that did not run could not know."""
    lags = [Lag(10.9, 0.8)]
    writer = Process(0, changes=[change(2, 10.0)])
    reader = Process(1, reads=[read(1, 11.0)], lags=lags if whose == "reader" else [])
    assert not broken(writer, reader, lags=lags if whose == "lines" else [])
    later = Process(1, reads=[read(1, 12.0)], lags=lags)
    assert broken(writer, later)


def load(process: int, began: float, ended: float, *, succeeded: bool = True) -> Process:
    """Return a process with one load of k."""
    return Process(process, loads=[Load("k", began, ended, succeeded)])


def test_two_loads_at_once() -> None:
    """Loads of a key that overlap without a reason are told; one after the other they are fine."""
    assert broken(load(0, 10.0, 10.2), load(1, 10.1, 10.3)) == {"two loads at once"}
    assert not broken(load(0, 10.0, 10.1), load(1, 10.1, 10.3))
    same = Process(0, loads=[Load("k", 10.0, 10.2, True), Load("k", 10.1, 10.3, True)])
    assert broken(same) == {"two loads at once"}


def test_reasons_for_two_loads() -> None:
    """An invalidation, a failure, a fault, a debt, or a process that did not run is a reason."""
    first, second = load(0, 10.0, 10.2), load(1, 10.1, 10.3)
    assert not broken(first, second, Process(2, changes=[change(1, 10.05)]))
    assert broken(first, second, Process(2, changes=[change(1, 9.0)]))
    assert broken(first, second, Process(2, changes=[change(1, 10.25)]))
    assert not broken(load(0, 10.0, 10.2, succeeded=False), second)
    assert not broken(first, second, faults=[Fault("line cut", 1, 9.0, 9.0)])
    assert broken(first, second, faults=[Fault("line cut", 2, 9.0, 9.0)])
    first.debts = [Debt(10.05, True), Debt(10.06, False)]
    assert not broken(first, second)
    first.debts, second.lags = [], [Lag(10.1, 3.5)]
    assert not broken(first, second)


def test_value_of_another_key() -> None:
    """A value is of the key that was asked for."""
    assert broken(Process(0, reads=[read(9, 1.0, of="another")])) == {"value of another key"}


def test_trouble_and_the_end() -> None:
    """What reached a caller, did not converge, or was left behind is told."""
    assert broken(Process(0, troubles=["StoreError"])) == {"trouble reached a caller"}
    assert broken(Process(0, converged=inf)) == {"not converged"}
    assert broken(Process(0, left_behind=["a socket"])) == {"left behind"}


def test_counts() -> None:
    """The report says how much was checked."""
    writer = Process(0, changes=[change(2, 10.0), change(3, 10.1)])
    reader = Process(1, reads=[read(3, 11.0), read(3, 12.0)])
    counts = check(Round(0, [writer, reader], [], BLIND, 0.2)).counts
    assert counts["reads"] == 2
    assert counts["invalidations"] == 2
    assert counts["pairs of reads and invalidations across processes"] == 4
