"""A stampede: cold, slow pages, each asked for by a hundred callers in four processes at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

from examples.city_service.fleet import summed
from examples.city_service.stage import Stage, Told
from examples.city_service.worker import Worker

CALLERS = 25  # in each process
COUNTRIES = ("IN", "CN", "US", "DE", "FR")  # those with most to count
_LEAD_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class AskAtOnce:
    """Have many callers ask for one page at a given time."""

    country: str
    at: float  # CLOCK_MONOTONIC

    def run(self, worker: Worker) -> float:
        """Return how many seconds it took until the last had it."""
        time.sleep(max(0.0, self.at - time.monotonic()))
        began = time.monotonic()
        answers = worker.crew.together(worker.service.crowded, (self.country,), CALLERS)
        assert len(set(answers)) == 1
        return time.monotonic() - began


def play(stage: Stage) -> Told:
    """Ask for one country after the other."""
    rounds = [
        stage.fleet.all(AskAtOnce(country, time.monotonic() + _LEAD_SECONDS))
        for country in COUNTRIES
    ]
    outcomes = [outcome for each in rounds for outcome in each]
    counts = summed(outcomes)
    calls = len(COUNTRIES) * CALLERS * len(stage.plans)
    facts = {
        "calls": calls,
        "pages": len(COUNTRIES),
        "loads": counts["loads"],
        "joined": counts["joined"],
        "links": counts["tiercache.wait"],
        "slowest_s": max(outcome.value for outcome in outcomes),
    }
    return Told(
        lines=[
            (
                f"{calls:,} calls for {facts['pages']} pages, {counts['loads']} loads: single "
                f"flight over four processes; {counts['joined']:,} callers joined a load under way"
            ),
            f"the last of them had its answer after {facts['slowest_s'] * 1e3:.0f} ms",
        ],
        facts=facts,
        promises={"every page was loaded once": counts["loads"] == len(COUNTRIES)},
    )
