"""One load per key: the first caller leads, the others follow and share what it brings.

A *flight* is one load of one key under way. It is registered before anything is read, so that an
invalidation can detach it: a detached flight still serves those who boarded before, but fills
nothing here, and whoever comes later starts another. What it brings to L2 is refused there, by its
lease.

Flights live on two *decks*, since a flight is never shared between a blocking and an asyncio
caller.

Writes of a key *fence* it: they detach its flights, and until they are done nothing fills the key
in L1. So whatever the order in which a load and an invalidation touch L1 and L2, the invalidation
wins. What other processes have written is *heard* from the bus, and has the same effect at once.

Reads without a flight note the *era*, which every change advances, and fill L1 only if their key
has not changed since. Entries with tags are born in an era; one whose tag was invalidated in a
later one is outdated, however many there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from enum import IntEnum
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .eras import Eras

if TYPE_CHECKING:
    import asyncio

    from .coherence.lease import Kept
    from .entry import Entry, Standing
    from .load import Load
    from .tiers.store import Lease

#: A function that makes the Load of a flight, and its arguments before the flight.
LoadMaker = tuple[Any, ...]

CHANGED_KEYS = 4096  # whose last change is remembered, for reads without a flight
TAGS = (
    10_000  # whose last invalidation is remembered; entries born before all of these are outdated
)


#: The flights whose loaders this context is inside of, innermost first.
loading_now: ContextVar[tuple[Flight, ...]] = ContextVar("tiercache_loading", default=())


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
    PEER = 4  # another process's load, which this one waited for
    STALE = 5  # a value past its TTL


class Flight:
    """One load of one key, from its start until it lands.

    What most flights never have stands on the class: making one is a part of every miss.
    """

    waiters: list[Callable[[], None]] | None = None  # guarded by Flights.lock
    # Futures of followers, by their event loop; guarded by Flights.lock
    crowds: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] | None = None
    cancel: Callable[[], None] | None = None  # ends its task
    replaces = False  # what it brings takes an outdated value's place: f.refresh()
    renews = False  # a refresh behind a value that is being served
    stale: Standing | None = None  # what stood there when it began
    # The load as its loader sees it, or what makes it when it is first asked for.
    load: Load | LoadMaker | None = None
    ttl: float | None = None  # that a load gave its value, in seconds
    span: object = None  # of its load: what those who waited for it link to
    is_unsure = False  # a newer write may be pending: what it loads is not to be kept
    skips_store = False  # it has seen L2 fail, and does not wait for it again
    tags: tuple[str, ...] | None = None  # of its value; None: they may be any
    lease: Lease | None = None  # under which it may fill L2
    kept: Kept | None = None  # what has that renewed
    awaits: set[Flight] | None = None  # flights its loader is waiting for; by Flights.lock
    # Written once, before has_landed; read only after.
    has_landed = False
    source = Source.LOAD
    value: Any = None
    error: BaseException | None = None
    traceback: TracebackType | None = None
    must_retry = False  # it ended for a reason that is not the followers'
    home = ""  # the name of its cache: caches of one name share their leases
    passengers = 1  # callers that want its result; guarded by Flights.lock
    era = 0  # in which it began

    def __init__(
        self, key: str, deck: Deck, seconds: float, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self.key = key
        self.deck = deck
        self.deadline = monotonic() + seconds  # then it no longer holds the key
        self.loop = loop  # that carries it; None for a blocking one
        self.thread = get_ident()  # that boarded first; a blocking flight ends with it only

    def stop_renewing(self) -> None:
        """Have its lease renewed no more."""
        kept, self.kept = self.kept, None
        if kept is not None:
            kept.let_go()

    def result(self) -> Any:
        """Return the value, or raise the load's own exception."""
        if self.error is None:
            return self.value
        # The same exception is raised in many callers: each starts from the load's traceback
        # instead of adding its own frames to a chain that grows with every follower.
        raise self.error.with_traceback(self.traceback)


