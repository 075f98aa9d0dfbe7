"""The load that the code running now is part of."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import CacheError
from .load import Load
from .singleflight import Flight, loading_now


def current_load() -> Load:
    """Return the load that a loader runs for, to say how its value is to be kept.

    ``.ttl`` and ``.tags`` may be set, ``.skip()`` has the value returned but not stored,
    ``.stale_value`` is what it takes the place of, and ``return load.not_modified()`` keeps that.

    Raises:
        CacheError: Outside of a load; or in a bulk load, which is one of many keys.
    """
    under_way = loading_now.get()
    if not under_way:
        raise CacheError("current_load() is for loaders: call it inside a cached function")
    load = load_of(under_way[0])
    if load is None or load.items is not None:
        raise CacheError(
            "current_load() in a bulk load would be of many keys; "
            "use ttl= and tags= with functions of the value"
        )
    return load


def load_of(flight: Flight) -> Load | None:
    """Return a flight's load, made when it is first asked for; None where it has none."""
    load = flight.load
    if load is None or isinstance(load, Load):
        return load
    make, *arguments = load
    made: Load = make(*arguments, flight)
    flight.load = made
    flight.tags = None  # it may get any, from now on
    return made


class loading:  # noqa: N801 - reads as a statement: `with loading(flights):`
    """The time in which the loaders of some flights run, in this context."""

    __slots__ = ("_flights", "_token")

    def __init__(self, flights: Sequence[Flight]) -> None:
        self._flights = flights

    def __enter__(self) -> None:
        self._token = loading_now.set((*self._flights, *loading_now.get()))

    def __exit__(self, *_: object) -> None:
        loading_now.reset(self._token)
