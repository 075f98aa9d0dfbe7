"""A loader that does as it is told: counts its calls, fails, or waits at a gate."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.kinds import Kind
from tests.waiting import until


class Failure(Exception):
    """A loader's error."""


class Scripted:
    """Returns 1, 2, 3... for each key; ``error`` is raised while it is set."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.loads: list[Any] = []
        self.error: Exception | None = None
        self.around: Callable[[], object] | None = None  # called in each load
        self._gate: threading.Event | None = None

    def hold(self) -> None:
        """Have loads wait from now on."""
        self._gate = threading.Event()

    def let_go(self) -> None:
        """Let them go on."""
        assert self._gate is not None
        gate, self._gate = self._gate, None
        gate.set()

    def until_loads(self, count: int, function: Callable[..., Any], *args: Any) -> None:
        """Wait until so many loads have begun; the calls keep an event loop going meanwhile."""
        until(lambda: len(self.loads) == count or self.kind.call(function, *args) is None)

    @property
    def function(self) -> Callable[..., Any]:
        """The loader, as a function of its kind."""
        if self.kind.name == "blocking":

            def load(x: Any) -> Any:
                gate = self._begin(x)
                assert gate is None or gate.wait(10)
                return self._end(x)

            return load

        async def aload(x: Any) -> Any:
            gate = self._begin(x)
            deadline = time.monotonic() + 10
            while gate is not None and not gate.is_set():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.001)
            return self._end(x)

        return aload

    def _begin(self, x: Any) -> threading.Event | None:
        self.loads.append(x)
        return self._gate

    def _end(self, x: Any) -> Any:
        if self.around is not None:
            self.around()
        if self.error is not None:
            raise self.error
        return self.loads.count(x)