class Flights:
    """The flights of one cache, and the fences around keys being written."""

    def __init__(self, name: str = "") -> None:
        self.lock = threading.RLock()
        self._name = name
        self.era = 1  # advanced by every change; guarded by lock
        # Guarded by lock, but for flights of the short ways, which begin in one step without it.
        self.decks: tuple[dict[str, Flight], ...] = ({}, {})
        self.fences: dict[str, int] = {}  # writes under way, by key; written under lock
        self._overlaps: set[str] = set()  # fenced, and written otherwise, too; guarded by lock
        self.closed_fences = 0  # clears under way; guarded by lock
        self._changed = Eras(CHANGED_KEYS)  # of keys; guarded by lock
        self._tags = Eras(TAGS)  # of tags; written under lock

    def __len__(self) -> int:
        return sum(map(len, self.decks))

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
        flights = self.decks[deck]
        with self.lock:
            flight = flights.get(key)
            if flight is not None and _is_stranded(flight):
                return self.replace(key, deck, seconds, loop), True
            if flight is None:
                mine = self._flight(key, deck, seconds, loop)
                flight = flights.setdefault(key, mine)  # one may have begun without the lock
                if flight is mine:
                    return flight, True
            flight.passengers += 1
            return flight, False

    def replace(
        self,
        key: str,
        deck: Deck,
        seconds: float,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Flight:
        """Start a flight in the place of what is under way on its deck; args as of ``board``."""
        with self.lock:
            flight = self.decks[deck][key] = self._flight(key, deck, seconds, loop)
            return flight

    def land(self, flight: Flight, value: Any) -> None:
        """Give every passenger the value, and free the key."""
        with self.lock:
            if flight.has_landed:
                return
            flight.value = value
            waiters = self.end(flight)
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
            waiters = self.end(flight)
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
            if flight.passengers or flight.has_landed:
                return
            self.detach_flight(flight)
            cancel = flight.cancel
        if cancel is not None:
            cancel()

    def is_current(self, flight: Flight) -> bool:
        """Whether the flight is still the one registered for its key, and may fill."""
        return (
            self.decks[flight.deck].get(flight.key) is flight
            and flight.key not in self.fences
            and not self.closed_fences
        )

    def lasts(self, era: int, key: str) -> bool:
        """Whether a key has not changed since an era, and nobody is changing it."""
        return self._changed.of(key) <= era and key not in self.fences and not self.closed_fences

    def is_outdated(self, entry: Entry) -> bool:
        """Whether a tag of an entry was invalidated after the era it was born in."""
        of, born = self._tags.of, entry.born
        return any(of(tag) > born for tag in entry.tags)

    def detach(self, key: str) -> None:
        """Free a key: its flights go on for their passengers only."""
        with self.lock:
            self._detach(key)

    def detach_flight(self, flight: Flight) -> None:
        """Free the key of a flight that goes on for its passengers only."""
        with self.lock:
            if self.decks[flight.deck].get(flight.key) is flight:
                del self.decks[flight.deck][flight.key]

    def attach(self, flight: Flight) -> None:
        """Take back ``detach_flight``, under the lock that was held since."""
        self.decks[flight.deck].setdefault(flight.key, flight)

    def fence(self, keys: Iterable[str]) -> None:
        """Begin a write of keys."""
        with self.lock:
            for key in keys:
                if key in self.fences:
                    self._overlaps.add(key)
                self.fences[key] = self.fences.get(key, 0) + 1
            self._change(keys)

    def unfence(self, keys: Iterable[str], settle: Callable[[str, bool], None]) -> None:
        """End a write of keys.

        Args:
            keys: What was fenced.
            settle: Called under the lock for each key, to bring L1 in line; told whether no
                other write of the key overlapped with this one, here or elsewhere. Where one
                did, nobody here knows which of them L2 took last.
        """
        with self.lock:
            self._change(keys)
            for key in keys:
                left = self.fences.get(key, 0) - 1  # -1: this is a fork, inside of a write
                alone = left >= 0 and key not in self._overlaps
                if left > 0:
                    self.fences[key] = left
                else:
                    self.fences.pop(key, None)
                    self._overlaps.discard(key)
                settle(key, alone)

    def fence_all(self) -> None:
        """Begin a write of everything."""
        with self.lock:
            self.closed_fences += 1
            self._overlaps.update(self.fences)
            self._change_all()

    def unfence_all(self, settle: Callable[[], None]) -> None:
        """End a write of everything; ``settle`` is called under the lock."""
        with self.lock:
            self.closed_fences -= 1
            self._overlaps.update(self.fences)
            self._change_all()
            settle()

    def hear(self, keys: Sequence[str]) -> None:
        """Take note that another process has written keys."""
        with self.lock:
            self._overlaps.update(key for key in keys if key in self.fences)
            self._change(keys)

    def hear_all(self) -> None:
        """Take note that any key may have been written by another process."""
        with self.lock:
            self._overlaps.update(self.fences)
            self._change_all()

    def note_change(self, key: str) -> None:
        """Take note that a refresh has replaced a key's value: what began before fills nothing."""
        with self.lock:
            self._change([key])

    def outdate(self, tags: Sequence[str]) -> None:
        """Take note that tags were invalidated: entries born before, and flights, are outdated."""
        with self.lock:
            self.era += 1
            for tag in tags:
                self._tags.note(tag, self.era)
            for deck in self.decks:
                for flight in _aboard(deck):
                    if _may_carry(flight, tags):
                        deck.pop(flight.key, None)
            self._changed.note_all(self.era)  # reads without a flight: of what tags, nobody knows

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
            return [flight for deck in self.decks for flight in _aboard(deck)]

    # Below, the lock is held.

    def _flight(
        self, key: str, deck: Deck, seconds: float, loop: asyncio.AbstractEventLoop | None
    ) -> Flight:
        flight = Flight(key, deck, seconds, loop)
        flight.era = self.era
        flight.home = self._name
        return flight

    def end(self, flight: Flight) -> Sequence[Callable[[], None]] | None:
        """Free the key of a flight that has its outcome; return whom to wake."""
        flight.has_landed = True
        flight.awaits = None
        flight.cancel = None
        deck = self.decks[flight.deck]
        if deck.get(flight.key) is flight:
            del deck[flight.key]
        waiters, flight.waiters = flight.waiters, None
        return waiters

    def _change(self, keys: Iterable[str]) -> None:
        self.era += 1
        for key in keys:
            self._changed.note(key, self.era)
            self._detach(key)

    def _change_all(self) -> None:
        self.era += 1
        self._changed.note_all(self.era)
        self._detach_all()

    def _detach(self, key: str) -> None:
        for deck in self.decks:
            deck.pop(key, None)

    def _detach_all(self) -> None:
        for deck in self.decks:
            deck.clear()


def _aboard(deck: dict[str, Flight]) -> Iterable[Flight]:
    """Return the flights of a deck as it is now: some begin without the lock, at any moment."""
    return deck.copy().values()


def _may_carry(flight: Flight, tags: Sequence[str]) -> bool:
    """Whether the value a flight will bring may carry one of the tags."""
    return flight.tags is None or not set(flight.tags).isdisjoint(tags)


def waits_for_itself(flight: Flight) -> bool:
    """Whether the flight's leader is this very thread, in a finalizer or a signal handler."""
    return flight.deck is Deck.BLOCKING and flight.thread == get_ident()


def _is_stranded(flight: Flight) -> bool:
    return flight.loop is not None and flight.loop.is_closed()
