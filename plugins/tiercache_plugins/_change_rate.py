"""How often a value changes, learned from whether it had changed when it was loaded again.

The model: changes come at random, at an unknown rate of so many per second (a Poisson process).
What is known of the rate is a gamma distribution of shape ``changes`` and rate ``seconds``: as much
as if so many changes had been seen in so many seconds; their quotient is its mean.

A load at an age of ``a`` seconds tells one bit, however often the value changed in between:

- unchanged, of likelihood exp(-rate a): the distribution stays a gamma, with ``a`` more seconds;
- changed, of likelihood 1 - exp(-rate a): the result is no gamma; it is replaced by the one of the
  same mean and variance. Soon after a load that is one more change; long after, where a change was
  certain anyway, it is hardly anything.

What was learned fades by ``KEPT`` with each load, so that a value which begins to change, or ceases
to, is followed; half of it is gone after 34 loads.

Sources: Cho and Garcia-Molina, Estimating Frequency of Change, ACM TOIT 3(3), 2003, for the model
and why counting changes alone is biased; the update is assumed density filtering (moment matching).
"""

from __future__ import annotations

import math
from typing import NamedTuple

#: Weight of what is known before anything was seen, in changes: little, since values differ by
#: orders of magnitude in how often they change.
PRIOR_CHANGES = 0.5
KEPT = 0.98
LEAST_CHANGES = 0.2  # no silence, however long, proves that a value never changes


class Known(NamedTuple):
    """What is known of the rate of change of one value."""

    changes: float  # > 0
    seconds: float  # > 0

    @property
    def rate(self) -> float:
        """Changes per second to expect."""
        return self.changes / self.seconds


def guess(interval: float) -> Known:
    """Return what little is known of a value that is thought to change every ``interval`` s."""
    return Known(PRIOR_CHANGES, PRIOR_CHANGES * interval)


def learn(known: Known, age: float, *, changed: bool) -> Known:
    """Return what is known after a load at an age of so many seconds, > 0."""
    faded = Known(max(LEAST_CHANGES, known.changes * KEPT), known.seconds * KEPT)
    if changed:
        return _after_change(faded, age)
    return Known(faded.changes, faded.seconds + age)


def _after_change(known: Known, age: float) -> Known:
    """Return the gamma of the mean and variance that a rate has after a change within ``age``."""
    shape, seconds = known
    log_share = math.log(seconds / (seconds + age))  # < 0

    def unless_unchanged(power: float) -> float:  # 1 - (seconds / (seconds + age)) ** power
        return -math.expm1(power * log_share)

    change = unless_unchanged(shape)
    mean = shape / seconds * unless_unchanged(shape + 1) / change
    square = shape * (shape + 1) / seconds**2 * unless_unchanged(shape + 2) / change
    variance = square - mean * mean
    return Known(mean * mean / variance, mean / variance)


def stale_share(mean_changes: float) -> float:
    """Return for which share of a period its first value is stale, given that it did change.

    Args:
        mean_changes: To expect in the period, >= 0. Half, where one change is much already; all
            but nothing, where there are many.
    """
    if mean_changes < 1e-3:
        return 0.5
    happens = -math.expm1(-mean_changes)
    return (1 - happens / mean_changes) / happens
