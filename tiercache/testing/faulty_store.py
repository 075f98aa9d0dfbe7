"""A store around another that fails, hangs or answers garbage when it is told to."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from weakref import WeakSet

from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers.columns import Columns
from tiercache.tiers.store import Claim, Message, Namespace, Store, Stored, Tail

__all__ = ["FaultyStore"]

_TAIL: Final = "tail"
_METHODS: Final = frozenset(name for name in vars(Namespace) if f"a{name}" in vars(Namespace))


@dataclass(frozen=True, eq=False)
class _Fault:
    """What a store is told to do wrong, and in which methods; none: in all."""

    methods: frozenset[str]
    is_failure: bool = False
    error: StoreError | None = None  # raised by a failure
    is_hang: bool = False
    garbage: bytes | None = None  # read in place of what is stored

    def hits(self, method: str) -> bool:
        return not self.methods or method in self.methods


_NONE: Final = _Fault(frozenset())


class FaultyStore:
    """A store around another that can be told to misbehave.

    ``fail()`` makes each call raise StoreError; ``hang()`` makes it wait ``timeout`` seconds, as a
    store whose server is frozen does, and raise StoreTimeout; ``garbage()`` makes reads of
    existing keys return other bytes, while the rest works; ``heal()`` ends all that. Each of them
    takes the names of the methods it is for (``"read"`` stands for ``aread`` too); all by default.
    ``"tail"`` is what reads the log: messages are not lost, they come after ``heal()``.

    Attributes:
        calls: How often each method was called; ``read`` counts ``aread`` too. Of a tail only its
            making is counted, not how often it looks.
    """

    def __init__(self, store: Store, *, timeout: float | None = None) -> None:
        self.timeout = store.timeout if timeout is None else timeout
        self._store = store
        self._faults = _Faults(self.label, self.timeout)
        self.calls = self._faults.calls

    @property
    def label(self) -> str:
        """Name of the store inside, marked as faulty."""
        return f"faulty {self._store.label}"

    def fail(self, *methods: str, error: StoreError | None = None) -> None:
        """Make calls raise StoreError, or the given error."""
        self._faults.begin(_Fault(_checked(methods), is_failure=True, error=error))

    def hang(self, *methods: str) -> None:
        """Make calls wait for the timeout and raise StoreTimeout; heal() wakes blocking ones."""
        self._faults.begin(_Fault(_checked(methods), is_hang=True))

    def garbage(self, payload: bytes = b"\xc1garbage", *methods: str) -> None:
        """Make reads return these bytes in place of what is stored."""
        self._faults.begin(_Fault(_checked(methods), garbage=payload))

    def heal(self) -> None:
        """Behave again."""
        self._faults.begin(_NONE)

    def namespace(self, name: str, origin: str = "") -> Namespace:
        """Return one cache's part of the store inside, to which the same happens."""
        inner = self._store.namespace(name, origin)
        return cast(Namespace, _FaultyNamespace(inner, self._faults))

    def close(self) -> None:
        """Close the store inside; never faulty."""
        self._store.close()

    async def aclose(self) -> None:
        """Close the store inside; never faulty."""
        await self._store.aclose()


