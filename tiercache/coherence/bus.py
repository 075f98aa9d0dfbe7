"""The bus: how a process learns what the others have changed.

Every change of L2 is in its log, which one thread per process and cache reads from a position of
its own. What it reads is applied to L1 and to flights: dropped and detached, never read again
before somebody asks.

L1 is *covered* while the log is being read: whatever stands in it is known to be current but for
messages on their way. So the position is fixed before the first read of L2, and from then on

- after a short cut the log is read on from where it was: nothing is lost;
- where the log no longer reaches back, that is a gap: L1 is dropped, in O(1);
- once nothing has been read for ``blind_ttl`` seconds the process is *blind*. By then L1 has been
  let go of, bit by bit (fading.py), and what is put there until the process sees again lives for
  ``blind_ttl`` at most. So an outage of L2 costs the database one load per key, process and
  ``blind_ttl``, and nothing is stale for longer.

The thread holds its bus weakly: a cache that is dropped without ``close`` ends it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Protocol

from tiercache.coherence.fading import BEGIN, STEP, Fading
from tiercache.coherence.keeper import Handle, keeper
from tiercache.errors import StoreError
from tiercache.logs import reason_of, trace_of
from tiercache.telemetry import NO_STEP
from tiercache.tiers.breaker import Breaker, State
from tiercache.tiers.store import Kind, LogGap, Message, Namespace, StoreRefused, Tail
from tiercache.waits import Waits, lock_name

if TYPE_CHECKING:
    from tiercache.runtime import Port
    from tiercache.telemetry import Step, Telemetry

log = logging.getLogger(__name__)

__all__ = ["Bus", "Listener"]

PATIENCE = 1.0  # seconds that a read waits for messages; each answer, even none, is contact
LEAST_PATIENCE = 0.05
WATCH_SHARE = 0.1  # of blind_ttl, between looks at when there was contact last
#: A process that writes a lot hears its own messages many at a time: woken for each, its bus's
#: thread would take more of the interpreter than the writes themselves.
ECHO_SECONDS = 0.004
_CHANGES = (Kind.DELETE, Kind.SET, Kind.EXPIRE, Kind.TAGS, Kind.CLEAR)
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5  # seconds between attempts to read while cut off


class Listener(Protocol):
    """What is done about news."""

    def hear_keys(self, keys: Sequence[str], kind: Kind) -> None:
        """Another process has written, deleted or expired keys."""

    def hear_tags(self, tags: Sequence[str]) -> None:
        """Another process has invalidated tags."""

    def hear_clear(self, prefix: str) -> None:
        """Another process has cleared a prefix, or everything."""

    def hear_gap(self, *, was_blind: bool) -> None:
        """Messages were missed; what L1 got while blind is short-lived and may stay."""

    def begin_to_fade(self) -> Sequence[str]:
        """Let nothing under way fill L1, and return the keys it holds."""

    def let_go(self, keys: Sequence[str]) -> None:
        """Keys have been unwatched for too long."""

    def see_again(self) -> None:
        """The store answers."""


class Bus:
    """The reader of one cache's log in this process.

    Args:
        namespace: Whose log it is.
        origin: What marks this process's own messages.
        listener: Told of everybody else's.
        waits: Woken by everybody's, its own included.
        blind_ttl: Seconds without contact after which L1 is not trusted.
        breaker: The store's, told that somebody watches the store.
        name: Of the cache, for the log.
    """

    def __init__(
        self,
        namespace: Namespace,
        origin: str,
        listener: Listener,
        waits: Waits,
        *,
        blind_ttl: float,
        breaker: Breaker,
        name: str,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.is_open = False  # a thread reads, or tries to; written under _lock
        self.is_blind = True  # no contact for blind_ttl, or none yet
        self.keeps_short = True  # what is put in L1 may live for blind_ttl at most
        self.breaker = breaker
        self.blind_ttl = blind_ttl
        self._namespace = namespace
        self._origin = origin
        self._listener = listener
        self._waits = waits
        self._name = name
        self._telemetry = telemetry
        self._has_said = False  # that it is blind, in the log
        self._fading: Fading | None = None  # both written by the reader's thread
        self._fader: Handle | None = None
        self._lock = threading.RLock()
        self._reader: _Reader | None = None  # guarded by _lock

    @property
    def is_live(self) -> bool:
        """Whether news can be expected soon."""
        reader = self._reader
        return reader is not None and reader.is_connected

    async def open(self, port: Port) -> None:
        """Begin to listen, from the log's end as it is now, before L2 is first read.

        Where the store does not answer, listening begins blind.
        """
        asked = time.monotonic()
        position: str | None
        try:
            position = await port.ask(self._namespace, "log_end")
        except Exception:  # a store of somebody else may raise anything
            position = None
        self.start(position, asked)

    def start(self, position: str | None = None, since: float | None = None) -> None:
        """Begin to listen from a position that was current at some time, if nobody does."""
        with self._lock:
            if self.is_open:
                return
            covered = -self.blind_ttl if since is None else since
            reader = _Reader(self, self._namespace, position, covered)
            try:
                reader.start()
            except RuntimeError as error:  # no thread is to be had: L1 stays short-lived
                log.warning("%s: no thread for the bus: %s", self._name, error)
                return
            self._reader = reader
            self.is_blind = self.keeps_short = position is None
            self.is_open = True
            self._watch(reader)

    def stop(self) -> None:
        """End the thread and its connection; wait until they are gone."""
        with self._lock:
            reader, self._reader = self._reader, None
            self.is_open, self.is_blind, self.keeps_short = False, True, True
        if reader is not None:
            reader.stop()
        self._stop_fading()

    def after_fork(self, namespace: Namespace, origin: str, waits: Waits) -> None:
        """Forget the parent's thread; the child listens once it reads L2."""
        self._namespace, self._origin, self._waits = namespace, origin, waits
        self.is_open, self.is_blind, self.keeps_short = False, True, True
        self._reader = self._fading = self._fader = None
        self._lock = threading.RLock()

    # In the thread

    def apply(self, messages: Sequence[Message]) -> None:
        """Do what messages ask for."""
        with self._step(messages):
            self._apply_all(messages)

    def _step(self, messages: Sequence[Message]) -> Step:
        """Return a span for what others have changed."""
        spans = None if self._telemetry is None else self._telemetry.notice()
        if spans is None:
            return NO_STEP
        count = sum(origin != self._origin and kind in _CHANGES for kind, origin, _ in messages)
        return spans.bus_apply(count) if count else NO_STEP

    def _apply_all(self, messages: Sequence[Message]) -> None:
        # This process's own only wake those who wait. They began to before they asked for what they
        # wait for, and so before the news of it was read.
        passed_over = None if self._waits else self._origin
        for message in messages:
            if message.origin == passed_over:
                continue
            try:
                self._apply(message)
            except Exception as error:  # a finalizer of a user's value, say: the bus goes on
                log.error("applying a message of the bus failed: %s", trace_of(error))  # noqa: TRY400 - see logs.py

    def _apply(self, message: Message) -> None:
        kind, origin, names = message
        is_own = origin == self._origin
        if kind in (Kind.DELETE, Kind.SET, Kind.EXPIRE):
            if not is_own:  # what this process wrote it has applied already, and maybe since
                self._listener.hear_keys(names, kind)
            self._waits.tell(names, kind)
        elif kind is Kind.TAGS:
            if not is_own:
                self._listener.hear_tags(names)
        elif kind is Kind.CLEAR:
            if not is_own:
                self._listener.hear_clear(names[0] if names else "")
            self._waits.tell_all(kind)
        elif kind in (Kind.LANDED, Kind.FAILED):
            self._waits.tell(names, kind)
        elif kind is Kind.UNLOCKED:
            self._waits.tell(map(lock_name, names), kind)

    def contact(self) -> None:
        """Note that the log was read to its end, or nearly."""
        self._stop_fading()
        self.is_blind = self.keeps_short = False
        if self._has_said:
            self._has_said = False
            log.log(self._level(), "%s: hears of other processes' changes again", self._name)
        self._listener.see_again()

    def _level(self) -> int:
        """Say it loud where nothing has been said of an outage yet."""
        is_told = self.breaker.state is not State.CLOSED
        return logging.INFO if is_told else logging.WARNING

    def gap(self) -> None:
        """Note that messages were missed."""
        self._listener.hear_gap(was_blind=self.is_blind)
        self._waits.tell_all(Kind.CLEAR)

    def cut_off(self) -> None:
        """Note that there is no news any more: who waits for some must ask."""
        self._waits.tell_all(Kind.CLEAR)

    def _watch(self, reader: _Reader) -> None:
        """Have L1 let go of in time, whatever the reader's thread is busy with."""
        this = weakref.ref(self)
        watched = weakref.ref(reader)

        def look() -> float | None:
            bus, seen = this(), watched()
            if bus is None or seen is None or bus._reader is not seen:  # noqa: SLF001 - our own
                return inf
            bus.check(seen, time.monotonic())
            return None

        keeper.keep(self.blind_ttl * WATCH_SHARE, look)

    def check(self, reader: _Reader, now: float) -> None:
        """Begin to let go of L1, or be done with it, if there has been no contact for so long."""
        unseen = now - reader.covered
        if unseen >= self.blind_ttl - LEAST_PATIENCE:
            self.lose_sight(reader.error)
        elif unseen >= BEGIN * self.blind_ttl:
            self.begin_to_fade(reader.covered + self.blind_ttl - LEAST_PATIENCE)

    def lose_sight(self, why: Exception) -> None:
        """Note that there was no contact for blind_ttl."""
        if not self._has_said:
            self._has_said = True
            log.log(
                self._level(),
                "%s: cannot hear of other processes' changes, so L1 keeps values for %g s only: %s",
                *(self._name, self.blind_ttl, reason_of(why)),
            )
        if not self.is_blind:
            self.begin_to_fade(time.monotonic())
            if self._fading is not None:
                self._fading.finish()
            self._stop_fading()
            self.keeps_short = self.is_blind = True

    def begin_to_fade(self, until: float) -> None:
        """Begin to let go of L1, to be done with by a monotonic time."""
        if self.is_blind or self._fading is not None:
            return
        self.keeps_short = True  # before L1 is looked at: what is put there from now on is short
        self._fading = Fading(self._listener.begin_to_fade(), until, self._listener.let_go)
        this = weakref.ref(self)

        def step() -> float | None:
            bus = this()
            fading = None if bus is None else bus._fading  # noqa: SLF001 - our own
            return None if fading is not None and fading.advance(time.monotonic()) else inf

        self._fader = keeper.keep(STEP, step)

    def _stop_fading(self) -> None:
        self._fading, fader, self._fader = None, self._fader, None
        if fader is not None:
            fader.cancel()


