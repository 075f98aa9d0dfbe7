"""A lock that one caller in the whole cluster holds at a time.

The store keeps a lock by name, with its holder's nonce and an end. While it is held it is renewed
at a third of its ttl: by the keeper's thread for blocking holders, in their own event loop for
asyncio holders. So a ttl says how long the others wait for a holder that has died, and not how long
the holder may take. Who waits is woken by news of the release; see ``pursuit``.

No lock in a cluster is certain: a holder may be stopped, or the store restarted, and somebody else
be let in meanwhile. So a holder is told when it has lost the lock (``lost``, ``check``; the block
of an asyncio holder is cancelled), and each grant has a ``fence``, a number greater than of all
before: whoever writes under the lock passes it on, and what is written to refuses one that is lower
than one it has seen.

A lock is not reentrant and not fair: when it is released all who wait ask, and one gets it. Without
L2 it holds within this process, among the users of one cache object.

What is granted is given back on every way out: also if the caller is interrupted while the grant is
on its way. What is dropped unreleased ends by itself, as nothing renews it once it is collected.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, Self

from tiercache.errors import CacheError, ConfigurationError, LockLost, LockTimeout, StoreError
from tiercache.runtime import run
from tiercache.tiers.store import Grant, Kind
from tiercache.ttl import Duration, seconds
from tiercache.waits import ThreadExpectation, Waits, lock_name

from . import keeper as keepers
from .hold import Era, Hold, Loss
from .local_locks import LocalLocks
from .pursuit import Pursuit

if TYPE_CHECKING:
    import asyncio

    from .async_lock import AsyncLock

__all__ = ["Lock", "LockStore", "Locks"]

log = logging.getLogger(__name__)

SHORTEST_TTL = 0.05  # seconds
NOUGHT = re.compile(r"\s*0+(\.0+)?\s*(ms|[smhdw])\s*", re.ASCII)  # a duration of none
MANY_RETURNS = 100  # grants on their way back at once; those above end by their ttl


class LockStore(Protocol):
    """The part of a namespace that keeps locks."""

    def lock(self, name: str, nonce: bytes, seconds: float) -> Grant: ...
    def renew_lock(self, name: str, nonce: bytes, seconds: float) -> bool: ...
    def unlock(self, name: str, nonce: bytes) -> bool: ...
    def alock(self, name: str, nonce: bytes, seconds: float) -> Coroutine[Any, Any, Grant]: ...
    def arenew_lock(self, name: str, nonce: bytes, seconds: float) -> Coroutine[Any, Any, bool]: ...
    def aunlock(self, name: str, nonce: bytes) -> Coroutine[Any, Any, bool]: ...


class Locks:
    """The locks of one cache.

    Args:
        cache_name: Names them in errors, together with their own names.
        namespace: Where they are kept; None: in this process.
        waits: Through which news of releases comes.
        timeout: The store's, seconds.
        listen: Called before somebody waits for news, so that somebody listens for it.
    """

    def __init__(
        self,
        cache_name: str,
        namespace: LockStore | None,
        waits: Waits,
        timeout: float,
        *,
        listen: Callable[[], None] = lambda: None,
        keeper: keepers.Keeper = keepers.keeper,
    ) -> None:
        self.cache_name = cache_name
        self.store: LockStore = LocalLocks() if namespace is None else namespace
        self.waits = waits
        self.timeout = timeout
        self.listen = listen
        self.keeper = keeper
        self.era = Era()
        self.tasks: set[asyncio.Task[Any]] = set()  # held here: an event loop holds its own weakly
        self._returns: set[bytes] = set()  # nonces

    def lock(
        self,
        name: str,
        *,
        ttl: Duration = 10,
        wait: Duration | None = None,
        required: bool = True,
    ) -> Lock:
        """Return a lock to be held by blocking code.

        Raises:
            ConfigurationError: If an option is illegal.
        """
        return Lock(self, _name(name), _ttl(ttl), _wait(wait), required)

    def alock(
        self,
        name: str,
        *,
        ttl: Duration = 10,
        wait: Duration | None = None,
        required: bool = True,
    ) -> AsyncLock:
        """Return a lock to be held by a task.

        Raises:
            ConfigurationError: If an option is illegal.
        """
        from .async_lock import AsyncLock

        return AsyncLock(self, _name(name), _ttl(ttl), _wait(wait), required)

    def close(self) -> None:
        """Have locks that are held be lost: they are not renewed any more. May be called again."""
        self.era.is_over = True
        self.era = Era()
        self.keeper.rest()

    async def aclose(self) -> None:
        """Do what close does, and wait for what is on its way in this event loop."""
        from .async_lock import quiesce

        self.close()
        await quiesce(self.tasks)

    def after_fork(self, waits: Waits) -> None:
        """Forget what the parent is about; its locks are not the child's."""
        self.waits = waits
        self.tasks.clear()
        self._returns.clear()
        if isinstance(self.store, LocalLocks):
            self.store.after_fork()

    def unlock(self, name: str, nonce: bytes) -> bool:
        """End a lock, and wake who waits for it in this process; False if it was not held."""
        was_held = self.store.unlock(name, nonce)
        if was_held:
            self.tell(name)
        return was_held

    def tell(self, name: str) -> None:
        """Wake who waits for a lock in this process: the news of the bus takes longer."""
        self.waits.tell((lock_name(name),), Kind.UNLOCKED)

    def give_back(self, name: str, nonce: bytes) -> None:
        """End a lock that may be held, in the keeper's thread: the store may be in trouble."""
        if len(self._returns) < MANY_RETURNS:
            self._returns.add(nonce)
            self.keeper.keep(0.0, partial(self._give_back, name, nonce), group=self.store)

    def _give_back(self, name: str, nonce: bytes) -> float:
        self._returns.discard(nonce)
        with suppress(StoreError):
            self.unlock(name, nonce)
        return inf


