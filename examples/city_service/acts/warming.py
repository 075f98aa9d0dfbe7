"""Warming: four processes share the work, and one of them reads the ids for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from examples.city_service.caching import Tier
from examples.city_service.fleet import summed
from examples.city_service.service import WARMED_CITIES
from examples.city_service.stage import Stage, Told
from examples.city_service.worker import Worker
from tiercache import WarmReport

READY_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Warmed:
    """What a process has then."""

    report: WarmReport
    ids: int  # that its guard knows
    guard_bytes: int
    is_ready: bool  # its guard


class Warm:
    """Bring what the warmers name, and wait until the guard is ready."""

    def run(self, worker: Worker) -> Warmed:
        """Return what came of it."""
        _, cache = worker.service, worker.caching.cache
        warm = cache.awarm if worker.plan.is_async else cache.warm
        report = worker.crew.call(warm, progress=False)
        guard = worker.caching.guard
        is_ready = guard.wait_until_ready(READY_SECONDS)
        stats = guard.stats()
        return Warmed(report, stats.entries, stats.bytes, is_ready)


def play(stage: Stage) -> Told:
    """Warm all processes at once."""
    outcomes = stage.fleet.all(Warm())
    warmed = [outcome.value for outcome in outcomes]
    by_process = [outcome.pages.total() for outcome in outcomes]
    facts = {
        "pages": WARMED_CITIES + len(stage.countries),
        "loads": sum(by_process),
        "loads_by_process": by_process,
        "failed": sum(each.report.failed for each in warmed),
        "seconds": max(each.report.seconds for each in warmed),
        "ids_known": min(each.ids for each in warmed),
        "ids_read": summed(outcomes)["ids"],
        "guards_ready": sum(each.is_ready for each in warmed),
        "guard_kilobytes": warmed[0].guard_bytes / 1000,
    }
    return Told(_lines(facts, stage.plans[0].tier), facts, _promises(facts, stage))


def _lines(facts: dict[str, Any], tier: Tier) -> list[str]:
    by_process = " + ".join(map(str, facts["loads_by_process"]))
    shared = " that all four processes share through Redis" if tier.redis else " in each process"
    return [
        (
            f"{facts['pages']:,} pages, the largest cities and all countries, took "
            f"{facts['loads']:,} loads: {by_process} in the four processes, which share them"
        ),
        (
            f"Bloom guard: {facts['ids_read']:,} ids were read, for a filter of "
            f"{facts['guard_kilobytes']:.0f} kB{shared}"
        ),
    ]


def _promises(facts: dict[str, Any], stage: Stage) -> dict[str, bool]:
    return {
        "warming failed for no page": facts["failed"] == 0,
        "the guard is ready in all processes": facts["guards_ready"] == len(stage.plans),
    }
