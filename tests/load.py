"""A load in the background while servers die: what its calls came to, and how long they took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.waiting import until
from tiercache.errors import StoreError
from tiercache.tiers.store import LogGap, Message, Tail


class _Outcome(NamedTuple):
    began: float
    ended: float
    is_answered: bool


class Load:
    """Calls something over and over in a thread; any error but StoreError is raised at the end."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._outcomes: list[_Outcome] = []
        self._is_over = threading.Event()
        self._surprise: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                began = time.monotonic()
                try:
                    self._call()
                    is_answered = True
                except StoreError:
                    is_answered = False
                self._outcomes.append(_Outcome(began, time.monotonic(), is_answered))
        except BaseException as error:
            self._surprise = error

    def wait(self, count: int = 10) -> None:
        """Wait until so many calls are over."""
        until(lambda: len(self._outcomes) >= count or self._surprise)

    def recovered(self, moment: float) -> float:
        """Wait for a call that was begun after a moment, and answered; return how long it took."""
        until(lambda: self._answered(moment) or self._surprise)
        return self._answered(moment)[0].ended - moment

    def _answered(self, moment: float) -> list[_Outcome]:
        return [one for one in list(self._outcomes) if one.is_answered and one.began > moment]

    @property
    def slowest(self) -> float:
        """Seconds that the slowest call took."""
        return max(one.ended - one.began for one in list(self._outcomes))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._surprise is not None:
            raise self._surprise


class Listener:
    """Reads a log in a thread, over whatever happens."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.heard: list[Message] = []
        self.gaps = 0

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                self.heard += self._tail.read(0.1)
            except LogGap:
                self.gaps += 1
            except StoreError:
                self._is_over.wait(0.02)

    def names(self) -> set[str]:
        """Return all names of the messages that were heard."""
        return {name for message in list(self.heard) for name in message.names}

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._tail.close()
