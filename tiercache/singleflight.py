"""One load per key: the first caller leads, the others follow and share what it brings.

A *flight* is one load of one key under way. It is registered before anything is read, so that an
invalidation can detach it: a detached flight still serves those who boarded before, but fills
nothing, and whoever comes later starts another.

Flights live on two *decks*, since a flight is never shared between a blocking and an asyncio
caller.

Writes of a key *fence* it: they detach its flights, wait for a fill that is already on the wire,
and until they are done nothing else fills the key. So whatever the order in which a load and an
invalidation touch L1 and L2, the invalidation wins. Reads without a flight note the *era*, which
every write ends, and fill L1 only if it still lasts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from enum import IntEnum
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


class Deck(IntEnum):
    """Who may share a flight."""

    BLOCKING = 0
    ASYNCIO = 1


class Source(IntEnum):
    """Where a flight found its value."""

    MEMORY = 0
    STORE = 1
    LOAD = 2
    GUARD = 3


class Flight:
    """One load of one key, from its start until it lands."""

    __slots__ = (
        "awaits",
        "cancel",
        "crowds",
        "deadline",
        "deck",
        "error",
        "has_landed",
        "is_filling",
        "key",
        "loop",
        "must_retry",
        "passengers",
        "replaces",
        "skips_store",
        "source",
        "thread",
        "traceback",
        "value",
        "waiters",
    )

    def __init__(
        self, key: str, deck: Deck, seconds: float, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        self.key = key
        self.deck = deck
        self.deadline = time.monotonic() + seconds  # then it no longer holds the key
        self.loop = loop  # that carries it; None for a blocking one
        self.thread = get_ident()  # that boarded first; a blocking flight ends with it only
        self.passengers = 1  # callers that want its result; guarded by Flights.lock
        self.waiters: list[Callable[[], None]] | None = None  # guarded by Flights.lock
        # Futures of followers, by their event loop; guarded by Flights.lock
        self.crowds: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] | None = None
        self.cancel: Callable[[], None] | None = None  # ends its task
        self.replaces = False  # a refresh: what it brings takes an older value's place
        self.skips_store = False  # it has seen L2 fail, and does not wait for it again
        self.is_filling = False  # its bytes are on the way to L2; guarded by Flights.lock
        self.awaits: set[Flight] | None = None  # flights its loader is waiting for; by Flights.lock
        # Written once, before has_landed; read only after.
        self.has_landed = False
        self.source = Source.LOAD
        self.value: Any = None
        self.error: BaseException | None = None
        self.traceback: TracebackType | None = None
        self.must_retry = False  # it ended for a reason that is not the followers'

    def result(self) -> Any:
        """Return the value, or raise the load's own exception."""
        if self.error is None:
            return self.value
        # The same exception is raised in many callers: each starts from the load's traceback
        # instead of adding its own frames to a chain that grows with every follower.
        raise self.error.with_traceback(self.traceback)


