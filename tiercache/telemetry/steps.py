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

    def note(self, **attributes: Any) -> None:
        """Add attributes by their short names: ``ttl_s=60``."""

    def note_all(self, notes: Any) -> None:
        """Add what plugins have noted, by name without ``tiercache.``."""

    def answered(self, outcome: str, age: float | None = None) -> None:
        """Say how a call was answered, and how many seconds old the answer was."""

    def failed(self, error: BaseException) -> None:
        """Say what went wrong, where it is not raised."""

    def happened(self, event: str) -> None:
        """Add an event."""

    def link(self, context: Any) -> None:
        """Link it to another span, if there is one: what ``context`` of that one's step gave."""

    @property
    def context(self) -> Any:
        """What another step can be linked to; None where nothing records."""


class NoStep:
    """Nothing records."""

    __slots__ = ()
    context = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        pass

    def note(self, **attributes: Any) -> None:
        pass

    def note_all(self, notes: Any) -> None:
        pass

    def answered(self, outcome: str, age: float | None = None) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        pass

    def happened(self, event: str) -> None:
        pass

    def link(self, context: Any) -> None:
        pass


NO_STEP: Final = NoStep()
