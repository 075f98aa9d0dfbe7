"""Proves, over the history of a round, that no promise was broken; or says which and where.

What is proved, and why the bounds are what they are:

1. **In the process that invalidated**: no read that began after an invalidation of its key (or of
   a tag of it, or a clear) had returned saw a version older than the database had when the
   invalidation began. No bound, and no exception for a store out of reach.
2. **In other processes**: an invalidation counts from its *delivery*: from its return if nothing
   was owed after it, else from when the process that owed it was seen to owe nothing. Its message
   is in the log by then. A process reads the log without pause, so

   - while nothing ails its way to the store (no fault, and neither does its bus say that it is cut
     off nor does it owe), it has applied the message ``UP_SECONDS`` later;
   - whatever ails, by ``blind_ttl`` after its last contact, which is before the delivery or has
     brought the message, it drops its L1 (coherence/bus.py), and what it puts there from then on
     was read or loaded after the delivery. It finds out that it is blind as a read of the log
     fails, which takes up to two timeouts more: of the connection, and of the reply.

   A process can do nothing while it does not run: what it lags is added to either bound.
   Where a replica takes over from its master, what the master had acknowledged last is lost, until
   some process finds it missing from the log, and clears the namespace. So what was delivered about
   that time is promised, in every process, only once all of them had time to find out.
   A process without L1 that shares its reads with nobody has no bound at all: what L2 has served,
   or a load brought, is never older than what was delivered.
3. **Versions never go back** over an invalidation: 1 and 2 hold for each read by itself, against
   the highest of all versions promised for its key before it began.
4. **One load** of a key at a time: two that overlap in time need a reason: what ends leases (an
   invalidation, a load that failed or was given up), or what hinders their being asked for or
   renewed (a fault on the way of one of the two, a debt, a process that did not run).
5. A value is of the key that was asked for.
6. No exception but the database's own reaches a caller.
7. Once all is well, no read that begins ``HEALED_SECONDS`` later is stale (after a failover: once
   all had time to find out). Every process owes nothing then, and leaves neither thread nor socket
   behind after ``close``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from operator import itemgetter

from tests.chaos.history import ALL, Change, Lag, Load, Process, Round

UP_SECONDS = 0.25  # until a message is applied where all is well
SETTLING_SECONDS = 2.5  # after a fault, until a bus and a breaker are back at work
HEALED_SECONDS = 2.0
LOSING_SECONDS = 2.0  # after a failover, until the former master takes no writes any more
JUST_NOW = 0.3  # seconds for which a process's lag excuses what it does
MOST_SAID = 20  # violations of a kind that are told


@dataclass
class Report:
    """What was checked, and what was found."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def say(self, promise: str, what: str) -> None:
        """Note a broken promise."""
        self.counts[f"broken: {promise}"] += 1
        if self.counts[f"broken: {promise}"] <= MOST_SAID:
            self.violations.append(f"{promise}: {what}")

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in sorted(self.counts.items()))


def check(played: Round) -> Report:
    """Check a round against all promises."""
    report = Report()
    ground = _Ground(played)
    for process in played.processes:
        _check_reads(report, ground, process)
        _check_callers(report, process)
        _check_end(report, process, ground.healing_seconds)
    _check_loads(report, ground)
    for fault in played.faults:
        report.counts[f"faults: {fault.kind}"] += 1
    return report


# Reads


def _check_reads(report: Report, ground: _Ground, process: Process) -> None:
    own = _Promises(ground.changes[process.number], at=ground.holds_here_from)
    others = _Promises(
        [
            change
            for number, changes in ground.changes.items()
            for change in changes
            if number != process.number and not change.is_local
        ],
        at=ground.holds_everywhere_from,
    )
    report.counts["reads"] += len(process.reads)
    report.counts["invalidations"] += len(ground.changes[process.number])
    report.counts["invalidations owed at first"] += sum(
        not change.delivered for change in ground.changes[process.number]
    )
    for read in process.reads:
        if read.key != read.value_key:
            report.say("value of another key", f"{process.number} {read}")
        floor, change = own.before(read.key, read.began)
        if change is not None:
            report.counts["reads after an invalidation of their own process"] += 1
        if read.version < floor:
            report.say("stale in the same process", f"{process.number} {read} after {change}")
        bound = ground.bound(process, read.began)
        floor, change = others.before(read.key, read.began - bound)
        if change is not None:
            report.counts["reads after another process's invalidation"] += 1
            report.counts["pairs of reads and invalidations across processes"] += others.count(
                read.key, read.began - bound
            )
        if bound == 0.0:
            report.counts["of them from L2, without any bound"] += change is not None
        elif bound < ground.blind_bound:
            report.counts["of them while the bus was up"] += change is not None
        if read.version < floor:
            late = read.began - ground.deliveries.of(change) if change is not None else inf
            report.say(
                "stale in another process",
                f"{process.number} {read}, {late:.3f} s after the delivery of {change}, "
                f"allowed {bound:.3f} s",
            )


