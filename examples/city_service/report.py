"""The table at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from examples.city_service.tally import Tally
from examples.city_service.worker import TTL, Outcome, Plan
from tiercache import Stats


def print_report(
    console: Console, without: Sequence[Outcome], cached: Sequence[Outcome], plan: Plan
) -> None:
    """Print both phases beside each other, and what only the cache has."""
    table = Table(title="four processes together", title_justify="left")
    table.add_column("")
    table.add_column("without the cache", justify="right")
    table.add_column("with it", justify="right")
    for name, value in _COMPARED.items():
        table.add_row(name, value(without), value(cached))
    table.add_section()
    for name, number in _share_rows(cached):
        table.add_row(name, "", number)
    table.add_section()
    for name, number in _stale_rows(cached):
        table.add_row(name, "", number)
    console.print(table)
    _print_notes(console, cached, plan)


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
    return f"{seconds * 1e3:,.1f} ms"


_COMPARED: dict[str, Callable[[Sequence[Outcome]], str]] = {
    "reads": lambda outcomes: f"{_total(outcomes).reads:,}",
    "reads per second": lambda outcomes: _per_second(outcomes, lambda each: each.tally.reads),
    "latency of a read, p50": lambda outcomes: _latency(outcomes, 0.50),
    "latency of a read, p99": lambda outcomes: _latency(outcomes, 0.99),
    "database queries per second": lambda outcomes: _per_second(outcomes, lambda o: o.queries),
    "database queries per 1,000 reads": _queries_per_1000,
    "updates": lambda outcomes: f"{_total(outcomes).updates:,}",
}


def _share_rows(cached: Sequence[Outcome]) -> list[tuple[str, str]]:
    def total(count: Callable[[Stats], int]) -> int:
        return sum(count(outcome.stats) for outcome in cached if outcome.stats is not None)

    l1, l2 = total(lambda stats: stats.hits_l1), total(lambda stats: stats.hits_l2)
    misses, joined = total(lambda stats: stats.misses), total(lambda stats: stats.joined)
    calls = max(1, l1 + l2 + misses)
    return [
        ("answered by L1, the process's memory", f"{l1 / calls:.1%}"),
        ("answered by L2, shared", f"{l2 / calls:.1%}"),
        ("answered by the database", f"{misses / calls:.1%}"),
        ("loads saved by single flight", f"{joined:,}"),
        ("failures of L2", f"{total(lambda stats: stats.store_errors):,}"),
    ]


def _stale_rows(cached: Sequence[Outcome]) -> list[tuple[str, str]]:
    total = _total(cached)
    return [
        ("reads of what the same process had updated", f"{total.checked:,}"),
        ("of these stale", f"{total.stale:,}"),
        ("of these put back by another process's load", f"{total.put_back:,}"),
    ]


def _print_notes(console: Console, cached: Sequence[Outcome], plan: Plan) -> None:
    l2 = "Redis" if plan.redis else "a SQLite file"
    for line in (
        f"L2 is {l2}. Both tiers began empty. Each read of what the same process",
        "had updated was checked. Of other processes nothing is promised yet: no message",
        f"goes between them, so their L1 may serve its copy for up to its ttl of {TTL:g} s,",
        "and a load under way there may put an old value back in L2.",
    ):
        console.print(line, highlight=False)
    stale = _total(cached).stale
    if stale:
        console.print(f"[red]{stale} stale reads: this must not happen[/]")
