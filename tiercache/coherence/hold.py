"""One acquisition of a lock as its holder sees it: whether it is still held, and when to renew it.

The store counts the ttl from when a request reaches it; the holder counts it from before the
request was sent. So the holder knows that the lock is over no later than the store gives it to
somebody else, without comparing clocks. The machine's sleep is not counted (CLOCK_MONOTONIC), nor
can a process that stands still notice anything: what a late writer does, the fence tells.
"""

from __future__ import annotations

import os
from enum import StrEnum
from math import inf

__all__ = ["Era", "Hold", "Loss"]

RENEWALS_PER_TTL = 3
RETRIES_PER_TTL = 10  # while the store does not answer
LONGEST_RETRY = 1.0  # seconds


class Loss(StrEnum):
    """Why a lock is lost."""

    GONE = "the store no longer holds it for this holder; compare lock.fence where you write"
    OVERDUE = "the store did not renew it within its ttl; compare lock.fence where you write"
    CLOSED = "its cache was closed; close a cache after its locks are released"
    FORKED = "it belongs to the process that this one was forked from; acquire it here"


class Era:
    """The life of a cache's locks, which ends when the cache is closed."""

    def __init__(self) -> None:
        self.is_over = False


class Hold:
    """What the store granted.

    Args:
        name: Of the lock.
        nonce: Marks it as this holder's.
        fence: The number of the grant.
        ttl: Seconds.
        asked: Monotonic seconds, from before the store was asked.
        era: In which it is held.
    """

    def __init__(
        self, name: str, nonce: bytes, fence: int, ttl: float, asked: float, era: Era
    ) -> None:
        self.name = name
        self.nonce = nonce
        self.fence = fence
        self.ttl = ttl
        self.is_released = False
        self.until = asked + ttl
        self.renew_at = asked + ttl / RENEWALS_PER_TTL  # inf: a renewal is under way
        self._era = era
        self._process = os.getpid()
        self._loss: Loss | None = None  # once seen as lost, it stays lost

    def loss(self, now: float) -> Loss | None:
        """Return why it is lost; None: it is held, or was until it was released."""
        if self._loss is None and not self.is_released:
            self._loss = self._find_loss(now)
        return self._loss

    def _find_loss(self, now: float) -> Loss | None:
        if self._process != os.getpid():
            return Loss.FORKED
        if self._era.is_over:
            return Loss.CLOSED
        return Loss.OVERDUE if now >= self.until else None

    def begin_renewal(self) -> None:
        """Take note that it is being renewed."""
        self.renew_at = inf

    def after_renewal(self, is_ours: bool | None, sent: float, now: float) -> None:
        """Take note of the store's answer; None: there was none."""
        if is_ours:
            self.until = sent + self.ttl
            self.renew_at = sent + self.ttl / RENEWALS_PER_TTL
        elif is_ours is None:
            self.renew_at = now + min(self.ttl / RETRIES_PER_TTL, LONGEST_RETRY)
        elif not self.is_released:
            self.lose()

    def lose(self) -> Loss:
        """Take note that the store no longer knows of it."""
        self._loss = Loss.GONE
        return Loss.GONE