class _Promises:
    """By key: what versions were promised from which moments on."""

    def __init__(self, changes: Iterable[Change], at: Callable[[Change], float]) -> None:
        by_key: dict[str, list[tuple[float, int, Change]]] = defaultdict(list)
        for change in changes:
            moment = at(change)
            for key, version in change.floors.items():
                by_key[key].append((moment, version, change))
        self._moments: dict[str, list[float]] = {}
        self._highest: dict[str, list[tuple[int, Change]]] = {}
        for key, promises in by_key.items():
            promises.sort(key=itemgetter(0))
            self._moments[key] = [moment for moment, _, _ in promises]
            each = [(version, change) for _, version, change in promises]
            self._highest[key] = list(accumulate(each, lambda a, b: max(a, b, key=itemgetter(0))))

    def count(self, key: str, moment: float) -> int:
        """Return how many promises for a key were made before a moment."""
        return bisect_left(self._moments.get(key, ()), moment)

    def before(self, key: str, moment: float) -> tuple[int, Change | None]:
        """Return the highest version promised for a key before a moment, and by what."""
        count = self.count(key, moment)
        return self._highest[key][count - 1] if count else (0, None)


class _Ground:
    """What the promises of a round are judged on."""

    def __init__(self, played: Round) -> None:
        self.played = played
        self.blind_bound = played.blind_ttl + 2 * played.timeout + UP_SECONDS
        self.changes = {each.number: each.changes for each in played.processes}
        self.deliveries = _Deliveries(played.processes)
        self._faults = {
            each.number: _Spans(
                (fault.began, fault.ended + SETTLING_SECONDS)
                for fault in played.faults
                if fault.victim in (each.number, ALL)
            )
            for each in played.processes
        }
        self._losses = _Spans(
            (fault.began - JUST_NOW, fault.ended + LOSING_SECONDS)
            for fault in played.faults
            if fault.loses
        )
        any_loses = any(fault.loses for fault in played.faults)
        self.healing_seconds = LOSING_SECONDS + SETTLING_SECONDS if any_loses else HEALED_SECONDS
        self._debts = {each.number: _Spans(_owing(each)) for each in played.processes}
        unnoticed = played.blind_ttl / 4 + 2 * played.timeout  # that a cut may be, by a bus
        self._cuts = {
            each.number: _Spans((began - unnoticed, ended + JUST_NOW) for began, ended in each.cuts)
            for each in played.processes
        }
        self._lags = {each.number: _Lags(each.lags) for each in played.processes}
        self._lines = _Lags(played.lags)

    def holds_here_from(self, change: Change) -> float:
        """Return from when on the process that made a change is promised it."""
        return max(change.ended, self._lost_until(self.deliveries.of(change)))

    def holds_everywhere_from(self, change: Change) -> float:
        """Return from when on other processes are promised a change, but for the bound."""
        delivered = self.deliveries.of(change)
        return max(delivered, self._lost_until(delivered))

    def _lost_until(self, delivered: float) -> float:
        """Return until when what was delivered at some time may be lost."""
        return self._losses.end_after(delivered) + SETTLING_SECONDS

    def bound(self, process: Process, moment: float) -> float:
        """Return how old news a process must know at a moment, in seconds."""
        if not process.has_l1:
            return 0.0
        lag = self.lag(process.number, moment)
        ailments = (self._faults, self._debts, self._cuts)
        since = moment - UP_SECONDS - lag
        is_up = not any(spans[process.number].meets(since, moment) for spans in ailments)
        return (UP_SECONDS if is_up else self.blind_bound) + lag

    def lag(self, number: int, moment: float) -> float:
        """Return for how long a process, or the lines, had not run just now."""
        return self._lags[number].just_now(moment) + self._lines.just_now(moment)

    def is_hindered(self, number: int, began: float, ended: float) -> bool:
        """Whether a process may not have had its leases in order at some time in a span."""
        return (
            self._faults[number].meets(began, ended)
            or self._debts[number].meets(began, ended)
            or self._lags[number].just_now(ended, ended - began) > 1.0
        )


