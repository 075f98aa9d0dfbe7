"""The acts, in the order in which they are played."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from examples.city_service.acts import (
    alone,
    deploy,
    learning,
    outage,
    serving,
    stampede,
    traces,
    warming,
)
from examples.city_service.stage import Stage, Told


class Act(NamedTuple):
    """One of them."""

    title: str
    play: Callable[[Stage], Told]


ACTS: Mapping[str, Act] = {
    "alone": Act("The service without a cache, to compare with", alone.play),
    "warming": Act("Warm up: what a new process should know", warming.play),
    "stampede": Act("A stampede: everybody asks for the same slow page at once", stampede.play),
    "serving": Act("The same traffic, with the cache", serving.play),
    "learning": Act("Adaptive TTL: values that change without the cache being told", learning.play),
    "outage": Act("The database goes down", outage.play),
    "deploy": Act("A deploy: four new processes", deploy.play),
    "traces": Act("What the traces show", traces.play),
}
