"""The spans of one cache, made with one tracer.

Parents come from OpenTelemetry's own context: what has spans below it is *current* while it lasts.
Tasks and threads of the engine start in a copy of their caller's context, so what they do stands
where it belongs; and the loader's own spans (of a database, say) stand below ``tiercache.load``.

A call that was sampled out makes no spans: where the current span is valid but neither records nor
was sampled, none is started. (A remote parent that was sampled does not record either, and counts.)

Imported late: here, and in metrics.py, is the engine's only import of OpenTelemetry.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any, Final, Protocol, Self

from opentelemetry.context import attach, detach
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from tiercache.errors import CacheError

from . import names
from .steps import NO_STEP, NoStep, Step

#: Operations of L2 that are spans; the others go with a lease, or stand below an invalidation.
_STORE: Final = {
    "read": names.L2_GET,
    "read_many": names.L2_GET,
    "write": names.L2_SET,
    "write_many": names.L2_SET,
    "fill": names.L2_SET,
}
_OF_MANY: Final = frozenset({"read_many", "write_many", "fill"})
MOST_LINKS: Final = 128  # of a flush: as many as an SDK keeps
_MARK: Final = struct.Struct(">QQQB")  # trace, span, flags
_LOW: Final = (1 << 64) - 1
_PLAIN: Final = (bool, int, float, str)  # what an attribute may be


class Flight(Protocol):
    """What is loaded, as far as spans go."""

    key: str
    load: Any  # notes of plugins are on it
    span: Any  # the context of the span of its load


class Recorded:
    """A span, from entering to leaving; what it is told on the way is written at its end."""

    __slots__ = ("_attributes", "_name", "_notes", "_tracer", "span")

    span: Span  # once entered

    def __init__(self, tracer: Tracer, name: str, attributes: Mapping[str, Any]) -> None:
        self._tracer = tracer
        self._name = name
        self._attributes = attributes
        self._notes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.span = self._tracer.start_span(self._name, attributes=self._attributes)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:
            self.failed(error)
        if self._notes:
            self.span.set_attributes(self._notes)
        self.span.end()

    def note_all(self, notes: Mapping[str, Any]) -> None:
        for name, value in notes.items():
            if value is not None:
                plain = value if isinstance(value, _PLAIN) else str(value)
                self._notes[names.NOTE + name] = plain

    def answered(self, outcome: str, age: float | None = None) -> None:
        self._notes[names.OUTCOME] = outcome
        if age is not None and not isnan(age):
            self._notes[names.AGE_S] = age

    def kept(self, ttl: float | None) -> None:
        if ttl is not None:
            self._notes[names.TTL_S] = ttl

    def failed(self, error: BaseException) -> None:
        self.span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
        self.span.add_event("exception", _described(error))

    def unasked(self, state: str) -> None:
        self._notes[names.BREAKER_STATE] = state


class Current(Recorded):
    """A span that has others below it."""

    __slots__ = ("_token",)

    def __enter__(self) -> Self:
        span = self.span = self._tracer.start_span(self._name, attributes=self._attributes)
        self._token = attach(set_span_in_context(span))
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        # A coroutine that is thrown away may be closed in any context, where nothing is attached.
        if kind is not GeneratorExit:
            detach(self._token)
        Recorded.__exit__(self, kind, error, traceback)


class Apart(Current):
    """``tiercache.refresh`` behind a value that is served.

    A trace of its own, since what carries it begins in an empty context.
    """

    __slots__ = ("cause",)

    cause: SpanContext | None

    def __enter__(self) -> Self:
        links = None if self.cause is None else [Link(self.cause)]
        self.span = self._tracer.start_span(self._name, attributes=self._attributes, links=links)
        self._token = attach(set_span_in_context(self.span))
        return self


class Linked(Current):
    """``tiercache.write_behind.flush``: linked to the puts that it writes, wherever made."""

    __slots__ = ("links",)

    links: Sequence[Link]

    def __enter__(self) -> Self:
        self.span = self._tracer.start_span(
            self._name, attributes=self._attributes, links=self.links
        )
        self._token = attach(set_span_in_context(self.span))
        return self


class Read(Current):
    """``tiercache.get``: it has an outcome, and an error is one."""

    __slots__ = ()

    def failed(self, error: BaseException) -> None:
        self._notes[names.OUTCOME] = names.ERROR
        Recorded.failed(self, error)


class Loading(Current):
    """``tiercache.load``: the error is the user's, and comes with its traceback."""

    __slots__ = ("flights",)

    flights: Sequence[Flight]

    def __enter__(self) -> Self:
        Current.__enter__(self)
        context = self.span.get_span_context()
        for flight in self.flights:
            flight.span = context
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        for flight in self.flights:
            notes = getattr(flight.load, "notes", None)
            if notes:
                self.note_all(notes)
        Current.__exit__(self, kind, error, traceback)

    def failed(self, error: BaseException) -> None:
        self.span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
        if isinstance(error, CacheError):  # raised by us: where says nothing, and costs 50 us
            self.span.add_event("exception", _described(error))
        else:
            self.span.record_exception(error)


