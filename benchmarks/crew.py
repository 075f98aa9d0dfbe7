"""Processes that do the same thing at the same instant, again and again.

A crew's members are started once, and have imported, connected and tried everything before the
first round. For a round each makes itself ready; then all are told one instant, a little ahead, at
which to begin. Times are CLOCK_MONOTONIC, which the processes of one machine have in common.

A role is a generator, in a process of its own: it is sent the number of a round, makes itself
ready, yields to be sent the instant, does its work, and yields what it saw of it. See `play`.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

LEAD_SECONDS = 0.02  # how far ahead the instant is: all have to hear of it before

Role = Callable[..., Generator[Any, Any, None]]


class Crew:
    """Processes that play a role, each with its own arguments."""

    def __init__(self, role: Role, parts: Sequence[tuple[Any, ...]]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for part in parts:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=play, args=(theirs, role, part), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
            self._pipes.append(ours)
            self._processes.append(process)
        self._gather()

    def round(self, number: int) -> list[Any]:
        """Have all members begin at one instant; return what each saw. EOFError: one has died."""
        self._tell(number)
        self._gather()
        self._tell(time.monotonic() + LEAD_SECONDS)
        return self._gather()

    def _tell(self, what: object) -> None:
        for pipe in self._pipes:
            pipe.send(what)

    def _gather(self) -> list[Any]:
        return [pipe.recv() for pipe in self._pipes]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End the members; at once if something went wrong."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if error is not None:
                process.terminate()
            process.join()


def play(pipe: Connection, role: Role, part: tuple[Any, ...]) -> None:
    """Play a role until the pipe's other end is closed."""
    acting = role(*part)
    next(acting)
    pipe.send("here")
    try:
        while True:
            acting.send(pipe.recv())
            pipe.send("ready")
            pipe.send(acting.send(pipe.recv()))
            next(acting)
    except EOFError:
        acting.close()


def sleep_until(instant: float) -> None:
    """Return at that instant of the monotonic clock."""
    time.sleep(max(0.0, instant - time.monotonic()))
