"""What stands between a process of a World and the store: a line that steps, and can be in trouble.

Also what takes the place of the engine's two threads, the bus's reader and the keeper of leases:
they do what they do when the world says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.properties.stepped_loop import gate
from tiercache import StoreError, StoreTimeout
from tiercache.testing import DictStore, FakeClock
from tiercache.tiers.store import (
    Claim,
    Fill,
    Item,
    LogGap,
    Message,
    StoreBusy,
    Stored,
    StoreRefused,
)

if TYPE_CHECKING:
    from tests.properties.coherence_process import Process

REFUSALS = {
    "down": StoreError("down"),
    "busy": StoreBusy("busy"),
    "denied": StoreRefused("denied"),
}
TROUBLES = (*REFUSALS, "unheard", "late", "garbled")


class Line:
    """One process's way to the store."""

    timeout = 0.5

    def __init__(self, process: Process, store: DictStore) -> None:
        self._process = process
        self._store = store

    @property
    def label(self) -> str:
        return f"line of {self._process.name}"

    def namespace(self, name: str, origin: str = "") -> Any:
        return LineNamespace(self._process, self._store.namespace(name, origin))

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class LineNamespace:
    """A namespace whose every awaited operation stops before it takes effect, and after.

    In the midst of a blocking operation others step in, as the move says that began it.
    """

    def __init__(self, process: Process, inner: Any) -> None:
        self.process = process
        self.inner = inner
        self._world = process.world

    def __getattr__(self, name: str) -> Any:
        if name.startswith("a") and hasattr(self.inner, name[1:]):
            return lambda *args, **options: self._awaited(name[1:], args, options)
        return lambda *args, **options: self._blocking(name, args, options)

    async def _awaited(self, operation: str, args: Any, options: Any) -> Any:
        try:
            await gate()
        except BaseException:
            if self._world.sends_late:
                self._take_effect_late(operation, args, options)
            raise
        answer = self._suffer(operation, args, options)
        await gate()
        return answer

    def _blocking(self, operation: str, args: Any, options: Any) -> Any:
        self._world.interlude()
        answer = self._suffer(operation, args, options)
        self._world.interlude()
        return answer

    def _suffer(self, operation: str, args: Any, options: Any) -> Any:
        """Take effect; or not, or late, or unheard, if there is trouble."""
        trouble = self.process.trouble
        if trouble in REFUSALS:
            raise REFUSALS[trouble]
        if trouble == "late":
            self._take_effect_late(operation, args, options)
            raise StoreTimeout("late")
        answer = self._take_effect(operation, args, options)
        if trouble == "unheard":
            raise StoreTimeout("unheard")
        return garbled(answer) if trouble == "garbled" else answer

    def _take_effect_late(self, operation: str, args: Any, options: Any) -> None:
        """Have an operation that was given up on take effect some time later, or never."""
        if operation not in self._world.never_late:
            self._world.loop.call_soon(lambda: self._take_effect(operation, args, options))

    def _take_effect(self, operation: str, args: Any, options: Any) -> Any:
        log = self.inner._space.log
        end = log[-1][0] if log else 0
        answer = getattr(self.inner, operation)(*args, **options)
        told = [message for position, message in log if position > end]
        try:
            self._world.after_effect(_stored_by(operation, args, answer), told)
        except Exception as error:  # the cache would take it for trouble of its store
            self._world.violate(f"the world itself failed: {error!r}")
        return answer


def _stored_by(operation: str, args: Any, answer: Any) -> list[Item | Fill]:
    """Return what an operation has put in L2."""
    match operation:
        case "fill":
            return [fill for fill, taken in zip(args[0], answer, strict=True) if taken]
        case "write":
            return [Item(*args)]
        case "write_many":
            return list(args[0])
    return []


def garbled(answer: Any) -> Any:
    """Return an answer of a store with other bytes in place of what is stored."""
    if isinstance(answer, list):
        return [garbled(each) for each in answer]
    if isinstance(answer, Stored):
        return answer._replace(payload=b"\xc1")
    if isinstance(answer, Claim) and answer.stored is not None:
        return Claim(stored=garbled(answer.stored))
    return answer


class ManualReader:
    """Stands in for the bus's thread, and is made as that is."""

    def __init__(self, bus: Any, namespace: Any, position: str | None, *_: object) -> None:
        self.is_connected = position is not None
        self.covered = namespace.process.world.clock.now
        self.error = StoreError("cut off")
        self._bus = bus
        self._tail = namespace.inner.tail(position)
        self._pending: list[Message] = []
        self._process: Process = namespace.process

    def start(self) -> None:
        self._process.reader = self
        self._process.after_gap(was_blind=True)  # L1 has nothing older that lives for long

    def stop(self) -> None:
        self._process.reader = None
        self._process.was_closed = True

    def deliver(self, most: int) -> int:
        """Apply up to so many messages; return how many there were."""
        process, bus = self._process, self._bus
        self.is_connected = not process.trouble
        if process.trouble:
            return 0
        try:
            self._pending += self._tail.read(0)
        except LogGap:
            was_blind = bus.is_blind
            bus.gap()
            self._pending.clear()
            process.after_gap(was_blind=was_blind)
        now, self._pending = self._pending[:most], self._pending[most:]
        for message in now:
            bus.apply([message])
            process.after_message(message)
        self.covered = process.world.clock.now
        bus.contact()
        return len(now)


class FakeKeeper:
    """Does what is due when the world says so. What has a group, leases, it may leave undone."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._kept: list[SimpleNamespace] = []

    def keep(
        self, interval: float, callback: Callable[[], float | None], group: object = None
    ) -> Any:
        due = self._clock.now + interval
        handle = SimpleNamespace(interval=interval, callback=callback, due=due, group=group)
        handle.cancel = lambda: self._kept.remove(handle) if handle in self._kept else None
        self._kept.append(handle)
        return handle

    def leases(self) -> int:
        """Count what is kept for a group."""
        return sum(handle.group is not None for handle in self._kept)

    def call_due(self, groups: Sequence[object]) -> None:
        """Do what is due and belongs to one of some groups."""
        for handle in list(self._kept):
            if handle in self._kept and handle.group in groups and handle.due <= self._clock.now:
                delay = handle.callback()
                handle.due = self._clock.now + (handle.interval if delay is None else delay)
                if delay == inf:
                    handle.cancel()
