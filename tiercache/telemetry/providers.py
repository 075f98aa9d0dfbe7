"""Whether anything records: found out cheaply, again with every miss.

OpenTelemetry is never imported here: an application that uses it has imported it. Its API's own
providers record nothing; any other is taken for real.

An SDK may be installed long after the cache was made. The API's getter looks through the
environment each time it is asked (0.8 us), so what is asked with every miss is one look into a
dict: first whether the API is imported, then what the variable holds that the getter returns. Where
a version of the API has no such variable, the getter is asked after all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from sys import modules
from typing import Any, Final

TRACES: Final = (
    "opentelemetry.trace",
    "get_tracer_provider",
    "opentelemetry.trace",
    "_TRACER_PROVIDER",
)
METRICS: Final = (
    "opentelemetry.metrics",
    "get_meter_provider",
    "opentelemetry.metrics._internal",
    "_METER_PROVIDER",
)

_NEVER: Final = object()


class Watch:
    """An eye on the provider of a signal: ``watch.ask() is not watch.seen``: look again.

    Args:
        signal: The module of the API, its function that returns the provider, the module that
            holds it, and the variable there; None as its value: none was set.
        provider: The one to use whatever the application sets.
    """

    __slots__ = ("_signal", "ask", "seen")

    def __init__(self, signal: tuple[str, str, str, str], provider: Any = None) -> None:
        self._signal = signal
        self.seen: Any = _NEVER  # what ``ask`` gave when it was looked at
        self.ask: Callable[[], Any] = partial(modules.get, signal[0])
        if provider is not None:
            self.ask = lambda: provider

    def look(self) -> Any:
        """Return the provider, None if there is none that records."""
        self.seen = self.ask()
        api = modules.get(self._signal[0])
        if self.seen is None or self.seen is not api:
            return self.seen if records(self.seen) else None
        if not hasattr(api, self._signal[1]):  # another thread is still importing it
            self.seen = _NEVER
            return None
        self.ask = self._asker(api)
        return self.look()

    def _asker(self, api: Any) -> Callable[[], Any]:
        _, getter, inside, variable = self._signal
        get: Callable[[], Any] = getattr(api, getter)
        get()  # where the environment names a provider, it is loaded now
        home = vars(modules[inside]) if inside in modules else {}
        return partial(home.get, variable) if variable in home else get


def records(provider: object) -> bool:
    """Whether a provider is more than a placeholder of the API."""
    home = type(provider).__module__
    return provider is not None and not home.startswith((TRACES[0], METRICS[0]))