class Waiting(Recorded):
    """``tiercache.wait``: linked to the load, which may begin after the wait does."""

    __slots__ = ("flight",)

    flight: Flight

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self.flight.span is not None:
            self.span.add_link(self.flight.span)
        Recorded.__exit__(self, kind, error, traceback)


class Borrowed(NoStep):
    """A part of what the current span stands for: it says there what went wrong."""

    __slots__ = ()

    def failed(self, error: BaseException) -> None:
        span = get_current_span()
        if span.is_recording():
            span.add_event("exception", _described(error))

    def unasked(self, state: str) -> None:
        span = get_current_span()
        if span.is_recording():
            span.set_attribute(names.BREAKER_STATE, state)


_BORROWED: Final = Borrowed()


class Spans:
    """Makes the spans of one cache.

    Args:
        tracer: Of the instrumentation scope ``tiercache``.
        cache: The name of the cache.
        shows_keys: Whether keys are attributes.
    """

    def __init__(self, tracer: Tracer, cache: str, *, shows_keys: bool) -> None:
        self._tracer = tracer
        self._shows_keys = shows_keys
        self._common = {names.CACHE: cache}
        self._known: dict[str, Mapping[str, Any]] = {"": self._common}  # by function

    # A read, and what is below it

    def get(self, function: str, key: str) -> Step:
        """Begin a read of one key."""
        if _is_sampled_out():
            return NO_STEP
        return Read(self._tracer, names.GET, self._of(function, key))

    def get_many(self, function: str, count: int) -> Step:
        """Begin a read of a batch."""
        return self._counted(Read, names.GET, self._of(function), count)

    def load(self, function: str, flight: Flight) -> Step:
        """Begin the load of a flight."""
        if _is_sampled_out():
            return NO_STEP
        step = Loading(self._tracer, names.LOAD, self._of(function, flight.key))
        step.flights = (flight,)
        return step

    def load_many(self, function: str, flights: Sequence[Flight]) -> Step:
        """Begin the load of flights together."""
        step = self._counted(Loading, names.LOAD, self._of(function), len(flights))
        if isinstance(step, Loading):
            step.flights = flights
        return step

    def wait(self, flight: Flight) -> Step:
        """Begin to wait for a flight that another caller leads."""
        if _is_sampled_out():
            return NO_STEP
        step = Waiting(self._tracer, names.WAIT, self._of("", flight.key))
        step.flight = flight
        return step

    def store(self, operation: str, subject: str, args: tuple[Any, ...]) -> Step:
        """Begin an operation of L2; one that has no span says in the current one what fails.

        Args:
            operation: Its name in the store's protocol.
            subject: A key of it.
            args: Its arguments: of one on several keys, those come first.
        """
        name = _STORE.get(operation)
        if name is None:
            return _BORROWED
        if operation in _OF_MANY and len(args[0]) != 1:
            return self._counted(Recorded, name, self._common, len(args[0]))
        if _is_sampled_out():
            return NO_STEP
        return Recorded(self._tracer, name, self._of("", subject))

    # Others

    def refresh(self, function: str, key: str, cause: SpanContext | None) -> Step:
        """Begin a refresh behind a value that is served: a trace of its own."""
        step = Apart(self._tracer, names.REFRESH, self._of(function, key))
        step.cause = cause
        return step

    def refresh_many(self, function: str, count: int, cause: SpanContext | None) -> Step:
        """Begin a refresh of so many values together."""
        attributes = {**self._of(function), names.KEYS: count}
        step = Apart(self._tracer, names.REFRESH, attributes)
        step.cause = cause
        return step

    def explicit_refresh(self, function: str, key: str) -> Step:
        """Begin a refresh that a caller waits for."""
        if _is_sampled_out():
            return NO_STEP
        return Current(self._tracer, names.REFRESH, self._of(function, key))

    def invalidate(self, operation: str, subjects: Sequence[str]) -> Step:
        """Begin an invalidation of keys, or of tags."""
        attributes = self._of("", subjects[0] if len(subjects) == 1 else "")
        attributes = {**attributes, names.OPERATION: operation}
        return self._counted(Current, names.INVALIDATE, attributes, len(subjects))

    def bus_apply(self, count: int) -> Step:
        """Begin to apply so many of other processes' changes."""
        attributes = {**self._common, names.MESSAGES: count}
        return Recorded(self._tracer, names.BUS_APPLY, attributes)

    def put_behind(self, writer: str, key: str) -> Step:
        """Begin to accept a write."""
        if _is_sampled_out():
            return NO_STEP
        attributes = {**self._of("", key), names.WRITER: writer}
        return Current(self._tracer, names.WRITE_BEHIND_PUT, attributes)

    def flush_behind(self, writer: str, count: int, marks: Sequence[bytes]) -> Step:
        """Begin to hand so many operations to a writer; marks are of the spans of their puts."""
        attributes = {**self._common, names.WRITER: writer, names.OPERATIONS: count}
        step = Linked(self._tracer, names.WRITE_BEHIND_FLUSH, attributes)
        step.links = [Link(_context_of(mark)) for mark in marks[:MOST_LINKS]]
        return step

    def mark(self) -> bytes:
        """Return what links to the current span from another process; b"" if there is none."""
        context = get_current_span().get_span_context()
        if not context.is_valid:
            return b""
        return _MARK.pack(
            context.trace_id >> 64, context.trace_id & _LOW, context.span_id, context.trace_flags
        )

    # What is added to the current span: that of the call, where it is recorded

    def current(self) -> SpanContext | None:
        """Return what a refresh that begins now is linked to, if anything."""
        context = get_current_span().get_span_context()
        return context if context.is_valid else None

    def ruled_out(self, guard: str) -> None:
        """Say which guard has answered."""
        span = get_current_span()
        if span.is_recording():
            span.set_attribute(names.GUARD, guard)

    def held_elsewhere(self) -> None:
        """Say that another process loads, and is waited for."""
        span = get_current_span()
        if span.is_recording():
            span.add_event(names.LEASE_HELD)

    def _of(self, function: str = "", key: str = "") -> Mapping[str, Any]:
        known = self._known.get(function)
        if known is None:
            known = self._known[function] = {**self._common, names.FUNCTION: function}
        return {**known, names.KEY: key} if key and self._shows_keys else known

    def _counted(
        self, kind: type[Recorded], name: str, attributes: Mapping[str, Any], count: int
    ) -> Step:
        if _is_sampled_out():
            return NO_STEP
        counted = {**attributes, names.KEYS: count} if count else attributes
        return kind(self._tracer, name, counted)


def _context_of(mark: bytes) -> SpanContext:
    high, low, span_id, flags = _MARK.unpack(mark)
    return SpanContext(high << 64 | low, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def _is_sampled_out() -> bool:
    span = get_current_span()
    if span.is_recording():
        return False
    context = span.get_span_context()
    return context.is_valid and not context.trace_flags.sampled


def _described(error: BaseException) -> dict[str, str]:
    """Return what ``Span.record_exception`` would record, but for the traceback."""
    kind = type(error)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {"exception.type": f"{home}{kind.__qualname__}", "exception.message": str(error)}
