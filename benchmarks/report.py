"""What is left of a run: a table in the terminal, JSON, and mostly a chart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Finding, Measured, Row, python_tag

RESULTS = Path(__file__).parent / "results"
OURS = "tiercache"
CONSOLE = Console(width=None if Console().is_terminal else 110)
OURS_COLOUR, THEIRS_COLOUR, GOAL_COLOUR = "#1a6faf", "#b8bec4", "#c0392b"


def publish(name: str, made: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Print the rows and write ``results/<name>-<python>.json`` and ``.svg``."""
    print_table(f"{name} on {made['python']}, {made['cpu']}", rows)
    print_features(made)
    path = write_result(name, made, rows=[asdict(row) for row in rows])
    draw_chart(path.with_suffix(".svg"), f"{name}, {made['python']}", rows)
    print(f"written: benchmarks/results/{path.name} and .svg")


def publish_findings(
    name: str, made: Mapping[str, Any], findings: Sequence[Finding], **more: Any
) -> Path:
    """Print the findings; write ``results/<name>-<python>.json`` with them and whatever else."""
    print_findings(f"{name} on {made['python']}, {made['cpu']}", findings)
    path = write_result(name, made, findings=[asdict(finding) for finding in findings], **more)
    print(f"written: benchmarks/results/{path.name}")
    return path


def write_result(name: str, made: Mapping[str, Any], **parts: Any) -> Path:
    """Write ``results/<name>-<python>.json``: the circumstances, and what was found."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{python_tag()}.json"
    result = {"benchmark": name, "made": dict(made), **parts}
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def print_findings(title: str, findings: Sequence[Finding]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("what")
    for heading in ("value", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    about = ""
    for finding in findings:
        if finding.about != about:
            about = finding.about
            table.add_section()
            table.add_row(f"[bold]{about}[/]")
        verdict = "[green]met[/]" if finding.is_reached else "[red]missed[/]"
        goal = "" if finding.goal is None else f"<= {finding.goal:g} {verdict}"
        table.add_row(f"  {finding.what}", f"{_number(finding.value)} {finding.unit}", goal)
    CONSOLE.print(table)


def print_table(title: str, rows: Sequence[Row]) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("what, library")
    for heading in ("median", "middle half", "ratio", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        _add_row(table, row)
    CONSOLE.print(table)


def print_features(made: Mapping[str, Any]) -> None:
    """Say what each library does beside caching, so that like is compared with like."""
    for name, features in made.get("features", {}).items():
        version = made["versions"][name]
        CONSOLE.print(f"  {name} {version}: {', '.join(features)}", highlight=False)


def _add_row(table: Table, row: Row) -> None:
    """Add one question and its subjects, best first."""
    table.add_row(f"[bold]{row.question}[/]\n[dim]{row.unit}; {row.baseline} = 1[/]")
    for name, measured in _ranked(row):
        table.add_row(
            f"  [bold]{name}[/]" if name == OURS else f"  {name}",
            _number(measured.value),
            f"{_number(measured.spread[0])} to {_number(measured.spread[1])}",
            f"{measured.ratio:.2f}x",
            _goal(row) if name == OURS else "",
        )
    table.add_section()


def _number(value: float) -> str:
    """Format to three or more digits, never in powers of ten."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    sign = ">=" if row.higher_is_better else "<="
    verdict = "[green]met[/]" if row.reached(OURS) else "[red]missed[/]"
    return f"{sign} {row.goal:.3g}x {verdict}"


def _ranked(row: Row) -> list[tuple[str, Measured]]:
    return sorted(
        row.subjects.items(), key=lambda item: item[1].ratio, reverse=row.higher_is_better
    )


def draw_chart(path: Path, title: str, rows: Sequence[Row]) -> None:
    """Draw one panel per question: bars of ratios on a logarithmic axis, a line at the goal."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tiercache"  # the same numbers give the same file
    columns = 2
    lines = -(-len(rows) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(12, 2.9 * lines), squeeze=False)
    for panel in panels.flat[len(rows) :]:
        panel.remove()
    for panel, row in zip(panels.flat, rows, strict=False):
        _draw_panel(panel, row)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_panel(panel: Any, row: Row) -> None:
    ranked = _ranked(row)[::-1]
    ratios = [measured.ratio for _, measured in ranked]
    low = [measured.ratio - measured.ratio_spread[0] for _, measured in ranked]
    high = [measured.ratio_spread[1] - measured.ratio for _, measured in ranked]
    colours = [OURS_COLOUR if name == OURS else THEIRS_COLOUR for name, _ in ranked]
    bars = panel.barh([name for name, _ in ranked], ratios, color=colours)
    panel.errorbar(
        ratios, range(len(ranked)), xerr=(low, high), fmt="none", ecolor="#444444", elinewidth=0.8
    )
    panel.bar_label(bars, fmt=" %.2f", fontsize=8, padding=4)
    if max(ratios) > 5 * min(ratios):
        panel.set_xscale("log")
    panel.margins(x=0.15)
    if row.goal is not None:
        panel.axvline(row.goal, color=GOAL_COLOUR, linewidth=1, linestyle="--")
    panel.set_title(row.question, fontsize=9)
    panel.set_xlabel(f"ratio of {row.unit}; {row.baseline} = 1", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def put_between_marks(document: Path, name: str, lines: Sequence[str]) -> None:
    """Replace the lines between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text("\n".join([f"{before}{begin}", *lines, f"{end}{after}"]))
