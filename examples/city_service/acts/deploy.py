"""A deploy: all processes end, and others begin, with what was hot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from examples.city_service.acts.comparing import traffic
from examples.city_service.fleet import summed
from examples.city_service.stage import Stage, Told
from examples.city_service.tally import Tally, total
from examples.city_service.worker import Worker, until

SHARE = 0.13  # of the seconds
READY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Ready:
    """How a new process begins."""

    restored: int  # hot keys brought back into L1
    guard_ready: bool


class GetReady:
    """Wait until the hot keys are back, and the guard is ready: what a readiness probe would."""

    def run(self, worker: Worker) -> Ready:
        """Say how far it has come."""
        caching = worker.caching
        _ = worker.service  # hot keys are brought back once their functions are decorated
        until(lambda: _is_back(caching.hot_keys.measures()), READY_SECONDS)
        guard_ready = caching.guard.wait_until_ready(READY_SECONDS)
        return Ready(int(caching.hot_keys.measures()["hot_keys.restored"]), guard_ready)


def _is_back(measures: Any) -> bool:
    remembered = measures["hot_keys.remembered"]
    done = measures["hot_keys.restored"] + measures["hot_keys.lost"]
    return bool(0 < remembered <= done)


@dataclass(frozen=True, slots=True)
class ServeAgain:
    """Serve for a moment."""

    seconds: float

    def run(self, worker: Worker) -> list[Tally]:
        """Return what each client has seen."""
        return worker.serve(worker.service, traffic(worker, "deploy"), self.seconds)


def play(stage: Stage) -> Told:
    """End all processes, start others, and see what they know."""
    stage.new_processes()
    begun = stage.fleet.all(GetReady())
    at_start = summed(begun)
    served = stage.fleet.all(ServeAgain(stage.seconds * SHARE))
    seen = total([tally for outcome in served for tally in outcome.value])
    counts = summed(served)
    calls = counts["hits_l1"] + counts["hits_l2"] + counts["misses"]
    facts = {
        "restored": min(outcome.value.restored for outcome in begun),
        "loads_at_start": at_start["loads"],
        "ids_read": at_start["ids"],
        "guards_ready": sum(outcome.value.guard_ready for outcome in begun),
        "calls": seen.reads,
        "l1_share": counts["hits_l1"] / max(1, calls),
        "errors": dict(seen.errors),
    }
    return Told(
        lines=[
            (
                f"each new process brought {facts['restored']:,} hot keys back into its memory "
                f"before anybody asked: from L2, but for {facts['loads_at_start']} loads"
            ),
            f"their Bloom guards were ready with {facts['ids_read']:,} ids read from the database",
            f"of the first {seen.reads:,} calls {facts['l1_share']:.1%} were answered by L1",
        ],
        facts=facts,
        promises={
            "every process brought hot keys back": facts["restored"] > 0,
            "no caller got an error": not seen.errors,
        },
    )
