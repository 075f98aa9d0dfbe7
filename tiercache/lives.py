"""How long a value is kept, and how: the one place where TTLs, tags and their exceptions meet.

In order: what the loader chose (``current_load()``), else what the function's options say of the
value; then what plugins make of it; then jitter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from .entry import Life, Record
from .hooks import Hooks
from .load import Load
from .spec import Spec
from .ttl import jittered

#: How far before the end of its life XFetch may refresh a value, in times that a load takes. Of a
#: million draws some 45 are beyond, and are not waited for.
XFETCH_REACH = 10.0


class Lives:
    """How the values of one cache are kept."""

    def __init__(self, hooks: Hooks, jitter: float) -> None:
        self._hooks = hooks
        self._jitter = jitter

    def of(
        self, spec: Spec, key: str, value: object, seconds: float = 0.0, load: Load | None = None
    ) -> Life | None:
        """Return how a value is to be kept; None: not at all.

        Args:
            spec: Of the function, or of the call.
            key: Its key.
            value: What it is.
            seconds: That its load took.
            load: What the loader and plugins have said about it, if anything.
        """
        hooks = self._hooks
        ttl = None if load is not None and load.has_own_ttl else self._ttl(spec, value)
        if load is None and hooks.ttl:
            load = Load(key, spec.name, ttl=ttl, tags=spec.tags)
            load.is_write = True
        if load is None:
            tags = spec.tags if spec.tags_of is None else spec.tags_of(value)
        else:
            load.value, load.seconds = value, seconds
            if not load.has_own_ttl:
                load.propose(ttl)
            hooks.choose_ttl(load)
            ttl, tags = load.ttl, _tags(spec, value, load)
        if ttl is not None:
            if not ttl > 0:
                return None
            ttl = jittered(ttl, self._jitter)
        keep = max(spec.keep, hooks.keeps_for)
        return Life(ttl, tags, keep, self._record(spec, ttl, seconds, load))

    def _ttl(self, spec: Spec, value: object) -> float | None:
        if value is None and spec.negative_ttl is not None:
            return spec.negative_ttl
        return spec.ttl if spec.ttl_of is None else spec.ttl_of(value)

    def _record(
        self, spec: Spec, ttl: float | None, seconds: float, load: Load | None
    ) -> Record | None:
        if load is not None:
            return Record(ttl, seconds, load.state, load.reason)
        return Record(ttl, seconds) if spec.refreshes_ahead or spec.keep else None


def _tags(spec: Spec, value: object, load: Load) -> tuple[str, ...]:
    """Return the tags of the function, and those that the loader has added, or set."""
    if spec.tags_of is None:
        return tuple(dict.fromkeys(load.tags))
    return tuple(dict.fromkeys((*spec.tags_of(value), *load.tags)))


def refresh_point(spec: Spec, stale_at: float, record: Record | None) -> float:
    """Return from when on a read refreshes a value that goes stale at ``stale_at``."""
    if record is None or record.ttl is None or stale_at == math.inf:
        return stale_at
    if spec.refresh_ahead is not None:
        return stale_at - (1.0 - spec.refresh_ahead) * record.ttl
    if spec.is_xfetch:
        return stale_at - XFETCH_REACH * record.load_seconds
    return stale_at


def is_drawn(
    spec: Spec, seconds_left: float, record: Record, draw: Callable[[], float] = random.random
) -> bool:
    """Whether a read so long before the end of a value's life refreshes it.

    With XFetch each read draws: earlier the longer a load takes, and surely at the end. With a
    share of the TTL the first one does.

    Source: Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention,
    VLDB 2015, with beta = 1: refresh if now - delta * beta * ln(u) >= expiry.
    """
    if not spec.is_xfetch:
        return True
    return -record.load_seconds * math.log(1.0 - draw()) >= seconds_left
