"""Spans as text: one line each, indented below its parent, so that a test states a whole trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode

from tests.waiting import until

SHOWN = "tiercache."
ALWAYS = ("tiercache.cache", "tiercache.function")  # asserted once, elsewhere


class Recorder(SpanProcessor):
    """Keeps ended spans, and counts those that were started."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.started = 0
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self)
        self.tracer = self.provider.get_tracer("test")

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)

    def clear(self) -> None:
        """Forget what was recorded so far."""
        self.spans, self.started = [], 0

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the ended spans of a name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        """Return the only span of a name."""
        (span,) = self.named(name)
        return span

    def settled(self) -> list[ReadableSpan]:
        """Return the spans, once all that were started have ended, each once."""
        until(lambda: len(self.spans) >= self.started)
        assert len(self.spans) == self.started
        assert len({context(span).span_id for span in self.spans}) == self.started
        return self.spans

    def tree(self) -> str:
        """Return all that was recorded, as text."""
        return "\n".join(render(self.settled()))


def context(span: ReadableSpan) -> Any:
    """Return the context of a span, which it has."""
    found = span.get_span_context()
    assert found is not None
    return found


def render(spans: Sequence[ReadableSpan], line: Callable[..., str] | None = None) -> list[str]:
    """Return a line for each span, those below a span after it, in the order of their beginning."""
    line = line or _line
    known = {context(span).span_id: span for span in spans}
    lines: list[str] = []

    def walk(parent: int | None, depth: int) -> None:
        for span in sorted(spans, key=lambda span: span.start_time or 0):
            above = span.parent.span_id if span.parent else None
            if above == parent or (parent is None and above not in known):
                lines.append("  " * depth + line(span, known))
                walk(context(span).span_id, depth + 1)

    walk(None, 0)
    return lines


def _line(span: ReadableSpan, known: dict[int, ReadableSpan]) -> str:
    words = [span.name]
    for name, value in sorted((span.attributes or {}).items()):
        if name.startswith(SHOWN) and name not in ALWAYS:
            words.append(f"{name.removeprefix(SHOWN)}={_shown(value)}")
    if span.status.status_code is StatusCode.ERROR:
        words.append(f"!{span.status.description}")
    words += [f"*{event.name}" for event in span.events]
    for link in span.links:
        target = known.get(link.context.span_id)
        words.append(f"-> {target.name if target else 'elsewhere'}")
    return " ".join(words)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
