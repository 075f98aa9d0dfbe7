"""The spans of one cache, made with one tracer.

Parents come from OpenTelemetry's own context: what has spans below it is *current* while it lasts.
Tasks and threads of the engine start in a copy of their caller's context, so what they do stands
where it belongs; and the loader's own spans (of a database, say) stand below ``tiercache.load``.

A call that was sampled out makes no spans: where the current span is valid but neither records nor
was sampled, none is started. (A remote parent that was sampled does not record either, and counts.)

Imported late: here, and in metrics.py, is the engine's only import of OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from tiercache.errors import CacheError

from . import names
from .steps import NO_STEP, Step

#: Operations of L2 that are spans; the others go with a lease, or stand below an invalidation.
_STORE: Final = {
    "read": names.L2_GET,
    "read_many": names.L2_GET,
    "write": names.L2_SET,
    "write_many": names.L2_SET,
    "fill": names.L2_SET,
}
_PLAIN: Final = (bool, int, float, str)  # what an attribute may be


class Recorded:
    """A span, from entering to leaving; what it is told on the way is written at its end."""

    __slots__ = ("_attributes", "_context", "_link", "_name", "_start", "_token", "span")

    span: Span  # once entered

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        attributes: dict[str, Any],
        context: Context | None = None,
        link: SpanContext | None = None,
    ) -> None:
        self._start = tracer.start_span
        self._name = name
        self._attributes = attributes
        self._context = context  # that it begins in, instead of the current one
        self._link = link
        self._token: Any = None

    def __enter__(self) -> Self:
        links = None if self._link is None else [Link(self._link)]
        self.span = self._start(self._name, self._context, attributes=self._attributes, links=links)
        self._attributes = {}
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        span = self.span
        if error is not None:
            self.failed(error)
        if self._attributes:
            span.set_attributes(self._attributes)
        span.end()

    @property
    def context(self) -> SpanContext:
        return self.span.get_span_context()

    def note(self, **attributes: Any) -> None:
        self.note_all(attributes)

    def note_all(self, notes: Mapping[str, Any]) -> None:
        for name, value in notes.items():
            if value is not None:
                plain = value if isinstance(value, _PLAIN) else str(value)
                self._attributes[names.NOTE + name] = plain

    def answered(self, outcome: str, age: float | None = None) -> None:
        self._attributes[names.OUTCOME] = outcome
        if age is not None:
            self._attributes[names.AGE_S] = age

    def failed(self, error: BaseException) -> None:
        self.span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
        self.span.add_event("exception", _described(error))

    def happened(self, event: str) -> None:
        self.span.add_event(event)

    def link(self, context: SpanContext | None) -> None:
        if context is not None:
            self.span.add_link(context)


class Current(Recorded):
    """A span that has others below it."""

    __slots__ = ()

    def __enter__(self) -> Self:
        super().__enter__()
        self._token = contexts.attach(set_span_in_context(self.span, self._context))
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        # A coroutine that is thrown away may be closed in any context, where nothing is attached.
        if kind is not GeneratorExit:
            contexts.detach(self._token)
        super().__exit__(kind, error, traceback)


class Read(Current):
    """``tiercache.get``: it has an outcome, and an error is one."""

    __slots__ = ()

    def failed(self, error: BaseException) -> None:
        self._attributes[names.OUTCOME] = names.ERROR
        super().failed(error)


class Loading(Current):
    """``tiercache.load``: the error is the user's, and comes with its traceback."""

    __slots__ = ()

    def failed(self, error: BaseException) -> None:
        self.span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
        if isinstance(error, CacheError):  # raised by us: where says nothing, and costs 50 us
            self.span.add_event("exception", _described(error))
        else:
            self.span.record_exception(error)


class Spans:
    """Makes the spans of one cache.

    Args:
        tracer: Of the instrumentation scope ``tiercache``.
        cache: The name of the cache.
        shows_keys: Whether keys are attributes.
    """

    def __init__(self, tracer: Tracer, cache: str, *, shows_keys: bool) -> None:
        self._tracer = tracer
        self._cache = cache
        self._shows_keys = shows_keys

    def get(self, function: str, key: str) -> Step:
        """Begin a read of one key."""
        return self._step(Read, names.GET, self._of(function, key))

    def get_many(self, function: str, count: int) -> Step:
        """Begin a read of a batch."""
        return self._step(Read, names.GET, {**self._of(function), names.KEYS: count})

    def load(self, function: str, key: str = "", count: int = 0) -> Step:
        """Begin a load, of one key or of several together."""
        attributes = self._of(function, key)
        if count:
            attributes[names.KEYS] = count
        return self._step(Loading, names.LOAD, attributes)

    def wait(self) -> Step:
        """Begin to wait for another caller's load."""
        return self._step(Recorded, names.WAIT, self._of())

    def store(self, operation: str, subject: str, args: tuple[Any, ...]) -> Step:
        """Begin an operation of L2, where it is one that has a span.

        Args:
            operation: Its name in the store's protocol.
            subject: A key of it.
            args: Its arguments: of one on several keys, those come first.
        """
        name = _STORE.get(operation)
        if name is None:
            return NO_STEP
        if operation in {"read", "write"} or len(args[0]) == 1:
            return self._step(Recorded, name, self._of("", subject))
        return self._step(Recorded, name, {**self._of(), names.KEYS: len(args[0])})

    def refresh(self, function: str, key: str, cause: SpanContext | None) -> Step:
        """Begin a refresh behind a value that is served: a trace of its own."""
        attributes = self._of(function, key)
        return Current(self._tracer, names.REFRESH, attributes, Context(), cause)

    def explicit_refresh(self, function: str, key: str) -> Step:
        """Begin a refresh that a caller waits for."""
        return self._step(Current, names.REFRESH, self._of(function, key))

    def invalidate(self, operation: str, subjects: Iterable[str]) -> Step:
        """Begin an invalidation of keys, or of tags."""
        subjects = list(subjects)
        attributes = self._of("", subjects[0] if len(subjects) == 1 else "")
        attributes[names.OPERATION] = operation
        if subjects:
            attributes[names.KEYS] = len(subjects)
        return self._step(Current, names.INVALIDATE, attributes)

    def bus_apply(self, count: int) -> Step:
        """Begin to apply other processes' changes."""
        return self._step(Recorded, names.BUS_APPLY, {**self._of(), names.MESSAGES: count})

    def cause(self) -> SpanContext | None:
        """Return what a refresh that begins now is linked to: the current span, if any."""
        context = get_current_span().get_span_context()
        return context if context.is_valid else None

    def _of(self, function: str = "", key: str = "") -> dict[str, Any]:
        attributes = {names.CACHE: self._cache}
        if function:
            attributes[names.FUNCTION] = function
        if key and self._shows_keys:
            attributes[names.KEY] = key
        return attributes

    def _step(self, kind: Callable[..., Recorded], name: str, attributes: dict[str, Any]) -> Step:
        return NO_STEP if _is_sampled_out() else kind(self._tracer, name, attributes)


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
