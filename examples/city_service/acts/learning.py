"""Adaptive TTL: the weather changes at its own pace, and no cache is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from examples.city_service.caching import STALENESS
from examples.city_service.fleet import summed
from examples.city_service.stage import Stage, Told
from examples.city_service.tally import Tally, total
from examples.city_service.traffic import weather_reports
from examples.city_service.weather import PACES, pace_of
from examples.city_service.worker import Worker

SHARE = 0.35  # of the seconds
CLIENTS = 4  # of each process


@dataclass(frozen=True, slots=True)
class AskForWeather:
    """Ask for the weather for a while, of all countries that report it alike."""

    seconds: float

    def run(self, worker: Worker) -> Tally:
        """Return what the clients have seen."""
        first = CLIENTS * worker.plan.number
        streams = [weather_reports(worker.reported, first + each) for each in range(CLIENTS)]
        return total(worker.serve(worker.service, streams, self.seconds))


class Explain:
    """Say which TTLs have been learnt."""

    def run(self, worker: Worker) -> dict[str, tuple[float, str]]:
        """Return TTL and reason of each country's weather that was loaded more than once."""
        explain = worker.service.weather.explain
        said = {code: worker.crew.call(explain, code) for code in worker.reported}
        return {
            code: (each.ttl, each.why)
            for code, each in said.items()
            if each.ttl is not None and each.why.startswith("changed")
        }


def play(stage: Stage) -> Told:
    """Learn for half of the time; count in the other half."""
    seconds = stage.seconds * SHARE / 2
    stage.fleet.all(AskForWeather(seconds))
    outcomes = stage.fleet.all(AskForWeather(seconds))
    seen, counts = total([outcome.value for outcome in outcomes]), summed(outcomes)
    learnt = stage.fleet.one(0, Explain()).value
    ttls = _ttls(stage.reported, learnt)
    facts = {
        "calls": seen.reads,
        "loads": counts["loads"],
        "refreshes": counts["tiercache.refresh"],
        "outdated_share": seen.outdated / max(1, seen.weather),
        "ttls": ttls,
    }
    return Told(
        lines=[
            f"The weather began with a TTL of 0.2 s. By now it is kept for {_text(ttls)}",
            (
                f"{facts['calls']:,} calls took {facts['loads']:,} loads; of the answers "
                f"{facts['outdated_share']:.1%} had changed meanwhile (it aims at {STALENESS:.0%})"
            ),
            (
                f"{facts['refreshes']:,} refreshes ran behind a value that was served meanwhile, "
                "before it went stale (refresh_ahead)"
            ),
            *_reasons(stage.reported, learnt),
        ],
        facts=facts,
        promises={"no caller got an error": not seen.errors},
    )


def _ttls(reported: Sequence[str], learnt: Mapping[str, tuple[float, str]]) -> dict[str, float]:
    """Return the median TTL of each pace of the weather, in seconds."""
    return {
        pace: median(learnt[code][0] for code in codes)
        for pace, codes in _by_pace(reported, learnt).items()
        if codes
    }


def _by_pace(
    reported: Sequence[str], learnt: Mapping[str, tuple[float, str]]
) -> dict[str, list[str]]:
    by_pace: dict[str, list[str]] = {pace: [] for pace in PACES}
    for number, code in enumerate(reported):
        if code in learnt:
            by_pace[pace_of(number)].append(code)
    return by_pace


def _text(ttls: Mapping[str, float]) -> str:
    return ", ".join(f"{ttl:.2g} s where it {_changes(PACES[pace])}" for pace, ttl in ttls.items())


def _changes(seconds: float) -> str:
    return "never changes" if seconds == float("inf") else f"changes every {seconds:g} s"


def _reasons(reported: Sequence[str], learnt: Mapping[str, tuple[float, str]]) -> list[str]:
    """Say of one country of each pace why its TTL is what it is, as ``f.explain`` does."""
    codes = [codes[0] for codes in _by_pace(reported, learnt).values() if codes]
    return [
        f"weather.explain({code!r}): {learnt[code][0]:.2g} s; {learnt[code][1]}" for code in codes
    ]
