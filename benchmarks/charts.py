"""Draw every result as a chart: ``results/<benchmark>-<python>.json`` as ``.svg`` beside it.

Charts are made of what the JSON holds and of nothing else, so the two cannot disagree, and
measuring does not wait for drawing. A row is a panel: bars of ratios, on a logarithmic axis where
they are far apart, with their middle halves, ours in blue, a dashed line at the goal. Findings are
bars in their share of the goal, since they have different units; those without a goal stay in the
JSON and in the table.

Run as ``python -m benchmarks.charts``; names of benchmarks as arguments draw those alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import outage_chart
from benchmarks.measure import Row
from benchmarks.report import OURS, RESULTS, ranked, row_of

OURS_COLOUR, THEIRS_COLOUR, GOAL_COLOUR = "#1a6faf", "#b8bec4", "#c0392b"
MET_COLOUR, MISSED_COLOUR = "#1a6faf", "#d98c3f"

Result = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of benchmarks; all, unless told")
    names = parser.parse_args().names
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if not names or result.get("benchmark") in names:
            draw = _drawer(result)
            if draw:
                draw(path.with_suffix(".svg"), result)
                print(f"drawn: {path.with_suffix('.svg').name}")


def _drawer(result: Result) -> Callable[[Path, Result], None] | None:
    """Choose by what there is to draw; adaptive_ttl, which is about curves, draws itself."""
    if "series" in result:
        return outage_chart.draw_result
    if "distances" in result:
        return draw_hit_ratios
    if any("subjects" in row for row in result.get("rows", ())):
        return draw_rows
    if any(finding["goal"] for finding in result.get("findings", ())):
        return draw_findings
    return None


def draw_rows(path: Path, result: Result) -> None:
    """Draw one panel per question."""
    rows = [row_of(described) for described in result["rows"]]
    columns = min(2, len(rows))
    lines = -(-len(rows) // columns)
    plt = _pyplot()
    figure, panels = plt.subplots(lines, columns, figsize=(6 * columns, 2.9 * lines), squeeze=False)
    for panel in panels.flat[len(rows) :]:
        panel.remove()
    for panel, row in zip(panels.flat, rows, strict=False):
        _draw_row(panel, row)
    _save(figure, path, result)


def _draw_row(panel: Any, row: Row) -> None:
    bars_of = ranked(row)[::-1]
    ratios = [measured.ratio for _, measured in bars_of]
    low = [measured.ratio - measured.ratio_spread[0] for _, measured in bars_of]
    high = [measured.ratio_spread[1] - measured.ratio for _, measured in bars_of]
    colours = [OURS_COLOUR if name == OURS else THEIRS_COLOUR for name, _ in bars_of]
    bars = panel.barh([name for name, _ in bars_of], ratios, color=colours)
    panel.errorbar(
        ratios, range(len(ratios)), xerr=(low, high), fmt="none", ecolor="#444444", elinewidth=0.8
    )
    panel.bar_label(bars, fmt=" %.2f", fontsize=8, padding=4)
    if max(ratios) > 5 * min(ratios):
        panel.set_xscale("log")
    panel.margins(x=0.15)
    if row.goal is not None:
        panel.axvline(row.goal, color=GOAL_COLOUR, linewidth=1, linestyle="--")
    panel.set_title(row.question, fontsize=9)
    panel.set_xlabel(f"ratio of {row.unit}; {row.baseline} = 1", fontsize=8)
    _plain(panel)


def draw_findings(path: Path, result: Result) -> None:
    """Draw each finding that has a goal as a bar, in its share of the goal."""
    findings = [finding for finding in result["findings"] if finding["goal"]][::-1]
    labels = [f"{finding['about']}\n{finding['what']}" for finding in findings]
    shares = [finding["value"] / finding["goal"] for finding in findings]
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(9, 0.9 + 0.55 * len(findings)))
    colours = [MET_COLOUR if share <= 1 else MISSED_COLOUR for share in shares]
    bars = panel.barh(labels, shares, color=colours)
    panel.bar_label(bars, [_text(finding) for finding in findings], fontsize=8, padding=4)
    panel.axvline(1, color=GOAL_COLOUR, linewidth=1, linestyle="--")
    panel.margins(x=0.25)
    panel.set_xlabel("share of the goal; at most 1 is met", fontsize=8)
    _plain(panel)
    _save(figure, path, result)


def draw_hit_ratios(path: Path, result: Result) -> None:
    """Draw a panel per trace: hit ratio over size, of LRU, S3FIFO and the optimum."""
    traces: dict[str, list[Mapping[str, Any]]] = {}
    for one in result["distances"]:
        traces.setdefault(one["trace"], []).append(one)
    plt = _pyplot()
    columns = 4
    lines = -(-len(traces) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(13, 2.6 * lines), squeeze=False)
    for panel in panels.flat[len(traces) :]:
        panel.remove()
    for panel, (name, points) in zip(panels.flat, traces.items(), strict=False):
        shares = [one["share"] * 100 for one in points]
        for which, label, colour, style in (
            ("optimum", "optimum (Belady)", GOAL_COLOUR, "--"),
            ("ours", "S3FIFO", OURS_COLOUR, "-"),
            ("lru", "LRU, exact", "#8a9199", "-"),
        ):
            ratios = [one[which] * 100 for one in points]
            panel.plot(shares, ratios, style, color=colour, label=label, marker="o", markersize=3)
        panel.set_title(name, fontsize=9)
        panel.set_ylim(0, 100)
        _plain(panel)
    panels[0, 0].legend(fontsize=7, frameon=False)
    figure.supxlabel("entries, % of the trace's keys", fontsize=9)
    figure.supylabel("hit ratio, %", fontsize=9)
    _save(figure, path, result)


def _text(finding: Mapping[str, Any]) -> str:
    return f"{finding['value']:.3g} {finding['unit']}, goal {finding['goal']:g}"


def _plain(panel: Any) -> None:
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _pyplot() -> Any:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tiercache"  # the same numbers give the same file
    mpl.rcParams["svg.fonttype"] = "none"  # texts as texts: a quarter of the size
    from matplotlib import pyplot as plt

    return plt


def _save(figure: Any, path: Path, result: Result) -> None:
    made = result["made"]
    load = f", load {made['load'][0]:.1f}" if "load" in made else ""
    figure.suptitle(f"{result['benchmark']}, {made['python']}{load}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    _pyplot().close(figure)


if __name__ == "__main__":
    main()