class Holder:
    """What blocking and asyncio locks have in common.

    One object is one acquisition at a time, and may be used again after its release.
    """

    def __init__(
        self, locks: Locks, name: str, ttl: float, wait: float | None, required: bool
    ) -> None:
        self.name = name
        self._locks = locks
        self._ttl = ttl
        self._wait = wait
        self._required = required
        self._mutex = threading.RLock()
        self._is_busy = False  # acquiring, or held; guarded by _mutex, as is what follows
        self._process = 0  # in which it is
        self._hold: Hold | None = None  # of the last acquisition

    @property
    def fence(self) -> int:
        """A number greater than of all who held the lock before; 0 if it was not acquired."""
        return 0 if self._hold is None else self._hold.fence

    @property
    def is_held(self) -> bool:
        """Whether the lock is held by this object now."""
        hold = self._hold
        return hold is not None and not hold.is_released and not self.lost

    @property
    def lost(self) -> bool:
        """Whether the lock was acquired, and lost before it was released."""
        return self._loss() is not None

    def check(self) -> None:
        """Raise LockLost if the lock was acquired, and lost before it was released."""
        loss = self._loss()
        if loss is not None:
            raise self._lost(loss)

    def __repr__(self) -> str:
        state = "held" if self.is_held else "lost" if self.lost else "not held"
        return f"<{type(self).__name__} {self.name!r} of cache {self._locks.cache_name!r}: {state}>"

    @property
    def _label(self) -> str:
        return f"lock {self.name!r} of cache {self._locks.cache_name!r}"

    def _loss(self) -> Loss | None:
        return None if self._hold is None else self._hold.loss(time.monotonic())

    def _lost(self, loss: Loss) -> LockLost:
        return LockLost(f"{self._label} was lost: {loss}")

    def _begin(self) -> None:
        with self._mutex:
            if self._is_busy and self._process == os.getpid():
                raise CacheError(
                    f"{self._label} is being used through this object already, and is not "
                    "reentrant; make an object for each acquisition"
                )
            self._is_busy, self._process, self._hold = True, os.getpid(), None

    def _end(self) -> Hold | None:
        """Be free to be acquired again; return what is held now and will not be."""
        with self._mutex:
            self._is_busy = False
            hold = self._hold
            if hold is None or hold.is_released:
                return None
            hold.loss(time.monotonic())  # for good, before it is released
            hold.is_released = True
            return hold

    def _give_up(self) -> Hold:
        """Return what is to be released.

        Raises:
            LockLost: If there is nothing, or it is lost.
        """
        hold = self._end()
        if hold is None:
            raise LockLost(f"{self._label} is not held by this object; acquire it before release()")
        loss = hold.loss(time.monotonic())
        if loss is Loss.OVERDUE:  # the store may not know
            self._return(hold)
        if loss is not None:
            raise self._lost(loss)
        return hold

    def _say_stays(self, error: StoreError) -> None:
        log.info("%s could not be released, and ends by its ttl: %s", self._label, error)

    # Acquiring, written once: see runtime.run

    async def _acquire(self) -> None:
        """Have ``_hold`` once the store has granted the lock."""
        nonce = os.urandom(8)
        pursuit = Pursuit(self._label, self._ttl, self._wait, self._locks.timeout, time.monotonic())
        try:
            while self._hold is None:
                await self._try(nonce, pursuit)
        except BaseException as error:
            if pursuit.may_hold:
                await self._recover(nonce, error)
            raise

    async def _try(self, nonce: bytes, pursuit: Pursuit) -> None:
        """Ask once; if it is not to be had, wait for as long as makes sense."""
        waits, name = self._locks.waits, lock_name(self.name)
        news = self._expect()
        try:
            waits.add(name, news)  # before asking: what happens in between is not lost
            pursuit.ask()
            asked = time.monotonic()
            try:
                grant = await self._ask(nonce)
            except StoreError as error:
                pause = pursuit.after_trouble(error, asked, time.monotonic())
            else:
                if grant.fence is not None:
                    self._hold = self._granted(nonce, grant.fence, pursuit, asked)
                    return
                assert grant.held_for is not None
                pause = pursuit.after_refusal(grant.held_for, time.monotonic())
            self._locks.listen()
            await self._pause(news, pause)
        finally:
            waits.remove(name, news)

    def _granted(self, nonce: bytes, fence: int, pursuit: Pursuit, asked: float) -> Hold:
        pursuit.check_grant(asked, time.monotonic())
        return Hold(self.name, nonce, fence, self._ttl, asked, self._locks.era)

    # Where blocking and asyncio differ

    def _expect(self) -> Any:
        """Return an expectation."""
        raise NotImplementedError

    async def _ask(self, nonce: bytes) -> Grant:
        """Ask the store for the lock."""
        raise NotImplementedError

    async def _pause(self, news: Any, pause: float) -> None:
        """Wait for news."""
        raise NotImplementedError

    async def _recover(self, nonce: bytes, error: BaseException) -> None:
        """End what the store may have granted, as an error ends the acquisition."""
        raise NotImplementedError

    def _return(self, hold: Hold) -> None:
        """End in the background what the store may still hold."""
        raise NotImplementedError


