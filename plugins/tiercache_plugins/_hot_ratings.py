"""How hot keys are, over time: hits in L1, halved as time passes. No I/O, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from operator import attrgetter

from tiercache import HotKey

_rating = attrgetter("hits")

FAINT = 0.5  # a rating below which a key is forgotten: one hit, a half-life ago


class Ratings:
    """The hottest keys of one process, and of those it has heard of.

    Args:
        most: Keys kept.
        fade: What becomes of a rating from one count to the next, in (0, 1].

    Used by one thread at a time.
    """

    def __init__(self, most: int, fade: float) -> None:
        self._most = most
        self._fade = fade
        self._rated: dict[str, HotKey] = {}  # with ratings in place of hits; at most _most
        self._seen: dict[str, float] = {}  # hits of each key in L1 when it was counted last

    def count(self, hottest: Sequence[HotKey]) -> None:
        """Let all fade, and add the hits that keys in L1 have had since the last count."""
        rated = {key: hot._replace(hits=hot.hits * self._fade) for key, hot in self._rated.items()}
        for hot in hottest:
            before = self._seen.get(hot.key, 0.0)
            new = hot.hits - before if hot.hits >= before else hot.hits  # else another entry
            known = rated.get(hot.key)
            rated[hot.key] = hot._replace(
                hits=new + (known.hits if known else 0.0),
                args=hot.args if hot.args is not None or known is None else known.args,
            )
        self._seen = {hot.key: hot.hits for hot in hottest}
        self._keep(rated)

    def hear(self, others: Iterable[HotKey]) -> None:
        """Take in the ratings of other processes, or of an earlier one: the higher one counts."""
        rated = dict(self._rated)
        for hot in others:
            known = rated.get(hot.key)
            if known is None or known.hits < hot.hits:
                rated[hot.key] = hot
        self._keep(rated)

    def hottest(self) -> list[HotKey]:
        """Return the keys, hottest first."""
        return sorted(self._rated.values(), key=_rating, reverse=True)

    def __len__(self) -> int:
        return len(self._rated)

    def _keep(self, rated: dict[str, HotKey]) -> None:
        loud = [hot for hot in rated.values() if hot.hits >= FAINT]
        best = heapq.nlargest(self._most, loud, key=_rating)
        self._rated = {hot.key: hot for hot in best}
