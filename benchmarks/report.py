"""What is left of a run: a table in the terminal, and JSON, of which ``charts`` makes charts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Finding, Measured, Row, python_tag

RESULTS = Path(__file__).parent / "results"
OURS = "tiercache"
CONSOLE = Console(width=None if Console().is_terminal else 110)


def publish(
    name: str, made: Mapping[str, Any], rows: Sequence[Row], findings: Sequence[Finding] = ()
) -> None:
    """Print the rows; write ``results/<name>-<python>.json`` with them and the findings."""
    print_table(f"{name} on {made['python']}, {made['cpu']}", rows)
    print_features(made)
    more = {"findings": [asdict(finding) for finding in findings]} if findings else {}
    path = write_result(name, made, rows=[asdict(row) for row in rows], **more)
    print(f"written: benchmarks/results/{path.name}")


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


def met_goals(result: Mapping[str, Any]) -> int:
    """Count the goals that a result's JSON has and that it met."""
    return sum(is_met for _, is_met in _goals(result))


def missed_goals(result: Mapping[str, Any]) -> list[str]:
    """Describe each goal that a result's JSON missed."""
    return [said for said, is_met in _goals(result) if not is_met]


def _goals(result: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for described in result.get("rows", ()):
        if "subjects" not in described:  # round_trips has rows of its own
            continue
        row = row_of(described)
        if row.goal is not None and OURS in row.subjects:
            sign = ">=" if row.higher_is_better else "<="
            ratio = row.subjects[OURS].ratio
            yield f"{row.question}: {ratio:.2f}x, {sign} {row.goal:.3g}x", row.reached(OURS)
    for described in result.get("findings", ()):
        one = Finding(**described)
        if one.goal is not None:
            said = f"{one.about}, {one.what}: {_number(one.value)} {one.unit}, <= {one.goal:g}"
            yield said, one.is_reached


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
    for name, measured in ranked(row):
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


def ranked(row: Row) -> list[tuple[str, Measured]]:
    """Return the subjects of a row, best first."""
    return sorted(
        row.subjects.items(), key=lambda item: item[1].ratio, reverse=row.higher_is_better
    )


def row_of(described: Mapping[str, Any]) -> Row:
    """Return the row that a result's JSON describes."""
    subjects = {
        name: Measured(**(each | {"spread": tuple(each["spread"])}))
        for name, each in described["subjects"].items()
    }
    return Row(**(dict(described) | {"subjects": subjects}))


def put_between_marks(document: Path, name: str, lines: Sequence[str]) -> None:
    """Replace the lines between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text("\n".join([f"{before}{begin}", *lines, f"{end}{after}"]))
