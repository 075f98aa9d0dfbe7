"""Dead letters: operations that were given up, to be looked at, replayed or discarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tiercache.errors import DecodeError
from tiercache.writes.operation import DeadLetter, Operation, operation_of

if TYPE_CHECKING:
    from tiercache.codec import Codec
    from tiercache.tiers.journal import Buried, Journal

T = TypeVar("T")

MOST_SHOWN: Final = 1000


class DeadLetters:
    """The dead letters of one writer. All of it blocks a thread: it is done seldom."""

    journal: Journal
    _codec: Codec
    _most_dead: int

    if TYPE_CHECKING:

        def withdraw(self, key: str) -> None: ...
        def wake(self) -> None: ...

    def dead_letters(self, limit: int = MOST_SHOWN) -> list[DeadLetter]:
        """Return the oldest operations that were given up. They stay until replayed or discarded.

        At most max_pending are kept; beyond that an operation is tried on and on.
        """
        return [self._dead_letter(each) for each in self.journal.dead(limit)]

    def _dead_letter(self, buried: Buried) -> DeadLetter:
        key, record = buried.key, buried.record
        try:
            operation = operation_of(self._codec, key, record)
        except DecodeError:  # which may be why it was given up
            operation = Operation("", record.kind, key, None, None, record.version)
        return DeadLetter(buried.id, operation, buried.attempts, buried.error)

    def replay(self, *letters: DeadLetter) -> int:
        """Have dead letters written after all, or all of them; return how many will be.

        They keep their ids and versions, and are visible to readers again. One whose key has been
        written since is out of date and stays where it is: see ``discard``.
        """
        chosen = letters or self.dead_letters(self._most_dead)
        revived = set(self.journal.revive([letter.id for letter in chosen]))
        for letter in chosen:
            if letter.id in revived:
                self.withdraw(letter.operation.key)  # until it is written, readers are told of it
        if revived:
            self.wake()
        return len(revived)

    def discard(self, *letters: DeadLetter) -> int:
        """Remove dead letters for good; return how many there were."""
        return self.journal.discard([letter.id for letter in letters]) if letters else 0

    async def adead_letters(self, limit: int = MOST_SHOWN) -> list[DeadLetter]:
        """Do what ``dead_letters`` does, awaited."""
        return await _in_thread(self.dead_letters, limit)

    async def areplay(self, *letters: DeadLetter) -> int:
        """Do what ``replay`` does, awaited."""
        return await _in_thread(self.replay, *letters)

    async def adiscard(self, *letters: DeadLetter) -> int:
        """Do what ``discard`` does, awaited."""
        return await _in_thread(self.discard, *letters)


async def _in_thread(do: Callable[..., T], *args: Any) -> T:
    import asyncio

    return await asyncio.to_thread(do, *args)
