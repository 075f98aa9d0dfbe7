"""What a batch is made of: the keys wanted, the loader of many, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from .singleflight import Flight
from .spec import MISS

#: Loads items together; None to load them one by one, concurrently.
Batch = Callable[[list[Any]], Any] | None


@dataclass(frozen=True, slots=True)
class Want:
    """One key of a batch."""

    key: str
    item: Any  # what the caller calls it
    args: tuple[Any, ...] = ()  # to load it alone


@dataclass(frozen=True, slots=True)
class Found:
    """What a batch brought: values by item, and the errors of the others."""

    values: dict[Any, Any]
    errors: dict[Any, Exception]

    def note(self, wants: Collection[Want], result: Callable[[], Any]) -> None:
        """Keep a result, or the error it raises, for whoever wanted it."""
        try:
            value = result()
        except Exception as error:
            self.errors.update({want.item: error for want in wants})
        else:
            if value is not MISS:
                self.values.update({want.item: value for want in wants})


def told_apart(
    flights: Sequence[Flight], wants: Mapping[str, Sequence[Want]]
) -> list[list[Flight]]:
    """Part flights such that no items of one part are one to a dict, as True and 1 are."""
    seen: set[Any] = set()
    apart: list[Flight] = []
    twins: list[list[Flight]] = []
    for flight in flights:
        item = wants[flight.key][0].item
        if item in seen:
            twins.append([flight])
        else:
            apart.append(flight)
        seen.add(item)
    return [apart, *twins] if apart else []


def aligned(result: Any, items: list[Any]) -> list[Any]:
    """Return a batch's values in the order of its items; one it does not name is None."""
    if isinstance(result, str | bytes | Set):
        raise TypeError(
            f"a batch returned a {type(result).__name__}; "
            "return one value for each item in order, or a dict by item"
        )
    if isinstance(result, Mapping):
        return [result.get(item) for item in items]
    values = list(result)
    if len(values) != len(items):
        raise ValueError(
            f"a batch of {len(items)} items returned {len(values)} values; "
            "return one for each in order, or a dict by item"
        )
    return values
