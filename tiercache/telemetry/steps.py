"""What the engine sees of a span, and what stands in its place where nothing records.

No OpenTelemetry here: the engine imports this with everything else.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, Self


class Step(Protocol):
    """A part of what a call does: a context manager, which ends its span on every way out.

    What leaves it as an exception is its error. All else is said before it ends.
    """

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None: ...

    def note_all(self, notes: Any) -> None:
        """Add what plugins have noted, by name without ``tiercache.``."""

    def answered(self, outcome: str, age: float | None = None) -> None:
        """Say how a call was answered, and how many seconds old the answer was."""

    def kept(self, ttl: float | None) -> None:
        """Say how many seconds a loaded value will be fresh; None: for ever, or not kept."""

    def failed(self, error: BaseException) -> None:
        """Say what went wrong, where it is not raised."""

    def unasked(self, state: str) -> None:
        """Say that a breaker in this state kept the store from being asked."""


class NoStep:
    """Nothing records."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        pass

    def note_all(self, notes: Any) -> None:
        pass

    def answered(self, outcome: str, age: float | None = None) -> None:
        pass

    def kept(self, ttl: float | None) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass

    def unasked(self, state: str) -> None:
        pass


NO_STEP: Final[Step] = NoStep()
