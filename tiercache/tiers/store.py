"""The L2 port: bytes by text key that several processes share, and what keeps them coherent.

A *store* is a place (a server, a file); a *namespace* is one cache's part of it, as one process
sees it. A namespace knows nothing of values, freshness or flights. It moves payloads, and it gives
the promises that no process could keep alone:

- An entry is *valid* while nothing it was written under has been invalidated: its namespace, or
  one of its tags. Validity goes by random tokens that the store keeps. A token that is lost
  invalidates what was written under it; nothing revives.
- A *lease* is the right to load and fill one key. A fill is refused where the lease is gone: a
  write or a delete of the key ends it, so a value loaded before them never lands after them.
- Whatever removes or replaces entries is appended to the namespace's *log* after it has been done,
  so that whoever hears of it and reads again does not find the old entry. The log is bounded; a
  reader is told when it has missed something (LogGap).

Whatever goes wrong inside comes out as StoreError or StoreTimeout, within about ``timeout``
seconds, so that the cache can count it as a miss and go on. Methods come in pairs: ``read`` blocks,
``aread`` is awaited. One object serves any number of threads and event loops at once,
``asyncio.run`` after ``asyncio.run``, and forked children. After ``close`` the next call opens what
it needs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from tiercache.errors import StoreError, StoreTimeout

__all__ = [
    "Claim",
    "Fill",
    "Grant",
    "Item",
    "Kind",
    "Lease",
    "LeaseMode",
    "LogGap",
    "Message",
    "Namespace",
    "Payload",
    "Store",
    "StoreBusy",
    "StoreHeldUp",
    "StoreRefused",
    "Stored",
    "Tail",
]

# A read-only buffer: a store may hand out a view into what it received instead of a copy.
Payload: TypeAlias = bytes | memoryview


class Stored(NamedTuple):
    """What a store holds under a key."""

    payload: Payload
    remaining: float | None  # seconds it will still hold it; None: no expiry
    tags: tuple[str, ...] = ()


class Item(NamedTuple):
    """What ``write_many`` takes."""

    key: str
    payload: bytes
    ttl: float | None  # seconds, > 0; None: until evicted or deleted
    tags: tuple[str, ...] = ()


class LeaseMode(StrEnum):
    """How a lease is asked for."""

    EXCLUSIVE = "x"  # one holder at a time: the others are told to wait
    SHARED = "s"  # nobody waits; a write or delete of the key still ends it for all who share it
    STEAL = "r"  # exclusive, and taken from whoever holds it: for a refresh


class Lease(NamedTuple):
    """The right to fill a key, until it ends by itself or by a write or delete of the key."""

    nonce: bytes  # 8 bytes, chosen by who asked; of the first who asked, where it is shared
    is_shared: bool
    stamp: Any = None  # the store's own: the tokens as they were before the load


class Claim(NamedTuple):
    """The answer to asking for a lease; just one of these is set."""

    lease: Lease | None = None  # granted
    stored: Stored | None = None  # no need: a valid entry stands there
    held_for: float | None = None  # seconds after which, at the latest, somebody else's may end


class Fill(NamedTuple):
    """A loaded value, to be stored under the lease that its load was begun with."""

    key: str
    lease: Lease
    payload: bytes
    ttl: float | None
    tags: tuple[str, ...] = ()
    replaces: bool = False  # an older value that peers may hold: they are told


class Grant(NamedTuple):
    """The answer to asking for a lock; one of these is set."""

    fence: int | None = None  # granted: a number greater than of every earlier grant
    held_for: float | None = None  # seconds after which, at the latest, the holder's may end


class Kind(StrEnum):
    """What a message in the log tells; ``names`` are keys unless said otherwise."""

    DELETE = "d"
    SET = "s"
    EXPIRE = "e"
    TAGS = "t"  # names are tags
    CLEAR = "c"  # one name: a prefix; empty: everything
    LANDED = "l"  # a fill that somebody was waiting for, or a lease given up
    FAILED = "f"  # a lease ended without a value that could be shared
    UNLOCKED = "u"  # names are locks
    NEWS = "n"  # a plugin's own: names are the plugin's, and whatever it says


class Message(NamedTuple):
    """One entry of a namespace's log."""

    kind: Kind
    origin: str  # of the namespace object that caused it
    names: tuple[str, ...]


