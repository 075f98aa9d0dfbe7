"""Counts what is asked of the database and of L2, by who waits for the answer.

``asked_by`` says on whose behalf this thread goes on. The cache's own threads, which refresh and
write behind, have contexts of their own: nobody waits for what they ask.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from tiercache import Store

READER, WRITER, NOBODY = "reader", "writer", "nobody"
_asking: Final = ContextVar("asking", default=NOBODY)


class Meter:
    """Counters by who asked and what. Safe for threads."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()  # guarded by _lock
        self._lock = threading.Lock()

    @contextmanager
    def asked_by(self, who: str) -> Iterator[None]:
        """Count what this thread asks in the block as asked by READER or WRITER."""
        token = _asking.set(who)
        try:
            yield
        finally:
            _asking.reset(token)

    def count(self, what: str, number: int = 1) -> None:
        """Count something that is asked for now."""
        with self._lock:
            self._counts[_asking.get(), what] += number

    def of(self, what: str, *who: str) -> int:
        """Return how often something was asked for: by some, or by anybody."""
        with self._lock:
            return sum(
                number
                for (asking, asked), number in self._counts.items()
                if asked == what and (not who or asking in who)
            )


class Counted:
    """An L2 that counts the calls that it is asked to make; each is one round trip."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self.timeout = store.timeout
        self._store = store
        self._meter = meter

    @property
    def label(self) -> str:
        """What the store inside is called."""
        return self._store.label

    def namespace(self, name: str, origin: str = "") -> Any:
        """Return a cache's part of the store."""
        return _Part(self._store.namespace(name, origin), self._meter)

    def close(self) -> None:
        """Close the store inside."""
        self._store.close()

    async def aclose(self) -> None:
        """Close the store inside."""
        await self._store.aclose()


class _Part:
    """A namespace, or a journal in it."""

    def __init__(self, inner: Any, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name == "journal":
            return lambda *args, **kwargs: _Part(found(*args, **kwargs), self._meter)
        return self._counted(found) if callable(found) and name != "tail" else found

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._meter.count("round trips to L2")
            return call(*args, **kwargs)

        return counted
