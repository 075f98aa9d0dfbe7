"""A circuit breaker around loaders: what fails again and again is left alone for a while.

Closed, loads pass. After ``fail_max`` failures in a row, or when the share of failures within a
window reaches ``failure_rate``, it opens: no load runs for ``reset_timeout``. Then it is half-open:
one load is let through as a probe, and what comes of it closes or opens it (_circuit.py).

What is a failure: any ``Exception``, a load that timed out among them. What says nothing about the
loader, and gives back the permit of a probe:

- cancellation, and every other BaseException that is no Exception;
- ``CircuitOpen`` and ``BulkheadFull``, which say that a load was not even tried;
- an error that ``ErrorMemory``, inside of this plugin, only remembered.

Errors that ``exclude=`` names are answers: the loader works, as it does when it returns a value.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from tiercache import (
    MISS,
    BulkheadFull,
    Cache,
    CircuitOpen,
    ConfigurationError,
    Duration,
    Load,
    Plugin,
)

from ._choosing import Chosen, chooser, name_of
from ._circuit import CLOSED, HALF_OPEN, OPEN, Change, Circuit, Settings
from ._error_notes import is_remembered
from ._options import duration, share, whole

__all__ = ["LoaderBreaker"]

log = logging.getLogger(__name__)

MAX_CIRCUITS = 1000  # of one plugin; beyond, the oldest closed one is forgotten

#: An exception class, or a function of the error that says whether it is a business error.
Excluded: TypeAlias = type[Exception] | Callable[[Exception], bool]

_EVENTS = {OPEN: "breaker_opened", HALF_OPEN: "breaker_half_open", CLOSED: "breaker_closed"}
_LEVELS = {CLOSED: 0.0, HALF_OPEN: 0.5, OPEN: 1.0}
_NOT_TRIED = (CircuitOpen, BulkheadFull)


class LoaderBreaker(Plugin):
    """Stop calling loaders that fail, and try one load now and then.

    While it is open a caller gets the stale value that ``stale_if_error`` allows, else
    ``fallback``, else ``CircuitOpen`` with ``.retry_after``. Each function has a circuit of its
    own; with ``name=`` all share one.

    Args:
        fail_max: Failures in a row that open it; 5, unless ``failure_rate`` is given. With both,
            whichever comes first.
        reset_timeout: How long it stays open before a probe.
        failure_rate: Share of failures among the loads of the window that opens it, above 0 and
            below 1.
        window: Over which the rate is taken: "10s" unless given.
        min_calls: Below so many loads in the window, 10 unless given, the rate says nothing.
        name: Circuits of one name are one in this process, across functions and caches.
        exclude: Business errors, as classes or as functions of the error: they count as success.
        fallback: What callers get when there is no stale value, or a function of the load that
            returns it. It is not stored.
        functions: Only these: functions, their names, or templates of their keys.
        clock: What measures the seconds.

    Raises:
        ConfigurationError: If an option is illegal, or if ``name`` is taken by a breaker with
            other settings.

    Events are "breaker_opened", "breaker_half_open" and "breaker_closed", with the circuit's name
    as their cause.
    """

    def __init__(
        self,
        fail_max: int | None = None,
        reset_timeout: Duration = "30s",
        *,
        failure_rate: float | None = None,
        window: Duration | None = None,
        min_calls: int | None = None,
        name: str | None = None,
        exclude: Excluded | Iterable[Excluded] = (),
        fallback: Any = MISS,
        functions: Chosen | Iterable[Chosen] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = _settings(fail_max, reset_timeout, failure_rate, window, min_calls)
        self._excluded, self._predicates = _checked_exclude(exclude)
        self._fallback = _checked_fallback(fallback)
        self._concerns = chooser(functions)
        self._clock = clock
        self._lock = threading.RLock()
        self._circuits: dict[tuple[str, str], Circuit] = {}  # writing is guarded by _lock
        self._caches: weakref.WeakSet[Cache] = weakref.WeakSet()  # guarded by _lock
        self._shared = None if name is None else _shared(name, self._settings, clock)
        if self._shared is not None:
            self._shared.tell_to(self)

    async def around_load(self, load: Load, call_next: Callable[[], Awaitable[Any]]) -> Any:
        if self._concerns is not None and not self._concerns(load):
            return await call_next()
        circuit = self._shared or self._circuit_of(load)
        permit, retry_after = circuit.admit()
        load.notes["breaker.state"] = circuit.state
        if retry_after:
            return self._instead(load, circuit, retry_after)
        circuit.tell()
        try:
            value = await call_next()
        except BaseException as error:
            self._judge(load, error, circuit, permit)
            raise
        circuit.succeeded(permit)
        circuit.tell()
        return value

    def _judge(self, load: Load, error: BaseException, circuit: Circuit, permit: int) -> None:
        """Tell the circuit what an error says of the loader."""
        if not isinstance(error, Exception):
            # An asyncio load that takes too long is cancelled: that alone is not neutral.
            (circuit.failed if load.has_timed_out else circuit.gave_up)(permit)
        elif isinstance(error, _NOT_TRIED) or is_remembered(load):
            circuit.gave_up(permit)
        elif self._is_excluded(error):
            circuit.succeeded(permit)
        else:
            circuit.failed(permit)
        circuit.tell()

    def _is_excluded(self, error: Exception) -> bool:
        if isinstance(error, self._excluded):
            return True
        try:
            return any(is_business(error) for is_business in self._predicates)
        except Exception as failure:  # whose traceback may hold keys
            log.error(  # noqa: TRY400
                "exclude= failed with %s; the error that it was asked about counts as a failure",
                type(failure).__name__,
            )
            return False

    def _instead(self, load: Load, circuit: Circuit, retry_after: float) -> Any:
        """Return what a caller gets without a load; an error has the engine serve a stale value."""
        if load.stale_value is not MISS or self._fallback is MISS:
            raise CircuitOpen(
                f"{load.function} is not loaded: breaker {circuit.name!r} is {circuit.state}; "
                f"the next try is in {retry_after:.3g} s at the latest",
                retry_after,
            )
        load.skip()
        if load.items is not None:  # a bulk load has a value for each
            return [self._fallback_for(load) for _ in load.items]
        return self._fallback_for(load)

    def _fallback_for(self, load: Load) -> Any:
        return self._fallback(load) if callable(self._fallback) else self._fallback

    def _circuit_of(self, load: Load) -> Circuit:
        function = load.module, load.function
        return self._circuits.get(function) or self._new(function, name_of(load))

    def _new(self, function: tuple[str, str], name: str) -> Circuit:
        with self._lock:
            if function not in self._circuits:
                if len(self._circuits) >= MAX_CIRCUITS:
                    self._forget_one()
                circuit = self._circuits[function] = Circuit(name, self._settings, self._clock)
                circuit.tell_to(self)
            return self._circuits[function]

    def _forget_one(self) -> None:
        closed = (of for of, each in self._circuits.items() if each.state == CLOSED)
        del self._circuits[next(closed, next(iter(self._circuits)))]

    # Telling

    def start(self, cache: Cache) -> None:
        with self._lock:
            self._caches.add(cache)

    def hear(self, change: Change) -> None:
        """Tell the caches of a circuit's change. For internal use."""
        with self._lock:
            caches = list(self._caches)
        for cache in caches:
            cache.emit(_EVENTS[change.new], cause=change.circuit, seconds=change.seconds)

    def states(self) -> Mapping[str, str]:
        """Return ``"closed"``, ``"open"`` or ``"half-open"`` of each circuit, by its name."""
        return {circuit.name: circuit.state for circuit in self._all()}

    def measures(self) -> Mapping[str, float]:
        result: dict[str, float] = {}
        for circuit in self._all():
            result[f"breaker.state.{circuit.name}"] = _LEVELS[circuit.state]
            result[f"breaker.failures.{circuit.name}"] = circuit.failures
            result[f"breaker.refused.{circuit.name}"] = circuit.refused
        return result

    def _all(self) -> list[Circuit]:
        with self._lock:
            return [self._shared] if self._shared else list(self._circuits.values())