class StoreBusy(StoreError):
    """Every connection of this process is in use: we are overloaded, the store may be well.

    A breaker must not count it against the store.
    """


class StoreHeldUp(StoreTimeout):
    """No answer was seen in time by an event loop that did not look in time: it was held up.

    That says nothing of the store: a breaker must not count it.
    """


class StoreRefused(StoreError):
    """The store answered, and would not do it (no permission, no memory, an unknown command).

    It is alive: a breaker must not count it against the store.
    """


class LogGap(Exception):
    """The log no longer reaches back to a reader's position: it has missed messages."""


class Tail(Protocol):
    """A reader of a namespace's log, on a connection of its own. Used by one thread."""

    def read(self, wait: float) -> list[Message]:
        """Return the next messages in order, waiting for up to ``wait`` seconds; [] for none.

        Raises:
            LogGap: If messages were missed. The next call goes on from the log's end.
            StoreError: If the store is out of reach. The next call goes on where this one was.
        """

    def interrupt(self) -> None:
        """Have a ``read`` that waits return or raise soon; called from another thread."""

    def close(self) -> None:
        """Release the connection; the position is kept."""


class Namespace(Protocol):
    """One cache's part of a store, as one process sees it."""

    # Entries

    def read(self, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Return the valid entry of a key; None if there is none, or it has expired.

        Args:
            key: The key.
            tags: Those that its entry is likely to carry; knowing them spares a round trip.
        """

    async def aread(self, key: str, tags: Sequence[str] = ()) -> Stored | None:
        """Await what read does."""

    def read_many(self, keys: Sequence[str], tags: Sequence[str] = ()) -> Sequence[Stored | None]:
        """Return what read would for each key, in order, in one round trip."""

    async def aread_many(
        self, keys: Sequence[str], tags: Sequence[str] = ()
    ) -> Sequence[Stored | None]:
        """Await what read_many does."""

    def write(
        self, key: str, payload: bytes, ttl: float | None, tags: tuple[str, ...] = ()
    ) -> None:
        """Store a payload for ttl seconds (> 0; None: until evicted or deleted); log SET."""

    async def awrite(
        self, key: str, payload: bytes, ttl: float | None, tags: tuple[str, ...] = ()
    ) -> None:
        """Await what write does."""

    def write_many(self, items: Sequence[Item]) -> None:
        """Do what write would for each item, in one round trip; not all-or-nothing."""

    async def awrite_many(self, items: Sequence[Item]) -> None:
        """Await what write_many does."""

    def delete(self, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Remove keys and end their leases, in one round trip; log it; return how many existed."""

    async def adelete(self, keys: Sequence[str], kind: Kind = Kind.DELETE) -> int:
        """Await what delete does."""

    def expire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Have entries live for at most so many seconds more (0 or less: gone), and end leases.

        In one round trip; an entry that would end earlier keeps its end. Logs EXPIRE for all keys;
        returns how many existed. A store that cannot say when an entry ends may remove it.

        Args:
            keys: The keys, each once.
            seconds: For each key, how long its entry still may be served.
        """

    async def aexpire(self, keys: Sequence[str], seconds: Sequence[float]) -> int:
        """Await what expire does."""

    def invalidate_tags(self, tags: Sequence[str]) -> None:
        """End the validity of all entries that carry one of the tags; log it. O(1) in entries.

        Values whose loads have begun before are refused, or not valid once they are stored.
        """

    async def ainvalidate_tags(self, tags: Sequence[str]) -> None:
        """Await what invalidate_tags does."""

    def clear(self, prefix: str = "") -> None:
        """End the validity of all entries, in O(1); or remove those of a prefix; log it.

        Values whose loads have begun before are refused, or not valid once they are stored.
        """

    async def aclear(self, prefix: str = "") -> None:
        """Await what clear does."""

    # Leases

    def claim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        *,
        seconds: float,
        tags: Sequence[str] = (),
        mode: LeaseMode = LeaseMode.EXCLUSIVE,
        anew: bool = False,
    ) -> list[Claim]:
        """Ask for the leases of keys, in one round trip.

        Args:
            keys: The keys.
            nonces: What marks each lease as the caller's; 8 random bytes for each key.
            seconds: After which a lease that is not renewed ends.
            tags: Those that all values to be loaded will carry, as far as they are known.
            mode: Exclusive, shared, or stolen.
            anew: Whether to ignore entries that stand there; else a valid one is the answer.
        """

    async def aclaim(
        self,
        keys: Sequence[str],
        nonces: Sequence[bytes],
        *,
        seconds: float,
        tags: Sequence[str] = (),
        mode: LeaseMode = LeaseMode.EXCLUSIVE,
        anew: bool = False,
    ) -> list[Claim]:
        """Await what claim does."""

    def fill(self, fills: Sequence[Fill]) -> list[bool]:
        """Store loaded values, in one round trip, and end their leases unless shared.

        Say for each whether it was taken. It is refused if its lease is gone, and it is refused
        or not valid if a tag of it, or the namespace, was invalidated since the lease was
        claimed. Logs LANDED where somebody was told to wait, SET where it ``replaces``.
        """

    async def afill(self, fills: Sequence[Fill]) -> list[bool]:
        """Await what fill does."""

    def renew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        """Have leases (key and nonce) last that long from now; False for one that is gone."""

    async def arenew(self, leases: Sequence[tuple[str, bytes]], seconds: float) -> list[bool]:
        """Await what renew does."""

    def release(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """End leases (key and nonce) without a fill; log the kind where somebody waits."""

    async def arelease(self, leases: Sequence[tuple[str, bytes]], kind: Kind) -> None:
        """Await what release does."""

    # Locks

    def lock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Ask for a lock that ends after so many seconds unless renewed.

        One who already holds it by this nonce is granted it again, with a new fence.
        """

    async def alock(self, name: str, nonce: bytes, seconds: float) -> Grant:
        """Await what lock does."""

    def renew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Have a lock last that long from now; False if it is not held by this nonce."""

    async def arenew_lock(self, name: str, nonce: bytes, seconds: float) -> bool:
        """Await what renew_lock does."""

    def unlock(self, name: str, nonce: bytes) -> bool:
        """End a lock; False if it is not held by this nonce. Logs UNLOCKED where one waits."""

    async def aunlock(self, name: str, nonce: bytes) -> bool:
        """Await what unlock does."""

    # The log

    def announce(self, kind: Kind, names: Sequence[str]) -> None:
        """Append a message to the log."""

    async def aannounce(self, kind: Kind, names: Sequence[str]) -> None:
        """Await what announce does."""

    def log_end(self) -> str:
        """Return the position of the log's end; a tail from there misses nothing from now on."""

    async def alog_end(self) -> str:
        """Await what log_end does."""

    def tail(self, position: str | None) -> Tail:
        """Return a reader of what comes after a position; None: that of the first ``read``.

        With None the first ``read`` raises LogGap, since nobody can tell what came before.
        """


@runtime_checkable
class Store(Protocol):
    """Where L2 keeps its bytes. ``tiercache.testing.StoreContract`` checks an implementation."""

    timeout: float  # seconds; a single round trip ends within about this

    @property
    def label(self) -> str:
        """Name this store in logs and errors; never holds a password."""

    def namespace(self, name: str, origin: str = "") -> Namespace:
        """Return one cache's part of the store; ``origin`` marks its messages in the log."""

    def close(self) -> None:
        """Release connections, files and threads; may be called again. A later call reopens."""

    async def aclose(self) -> None:
        """Await what close does."""
