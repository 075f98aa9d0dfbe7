"""DictStores whose operations a test holds at a gate, or has give way to others at random."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

from tiercache.testing import DictStore
from tiercache.tiers.store import Namespace

_SECONDS = 10.0  # until a test that forgot a gate fails
_METHODS = frozenset(name for name in vars(Namespace) if f"a{name}" in vars(Namespace))


class Gate:
    """Where one call of an operation is held until the test opens it."""

    def __init__(self, *, is_after: bool) -> None:
        self.is_after = is_after
        self._reached = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()

    def until_reached(self) -> None:
        """Wait, in a thread, until the operation has come here."""
        assert self._reached.wait(_SECONDS), "nobody came to the gate"

    async def auntil_reached(self) -> None:
        """Wait, in a task, until the operation has come here."""
        await _until(self._reached)

    def hold(self) -> None:
        self._reached.set()
        assert self._opened.wait(_SECONDS), "nobody opened the gate"

    async def ahold(self) -> None:
        self._reached.set()
        await _until(self._opened)


async def _until(event: threading.Event) -> None:
    deadline = time.monotonic() + _SECONDS
    while not event.is_set():
        assert time.monotonic() < deadline, "nobody came"
        await asyncio.sleep(0.001)


class GatedStore(DictStore):
    """A store that holds the next call of an operation, of either kind, where it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.done: list[tuple[str, tuple[Any, ...]]] = []  # operations and their arguments
        self._gates: dict[str, Gate] = {}

    def gate(self, operation: str, *, is_after: bool = False) -> Gate:
        """Hold the next call of an operation, before or after it has been done.

        "read" stands for "read_many", too, and "write" for "write_many".
        """
        gate = self._gates[operation] = Gate(is_after=is_after)
        return gate

    def namespace(self, name: str, origin: str = "") -> Any:
        return _Surrounded(super().namespace(name, origin), self)

    @contextmanager
    def around(self, operation: str, args: tuple[Any, ...]) -> Iterator[None]:
        gate = self._gates.pop(operation.removesuffix("_many"), None)
        if gate is not None and not gate.is_after:
            gate.hold()
        yield
        self.done.append((operation, args))
        if gate is not None and gate.is_after:
            gate.hold()

    @asynccontextmanager
    async def aaround(self, operation: str, args: tuple[Any, ...]) -> AsyncIterator[None]:
        gate = self._gates.pop(operation.removesuffix("_many"), None)
        if gate is not None and not gate.is_after:
            await gate.ahold()
        yield
        self.done.append((operation, args))
        if gate is not None and gate.is_after:
            await gate.ahold()


class SteppedStore(DictStore):
    """A store that lets other tasks run a random number of times around each awaited operation."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    def namespace(self, name: str, origin: str = "") -> Any:
        return _Surrounded(super().namespace(name, origin), self)

    def around(self, _operation: str, _args: tuple[Any, ...]) -> Any:
        return nullcontext()

    @asynccontextmanager
    async def aaround(self, _operation: str, _args: tuple[Any, ...]) -> AsyncIterator[None]:
        await self._step()
        yield
        await self._step()

    async def _step(self) -> None:
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(0)


class _Surrounded:
    """A namespace whose operations are done inside of what the store puts around them."""

    def __init__(self, inner: Namespace, store: Any) -> None:
        self._inner = inner
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name in _METHODS:

            def call(*args: Any, **kwargs: Any) -> Any:
                with self._store.around(name, args):
                    return method(*args, **kwargs)

            return call
        if name[:1] == "a" and name[1:] in _METHODS:

            async def acall(*args: Any, **kwargs: Any) -> Any:
                async with self._store.aaround(name[1:], args):
                    return await method(*args, **kwargs)

            return acall
        return method