_named: weakref.WeakValueDictionary[str, Circuit] = weakref.WeakValueDictionary()
_naming = threading.RLock()  # guards _named


def _shared(name: str, settings: Settings, clock: Callable[[], float]) -> Circuit:
    """Return the circuit of a name, which all who name it share."""
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a breaker's name must be a text that is not empty, got {name!r}")
    with _naming:
        circuit = _named.get(name)
        if circuit is None:
            circuit = _named[name] = Circuit(name, settings, clock)
    mine, theirs = asdict(settings), asdict(circuit.settings)
    mine["clock"], theirs["clock"] = clock, circuit.clock
    differing = [f"{each}={theirs[each]!r}" for each in mine if mine[each] != theirs[each]]
    if differing:
        raise ConfigurationError(
            f"a breaker named {name!r} is there already with {', '.join(differing)}; "
            "give one of them another name, or both the same settings"
        )
    return circuit


def _settings(
    fail_max: int | None,
    reset_timeout: Duration,
    failure_rate: float | None,
    window: Duration | None,
    min_calls: int | None,
) -> Settings:
    if failure_rate is None:
        for option, value in (("window", window), ("min_calls", min_calls)):
            if value is not None:
                raise ConfigurationError(
                    f"{option}={value!r} is for a failure_rate; give one, or leave {option} out"
                )
        fail_max = 5 if fail_max is None else fail_max
    else:
        remedy = "0.5 opens it when half of the loads fail; for failures in a row use fail_max"
        failure_rate = share(failure_rate, "failure_rate", remedy)
    return Settings(
        fail_max=None if fail_max is None else whole(fail_max, "fail_max", least=1),
        failure_rate=failure_rate,
        window=duration("10s" if window is None else window, "window"),
        min_calls=whole(10 if min_calls is None else min_calls, "min_calls", least=1),
        reset_timeout=duration(reset_timeout, "reset_timeout"),
    )


def _checked_exclude(
    exclude: Excluded | Iterable[Excluded],
) -> tuple[tuple[type[Exception], ...], tuple[Callable[[Exception], bool], ...]]:
    """Return what exclude= gives as classes, and as functions of the error."""
    each = (exclude,) if callable(exclude) else tuple(exclude)
    for one in each:
        if not callable(one) or (isinstance(one, type) and not issubclass(one, Exception)):
            raise ConfigurationError(
                f"exclude takes exception classes and functions of the error, got {one!r}"
            )
    classes = tuple(one for one in each if isinstance(one, type))
    return classes, tuple(one for one in each if not isinstance(one, type))


def _checked_fallback(fallback: Any) -> Any:
    if inspect.iscoroutinefunction(fallback):
        raise ConfigurationError(
            f"fallback must be a value or a plain def, got {fallback!r}; it is not awaited, since "
            "it stands in for blocking and async loaders alike"
        )
    if inspect.isroutine(fallback) and not _takes_a_load(fallback):
        raise ConfigurationError(
            f"fallback must be a value, or a function of the load, got {fallback!r}; "
            "such as lambda load: []"
        )
    return fallback


def _takes_a_load(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # it has no signature to look at
        pass
    return True
