"""The database goes down under traffic: stale answers, an open breaker, and what comes after."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.city_service.acts.warming import Warm
from examples.city_service.caching import RESET_SECONDS
from examples.city_service.fleet import summed
from examples.city_service.service import WARMED_CITIES
from examples.city_service.stage import Stage, Told
from examples.city_service.tally import Tally, total
from examples.city_service.traffic import cold_pages, known_pages
from examples.city_service.worker import Outcome, Worker

CLIENTS = 4  # of each process: these ask for pages that are known, one more for others
BEFORE, DOWN, AFTER = 0.4, 2.0, 1.0  # seconds
PATIENCE = 20.0  # seconds until the breaker has to be closed again, on a machine that is very busy


@dataclass(frozen=True, slots=True)
class Survived:
    """What a process has to tell."""

    known: Tally
    cold: Tally
    breaker: list[tuple[str, float]]  # events, and their time
    state: str  # of the breaker, in the end


@dataclass(frozen=True, slots=True)
class ServeOutage:
    """Serve known pages, and a few that nobody has asked for yet."""

    seconds: float

    def run(self, worker: Worker) -> Survived:
        """Return what clients of both kinds have seen, and what became of the breaker."""
        largest = worker.database.largest(WARMED_CITIES)
        began, first = time.monotonic(), 10 * worker.plan.number
        known = [
            known_pages(largest, worker.countries, worker.reported, first + each)
            for each in range(CLIENTS)
        ]
        streams = [cold_pages(worker.known, worker.plan.number), *known]
        cold, *rest = worker.serve(worker.service, streams, self.seconds)
        while _state(worker) != "closed" and time.monotonic() < began + PATIENCE:
            worker.serve(worker.service, [cold_pages(worker.known, first)], RESET_SECONDS)
        return Survived(total(rest), cold, list(worker.caching.diary.events), _state(worker))


def _state(worker: Worker) -> str:
    (state,) = worker.caching.breaker.states().values()
    return state


def play(stage: Stage) -> Told:
    """Serve, and have the database down for a while in the middle."""
    stage.fleet.all(Warm())  # what updates have invalidated since the first time
    stage.fleet.begin(ServeOutage(BEFORE + DOWN + AFTER))
    time.sleep(BEFORE)
    back = stage.down_for(DOWN)
    outcomes = stage.fleet.end()
    facts = _facts(outcomes, back)
    return Told(_lines(facts), facts, _promises(facts))


def _facts(outcomes: Sequence[Outcome], back: float) -> dict[str, Any]:
    counts = summed(outcomes)
    survived = [outcome.value for outcome in outcomes]
    known = total([each.known for each in survived])
    cold = total([each.cold for each in survived])
    names = [[name for name, _ in each.breaker] for each in survived]
    closed = [at - back for each in survived for name, at in each.breaker if "closed" in name]
    return {
        "down_s": DOWN,
        "calls": known.reads + known.errors.total(),
        "errors": known.errors.total(),
        "stale_served": counts["stale_served"],
        "refused_queries": counts["refused"],
        "breakers_opened": sum("breaker_opened" in each for each in names),
        "breakers_closed": sum(each.state == "closed" for each in survived),
        "closed_after_s": max(closed, default=0.0),
        "cold_calls": cold.reads + cold.errors.total(),
        "cold_errors": dict(cold.errors),
        "cold_slowest_s": cold.slowest_error,
    }


def _lines(facts: Mapping[str, Any]) -> list[str]:
    f = facts
    errors = ", ".join(f"{n} {name}" for name, n in sorted(f["cold_errors"].items()))
    return [
        (
            f"database down for {f['down_s']:g} s, {f['calls']:,} calls for pages that are known: "
            f"errors seen by callers {f['errors']}"
        ),
        f"{f['stale_served']:,} stale answers stood in for loads that failed (stale_if_error)",
        (
            f"the database was asked {f['refused_queries']:,} times in that time: the breakers of "
            f"{f['breakers_opened']} processes opened, and let a probe through now and then"
        ),
        (
            f"{f['cold_calls']:,} calls for pages that nobody had asked for yet: "
            f"{errors or 'no error'}, each within {f['cold_slowest_s'] * 1e3:.0f} ms"
        ),
        f"{f['closed_after_s']:.1f} s after its return the last breaker had closed",
    ]


def _promises(facts: Mapping[str, Any]) -> dict[str, bool]:
    return {
        "no caller of a known page got an error": facts["errors"] == 0,
        "all breakers opened, and closed again": facts["breakers_opened"]
        == facts["breakers_closed"]
        == 4,
    }
