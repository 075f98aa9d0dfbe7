"""The chart of ``benchmarks.outage``: latency and loads over time, the outage shaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.outage_traffic import SIDES

COLOURS = dict(zip(SIDES, ("#1a6faf", "#8a9199"), strict=True))
OUTAGE_COLOUR = "#c0392b"


def draw_result(path: Path, result: Mapping[str, Any]) -> None:
    """Draw what the JSON of ``outage`` holds."""
    draw(path, result["series"], result["made"].get("setting", ""))


def draw(path: Path, runs: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw a column for each run: latency above, loads per second below."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tiercache"  # the same numbers give the same file
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        *(2, len(runs)), figsize=(13, 7), sharex="col", sharey="row", squeeze=False
    )
    for column, run in enumerate(runs):
        _draw_latency(panels[0, column], run)
        _draw_loads(panels[1, column], run)
        panels[0, column].set_title(f"Redis {run['name']}", fontsize=11)
        panels[1, column].set_xlabel("seconds since the outage began")
    panels[0, 0].set_ylabel("latency of a call, ms")
    panels[1, 0].set_ylabel("database queries per second")
    panels[1, 0].set_ylim(0, 1.1 * max(max(run[side]["loads"]) for run in runs for side in SIDES))
    panels[0, 0].set_ylim(5e-3, 2e3)
    figure.suptitle(f"An outage of L2: two processes, {title}; per 0.25 s", fontsize=12)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_latency(panel: Any, run: Mapping[str, Any]) -> None:
    for side in reversed(SIDES):
        for which, style, width in (("p99", "-", 1.6), ("p50", "--", 1.2)):
            values = [None if each is None else each * 1e3 for each in run[side][which]]
            panel.step(
                *(run["at"], values, style),
                where="post",
                color=COLOURS[side],
                linewidth=width,
                label=f"{side}, {which}",
            )
    panel.set_yscale("log")
    _shade(panel, run)


def _draw_loads(panel: Any, run: Mapping[str, Any]) -> None:
    for side in reversed(SIDES):
        panel.step(
            *(run["at"], run[side]["loads"]),
            where="post",
            color=COLOURS[side],
            linewidth=1.6,
            label=side,
        )
    _shade(panel, run)


def _shade(panel: Any, run: Mapping[str, Any]) -> None:
    panel.axvspan(0, run["mended"], color=OUTAGE_COLOUR, alpha=0.10, linewidth=0, label="outage")
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)
    panel.spines[["top", "right"]].set_visible(False)
