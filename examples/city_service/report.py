"""The table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from examples.city_service.bulletin import Place, lateness
from examples.city_service.tally import Tally
from examples.city_service.worker import BLIND_TTL, Outcome, Plan
from tiercache import Stats

Row = tuple[str, int | str]


def print_report(
    console: Console, without: Sequence[Outcome], cached: Sequence[Outcome], plan: Plan
) -> int:
    """Print both phases beside each other, and what only the cache has; 1: a promise was broken."""
    table = Table(title="four processes together", title_justify="left")
    table.add_column("")
    table.add_column("without the cache", justify="right")
    table.add_column("with it", justify="right")
    for name, value in _COMPARED.items():
        table.add_row(name, value(without), value(cached))
    promises = _promises(cached)
    for rows in (_share_rows(cached), _load_rows(cached), _age_rows(cached), promises.items()):
        table.add_section()
        for name, number in rows:
            table.add_row(name, "", f"{number:,}" if isinstance(number, int) else number)
    console.print(table)
    console.print(f"L2 is {'Redis' if plan.redis else 'a SQLite file'}. Both tiers began empty.")
    broken = [name for name, number in promises.items() if number]
    for name in broken:
        console.print(f"[red]{name}: this must not happen[/]", highlight=False)
    return 1 if broken else 0


def _total(outcomes: Sequence[Outcome]) -> Tally:
    total = Tally()
    for outcome in outcomes:
        total.add(outcome.tally)
    return total


def _per_second(outcomes: Sequence[Outcome], count: Callable[[Outcome], int]) -> str:
    return f"{sum(count(outcome) / outcome.seconds for outcome in outcomes):,.0f}"


def _queries_per_1000(outcomes: Sequence[Outcome]) -> str:
    queries = sum(outcome.queries for outcome in outcomes)
    return f"{1000 * queries / max(1, _total(outcomes).reads):,.1f}"


def _latency(outcomes: Sequence[Outcome], share: float) -> str:
    seconds = _total(outcomes).percentile(share)
    if seconds < 1e-3:
        return f"{seconds * 1e6:,.1f} µs"
    return _milliseconds(seconds)


_COMPARED: dict[str, Callable[[Sequence[Outcome]], str]] = {
    "reads": lambda outcomes: f"{_total(outcomes).reads:,}",
    "reads per second": lambda outcomes: _per_second(outcomes, lambda each: each.tally.reads),
    "latency of a read, p50": lambda outcomes: _latency(outcomes, 0.50),
    "latency of a read, p99": lambda outcomes: _latency(outcomes, 0.99),
    "database queries per second": lambda outcomes: _per_second(outcomes, lambda o: o.queries),
    "database queries per 1,000 reads": _queries_per_1000,
    "updates": lambda outcomes: f"{_total(outcomes).updates:,}",
}


def _share_rows(cached: Sequence[Outcome]) -> list[Row]:
    def total(count: Callable[[Stats], int]) -> int:
        return sum(count(outcome.stats) for outcome in cached if outcome.stats is not None)

    l1, l2 = total(lambda stats: stats.hits_l1), total(lambda stats: stats.hits_l2)
    misses, joined = total(lambda stats: stats.misses), total(lambda stats: stats.joined)
    calls = max(1, l1 + l2 + misses)
    return [
        ("answered by L1, the process's memory", f"{l1 / calls:.1%}"),
        ("answered by L2, shared", f"{l2 / calls:.1%}"),
        ("answered by the database", f"{misses / calls:.1%}"),
        ("loads saved by single flight", joined),
        ("failures of L2", total(lambda stats: stats.store_errors)),
    ]


def _load_rows(cached: Sequence[Outcome]) -> list[Row]:
    """Count what the cluster loaded of pages that nobody updated: each once, if all goes well."""
    pages: Counter[Place] = sum((outcome.pages for outcome in cached), Counter())
    updated = {each.place for each in _total(cached).announced}
    cold = [loads for place, loads in pages.items() if place not in updated]
    return [
        ("pages asked for and never updated", len(cold)),
        ("loads of these, in all four processes", sum(cold)),
        ("most loads of one of them", max(cold, default=0)),
    ]


def _age_rows(cached: Sequence[Outcome]) -> list[Row]:
    """Say for how long a process goes on serving what another has updated."""
    total = _total(cached)
    late = sorted(lateness(total.older, total.announced))
    return [
        ("reads of what the same process had updated", total.checked),
        ("reads of what another process had updated", total.checked_elsewhere),
        ("of these older, the message being under way", len(late)),
        ("for how long: p50", _milliseconds(late[len(late) // 2]) if late else ""),
        ("for how long: at most", _milliseconds(late[-1]) if late else ""),
    ]


def _promises(cached: Sequence[Outcome]) -> dict[str, int]:
    """Count what must not happen."""
    total = _total(cached)
    late = lateness(total.older, total.announced)
    return {
        "older than an update of the same process": total.stale,
        f"older, {BLIND_TTL:g} s after another's": sum(each > BLIND_TTL for each in late),
    }


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"
