"""The locks of a cache without L2: the same promises, within this process."""

from __future__ import annotations

import itertools
import threading
import time
from typing import NamedTuple

from tiercache.tiers.store import Grant

FEW = 64  # locks that may stay after their time


class _Held(NamedTuple):
    nonce: bytes
    until: float  # monotonic seconds


class LocalLocks:
    """Does what a namespace does for locks; see tiers/store.py."""

    def __init__(self) -> None:
        self._fences = itertools.count(1)
        self.after_fork()

    def after_fork(self) -> None:
        """Forget what the parent's threads hold; fences go on growing."""
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}  # guarded by _lock
        self._sweep_at = FEW  # entries

    def lock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Ask for a lock."""
        with self._lock:
            now = time.monotonic()
            held = self._held.get(name)
            if held is not None and held.until > now and held.nonce != nonce:
                return Grant(held_for=held.until - now)
            self._held[name] = _Held(nonce, now + seconds)
            if len(self._held) > self._sweep_at:
                self._sweep(now)
            return Grant(fence=next(self._fences))

    def _sweep(self, now: float) -> None:
        """Drop what nobody released; seldom enough to cost nothing per lock."""
        self._held = {name: held for name, held in self._held.items() if held.until > now}
        self._sweep_at = 2 * len(self._held) + FEW

    def renew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Have a lock last longer."""
        with self._lock:
            now = time.monotonic()
            held = self._held.get(name)
            if held is None or held.nonce != nonce or held.until <= now:
                return False
            self._held[name] = _Held(nonce, now + seconds)
            return True

    def unlock(self, name: str, nonce: bytes) -> bool:
        """End a lock."""
        with self._lock:
            held = self._held.get(name)
            if held is None or held.nonce != nonce:
                return False
            del self._held[name]
            return held.until > time.monotonic()

    async def alock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Await what lock does, which never waits."""
        return self.lock(name, nonce, seconds)

    async def arenew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Await what renew_lock does, which never waits."""
        return self.renew_lock(name, nonce, seconds)

    async def aunlock(self, name: str, nonce: bytes) -> bool:
        """Await what unlock does, which never waits."""
        return self.unlock(name, nonce)