class _Deliveries:
    """When each change was delivered."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._at: dict[int, float] = {}  # by identity: a change holds a dict
        for process in processes:
            settled = [debt.at for debt in process.debts if not debt.owes]
            for change in process.changes:
                at = change.ended
                if not change.delivered:
                    place = bisect_right(settled, change.ended)
                    at = settled[place] if place < len(settled) else inf
                self._at[id(change)] = at

    def of(self, change: Change) -> float:
        """Return the moment; infinity for never."""
        return self._at[id(change)]


class _Spans:
    """Spans of time."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        ordered = sorted(spans)
        self._begins = [begin for begin, _ in ordered]
        self._ends = list(accumulate((end for _, end in ordered), max))

    def end_after(self, moment: float) -> float:
        """Return the end of those that a moment is in; minus infinity for none."""
        place = bisect_right(self._begins, moment)
        end = self._ends[place - 1] if place else -inf
        return end if end >= moment else -inf

    def meets(self, began: float, ended: float) -> bool:
        """Whether one of them has a moment in common with another span."""
        place = bisect_right(self._begins, ended)
        return place > 0 and self._ends[place - 1] >= began


class _Lags:
    def __init__(self, lags: Sequence[Lag]) -> None:
        self._lags = sorted(lags)
        self._at = [lag.at for lag in self._lags]

    def just_now(self, moment: float, before: float = JUST_NOW) -> float:
        """Return the longest lag that ended about a moment, or in some time before."""
        first = bisect_left(self._at, moment - before)
        last = bisect_right(self._at, moment + JUST_NOW)
        return max((lag.seconds for lag in self._lags[first:last]), default=0.0)


def _owing(process: Process) -> list[tuple[float, float]]:
    """Return when a process owed something, and for a while after: others went without L2."""
    spans, since = [], inf
    for debt in process.debts:
        if debt.owes:
            since = debt.at
        elif since < inf:
            spans.append((since - JUST_NOW, debt.at + JUST_NOW))
            since = inf
    spans += [(lapse - JUST_NOW, lapse + JUST_NOW) for lapse in process.lapses]
    return [*spans, (since, inf)] if since < inf else spans


# Loads


def _check_loads(report: Report, ground: _Ground) -> None:
    processes = ground.played.processes
    loads: dict[str, list[tuple[Load, int]]] = defaultdict(list)
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)  # what ends leases, by key
    for process in processes:
        report.counts["loads"] += len(process.loads)
        for load in process.loads:
            loads[load.key].append((load, process.number))
            if not load.succeeded:
                ends[load.key].append((load.began, load.ended))
        for change in process.changes:
            for key in change.floors:
                ends[key].append((change.began, ground.deliveries.of(change)))
    for key, of_key in loads.items():
        spans = _Spans(ends[key])
        of_key.sort(key=itemgetter(0))
        of_key.sort(key=lambda each: each[0].began)
        _check_overlaps(report, ground, spans, of_key)


def _check_overlaps(
    report: Report, ground: _Ground, ends: _Spans, loads: Sequence[tuple[Load, int]]
) -> None:
    """Check the loads of one key, in order of their beginning."""
    for place, (later, number) in enumerate(loads):
        report.counts["loads checked for company"] += 1
        for earlier, other in loads[max(0, place - 20) : place]:
            if earlier.ended <= later.began:
                continue
            report.counts["loads that overlapped, with a reason"] += 1
            began = earlier.began - JUST_NOW
            if ends.meets(began, later.began):
                continue
            if ground.is_hindered(number, began, later.began):
                continue
            if ground.is_hindered(other, began, later.began):
                continue
            report.counts["loads that overlapped, with a reason"] -= 1
            report.say("two loads at once", f"{other} {earlier} and {number} {later}")


# Callers, and the end


def _check_callers(report: Report, process: Process) -> None:
    for trouble in process.troubles:
        report.say("trouble reached a caller", f"{process.number} {trouble}")
    for name, count in process.stats.items():
        report.counts[f"counted {name}"] += count


def _check_end(report: Report, process: Process, seconds: float) -> None:
    if process.converged > seconds:
        report.say("not converged", f"{process.number} took {process.converged:.2f} s")
    for left in process.left_behind:
        report.say("left behind", f"{process.number}: {left}")
