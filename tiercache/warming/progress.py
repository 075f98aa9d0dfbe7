"""What is seen of a run: a bar on a terminal that ``rich`` can draw on, else lines in the log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, Protocol, Self

from .run import Run

log = logging.getLogger(__name__)

LINE_SECONDS = 5.0  # between lines in the log
BAR_SECONDS = 0.1  # between changes of the bar


class Progress(Protocol):
    """Shows a run while it lasts. ``show`` is called by many threads."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: Any) -> None: ...
    def show(self) -> None: ...


def progress_of(run: Run, name: str, *, wanted: bool | None) -> Progress:
    """Return what shows a run: None as ``wanted`` for a bar where there is a terminal."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if wanted is False or (wanted is None and not is_terminal):
        return Nothing()
    if is_terminal:
        try:
            return Bar(run, name)
        except ImportError:
            log.debug("no progress bar without rich; install tiercache-toolkit[demo]")
    return Lines(run, name)


class Nothing:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Nothing was begun."""

    def show(self) -> None:
        """Show nothing."""


class Lines(Nothing):
    """Shows a line in the log now and then."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self._name = name
        self._next = time.monotonic() + LINE_SECONDS

    def show(self) -> None:
        """Log how far the run has come, if the last line is old."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_SECONDS
            log.info("warming cache %r: %s", self._name, self._run.report())


class Bar:
    """Shows a bar on standard error."""

    def __init__(self, run: Run, name: str, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._run = run
        self._lock = threading.Lock()
        self._next = 0.0
        self._bar = RichProgress(
            TextColumn("warming {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            refresh_per_second=1 / BAR_SECONDS,
        )
        self._task = self._bar.add_task(name, total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._draw()
        self._bar.stop()

    def show(self) -> None:
        """Move the bar, if it was not moved a moment ago."""
        now = time.monotonic()
        with self._lock:
            if now < self._next:
                return
            self._next = now + BAR_SECONDS
        self._draw()

    def _draw(self) -> None:
        self._bar.update(self._task, completed=self._run.report().total, total=self._run.total)
