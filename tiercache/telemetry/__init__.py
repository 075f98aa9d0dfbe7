"""What a cache tells OpenTelemetry: spans of what is slow, and numbers of everything.

``names`` has every name. ``spans`` and ``metrics`` hold the only imports of OpenTelemetry, and are
imported once an SDK is there to hear of anything: until then a call that misses pays for looking
whether one is (``providers``), and a hit in L1 pays for nothing at all.

A call that may do I/O begins with ``notice()``; what goes on below it looks at ``spans``, which is
then up to date. Steps (``steps``) end their spans on every way out.
"""

from __future__ import annotations

import weakref
from math import isnan
from typing import TYPE_CHECKING, Any

from tiercache.errors import ConfigurationError

from . import names
from .providers import METRICS, TRACES, Watch
from .steps import NO_STEP, Step

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from .metrics import Instruments, Reported
    from .spans import Spans

__all__ = ["NO_STEP", "Step", "Telemetry", "names"]


class Telemetry:
    """The spans and the metrics of one cache.

    Args:
        cache: Its name.
        tracer_provider: Where its spans go; None: to the one that the application has set.
        meter_provider: Where its numbers go; None likewise.
        trace_keys: Whether spans show keys.
        trace_l1_hits: Whether a hit in L1 makes a span, too.

    Raises:
        ConfigurationError: If a provider is none, or a switch neither on nor off.
    """

    def __init__(
        self,
        cache: str,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        trace_keys: bool = False,
        trace_l1_hits: bool = False,
    ) -> None:
        self.name = cache
        self.traces_hits = _switch(trace_l1_hits, "trace_l1_hits")
        self.spans: Spans | None = None  # None: nothing records, as of the last notice()
        self._instruments: Instruments | None = None  # likewise
        self._shows_keys = _switch(trace_keys, "trace_keys")
        self._attributes = {names.CACHE: cache}
        tracers = _checked(tracer_provider, "tracer_provider", "get_tracer")
        meters = _checked(meter_provider, "meter_provider", "get_meter")
        self._tracers = Watch(TRACES, tracers)
        self._meters = Watch(METRICS, meters)
        self._reported: Any = None  # weakly, the cache
        self.notice()

    def report(self, cache: Reported) -> None:
        """Have a cache's numbers read until it is closed or collected."""
        self._reported = weakref.ref(cache)
        if self._instruments is not None:
            self._instruments.add(cache)

    def close(self) -> None:
        """Report no more numbers."""
        reported, self._reported = self._reported, None
        cache = None if reported is None else reported()
        if self._instruments is not None and cache is not None:
            self._instruments.remove(cache)

    def notice(self) -> Spans | None:
        """Look whether an SDK has come or gone; return what makes spans, None if nothing does."""
        tracers, meters = self._tracers, self._meters
        if tracers.ask() is not tracers.seen:
            self._see_tracers(tracers.look())
        if meters.ask() is not meters.seen:
            self._see_meters(meters.look())
        return self.spans

    def loaded(self, seconds: float) -> None:
        """Record how long a load took."""
        instruments = self._instruments
        if instruments is not None:
            if instruments.has_news:
                instruments.learn()
            instruments.load_duration.record(seconds, self._attributes)

    def served_stale(self, age: float) -> None:
        """Record how old, in seconds, a stale answer was; NaN: nobody knows."""
        instruments = self._instruments
        if instruments is not None and not isnan(age):
            instruments.served_age.record(age, self._attributes)

    def _see_tracers(self, provider: TracerProvider | None) -> None:
        if provider is None:
            self.spans = None
            return
        from .spans import Spans

        tracer = provider.get_tracer(names.SCOPE)
        self.spans = Spans(tracer, self.name, shows_keys=self._shows_keys)

    def _see_meters(self, provider: MeterProvider | None) -> None:
        before, self._instruments = self._instruments, None
        if provider is not None:
            from .metrics import instruments_of

            self._instruments = instruments_of(provider)
        cache = None if self._reported is None else self._reported()
        if cache is not None and before is not None:
            before.remove(cache)
        if cache is not None and self._instruments is not None:
            self._instruments.add(cache)


def _checked(provider: Any, name: str, method: str) -> Any:
    if provider is not None and not callable(getattr(provider, method, None)):
        raise ConfigurationError(f"{name} must have {method}(), got {provider!r}")
    return provider


def _switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, got {value!r}")
    return value
