"""What the traces show: one call of each kind, its spans as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from examples.city_service.database import NEW_IDS
from examples.city_service.spans import Span, lines
from examples.city_service.stage import Stage, Told
from examples.city_service.worker import Worker

# Countries whose most crowded place no act before has asked for: cold, until they are used here.
COLD, JOINED = "IS", "IE"
FAILING = ("NO", "FI", "EE", "LV")  # one more than the failures that open the breaker

Trace = tuple[str, Sequence[Span]]


@dataclass(frozen=True, slots=True)
class Handle:
    """Handle a request; so many of the same at once."""

    what: str
    args: tuple[Any, ...]
    times: int = 1
    until: str = ""  # name of a span whose end is waited for

    def run(self, worker: Worker) -> list[Span]:
        """Return the spans."""
        worker.spans.watch()
        worker.crew.together(getattr(worker.service, self.what), self.args, self.times)
        spans = worker.spans.taken(self.until)
        # News of other processes may come at any time; they are none of this request's.
        return [span for span in spans if span.name != "tiercache.bus.apply"]


@dataclass(frozen=True, slots=True)
class Expire:
    """Make the most crowded place of a country stale."""

    country: str

    def run(self, worker: Worker) -> None:
        """Do so."""
        cache, key = worker.caching.cache, worker.service.crowded.key(self.country)
        worker.crew.call(cache.aexpire if worker.plan.is_async else cache.expire, key)


class Guess:
    """Find an id of no city that the filter does not take for one, as it does one in a hundred."""

    def run(self, worker: Worker) -> int:
        """Return it."""
        guard = worker.caching.guard
        return next(guess for guess in range(NEW_IDS - 1, 0, -1) if not guard.contains(guess))


class Listen:
    """Keep spans from now on."""

    def run(self, worker: Worker) -> None:
        """Do so."""
        worker.spans.watch()


class Heard:
    """Wait until another process's change has come."""

    def run(self, worker: Worker) -> list[Span]:
        """Return the spans since ``Listen``."""
        return worker.spans.taken("tiercache.bus.apply")


def play(stage: Stage) -> Told:
    """Make calls of each kind, and print them."""
    traces = dict(_scenes(stage))
    return Told(
        lines=[
            "a span for each thing that took time; docs/tracing.md says how to read and export them"
        ],
        facts={"spans": {title: [span.name for span in spans] for title, spans in traces.items()}},
        promises={f"{title}: traced": bool(spans) for title, spans in traces.items()},
        traces=[(title, lines(spans)) for title, spans in traces.items()],
    )


def _scenes(stage: Stage) -> Iterator[Trace]:
    fleet = stage.fleet
    yield "a cold load", fleet.one(0, Handle("crowded", (COLD,))).value
    yield "a hit in L2, by another process", fleet.one(2, Handle("crowded", (COLD,))).value
    yield (
        "three callers at once: one loads, the others follow",
        fleet.one(1, Handle("crowded", (JOINED,), times=3)).value,
    )
    fleet.one(3, Expire(JOINED))
    yield (
        "a stale answer, and its refresh behind",
        fleet.one(3, Handle("crowded", (JOINED,), until="tiercache.refresh")).value,
    )
    no_city = fleet.one(0, Guess()).value
    yield "a city that does not exist", fleet.one(0, Handle("city", (no_city,))).value
    yield from _invalidation(stage)
    yield from _outage(stage)


def _invalidation(stage: Stage) -> Iterator[Trace]:
    city = max(stage.known, key=lambda city: city.population)
    update = Handle("set_population", (city.id, city.country, city.population))
    stage.fleet.one(2, Listen())
    yield "an update, which invalidates", stage.fleet.one(0, update).value
    yield "and another process, which hears of it", stage.fleet.one(2, Heard()).value


def _outage(stage: Stage) -> Iterator[Trace]:
    with stage.database_down():
        *failed, refused = [stage.fleet.one(0, Handle("crowded", (code,))) for code in FAILING]
    yield "the database is down", failed[0].value
    yield "and the breaker is open", refused.value
