"""The same traffic with the cache: hits, saved lookups, and news of updates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.city_service.acts.comparing import Measured, table, traffic
from examples.city_service.bulletin import lateness
from examples.city_service.caching import BLIND_TTL
from examples.city_service.fleet import summed
from examples.city_service.stage import Stage, Told
from examples.city_service.tally import Tally, total
from examples.city_service.worker import Outcome, Worker

SHARE = 0.4  # of the seconds


@dataclass(frozen=True, slots=True)
class Serve:
    """Serve the traffic for a while."""

    seconds: float

    def run(self, worker: Worker) -> list[Tally]:
        """Return what each client has seen."""
        return worker.serve(worker.service, traffic(worker, "serving"), self.seconds)


def play(stage: Stage) -> Told:
    """Serve."""
    seconds = stage.seconds * SHARE
    outcomes = stage.fleet.all(Serve(seconds))
    seen = total([tally for outcome in outcomes for tally in outcome.value])
    counts = summed(outcomes)
    late = sorted(lateness(seen.older, seen.announced))
    facts = {
        **_answers(seen, counts),
        **_loads(outcomes, seen),
        **_news(seen, late),
        "spans": sum(n for name, n in counts.items() if name.startswith("tiercache.")),
    }
    alone = stage.told["alone"].facts["measured"]
    return Told(
        lines=_lines(facts),
        facts=facts,
        promises=_promises(seen, late),
        table=table(Measured(**alone), Measured.of(seen, counts["queries"], seconds)),
    )


def _answers(seen: Tally, counts: Counter[str]) -> dict[str, Any]:
    calls = counts["hits_l1"] + counts["hits_l2"] + counts["misses"]
    return {
        "calls": seen.reads,
        "errors": dict(seen.errors),
        "loads": counts["loads"],
        "l1_share": counts["hits_l1"] / max(1, calls),
        "l2_share": counts["hits_l2"] / max(1, calls),
        "joined": counts["joined"],
        "saved_lookups": counts["saved"],
        "absent": seen.absent,
        "founded": seen.founded,
        "store_errors": counts["store_errors"],
    }


def _loads(outcomes: Sequence[Outcome], seen: Tally) -> dict[str, int]:
    """Count what the cluster loaded of pages that nobody updated: each once, if all goes well."""
    pages: Counter[int | str] = sum((outcome.pages for outcome in outcomes), Counter())
    updated = {each.place for each in seen.announced}
    cold = [loads for place, loads in pages.items() if place not in updated]
    return {"cold_pages": len(cold), "cold_loads": sum(cold)}


def _news(seen: Tally, late: Sequence[float]) -> dict[str, Any]:
    return {
        "updates": seen.updates,
        "reads_of_own_updates": seen.checked,
        "reads_of_others_updates": seen.checked_elsewhere,
        "older_reads": len(late),
        "late_p50_s": late[len(late) // 2] if late else 0.0,
        "late_most_s": late[-1] if late else 0.0,
    }


def _lines(f: Mapping[str, Any]) -> list[str]:
    return [
        (
            f"{f['calls']:,} calls, {f['loads']:,} loads: {f['l1_share']:.1%} answered by L1, the "
            f"process's memory, {f['l2_share']:.1%} by L2; the cache was nearly empty at first"
        ),
        (
            f"One load: {f['cold_pages']:,} pages were asked for that nobody updated, and took "
            f"{f['cold_loads']:,} loads in four processes; {f['joined']:,} calls joined another's"
        ),
        (
            f"Bloom guard: {f['saved_lookups']:,} lookups of cities that do not exist took neither "
            f"L2 nor the database; {f['founded']:,} cities founded meanwhile were seen at once"
        ),
        (
            f"Invalidation: {f['updates']:,} updates; of {f['reads_of_others_updates']:,} reads of "
            f"what another process had updated {f['older_reads']:,} were older{_lateness(f)}"
        ),
        f"{f['spans']:,} spans of OpenTelemetry, none for a hit in L1",
    ]


def _lateness(f: Mapping[str, Any]) -> str:
    """Say for how long a process went on serving what another had updated."""
    if not f["older_reads"]:
        return ""
    return f", by {f['late_p50_s'] * 1e3:.0f} ms (p50), {f['late_most_s'] * 1e3:.0f} ms at most"


def _promises(seen: Tally, late: Sequence[float]) -> dict[str, bool]:
    return {
        "no caller got an error": not seen.errors,
        "after an update the same process never served an older page": not seen.stale,
        f"nor did another one, {BLIND_TTL:g} s later": not late or late[-1] <= BLIND_TTL,
        "no city that exists was answered as absent": not seen.lost,
    }
