"""The spans of a process: all are counted, and those of a call that is looked at are kept.

A service hands its spans to an exporter instead (docs/tracing.md); everything else is the same.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

WAIT_SECONDS = 10.0
_LEFT_OUT = {"tiercache.cache", "tiercache.function"}


@dataclass(frozen=True, slots=True)
class Span:
    """What is printed of a span; sent between processes."""

    name: str
    id: int
    parent: int | None
    began: int  # ns, wall clock
    ms: float
    attributes: dict[str, Any]
    error: str  # "": there was none
    links: tuple[int, ...]


class Spans(SpanProcessor):
    """Counts spans, and keeps them between ``watch`` and ``taken``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts: Counter[str] = Counter()  # of tiercache's, by name; guarded by _changed
        self._open = 0  # guarded by _changed
        self._kept: list[ReadableSpan] | None = None  # guarded by _changed

    def install(self) -> None:
        """Be where the spans of this process go, those of the cache and of the database."""
        provider = TracerProvider(resource=Resource.create({"service.name": "city-service"}))
        provider.add_span_processor(self)
        trace.set_tracer_provider(provider)

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        with self._changed:
            self._open += 1

    def on_end(self, span: ReadableSpan) -> None:
        with self._changed:
            self._open -= 1
            if span.name.startswith("tiercache."):
                self._counts[span.name] += 1
            if self._kept is not None:
                self._kept.append(span)
            self._changed.notify_all()

    def counts(self) -> Counter[str]:
        """Return how many spans of the cache there were so far, by name."""
        with self._changed:
            return self._counts.copy()

    def watch(self) -> None:
        """Keep the spans that end from now on."""
        with self._changed:
            self._kept = []

    def taken(self, until: str = "") -> list[Span]:
        """Return those kept, once one of the name ``until`` has ended and none is open."""
        with self._changed:
            self._wait(lambda: not until or any(span.name == until for span in self._kept or ()))
            self._wait(lambda: not self._open)
            kept, self._kept = self._kept or [], None
        return sorted(map(_span, kept), key=lambda span: span.began)

    def _wait(self, happened: Callable[[], bool]) -> None:
        self._changed.wait_for(happened, WAIT_SECONDS)


def _span(span: ReadableSpan) -> Span:
    assert span.context is not None
    began, ended = span.start_time or 0, span.end_time or 0
    attributes = span.attributes or {}
    return Span(
        name=span.name,
        id=span.context.span_id,
        parent=span.parent.span_id if span.parent else None,
        began=began,
        ms=(ended - began) / 1e6,
        attributes={
            name.removeprefix("tiercache."): value
            for name, value in attributes.items()
            if name not in _LEFT_OUT
        },
        error="" if span.status.is_ok else span.status.description or "error",
        links=tuple(link.context.span_id for link in span.links),
    )


def lines(spans: Sequence[Span]) -> list[str]:
    """Return spans as lines of text, each below its parent."""
    names = {span.id: span.name for span in spans}
    children: dict[int | None, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent if span.parent in names else None, []).append(span)
    return [
        line
        for root in children.get(None, ())
        for line in (_text(root, names), *_below(root, children, names, ""))
    ]


def _below(
    parent: Span, children: dict[int | None, list[Span]], names: dict[int, str], indent: str
) -> list[str]:
    result = []
    below = children.get(parent.id, [])
    for span in below:
        is_last = span is below[-1]
        result.append(f"{indent}{'└── ' if is_last else '├── '}{_text(span, names)}")
        result += _below(span, children, names, indent + ("    " if is_last else "│   "))
    return result


def _text(span: Span, names: dict[int, str]) -> str:
    parts = [span.name, *(f"{name}={_short(value)}" for name, value in span.attributes.items())]
    if span.error:
        parts.append(f"error: {span.error.partition(':')[0]}")
    parts += [f"→ link to {names.get(link, 'another trace')}" for link in span.links]
    return f"{' '.join(parts)}  {span.ms:.1f} ms"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