class Flights:
    """The flights of one cache, and the fences around keys being written."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.era = 0  # advanced by every write; guarded by lock
        self._decks: tuple[dict[str, Flight], ...] = ({}, {})  # guarded by lock
        self._filling: dict[str, list[Flight]] = {}  # on the wire to L2; guarded by lock
        self._fences: dict[str, int] = {}  # writes under way, by key; guarded by lock
        self._overlaps: set[str] = set()  # fenced by two writes at once; guarded by lock
        self._closed_fences = 0  # clears under way; guarded by lock

    def __len__(self) -> int:
        return sum(map(len, self._decks))

    def board(
        self,
        key: str,
        deck: Deck,
        seconds: float,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> tuple[Flight, bool]:
        """Join the flight of a key, or start one; say whether this caller leads it.

        Args:
            key: The key to load.
            deck: Which flights may be joined.
            seconds: How long a new flight may hold the key.
            loop: The running event loop, on an asyncio deck.
        """
        flights = self._decks[deck]
        with self.lock:
            flight = flights.get(key)
            if flight is None or _is_stranded(flight):
                flight = flights[key] = Flight(key, deck, seconds, loop)
                return flight, True
            flight.passengers += 1
            return flight, False

    def land(self, flight: Flight, value: Any) -> None:
        """Give every passenger the value, and free the key."""
        with self.lock:
            if flight.has_landed:
                return
            flight.value = value
            waiters = self._end(flight)
        if waiters is not None:
            for wake in waiters:
                wake()

    def fail(self, flight: Flight, error: BaseException, *, must_retry: bool = False) -> None:
        """Give every passenger the exception, and free the key.

        With ``must_retry`` they load again instead: what ended the leader (a key press, the end
        of its event loop) says nothing about the value.
        """
        with self.lock:
            if flight.has_landed:
                return
            flight.error = error
            flight.traceback = error.__traceback__
            flight.must_retry = must_retry
            waiters = self._end(flight)
        for wake in waiters or ():
            wake()

    def on_landing(self, flight: Flight, wake: Callable[[], None]) -> bool:
        """Have ``wake`` called when the flight lands; False if it has landed already."""
        with self.lock:
            if flight.has_landed:
                return False
            if flight.waiters is None:
                flight.waiters = []
            flight.waiters.append(wake)
            return True

    def forget(self, flight: Flight, wake: Callable[[], None]) -> None:
        """Take back ``on_landing``."""
        with self.lock:
            if flight.waiters is not None:
                with suppress(ValueError):
                    flight.waiters.remove(wake)

    def leave(self, flight: Flight) -> None:
        """Count a passenger out; when it was the last one, end the load and free the key."""
        with self.lock:
            flight.passengers -= 1
            # A command that is on the wire cannot be called back: it is let finish, so that an
            # invalidation can wait for it.
            if flight.passengers or flight.has_landed or flight.is_filling:
                return
            self.detach_flight(flight)
            cancel = flight.cancel
        if cancel is not None:
            cancel()

    def is_current(self, flight: Flight) -> bool:
        """Whether the flight is still the one registered for its key, and may fill."""
        return (
            self._decks[flight.deck].get(flight.key) is flight
            and flight.key not in self._fences
            and not self._closed_fences
        )

    def lasts(self, era: int, key: str) -> bool:
        """Whether no write of the key is under way, nor any has begun or ended since an era."""
        return era == self.era and key not in self._fences and not self._closed_fences

    def begin_fill(self, flight: Flight) -> bool:
        """Say whether the flight may write to L2; a fence from now on waits until it landed."""
        with self.lock:
            flight.is_filling = self.is_current(flight)
            if flight.is_filling:
                self._filling.setdefault(flight.key, []).append(flight)
            return flight.is_filling

    def detach(self, key: str) -> None:
        """Free a key: its flights go on for their passengers only."""
        with self.lock:
            self._detach(key)

    def detach_flight(self, flight: Flight) -> None:
        """Free the key of a flight that goes on for its passengers only."""
        with self.lock:
            if self._decks[flight.deck].get(flight.key) is flight:
                del self._decks[flight.deck][flight.key]

    def fence(self, keys: Iterable[str]) -> list[Flight]:
        """Begin a write of keys; return the flights whose fill is on the wire, to be awaited."""
        with self.lock:
            self.era += 1
            for key in keys:
                if key in self._fences:
                    self._overlaps.add(key)
                self._fences[key] = self._fences.get(key, 0) + 1
                self._detach(key)
            return [flight for key in keys for flight in self._filling.get(key, ())]

    def unfence(self, keys: Iterable[str], settle: Callable[[str, bool], None]) -> None:
        """End a write of keys.

        Args:
            keys: What was fenced.
            settle: Called under the lock for each key, to bring L1 in line; told whether no
                other write of the key overlapped with this one. Where one did, nobody here
                knows which of them L2 took last.
        """
        with self.lock:
            self.era += 1
            for key in keys:
                alone = key not in self._overlaps
                self._fences[key] -= 1
                if not self._fences[key]:
                    del self._fences[key]
                    self._overlaps.discard(key)
                self._detach(key)
                settle(key, alone)

    def fence_all(self) -> list[Flight]:
        """Begin a write of everything; return the flights whose fill is on the wire."""
        with self.lock:
            self.era += 1
            self._closed_fences += 1
            self._detach_all()
            return [flight for flights in self._filling.values() for flight in flights]

    def unfence_all(self, settle: Callable[[], None]) -> None:
        """End a write of everything; ``settle`` is called under the lock."""
        with self.lock:
            self.era += 1
            self._closed_fences -= 1
            self._detach_all()
            settle()

    def would_deadlock(self, flight: Flight, mine: Sequence[Flight]) -> bool:
        """Whether a load in the course of ``mine`` must not wait for the flight.

        It must not where the flight is one of its own, or is waiting for one of its own.
        """
        with self.lock:
            seen: set[Flight] = set()
            frontier = [flight]
            while frontier:
                candidate = frontier.pop()
                if candidate in mine:
                    return True
                if candidate not in seen:
                    seen.add(candidate)
                    frontier.extend(candidate.awaits or ())
            for waiting in mine:
                if waiting.awaits is None:
                    waiting.awaits = set()
                waiting.awaits.add(flight)
            return False

    def stop_waiting(self, flight: Flight, mine: Sequence[Flight]) -> None:
        """Take back what ``would_deadlock`` noted when it said no."""
        with self.lock:
            for waiting in mine:
                if waiting.awaits is not None:
                    waiting.awaits.discard(flight)

    def under_way(self) -> list[Flight]:
        """Return the flights that have not landed."""
        with self.lock:
            return [flight for deck in self._decks for flight in deck.values()]

    # Below, the lock is held.

    def _end(self, flight: Flight) -> Sequence[Callable[[], None]] | None:
        flight.has_landed = True
        flight.awaits = None
        flight.cancel = None
        if flight.is_filling:
            self._end_fill(flight)
        deck = self._decks[flight.deck]
        if deck.get(flight.key) is flight:
            del deck[flight.key]
        waiters, flight.waiters = flight.waiters, None
        return waiters

    def _end_fill(self, flight: Flight) -> None:
        flight.is_filling = False
        filling = self._filling[flight.key]
        filling.remove(flight)
        if not filling:
            del self._filling[flight.key]

    def _detach(self, key: str) -> None:
        for deck in self._decks:
            deck.pop(key, None)

    def _detach_all(self) -> None:
        for deck in self._decks:
            deck.clear()


def waits_for_itself(flight: Flight) -> bool:
    """Whether the flight's leader is this very thread, in a finalizer or a signal handler."""
    return flight.deck is Deck.BLOCKING and flight.thread == get_ident()


def _is_stranded(flight: Flight) -> bool:
    return flight.loop is not None and flight.loop.is_closed()
