"""Who in this process waits for news of a key, and how the bus wakes them.

A caller that finds a lease or a lock held by another process *expects* news of it **before** it
asks for it, so that news which comes between its asking and its waiting is not lost. News is the
kind of the message that brought it; None stands for no news within the time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol, Self

from tiercache.tiers.store import Kind

__all__ = ["Expectation", "Expecting", "ThreadExpectation", "Waits", "lock_name"]


class Expectation(Protocol):
    """One caller's waiting for news of one name."""

    def wake(self, kind: Kind) -> None:
        """Bring news; called from any thread, once for each message."""


class Waits:
    """The expectations of one cache, by name. Locks and keys do not share names: see ``lock_name``.

    Safe for threads; its lock is taken by no user code.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._expected: dict[str, list[Expectation]] = {}  # guarded by _lock

    def __len__(self) -> int:
        return len(self._expected)

    def add(self, name: str, expectation: Expectation) -> None:
        """Have an expectation woken by news of a name."""
        with self._lock:
            self._expected.setdefault(name, []).append(expectation)

    def remove(self, name: str, expectation: Expectation) -> None:
        """Take back ``add``."""
        with self._lock:
            expected = self._expected.get(name, [])
            with suppress(ValueError):
                expected.remove(expectation)
            if not expected:
                self._expected.pop(name, None)

    def tell(self, names: Iterable[str], kind: Kind) -> None:
        """Wake whoever waits for one of the names."""
        if not self._expected:
            return
        with self._lock:
            woken = [each for name in names for each in self._expected.get(name, ())]
        for each in woken:
            each.wake(kind)

    def tell_all(self, kind: Kind) -> None:
        """Wake everyone: what they wait for may have happened unheard."""
        with self._lock:
            woken = [each for expected in self._expected.values() for each in expected]
        for each in woken:
            each.wake(kind)


def lock_name(name: str) -> str:
    """Return the name under which news of a lock is expected; no key of a cache is like it."""
    return f"\0lock:{name}"


class ThreadExpectation:
    """A thread's waiting."""

    def __init__(self) -> None:
        self._gate = threading.Semaphore(0)
        self._news: Kind | None = None

    def wake(self, kind: Kind) -> None:
        self._news = kind
        self._gate.release()

    def wait(self, seconds: float) -> Kind | None:
        """Wait for news, at most so many seconds; what came since the last ``wait`` counts."""
        if not self._gate.acquire(timeout=max(0.0, seconds)):
            return None
        while self._gate.acquire(blocking=False):  # several pieces of news are one
            pass
        return self._news


class Expecting:
    """A batch's waiting for news of any of several keys, while a ``with`` statement lasts."""

    def __init__(self, waits: Waits, make: Callable[[], Expectation]) -> None:
        self._waits = waits
        self._make = make  # what this caller waits with
        self._notes: dict[str, _Note] = {}
        self._failed: set[str] = set()  # keys; added to by any thread, in single steps
        self.waiter: Expectation | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for key, note in self._notes.items():
            self._waits.remove(key, note)

    def covers(self, keys: Iterable[str]) -> bool:
        """Whether news of all these keys would be heard."""
        return all(key in self._notes for key in keys)

    def cover(self, keys: Iterable[str]) -> None:
        """Have news of these keys heard, too."""
        waiter = self.waiter = self.waiter or self._make()
        for key in keys:
            if key not in self._notes:
                note = self._notes[key] = _Note(key, self._failed, waiter)
                self._waits.add(key, note)

    def take_failed(self) -> set[str]:
        """Return the keys whose load, elsewhere, has failed since this was asked last."""
        failed = self._failed.copy()
        self._failed -= failed
        return failed


class _Note:
    """A batch's waiting for news of one key."""

    def __init__(self, key: str, failed: set[str], waiter: Expectation) -> None:
        self._key = key
        self._failed = failed
        self._waiter = waiter

    def wake(self, kind: Kind) -> None:
        if kind is Kind.FAILED:
            self._failed.add(self._key)
        self._waiter.wake(kind)