class _Faults:
    """What all namespaces and tails of a FaultyStore share."""

    def __init__(self, label: str, timeout: float) -> None:
        self.calls: Counter[str] = Counter()  # guarded by _changed
        self._label = label
        self._timeout = timeout
        self._fault = _NONE
        self._tails: WeakSet[_FaultyTail] = WeakSet()
        self._changed = threading.Condition()

    def begin(self, fault: _Fault) -> None:
        with self._changed:
            self._fault = fault
            tails = list(self._tails)
            self._changed.notify_all()
        for tail in tails:
            tail.look_up()

    def add_tail(self, tail: _FaultyTail) -> None:
        with self._changed:
            self._tails.add(tail)

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def count(self, method: str) -> None:
        with self._changed:
            self.calls[method] += 1

    def suffer(self, method: str, is_over: Callable[[], bool] = lambda: False) -> None:
        """Raise what the fault of the moment has a blocking call raise, if anything."""
        fault = self._raise(method)
        if fault is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._fault is not fault or is_over(), self._timeout)
            raise self._late(method)

    async def asuffer(self, method: str) -> None:
        """Raise what the fault of the moment has an awaited call raise, if anything."""
        if self._raise(method) is not None:
            await asyncio.sleep(self._timeout)
            raise self._late(method)

    def _raise(self, method: str) -> _Fault | None:
        """Raise the error of a failure; return the fault if it is to hang."""
        fault = self._fault
        if not fault.hits(method):
            return None
        if fault.is_failure:
            raise fault.error or StoreError(f"{self._label} failed {method}")
        return fault if fault.is_hang else None

    def _late(self, method: str) -> StoreTimeout:
        return StoreTimeout(f"{self._label} did not answer {method} within {self._timeout:g} s")

    def garbled(self, method: str, answer: Any) -> Any:
        """Return an answer, its payloads replaced if the fault says so."""
        garbage = self._fault.garbage
        if garbage is None or not self._fault.hits(method):
            return answer
        return _replaced(answer, garbage)


class _FaultyNamespace:
    """A namespace whose every method first suffers the store's fault."""

    def __init__(self, inner: Namespace, faults: _Faults) -> None:
        self._inner = inner
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            return self._blocking(name)
        if name[:1] == "a" and name[1:] in _METHODS:
            return self._awaited(name[1:])
        raise AttributeError(name)

    def _blocking(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._faults.count(method)
            self._faults.suffer(method)
            return self._faults.garbled(method, getattr(self._inner, method)(*args, **kwargs))

        return call

    def _awaited(self, method: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            self._faults.count(method)
            await self._faults.asuffer(method)
            answer = await getattr(self._inner, f"a{method}")(*args, **kwargs)
            return self._faults.garbled(method, answer)

        return call

    def tail(self, position: str | None) -> Tail:
        self._faults.count(_TAIL)
        return _FaultyTail(self._inner.tail(position), self._faults)


class _FaultyTail:
    """A tail that suffers the store's fault; also one that begins while it waits."""

    def __init__(self, inner: Tail, faults: _Faults) -> None:
        self._inner = inner
        self._faults = faults
        self._is_interrupted = False
        faults.add_tail(self)

    def read(self, wait: float) -> list[Message]:
        try:
            self._faults.suffer(_TAIL, self._has_been_interrupted)
            messages = self._inner.read(wait)
            if not messages:
                self._faults.suffer(_TAIL, self._has_been_interrupted)
            return messages
        finally:
            self._is_interrupted = False

    def _has_been_interrupted(self) -> bool:
        return self._is_interrupted

    def look_up(self) -> None:
        """Have a read that waits see what fault there is now."""
        self._inner.interrupt()

    def interrupt(self) -> None:
        self._is_interrupted = True
        self._inner.interrupt()
        self._faults.wake()

    def close(self) -> None:
        self._inner.close()


def _replaced(answer: Any, garbage: bytes) -> Any:
    if isinstance(answer, list | Columns):
        return [_replaced(each, garbage) for each in answer]
    if isinstance(answer, Stored):
        return answer._replace(payload=garbage)
    if isinstance(answer, Claim) and answer.stored is not None:
        return Claim(stored=_replaced(answer.stored, garbage))
    return answer


def _checked(methods: Sequence[str]) -> frozenset[str]:
    """Return names of methods, those of twins as the blocking ones'."""
    names = {name if name in _METHODS or name == _TAIL else name[1:] for name in methods}
    unknown = names - _METHODS - {_TAIL}
    if unknown:
        raise ValueError(f"no method of a namespace is called {methods!r}")
    return frozenset(names)
