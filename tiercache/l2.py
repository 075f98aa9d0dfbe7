"""L2 as the read and write paths see it: its trouble is counted and logged, never raised.

A breaker keeps calls off a store that does not answer. Invalidations that it did not take are owed
(coherence/debts.py), and delivered, in order, before anything is read from it again. An operation
that could not be done answers None; whoever asked goes on without L2.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .coherence.debts import Debts, Owed
from .coherence.keeper import keeper
from .coherence.lease import LEASE_SECONDS, RENEWALS, Kept, new_nonces
from .errors import StoreError
from .health import health_of
from .hooks import Hooks
from .plugin import Event
from .stats import Counters
from .telemetry import NO_STEP, Telemetry
from .tiers.breaker import State
from .tiers.store import Claim, Fill, Item, Kind, Lease, LeaseMode, StoreRefused

if TYPE_CHECKING:
    from .runtime import Port
    from .tiers.store import Namespace, Store, Stored
    from .waits import Waits


SETTLING_SECONDS = 10.0  # after which whoever delivers what is owed is given up
REFUSED_PAUSE = 0.2  # seconds until the store is asked again to take what it has refused

_NOTHING: Final = object()  # the answer of an operation that was not done


class L2:
    """A cache's part of a store."""

    def __init__(
        self, cache: str, store: Store, hooks: Hooks, counters: Counters, telemetry: Telemetry
    ) -> None:
        self.origin = os.urandom(6).hex()  # marks this process's messages
        self.namespace: Namespace = store.namespace(cache, self.origin)
        self.health = health_of(store)
        self.breaker = self.health.breaker
        self.debts = Debts()
        self._store = store
        self._cache = cache
        self._hooks = hooks
        self._counters = counters
        self._telemetry = telemetry
        self.waits: Waits | None = None  # who waits for what others bring to the store
        self._lock = threading.RLock()
        # Keys whose leases wait for a commit of this process, and until when at most: not awaited
        # here. Changed in single steps.
        self._paused: dict[str, float] = {}
        self._settler: object = None  # who delivers what is owed; guarded by _lock, as is
        self._settling_until = 0.0  # when that one is given up: its event loop may have stopped
        self._settle_after = 0.0  # monotonic time before which the store need not be asked to

    def after_fork(self) -> None:
        """Be another process in a forked child; what the parent owes, the parent delivers."""
        self.origin = os.urandom(6).hex()
        self.namespace = self._store.namespace(self._cache, self.origin)
        self._lock = threading.RLock()
        self._settler, self._settling_until = None, 0.0
        self.debts.after_fork()
        self.health.after_fork()

    # Entries

    async def read(self, port: Port, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Return what L2 holds for a key; None also where it cannot say."""
        return (await self.try_to_read(port, key, tags))[0]

    async def try_to_read(
        self, port: Port, key: str, tags: Sequence[str] = ()
    ) -> tuple[Stored | None, bool]:
        """Return what L2 holds for a key, and whether it could say."""
        answer: Any = await self._ask(port, "read", key, key, tags)
        return (None, False) if answer is _NOTHING else (answer, True)

    async def read_many(
        self, port: Port, keys: Sequence[str], tags: Sequence[str] = ()
    ) -> Sequence[Stored | None]:
        """Return what L2 holds for each key, in one round trip."""
        answer: Any = await self._ask(port, "read_many", keys[0], keys, tags)
        return [None] * len(keys) if answer is _NOTHING else answer

    async def write(self, port: Port, items: Sequence[Item]) -> bool:
        """Write payloads to L2; what is not taken is owed as an invalidation. Say if it was."""
        keys = [item.key for item in items]
        operation: tuple[Any, ...] = ("write_many", items)
        if len(items) == 1:
            operation = ("write", *items[0])
        return await self._tell(port, Kind.DELETE, keys, *operation) is not None

    async def delete(self, port: Port, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Remove keys from L2; what cannot be removed now is owed."""
        return await self._tell(port, Kind.DELETE, keys, "delete", keys, kind) or 0

    async def try_to_delete(self, port: Port, keys: Sequence[str]) -> bool:
        """Remove keys from L2; say whether it was done, and not only owed."""
        return await self._tell(port, Kind.DELETE, keys, "delete", keys) is not None

    async def expire(self, port: Port, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Have entries live for at most so many seconds more; what is not taken is owed."""
        return await self._tell(port, Kind.DELETE, keys, "expire", keys, seconds) or 0

    async def invalidate_tags(self, port: Port, tags: Sequence[str]) -> None:
        """Invalidate tags in L2; what cannot be now is owed."""
        await self._tell(port, Kind.TAGS, tags, "invalidate_tags", tags)

    async def clear(self, port: Port, prefix: str) -> None:
        """Clear a prefix, or everything, in L2; what cannot be cleared now is owed."""
        await self._tell(port, Kind.CLEAR, [prefix], "clear", prefix)

    async def _tell(
        self, port: Port, kind: Kind, names: Sequence[str], operation: str, *args: Any
    ) -> Any:
        """Do what invalidates names; where it was not done, it is owed, and the answer is None."""
        until = self.debts.last
        try:
            answer = await self._ask(port, operation, names[0], *args)
        except BaseException:  # interrupted: nobody knows whether it was done
            self.debts.owe(kind, names)
            raise
        if answer is _NOTHING:
            self.debts.owe(kind, names)
            return None
        self.debts.settled(kind, names, until)
        return 0 if answer is None else answer

    # Leases

    async def claim(
        self,
        port: Port,
        keys: Sequence[str],
        tags: Sequence[str],
        mode: LeaseMode,
        *,
        anew: bool,
    ) -> Sequence[Claim] | None:
        """Ask for the leases of keys; None where L2 cannot say: load without."""
        nonces = new_nonces(len(keys))
        try:
            answer: Any = await self._ask(
                *(port, "claim", keys[0], keys, nonces),
                seconds=LEASE_SECONDS,
                tags=tags,
                mode=mode,
                anew=anew,
            )
        except GeneratorExit:  # nothing can be awaited any more; they end by themselves
            raise
        except BaseException:  # interrupted: they may have been granted
            await self.release(port, list(zip(keys, nonces, strict=True)), Kind.LANDED)
            raise
        return None if answer is _NOTHING else answer

    def note_held(self) -> None:
        """Say that a lease is held elsewhere, and is waited for."""
        if self._telemetry.spans is not None:
            self._telemetry.spans.held_elsewhere()

    async def fill(self, port: Port, fills: Sequence[Fill]) -> Sequence[bool] | None:
        """Store loaded values under their leases; None where L2 cannot say."""
        answer: Any = await self._ask(port, "fill", fills[0].key, fills)
        return None if answer is _NOTHING else answer

    async def release(self, port: Port, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """End leases without a fill."""
        await self._ask(port, "release", leases[0][0], leases, kind)

    async def renew(self, port: Port, leases: Sequence[tuple[str, Lease]]) -> Any:
        """Have leases last from now; say of each whether it is held. None where L2 cannot say."""
        held = [(key, lease.nonce) for key, lease in leases]
        answer: Any = await self._ask(port, "renew", held[0][0], held, LEASE_SECONDS)
        return None if answer is _NOTHING else answer

    def pause(self, key: str) -> None:
        """Have nobody here wait for the lease of a key, until it has ended."""
        now = time.monotonic()
        self._paused = {key: until for key, until in self._paused.items() if until > now}
        self._paused[key] = now + LEASE_SECONDS

    def is_paused(self, key: str) -> bool:
        """Whether the lease of a key is one that waits for a commit of this process."""
        return bool(self._paused) and self._paused.get(key, 0.0) > time.monotonic()

    def unpause(self, key: str) -> None:
        """Take back ``pause``."""
        self._paused.pop(key, None)

    def keep(self, leases: Sequence[tuple[str, Lease]], seconds: float) -> Kept:
        """Have leases renewed until all are let go, or their loads are overdue."""
        held = [(key, lease.nonce) for key, lease in leases]
        until = time.monotonic() + seconds

        def renew() -> float | None:
            if time.monotonic() < until and self.breaker.state is State.CLOSED:
                self.namespace.renew(held, LEASE_SECONDS)
            return None

        interval = LEASE_SECONDS / RENEWALS
        return Kept(keeper.keep(interval, _quietly(renew), group=self.namespace), len(held))

    # How anything is asked

    async def _ask(
        self, port: Port, operation: str, subject: str, *args: Any, **options: Any
    ) -> Any:
        """Return what the store answers, or _NOTHING. ``subject``: a key, for events."""
        spans = self._telemetry.spans
        step = NO_STEP if spans is None else spans.store(operation, subject, args)
        with step:
            began = time.monotonic()
            breaker = self.breaker
            if not breaker.admits(began) or (self.debts and not await self._settle(port)):
                step.unasked(breaker.state.value)
                return _NOTHING
            try:
                answer = await port.ask(self.namespace, operation, *args, **options)
            except Exception as error:
                self._failed(operation, error, subject, time.monotonic() - began)
                step.failed(error)
                return _NOTHING
            except BaseException:
                breaker.abstained()
                raise
        now = time.monotonic()
        self.health.succeeded(now, now - began)
        return answer

    async def demand(self, port: Port, place: Any, operation: str, *args: Any) -> Any:
        """Return what a part of the store answers, for who cannot go on without.

        Args:
            port: The caller's.
            place: A journal.
            operation: Its method.
            args: Of that.

        Raises:
            StoreError: Counted like any trouble of the store's.
        """
        began = time.monotonic()
        breaker = self.breaker
        if not breaker.admits(began):
            raise StoreError(f"{self.label} is not asked for now: it did not answer lately")
        if self.debts and not await self._settle(port):
            raise StoreError(f"{self.label} has not taken yet what was invalidated before")
        try:
            answer = await port.ask(place, operation, *args)
        except StoreError as error:
            self._failed(operation, error, "", time.monotonic() - began)
            raise
        except BaseException:
            breaker.abstained()
            raise
        now = time.monotonic()
        self.health.succeeded(now, now - began)
        return answer

    @property
    def label(self) -> str:
        """The store, in errors."""
        return self._store.label

    async def settle(self, port: Port) -> bool:
        """Deliver what is owed, if anything and if the store is thought to answer."""
        return not self.debts or (
            self.breaker.admits(time.monotonic()) and await self._settle(port)
        )

    async def farewell(self, port: Port) -> int:
        """Try once more to deliver what is owed; return how much is left."""
        if self.debts:
            await self._settle(port)
        return len(self.debts)

    async def _settle(self, port: Port) -> bool:
        """Deliver what is owed; False where it is not all delivered, or somebody is at it."""
        with self._lock:
            began = time.monotonic()
            if self._settler is not None and began < self._settling_until:
                self.breaker.abstained()
                return False
            me = self._settler = object()
            self._settling_until = began + SETTLING_SECONDS
        try:
            if began < self._settle_after:
                self.breaker.abstained()
                return False
            while (owed := self.debts.next()) is not None:
                await self._deliver(port, owed)
                self.debts.paid(owed)
        except Exception as error:
            self._settle_after = time.monotonic() + REFUSED_PAUSE
            self._failed("settle", error, "", time.monotonic() - began)
            return False
        except BaseException:
            self.breaker.abstained()
            raise
        finally:
            if self._settler is me:
                self._settler = None
        now = time.monotonic()
        self.health.succeeded(now, now - began)
        return True

    async def _deliver(self, port: Port, owed: Owed) -> None:
        if owed.kind is Kind.CLEAR:
            await port.ask(self.namespace, "clear", owed.names[0])
        elif owed.kind is Kind.TAGS:
            try:
                await port.ask(self.namespace, "invalidate_tags", owed.names)
            except StoreRefused:  # it takes a script; a clear does not, and says more
                await port.ask(self.namespace, "clear", "")
        else:
            await port.ask(self.namespace, "delete", owed.names)

    def read_failed(self, error: Exception, key: str, seconds: float) -> None:
        """Count a read that failed."""
        self._failed("read", error, key, seconds)

    def _failed(self, operation: str, error: Exception, key: str, seconds: float) -> None:
        """Count a failure."""
        self._counters.store_errors += 1
        if self._hooks.on_event:
            self._hooks.tell(Event("store_error", self._cache, key, operation))
        self.health.failed(self._cache, operation, error, seconds)
        if self.waits is not None and self.breaker.state is not State.CLOSED:
            self.waits.tell_all(Kind.CLEAR)  # nobody can bring it any more: they need not wait


def _quietly(renew: Callable[[], float | None]) -> Callable[[], float | None]:
    """Let a renewal fail: the lease ends by itself, and a fill under it is refused."""

    def quietly() -> float | None:
        try:
            return renew()
        except StoreError:
            return None

    return quietly
