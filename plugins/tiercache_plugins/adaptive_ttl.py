"""A TTL for each key, learned from how often its value really changes, and how hot it is.

With each load it is seen whether the value had changed since the one before; from that follows how
often it changes (_change_rate.py), and from all keys together where loads are best spent
(_budget.py). The result never leaves [min, max]. In any case a value that was unchanged gets a
longer TTL than before, and one that had changed a shorter one.

What is learned of a key stays with its value, in ``load.state``, in L2 too, so that it survives
promotion and a change of process: seven numbers, whatever its age. It goes with the entry; a key
that is invalidated begins anew. Values are compared by a digest of their bytes, so no old value is
needed; where the bytes differ and both values are there, ``==`` has the last word, since equal sets
and dicts may be written in different orders.

How hot a key is is counted in this process's L1 only. That others count more does not matter, since
only the relation of keys to one another does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple, Self

from tiercache import (
    Codec,
    ConfigurationError,
    Duration,
    EncodeError,
    Load,
    Plugin,
    Previous,
)

from ._budget import Budget
from ._change_rate import Known, guess, learn
from ._forks import heal_after_fork
from ._options import duration, share

__all__ = ["AdaptiveTTL"]

GROWS = 1.02  # at least, if unchanged
SHRINKS = 0.98  # at most, if changed
HITS_KEPT = 0.8  # of what was seen of its requests: the last five periods count
HISTORY = 10  # loads that are remembered one by one, to explain

_NO_HISTORY = 1  # a leading one, then a bit per load


class _State(NamedTuple):
    """What is known of one key."""

    digest: int  # of its value; 0: it has none
    known: Known
    requests: float  # in
    seconds: float  # the last few periods
    ttl: float  # given, before jitter
    history: int  # bits: 1 for a load that found it changed, the latest last

    def dump(self) -> dict[str, Any]:
        """Return it as what can be kept with a value."""
        return {
            "d": self.digest,
            "c": self.known.changes,
            "s": self.known.seconds,
            "n": self.requests,
            "a": self.seconds,
            "t": self.ttl,
            "h": self.history,
        }

    @classmethod
    def restore(cls, state: Any) -> Self | None:
        """Return what was dumped; None for anything else, such as another plugin's state."""
        try:
            digest, history = int(state["d"]), int(state["h"])
            numbers = [float(state[name]) for name in "csnat"]
        except (TypeError, KeyError, ValueError, OverflowError):
            return None
        changes, seconds, requests, age, ttl = numbers
        if not all(map(math.isfinite, numbers)) or min(changes, seconds, ttl) <= 0:
            return None
        if requests < 0 or age < 0 or not 1 <= history < 2 << HISTORY:
            return None
        return cls(digest, Known(changes, seconds), requests, age, ttl, history)


