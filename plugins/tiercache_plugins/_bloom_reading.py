"""One reading of all ids: from ids to keys in a filter, at a bounded rate, with progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from threading import Event
from typing import Any

from ._bloom_members import Build
from ._bloom_series import Series

log = logging.getLogger(__name__)

LOOK = 256  # ids between two looks at the clock, and at whether to go on
TELL = 10_000  # ids between two calls of on_progress
HEADROOM = 1.25  # room for ids to come, where their number is known and above the capacity


class Outdated(Exception):
    """Messages were missed during a build, or it is to end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a guard was told about building."""

    capacity: int
    error_rate: float
    rebuild_every: float = inf  # seconds; inf: only when it has to
    retry: float = 1.0  # seconds after the first failure
    rate_limit: float = inf  # ids per second
    on_progress: Callable[[int, int | None], object] | None = None


class Reading:
    """What becomes of the ids of one build.

    Args:
        plan: How to build.
        build: What is filled.
        key: What makes keys of ids.
        hint: How many ids there may be, where it is not known.
        stopped: Ends it.
        is_current: Whether it is still of use.
    """

    def __init__(
        self,
        plan: Plan,
        build: Build,
        key: Callable[[Any], str],
        hint: int,
        stopped: Event,
        is_current: Callable[[], bool],
    ) -> None:
        self.done = 0
        self.expected: int | None = None
        self._plan = plan
        self._build = build
        self._key = key
        self._hint = hint
        self._stopped = stopped
        self._is_current = is_current
        self._began = time.monotonic()
        self._step = max(1, int(min(LOOK, plan.rate_limit / 20)))
        self._add: Callable[[str], object] = build.add

    def expect(self, total: int | None) -> None:
        """Begin, with so many ids to come."""
        self.expected = total
        wanted = max(total or 0, self._hint)
        capacity = self._plan.capacity
        series = Series(
            capacity if wanted <= capacity else int(wanted * HEADROOM), self._plan.error_rate
        )
        self._build.use(series)
        self._add = series.add

    def take(self, item: Any) -> None:
        """Take one id.

        Raises:
            Outdated: If there is no use in going on.
        """
        self._add(self._key(item))
        self.done += 1
        if self.done % self._step == 0:
            self._look()
        if self.done % TELL == 0:
            self.tell()

    def _look(self) -> None:
        early = self.done / self._plan.rate_limit - (time.monotonic() - self._began)
        if early > 0:
            self._stopped.wait(early)
        if self._stopped.is_set() or not self._is_current():
            raise Outdated

    def tell(self) -> None:
        """Tell the user how far it has come."""
        if self._plan.on_progress is None:
            return
        try:
            self._plan.on_progress(self.done, self.expected)
        except Exception as error:
            log.error("BloomGuard: on_progress failed: %s", type(error).__name__)  # noqa: TRY400 - a traceback may hold keys
