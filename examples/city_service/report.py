"""What is printed, and what is written for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.city_service.fleet import Fleet
from examples.city_service.stage import Told


def print_told(console: Console, told: Told) -> None:
    """Print what an act has to tell."""
    bullets = Table.grid(padding=(0, 1))
    for line in told.lines:
        bullets.add_row("  •", escape(line))
    console.print(bullets, highlight=True)
    for title, tree in told.traces:
        console.print(f"\n  [bold]{escape(title)}[/]")
        for line in tree:
            console.print(f"    {escape(line)}", highlight=False, no_wrap=True, overflow="ellipsis")
    if told.table:
        console.print(_table(told))


def print_log(console: Console, fleet: Fleet) -> None:
    """Print what the caches have logged since."""
    for line in fleet.log:
        console.print(f"    [dim]log of {escape(line)}[/]", highlight=False)
    fleet.log.clear()


def _table(told: Told) -> Table:
    table = Table(box=None, pad_edge=True, padding=(0, 2))
    table.add_column("")
    table.add_column("without the cache", justify="right")
    table.add_column("with it", justify="right")
    for row in told.table:
        table.add_row(*row)
    return table


def print_end(console: Console, told: Mapping[str, Told]) -> int:
    """Say whether all promises were kept; return 1 if one was broken."""
    broken = list(_broken(told))
    for promise in broken:
        console.print(f"[red]broken:[/] {escape(promise)}", highlight=False)
    if not broken:
        kept = sum(len(each.promises) for each in told.values())
        console.print(f"[green]All {kept} promises that were checked were kept.[/]")
    return 1 if broken else 0


def _broken(told: Mapping[str, Told]) -> Iterator[str]:
    for name, each in told.items():
        for promise, is_kept in each.promises.items():
            if not is_kept:
                yield f"{name}: {promise}"


def write_json(path: Path, told: Mapping[str, Told]) -> None:
    """Write facts and promises of all acts."""
    data = {
        name: {"facts": dict(each.facts), "promises": dict(each.promises)}
        for name, each in told.items()
    }
    path.write_text(json.dumps(data, indent=2))