class AdaptiveTTL(Plugin):
    """Choose each value's TTL by how often it changes and how often it is asked for.

    A loader's own choice (``current_load().ttl``), and the TTL that is given with ``set``, stand.
    So does the TTL of ``None``: how long "nothing there" is believed is ``negative_ttl``'s to say.

    Args:
        min: The shortest TTL.
        max: The longest.
        staleness: The share of answers that may be stale, above 0 and below 1. Between ``min`` and
            ``max`` the loads are as few as that allows.
        same: ``same(old, new)``: whether a value counts as unchanged. Without it, equal bytes.
        hot: Whether keys that are asked for more often are refreshed more often; else each key
            may be stale for ``staleness`` of the time.
        start: A new key's TTL; unless given, the function's own, if it lies between ``min`` and
            ``max``, else ``min``.
        remember: How long a value is kept past its TTL, unserved, for what was learned of it;
            unless given, ``max``.

    Raises:
        ConfigurationError: If min > max, or an option is no duration, or illegal.
    """

    roles = ("adaptive ttl",)

    def __init__(
        self,
        min: Duration,  # noqa: A002 - reads as what it is, by keyword
        max: Duration,  # noqa: A002
        *,
        staleness: float = 0.05,
        same: Callable[[Any, Any], bool] | None = None,
        hot: bool = True,
        start: Duration | None = None,
        remember: Duration | None = None,
    ) -> None:
        self.min, self.max = duration(min, "min"), duration(max, "max")
        if self.min > self.max:
            raise ConfigurationError(f"min must not be above max, got {min!r} and {max!r}")
        if same is not None and not callable(same):
            raise ConfigurationError(f"same must be a function same(old, new), got {same!r}")
        if not isinstance(hot, bool):
            raise ConfigurationError(f"hot must be True or False, got {hot!r}")
        self._same = same
        self._hot = hot
        remedy = "0.05 allows one stale answer in twenty"
        self._share = share(staleness, "staleness", remedy)
        self._start = None if start is None else self._clamped(duration(start, "start"))
        self.keeps_for = self.max if remember is None else duration(remember, "remember")
        self._codec = Codec()
        self._budget = Budget(self._share)
        heal_after_fork(self._budget)

    def ttl(self, load: Load) -> float | None:
        if load.ttl is not None and load.ttl <= 0:  # not to be kept
            return None
        state = self._learned(load)
        load.state = state.dump()
        if load.has_own_ttl or load.is_write or load.value is None:
            return None
        load.reason = _reason(state)
        return state.ttl

    def _learned(self, load: Load) -> _State:
        """Return what is known now of a load's key."""
        digest = 0 if self._same is not None else self._digest(load)
        previous = load.previous
        old = None if previous is None else _State.restore(previous.state)
        if old is None or previous is None:
            return self._begun(load, digest)
        changed = self._has_changed(load, previous, old.digest, digest)
        age = previous.age
        if changed is None or not 0 < age < math.inf:
            return old._replace(digest=digest)
        return self._after(old, digest, age, previous.hits, changed=changed)

    def _begun(self, load: Load, digest: int) -> _State:
        """Return what is known of a new key: that its first TTL may be about right."""
        own = load.ttl
        first = own if own is not None and self.min <= own <= self.max else self.min
        ttl = self._start or first
        return _State(digest, guess(ttl / (2 * self._share)), 0.0, 0.0, ttl, _NO_HISTORY)

    def _after(self, old: _State, digest: int, age: float, hits: int, *, changed: bool) -> _State:
        known = learn(old.known, age, changed=changed)
        requests = old.requests * HITS_KEPT + hits + 1
        seconds = old.seconds * HITS_KEPT + age
        if self._hot:
            ttl = self._budget.spend(
                age=age, hits=hits, changed=changed, hot=requests / seconds, rate=known.rate
            )
        else:
            ttl = 2 * self._share / known.rate
        # A bound that holds whatever the estimates say.
        ttl = min(ttl, old.ttl * SHRINKS) if changed else max(ttl, old.ttl * GROWS)
        history = _remembering(old.history, changed=changed)
        return _State(digest, known, requests, seconds, self._clamped(ttl), history)

    def _has_changed(self, load: Load, previous: Previous, old: int, new: int) -> bool | None:
        """Whether a value differs from the one before; None where that cannot be told."""
        if load.is_not_modified:
            return False
        if self._same is not None:
            return not self._same(previous.value, load.value)
        if old and old == new:
            return False
        if previous.value is load.value:  # changed in place, or of no bytes: nothing to compare
            return None if not old or not new else True
        return not _are_equal(previous.value, load.value)

    def _digest(self, load: Load) -> int:
        """Return a digest of a value's bytes, > 0, or 0 where it has none."""
        try:
            payload = self._codec.encode("", load.value)
        except EncodeError:
            return 0
        return int.from_bytes(blake2b(payload, digest_size=7).digest()) | 1

    def _clamped(self, ttl: float) -> float:
        return min(self.max, max(self.min, ttl))

    def measures(self) -> Mapping[str, float]:
        return {"adaptive_ttl.stale_share": self._budget.stale_share}


def _are_equal(old: Any, new: Any) -> bool:
    try:
        return type(old) is type(new) and bool(old == new)
    except Exception:  # an array, or a class that compares with nothing: its bytes differ
        return False


def _remembering(history: int, *, changed: bool) -> int:
    bits = history << 1 | changed
    return bits if bits < 2 << HISTORY else bits & ((1 << HISTORY) - 1) | 1 << HISTORY


def _reason(state: _State) -> str:
    """Say why a TTL is what it is."""
    loads = state.history.bit_length() - 1
    if not loads:
        return "new: nothing is known of its changes yet"
    changed = (state.history - (1 << loads)).bit_count()
    hits = 60 * state.requests / state.seconds
    return (
        f"changed {changed} of the last {loads} loads; "
        f"every {_text(1 / state.known.rate)} or so; {hits:.3g} requests/min"
    )


def _text(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
