"""The service without a cache: every call asks the database."""

from __future__ import annotations

from dataclasses import dataclass

from examples.city_service.acts.comparing import Measured, traffic
from examples.city_service.fleet import summed
from examples.city_service.stage import Stage, Told
from examples.city_service.tally import Tally, total
from examples.city_service.worker import Worker

SHARE = 0.12  # of the seconds


@dataclass(frozen=True, slots=True)
class ServeAlone:
    """Serve the traffic for a while from the database alone."""

    seconds: float

    def run(self, worker: Worker) -> list[Tally]:
        """Return what each client has seen."""
        return worker.serve(worker.asked, traffic(worker, "alone"), self.seconds)


def play(stage: Stage) -> Told:
    """Serve."""
    seconds = stage.seconds * SHARE
    outcomes = stage.fleet.all(ServeAlone(seconds))
    seen = total([tally for outcome in outcomes for tally in outcome.value])
    calls = seen.reads + seen.updates + seen.founded
    queries = summed(outcomes)["queries"]
    return Told(
        lines=[f"{calls:,} calls, {queries:,} queries: every call waits for the database"],
        facts={
            "calls": calls,
            "queries": queries,
            "measured": Measured.of(seen, queries, seconds).as_facts(),
        },
        promises={"no caller got an error": not seen.errors},
    )
