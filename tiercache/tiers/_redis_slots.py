"""Which node of a cluster serves which key, and the way of one exchange over several nodes. No I/O.

A cluster deals out 16384 slots; a key's slot is a checksum of its hash tag. `Topology` knows the
master of each slot, from what any node told, and corrects single slots where a node says MOVED. It
says when to ask again: after something looked wrong, and not more often than a few times a second,
however many commands fail.

`Journey` sorts the commands of one exchange by node, takes in what each node replied, and sorts
those that were redirected again.
"""

from __future__ import annotations

import random
import time
from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tiercache.errors import StoreError
from tiercache.tiers._redis_address import Address
from tiercache.tiers._redis_asking import Useless
from tiercache.tiers._redis_link import Command

SLOTS: Final = 16384
REFRESH_SECONDS: Final = 0.2  # the map is not asked for more often
_MAX_ASKED: Final = 5  # nodes, each time
_DOUBT_SECONDS: Final = 5.0  # after a failure a node is asked last
_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"


def slot_of(key: bytes) -> int:
    """Return the slot of a key: what stands between the first { and the next } decides, if any."""
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) % SLOTS


class Topology:
    """What is known of a cluster. Shared by threads and loops; attributes are replaced whole.

    Args:
        seeds: The nodes that the user named.
        label: Names the cluster in errors.
    """

    def __init__(self, seeds: tuple[Address, ...], label: str) -> None:
        self._label = label
        self._seeds = seeds
        self._owners: list[Address | None] = []  # by slot; single ones are set by MOVED
        self._nodes: tuple[Address, ...] = ()  # of the map, replicas too
        self.masters: tuple[Address, ...] = ()
        self._changed: tuple[Address, ...] = ()  # who was last said to serve another slot
        self._failures: dict[Address, float] = {}  # when a node last failed; time.monotonic()
        self._is_suspect = True
        self._not_before = float("-inf")

    @property
    def is_known(self) -> bool:
        return bool(self._owners)

    def owner(self, key: bytes | None) -> Address:
        """Return the master of a key; without one, any.

        Raises:
            StoreError: If the slot is nobody's.
        """
        if key is None:
            return random.choice(self.masters)  # noqa: S311 - to spread load
        slot = slot_of(key)
        node = self._owners[slot]
        if node is None:
            self.suspect()
            raise StoreError(f"{self._label}: no node serves slot {slot}")
        return node

    def moved(self, slot: int, node: Address) -> None:
        """Take in a node's word that another one serves a slot."""
        self._owners[slot] = node
        self._changed = (node,)
        self._is_suspect = True

    def suspect(self, node: Address | None = None) -> None:
        """Have the map asked for again, since something looks wrong: perhaps with a node."""
        self._is_suspect = True
        if node is not None:
            self._failures[node] = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether the caller should ask for the map; of many callers one is told so.

        Two may be that call at the very same moment, which does no harm.
        """
        if not self._is_suspect:
            return False
        now = time.monotonic()
        if now < self._not_before:
            return False
        self._not_before = now + REFRESH_SECONDS
        return True

    def candidates(self) -> list[Address]:
        """Return whom to ask for the map: who changed it, some others, the seeds.

        Who has just failed is asked after the rest; in no other order, since a node that is cut
        off from the others keeps telling what was.
        """
        long_ago = time.monotonic() - _DOUBT_SECONDS
        known = random.sample(self._nodes, len(self._nodes))
        known.sort(key=lambda node: self._failures.get(node, 0.0) > long_ago)
        return list(dict.fromkeys((*self._changed, *known[:_MAX_ASKED], *self._seeds)))

    def learn(self, reply: Any, asked: Address) -> None:
        """Take in what a node answered to CLUSTER SLOTS.

        Raises:
            Useless: If that is no map.
        """
        owners: list[Address | None] = [None] * SLOTS
        nodes: dict[Address, None] = {}  # an ordered set
        masters: dict[Address, None] = {}
        try:
            for start, end, *servers in reply:
                served_by = [_address(server, asked) for server in servers]
                owners[start : end + 1] = [served_by[0]] * (end + 1 - start)
                masters[served_by[0]] = None
                nodes.update(dict.fromkeys(served_by))
        except (TypeError, ValueError, IndexError):
            raise Useless("gave no map of slots") from None
        if not masters or len(owners) != SLOTS:
            raise Useless("serves no slots: it belongs to no cluster")
        self._nodes, self.masters = tuple(nodes), tuple(masters)
        self._failures = {node: at for node, at in self._failures.items() if node in nodes}
        self._owners = owners
        self._changed = ()
        self._is_suspect = False


def _address(server: Any, asked: Address) -> Address:
    # An empty or unknown host means: where you are asking.
    host = bytes(server[0] or b"").decode()
    return Address(asked.host if host in ("", "?") else host, int(server[1]))


class Stop(NamedTuple):
    """What one node is to do in one round of a journey."""

    node: Address
    request: bytes
    replies: int
    places: list[int]  # of the commands, in the exchange
    is_asking: bool  # each command is preceded by ASKING, which has a reply too


class Journey:
    """The commands of one exchange on their way over the nodes.

    Args:
        commands: In order.
        topology: Where they belong.
        node: Where all of them go instead.
    """

    def __init__(
        self, commands: Sequence[Command], topology: Topology, node: Address | None
    ) -> None:
        self._commands = commands
        self._topology = topology
        self.replies: list[Any] = [None] * len(commands)
        self._where: dict[tuple[Address, bool], list[int]] = {}
        if node is not None:
            self._where[node, False] = list(range(len(commands)))
        else:
            self._sort()

    def _sort(self) -> None:
        anywhere = []
        for place, command in enumerate(self._commands):
            if command.key is None:
                anywhere.append(place)
            else:
                self._send(place, self._topology.owner(command.key))
        if anywhere:
            # A node that is asked anyway costs no round trip of its own.
            node = next(iter(self._where))[0] if self._where else self._topology.owner(None)
            places = self._where.setdefault((node, False), [])
            places.extend(anywhere)
            places.sort()

    def _send(self, place: int, node: Address, is_asking: bool = False) -> None:
        self._where.setdefault((node, is_asking), []).append(place)

    def stops(self) -> list[Stop]:
        """Return what is to be done next.

        Always in the same order of nodes, so that two exchanges cannot wait for one another's
        connections.
        """
        where, self._where = self._where, {}
        return [self._stop(*to, places) for to, places in sorted(where.items())]

    def _stop(self, node: Address, is_asking: bool, places: list[int]) -> Stop:
        data = [self._commands[place].data for place in places]
        if is_asking:
            return Stop(node, _ASKING + _ASKING.join(data), 2 * len(places), places, True)
        return Stop(node, b"".join(data), len(places), places, False)

    @property
    def is_done(self) -> bool:
        """Whether all replies are there."""
        return not self._where

    def take(self, stop: Stop, replies: list[Any]) -> None:
        """Take in a node's replies."""
        for place, reply in zip(
            stop.places, replies[1::2] if stop.is_asking else replies, strict=True
        ):
            if isinstance(reply, Exception) and self._is_redirected(place, reply, stop.node):
                continue
            self.replies[place] = reply

    def _is_redirected(self, place: int, reply: Exception, asked: Address) -> bool:
        found = redirection(reply)
        if found is None:
            return False
        word, slot, host, port = found
        node = Address(host or asked.host, port)  # no host: where you are asking
        if word == "MOVED":
            self._topology.moved(slot, node)
        self._send(place, node, word == "ASK")
        return True


def redirection(reply: Exception) -> tuple[str, int, str, int] | None:
    """Return MOVED or ASK, the slot, host and port that an error reply names; None if it does not.

    Raises:
        ValueError: If it names them in no way that is known.
    """
    import redis.exceptions as theirs

    if isinstance(reply, theirs.AskError):  # MovedError is one, too
        word = "MOVED" if isinstance(reply, theirs.MovedError) else "ASK"
        return word, reply.slot_id, reply.host, reply.port
    if not str(reply).startswith(("MOVED ", "ASK ")):
        return None
    word, slot, place = str(reply).split(" ")  # a plain error, before redis-py 6
    host, _, port = place.rpartition(":")
    return word, int(slot), host, int(port)
