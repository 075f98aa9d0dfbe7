"""The store contract: who waits for a lease is told of its end, and nobody else is bothered."""

from __future__ import annotations

import pytest

from tiercache.testing.contract_base import ContractBase, names_of
from tiercache.tiers.store import Kind, LeaseMode, Message, Namespace, Tail


class WaitingContract(ContractBase):
    """Cases of what fills and releases say."""

    def test_nobody_is_told_where_nobody_waits(self, space: Namespace, tail: Tail) -> None:
        """A fill, a refused fill, a release and a steal without waiters say nothing."""
        leases = {key: self.claim(space, key) for key in ("1", "2", "3", "4")}
        self.fill(space, "1", leases["1"])
        self.fill(space, "1", leases["1"])
        space.release([("2", leases["2"].nonce)], Kind.LANDED)
        space.release([("3", leases["3"].nonce)], Kind.FAILED)
        self.claim(space, "4", mode=LeaseMode.STEAL)
        assert self.told(space, tail) == []

    def test_who_waits_is_told_of_the_fill(
        self, space: Namespace, peer: Namespace, tail: Tail
    ) -> None:
        """Once, however many wait; and the next fill says nothing again."""
        lease = self.claim(space, "1")
        self.claim_in_vain(peer, "1")
        self.claim_in_vain(peer, "1")
        self.fill(space, "1", lease)
        assert self.told(space, tail) == [Message(Kind.LANDED, "this", ("1",))]
        self.fill(space, "1", self.claim(space, "1", anew=True))
        assert self.told(space, tail) == []

    @pytest.mark.parametrize("kind", [Kind.LANDED, Kind.FAILED])
    def test_who_waits_is_told_of_the_release(
        self, space: Namespace, peer: Namespace, tail: Tail, kind: Kind
    ) -> None:
        """The kind is the releaser's; keys that nobody waits for are not named."""
        leases = {key: self.claim(space, key) for key in ("1", "2", "3")}
        self.claim_in_vain(peer, "1")
        self.claim_in_vain(peer, "3")
        space.release([(key, lease.nonce) for key, lease in leases.items()], kind)
        told = self.told(space, tail)
        assert names_of(told, kind) == ["1", "3"]
        assert {(message.kind, message.origin) for message in told} == {(kind, "this")}

    def test_who_waits_is_told_by_the_thief(
        self, space: Namespace, peer: Namespace, tail: Tail
    ) -> None:
        """Waiting for a lease that is stolen ends with the thief's fill."""
        self.claim(space, "1")
        self.claim_in_vain(space, "1")
        self.fill(peer, "1", self.claim(peer, "1", mode=LeaseMode.STEAL))
        assert self.told(space, tail) == [Message(Kind.LANDED, "peer", ("1",))]

    @pytest.mark.parametrize("known", [(), ("t",)], ids=str)
    def test_who_waits_is_told_of_a_value_that_does_not_stand(
        self, space: Namespace, peer: Namespace, tail: Tail, known: tuple[str, ...]
    ) -> None:
        """A fill that comes after the invalidation of a tag ends the waiting all the same."""
        lease = self.claim(space, "1", tags=known)
        self.claim_in_vain(peer, "1")
        peer.invalidate_tags(["t"])
        assert self.is_refused(space, "1", lease, ("t",))
        assert names_of(self.told(space, tail), Kind.LANDED) == ["1"]
        assert self.is_free(peer, "1")

    @pytest.mark.parametrize("waits", [False, True])
    def test_all_are_told_of_what_replaces(
        self, space: Namespace, peer: Namespace, tail: Tail, waits: bool
    ) -> None:
        """A fill in place of a value that peers may hold is told to them as a write is."""
        lease = self.claim(space, "1", anew=True)
        if waits:
            self.claim_in_vain(peer, "1")
        assert self.fill(space, "1", lease, replaces=True)
        assert names_of(self.told(space, tail), Kind.SET) == ["1"]

    def test_a_refused_fill_replaces_nothing(
        self, space: Namespace, peer: Namespace, tail: Tail
    ) -> None:
        """Nothing is told of a value that was not taken."""
        lease = self.claim(space, "1", anew=True)
        peer.delete(["1"])
        self.told(space, tail)
        assert not self.fill(space, "1", lease, replaces=True)
        assert self.told(space, tail) == []
