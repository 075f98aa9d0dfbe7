"""The same traffic with the cache: hits, saved lookups, learnt TTLs, and news of updates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from examples.city_service.acts.alone import SHARE as ALONE
from examples.city_service.acts.comparing import Measured, table, traffic
from examples.city_service.bulletin import lateness
from examples.city_service.caching import BLIND_TTL, STALENESS
from examples.city_service.fleet import summed
from examples.city_service.stage import Stage, Told
from examples.city_service.tally import Tally, total
from examples.city_service.weather import PACES, pace_of
from examples.city_service.worker import Outcome, Worker

SHARE = 0.5  # of the seconds


@dataclass(frozen=True, slots=True)
class Serve:
    """Serve the traffic for a while."""

    seconds: float

    def run(self, worker: Worker) -> list[Tally]:
        """Return what each client has seen."""
        return worker.serve(worker.service, traffic(worker, "serving"), self.seconds)


class Explain:
    """Say which TTLs have been learnt."""

    def run(self, worker: Worker) -> dict[str, tuple[float, str]]:
        """Return TTL and reason of each country's weather that was loaded more than once."""
        explain = worker.service.weather.explain
        said = {code: worker.crew.call(explain, code) for code in worker.countries}
        return {
            code: (each.ttl, each.why)
            for code, each in said.items()
            if each.ttl is not None and each.why.startswith("changed")
        }


def play(stage: Stage) -> Told:
    """Serve, then ask what was learnt."""
    seconds = stage.seconds * SHARE
    outcomes = stage.fleet.all(Serve(seconds))
    learnt = stage.fleet.one(0, Explain()).value
    seen = total([tally for outcome in outcomes for tally in outcome.value])
    counts = summed(outcomes)
    late = sorted(lateness(seen.older, seen.announced))
    facts = {
        **_answers(seen, counts),
        **_loads(outcomes, seen),
        **_news(seen, late),
        **_ttls(stage.countries, learnt),
        "spans": sum(n for name, n in counts.items() if name.startswith("tiercache.")),
    }
    alone = stage.told["alone"].facts["measured"]
    return Told(
        lines=_lines(facts, counts, learnt),
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
        "refreshes": counts["tiercache.refresh"],
        "weather_outdated_share": seen.outdated / max(1, seen.weather),
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


def _ttls(
    countries: Sequence[str], learnt: Mapping[str, tuple[float, str]]
) -> dict[str, dict[str, float]]:
    """Return the median TTL of each pace of the weather."""
    by_pace: dict[str, list[float]] = {pace: [] for pace in PACES}
    for number, code in enumerate(countries):
        if code in learnt:
            by_pace[pace_of(number)].append(learnt[code][0])
    return {"ttls": {pace: median(ttls) for pace, ttls in by_pace.items() if ttls}}


def _lines(
    facts: Mapping[str, Any], counts: Counter[str], learnt: Mapping[str, tuple[float, str]]
) -> list[str]:
    f = facts
    ttls = ", ".join(
        f"{ttl:.2g} s where it changes {_each(PACES[pace])}" for pace, ttl in f["ttls"].items()
    )
    return [
        f"{f['calls']:,} calls, {f['loads']:,} loads: {f['l1_share']:.1%} answered by the "
        f"process's own memory (L1), {f['l2_share']:.1%} by Redis (L2)",
        f"One load per page: {f['cold_pages']:,} pages that nobody updated took "
        f"{f['cold_loads']:,} loads in four processes; {f['joined']:,} calls joined another's",
        f"Bloom guard: {f['saved_lookups']:,} lookups of cities that do not exist were answered "
        f"without Redis or the database; {f['founded']:,} founded meanwhile were seen at once",
        f"Adaptive TTL, begun at 1 s: the weather is kept for {ttls}",
        f"of its answers {f['weather_outdated_share']:.1%} had changed since ({STALENESS:.0%} are "
        f"allowed); {f['refreshes']:,} refreshes, hot values' before they went stale",
        f"Invalidation: {f['updates']:,} updates; {f['older_reads']:,} of "
        f"{f['reads_of_others_updates']:,} reads of what another process had updated were older, "
        f"for {f['late_p50_s'] * 1e3:.1f} ms (p50), {f['late_most_s'] * 1e3:.0f} ms at most",
        f"{f['spans']:,} spans of OpenTelemetry, none for a hit in L1",
    ]


def _each(seconds: float) -> str:
    return "never" if seconds == float("inf") else f"each {seconds:g} s"


def _promises(seen: Tally, late: Sequence[float]) -> dict[str, bool]:
    return {
        "no caller got an error": not seen.errors,
        "after an update the same process never served an older page": not seen.stale,
        f"nor did another one, {BLIND_TTL:g} s later": not late or late[-1] <= BLIND_TTL,
        "no city that exists was answered as absent": not seen.lost,
    }