class Lock(Holder):
    """A lock held by blocking code: ``with cache.lock("report") as lock: ...``."""

    _renewal: keepers.Handle

    def acquire(self) -> bool:
        """Acquire the lock; return False if it could not be had in time and is not required.

        Raises:
            LockTimeout: If it could not be had in time.
            CacheError: If it is held through this object already.
        """
        self._begin()
        try:
            run(self._acquire())
            self._renew_from_now_on()
        except LockTimeout as error:
            self._end()
            if self._required:
                raise
            log.info("%s", error)
            return False
        except BaseException:
            hold = self._end()
            if hold is not None:  # interrupted after it was granted
                self._unlock_quietly(hold.nonce)
            raise
        return True

    def release(self) -> None:
        """Release the lock.

        If the store does not answer, the lock ends by its ttl, and nothing is raised.

        Raises:
            LockLost: If it is not held by this object, or was lost.
        """
        hold = self._give_up()
        self._renewal.cancel()
        try:
            was_held = self._locks.unlock(self.name, hold.nonce)
        except StoreError as error:
            self._say_stays(error)
            self._return(hold)
        except BaseException:
            self._return(hold)
            raise
        else:
            if not was_held:
                raise self._lost(hold.lose())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._hold is None:
            return  # entered without it
        try:
            if self._hold.is_released:
                self.check()
            else:
                self.release()
        except LockLost:
            if kind is None:
                raise

    def _renew_from_now_on(self) -> None:
        hold = self._hold
        assert hold is not None
        self._renewal = self._locks.keeper.keep(
            max(0.0, hold.renew_at - time.monotonic()),
            partial(_renew, weakref.ref(hold), self._locks),
            group=self._locks.store,
        )

    def _expect(self) -> ThreadExpectation:
        return ThreadExpectation()

    async def _ask(self, nonce: bytes) -> Grant:
        return self._locks.store.lock(self.name, nonce, self._ttl)

    async def _pause(self, news: ThreadExpectation, pause: float) -> None:
        news.wait(pause)

    async def _recover(self, nonce: bytes, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._locks.give_back(self.name, nonce)
        else:  # the program may be about to end
            self._unlock_quietly(nonce)

    def _unlock_quietly(self, nonce: bytes) -> None:
        with suppress(StoreError):
            self._locks.unlock(self.name, nonce)

    def _return(self, hold: Hold) -> None:
        self._locks.give_back(self.name, hold.nonce)


def _renew(reference: weakref.ref[Hold], locks: Locks) -> float:
    """Renew what is still held; return the seconds until the next time, in the keeper's thread."""
    hold, sent = reference(), time.monotonic()
    if hold is None or hold.is_released or hold.loss(sent):
        return inf
    hold.begin_renewal()
    answer: bool | None = None
    with suppress(StoreError):
        answer = locks.store.renew_lock(hold.name, hold.nonce, hold.ttl)
    now = time.monotonic()
    hold.after_renewal(answer, sent, now)
    return inf if hold.loss(now) else max(0.0, hold.renew_at - now)


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f'the name of a lock must be a text that is not empty, got {name!r}; such as "report"'
        )
    return name


def _ttl(ttl: Duration) -> float:
    given = _duration(ttl, "ttl")
    if not SHORTEST_TTL <= given < inf:
        raise ConfigurationError(
            f"ttl of a lock must be at least 50 ms, got {ttl!r}: it would end within a round trip; "
            "use seconds, it is renewed while the lock is held"
        )
    return given


def _wait(wait: Duration | None) -> float | None:
    if wait is None:
        return None
    given = _duration(wait, "wait")
    if not 0 <= given < inf:
        raise ConfigurationError(
            f"wait must be 0 or a positive duration, got {wait!r}; "
            "use wait=0 to try once, wait=None to wait as long as it takes"
        )
    return given


def _duration(value: Duration, name: str) -> float:
    """Return seconds, which the caller has yet to judge: 0, negative, or NaN."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and NOUGHT.fullmatch(value):
        return 0.0
    return seconds(value, name=name)
