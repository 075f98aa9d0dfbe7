"""The comparison, as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from examples.strategies.meter import READER, WRITER
from examples.strategies.play import Tally

_Row = tuple[str, Callable[[Tally], str]]


def print_report(console: Console, tallies: Sequence[Tally]) -> None:
    """Print what was seen, one column for each strategy."""
    table = Table(title="two places, one table, the same reads and writes", title_justify="left")
    table.add_column("")
    for tally in tallies:
        table.add_column(tally.name, justify="right")
    for section in _SECTIONS:
        for name, show in section:
            table.add_row(name, *map(show, tallies))
        table.add_section()
    console.print(table)


def _asked(what: str, *who: str) -> Callable[[Tally], str]:
    return lambda tally: f"{tally.meter.of(what, *who):,}"


def _each(what: str, who: str) -> Callable[[Tally], str]:
    """Return what shows how many round trips a caller waits for, on average."""

    def show(tally: Tally) -> str:
        calls = len(tally.reads if who == READER else tally.writes)
        return f"{tally.meter.of(what, who) / max(1, calls):.2f}"

    return show


def _typical(times: Sequence[float]) -> str:
    return f"{median(times) * 1e6:,.0f} µs" if times else ""


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds > 0 else "0"


_SECTIONS: tuple[tuple[_Row, ...], ...] = (
    (
        ("reads", lambda tally: f"{len(tally.reads):,}"),
        ("that waited for the database", lambda tally: f"{tally.waited:,}"),
        ("round trips to L2, each", _each("round trips to L2", READER)),
        ("half take less than", lambda tally: _typical(tally.reads)),
    ),
    (
        ("older than a write of the same place", lambda tally: f"{tally.older_here:,}"),
        ("older than one of the other place", lambda tally: f"{tally.older_elsewhere:,}"),
        ("older for, at most", lambda tally: _milliseconds(tally.oldest)),
        ("newer than the database", lambda tally: f"{tally.ahead:,}"),
    ),
    (
        ("writes", lambda tally: f"{len(tally.writes):,}"),
        ("round trips to the database, each", _each("round trips to the database", WRITER)),
        ("round trips to L2, each", _each("round trips to L2", WRITER)),
        ("half take less than", lambda tally: _typical(tally.writes)),
    ),
    (
        ("database: reads", _asked("database reads")),
        ("database: writing transactions", _asked("transactions")),
        ("database: rows written", _asked("rows written")),
        ("database: behind for, at most", lambda tally: _milliseconds(tally.behind)),
        ("in the end it has every last write", lambda tally: "yes" if tally.is_right else "NO"),
    ),
)
