"""Warming in the background: what an application asks whether it is ready."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tiercache.logs import trace_of

from .run import STOPPED, Run, WarmReport

log = logging.getLogger(__name__)


class Warmup:
    """A run of warming in a thread of its own.

    It ends with its sources, at its deadline, for one of the reasons in ``report.stopped_because``,
    when it is stopped, or when its cache is closed.
    """

    def __init__(self, run: Run, work: Callable[[], object], name: str) -> None:
        self._run = run
        self._work = work
        self._name = name
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._body, name="tiercache-warmup", daemon=True)
        self._thread.start()

    def _body(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error
            self._run.stop(STOPPED)
            log.error("warming of cache %r failed: %s", self._name, trace_of(error))  # noqa: TRY400 - see logs.py
        finally:
            self._run.end()

    @property
    def is_ready(self) -> bool:
        """Whether it has ended, for whatever reason: waiting longer brings nothing."""
        return not self._thread.is_alive()

    @property
    def error(self) -> BaseException | None:
        """What a source raised, if one did."""
        return self._error

    @property
    def report(self) -> WarmReport:
        """What has come of it so far."""
        return self._run.report()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is ready, at most so many seconds; say whether it is."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return self.is_ready

    def stop(self) -> None:
        """Begin no more loads; those under way are not waited for."""
        self._run.stop(STOPPED)

    def __repr__(self) -> str:
        return f"<Warmup of cache {self._name!r}: {self.report}>"
