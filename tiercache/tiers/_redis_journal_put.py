"""The command that puts a write into a journal: journal_put.lua, mostly the same each time.

What is the same is packed once. An entry and its operation hold the same payload, sent once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tiercache.tiers import _redis_wire as wire
from tiercache.tiers._redis_link import Command
from tiercache.tiers._redis_scripts import Run, script

if TYPE_CHECKING:
    from tiercache.tiers._redis_entry_plans import EntryPlans
    from tiercache.tiers.journal import Change, Draft
    from tiercache.tiers.store import Item

_TOKEN_BITS: Final = wire.TOKEN_BYTES * 8
_OWN_KEYS: Final = 2  # an entry and its lease
_OWN_ARGS: Final = 9
#: What is to be done, as the script takes it: by whether the row is deleted and whether a value is
#: stored, and by whether a row is known to exist.
_HOW: Final = {
    (deletes, stores, exists): b"d%d" % exists if deletes else b"%c%d" % (b"xs"[stores], exists)
    for deletes in (False, True)
    for stores in (False, True)
    for exists in (False, True)
}


class Puts:
    """Makes the commands of one journal.

    Args:
        plans: Of its namespace.
        names: Its keys.
        about: Its format, and b"1" if all operations are kept.
    """

    def __init__(
        self, plans: EntryPlans, names: Sequence[bytes], about: tuple[bytes, bytes]
    ) -> None:
        self._plans = plans
        self._names = names
        self._shared = [*names, plans.keys.log, plans.keys.generation]
        self._first = [*about, plans.log_length, plans.origin]
        self._head = b""  # of the usual command, once one is made
        self._middle = wire.bulks(self._first)

    def alone(self, draft: Draft, change: Change | None, most: int) -> Run:
        """Return the run that leaves entries alone: there are none, or they are elsewhere."""
        item = None if change is None else change.item
        return Run("journal_put", self._names, [*self._first, *self._args(draft, item, most)])

    def usual(self, draft: Draft, item: Item | None, most: int) -> Command:
        """Return what ``full`` does for an entry without tags, ready to be sent."""
        entry = self._plans.keys.entry(draft.key)
        own = wire.bulks((entry, entry + wire.LEASE))
        args = wire.bulks(self._args(draft, item, most))
        head = self._head or self._make_head()
        return Command(None, b"".join((head, own, self._middle, args)))

    def full(self, draft: Draft, item: Item | None, most: int) -> Run:
        """Return the run that brings the entry in line, too."""
        keys, tags = self._plans.keys, () if item is None else item.tags
        names = [*self._shared, keys.entry(draft.key), keys.lease(draft.key)]
        args = [*self._first, *self._args(draft, item, most)]
        if not tags:
            return Run("journal_put", names, args)
        names += map(keys.token, tags)
        return Run("journal_put_tagged", names, [*args, *map(wire.encode, tags)])

    def _make_head(self) -> bytes:
        count = len(self._shared) + _OWN_KEYS
        total = 3 + count + len(self._first) + _OWN_ARGS
        words = b"EVALSHA", script("journal_put").digest, b"%d" % count, *self._shared
        self._head = b"*%d\r\n%b" % (total, wire.bulks(words))
        return self._head

    def _args(self, draft: Draft, item: Item | None, most: int) -> tuple[bytes, ...]:
        """Return what differs from one put to the next."""
        key, deletes, body, exists = draft
        now, payload, life, header = self._plans.clock.now_ms(), b"", b"", b""
        if item is not None:
            _, payload, ttl, tags = item
            life_ms = 0 if ttl is None else wire.ttl_ms(ttl)
            life = b"%d" % life_ms if life_ms else b""
            header = wire.header_until(now + life_ms if life_ms else 0.0, tagged=bool(tags))
            body = body[: len(body) - len(payload)]
        return (
            *(b"%d" % most, _HOW[deletes, item is not None, exists], wire.encode(key)),
            *(body, payload, b"%016d" % (now * 1000), life, header, _fresh_token()),
        )


def _fresh_token() -> bytes:
    """Return what becomes the namespace's generation if it has none: unique, not secret."""
    return random.getrandbits(_TOKEN_BITS).to_bytes(wire.TOKEN_BYTES)