class _Reader:
    """The thread of a bus."""

    def __init__(
        self,
        bus: Bus,
        namespace: Namespace,
        position: str | None,
        covered: float,
    ) -> None:
        self.is_connected = position is not None
        self._bus = weakref.ref(bus, self._bus_is_gone)
        self._breaker = bus.breaker
        self._blind_ttl = bus.blind_ttl
        self._origin = bus._origin  # noqa: SLF001 - our own
        self._is_echo = False  # whether all that was read last was this process's own
        self._tail: Tail = namespace.tail(position)
        self.covered = covered  # monotonic time up to which the log has been read
        self._owes_gap = False  # what was read could not be done as it should
        self._pause = FIRST_PAUSE
        self.error: Exception = StoreError("no contact yet")  # of the last read
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiercache-bus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._tail.interrupt()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _bus_is_gone(self, _: object) -> None:
        self._stopped.set()
        self._tail.interrupt()

    def _run(self) -> None:
        self._breaker.watched(begins=True)
        try:
            while not self._stopped.is_set():
                asked = time.monotonic()
                try:
                    self._step(self._read(), asked)
                except Exception as error:
                    log.error("the bus failed, and L1 will be dropped: %s", trace_of(error))  # noqa: TRY400 - see logs.py
                    self._owes_gap = True
                    self._stopped.wait(self._next_pause())
        finally:
            self._breaker.watched(begins=False)
            self._tail.close()

    def _read(self) -> Callable[[Bus], None] | None:
        """Read once, holding on to nothing; return what to do with a bus, None if cut off."""
        try:
            messages = self._tail.read(self._patience())
        except LogGap:
            return Bus.gap
        except StoreRefused as error:  # it is alive, and does not let us hear
            self._breaker.heard_from(time.monotonic())
            self.error = error
            return None
        except Exception as error:
            self.error = error  # if it is a bug of ours, going blind is the safe answer
            return None
        self._is_echo = bool(messages) and all(each.origin == self._origin for each in messages)
        return lambda bus: bus.apply(messages)

    def _step(self, do: Callable[[Bus], None] | None, asked: float) -> None:
        bus = self._bus()
        if bus is None or self._stopped.is_set():
            return
        was_connected, self.is_connected = self.is_connected, do is not None
        if do is not None:
            if self._owes_gap:
                bus.gap()
                self._owes_gap = False
            do(bus)
            self.covered, self._pause = asked, FIRST_PAUSE
            bus.contact()
            del bus
            if self._is_echo:
                self._stopped.wait(ECHO_SECONDS)
            return
        bus.check(self, time.monotonic())
        if was_connected:
            bus.cut_off()
        del bus
        self._stopped.wait(self._next_pause())

    def _patience(self) -> float:
        """Wait no longer than until blindness would have to be declared."""
        left = self.covered + self._blind_ttl - time.monotonic()
        return max(LEAST_PATIENCE, min(PATIENCE, self._blind_ttl / 4, left))

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        left = self.covered + self._blind_ttl - time.monotonic()
        pause *= 0.5 + random.random()  # noqa: S311 - spreads processes, guards nothing
        return min(pause, left) if left > LEAST_PATIENCE else pause
