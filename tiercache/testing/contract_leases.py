"""The store contract: one holder of a lease, and values only under it."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tiercache.testing.contract_base import (
    ODD_TEXTS,
    Calls,
    ContractBase,
    new_nonce,
    payload_of,
    remaining_of,
)
from tiercache.tiers.store import Claim, Fill, Item, Kind, LeaseMode, Namespace, Store, Tail


class LeasesContract(ContractBase):
    """Cases of ``claim``, ``fill``, ``renew`` and ``release``."""

    # Who gets a lease

    def test_one_gets_the_lease_the_next_is_told_to_wait(
        self, space: Namespace, peer: Namespace
    ) -> None:
        """The first holds it by its own nonce; the second learns for how long at most."""
        nonce = new_nonce()
        (claim,) = space.claim(["1"], [nonce], seconds=20)
        assert claim.lease is not None
        assert claim.lease.nonce == nonce
        assert not claim.lease.is_shared
        assert claim.stored is None
        assert claim.held_for is None
        assert 15 < self.claim_in_vain(peer, "1") <= 20.05
        assert 15 < self.claim_in_vain(space, "1") <= 20.05

    def test_a_valid_entry_is_the_answer(self, space: Namespace, peer: Namespace) -> None:
        """Where somebody has filled in the meantime nothing need be loaded, nor is held."""
        space.write("1", b"there", 100, ("t",))
        (claim,) = peer.claim(["1"], [new_nonce()], seconds=60)
        assert claim.lease is None
        assert claim.held_for is None
        assert claim.stored is not None
        assert payload_of(claim.stored) == b"there"
        assert 98 < remaining_of(claim.stored) <= 100.05
        assert claim.stored.tags == ("t",)
        self.claim(space, "1", anew=True)

    def test_an_expired_entry_is_no_answer(self, space: Namespace) -> None:
        """Who asks for a lease after an entry's end gets it."""
        space.write("1", b"x", self.short_ttl)
        self.wait_until(lambda: space.read("1") is None)
        self.claim(space, "1")

    def test_anew_ignores_what_stands_there(self, space: Namespace, peer: Namespace) -> None:
        """A refresh gets its lease beside the old value, which stays readable till the fill."""
        space.write("1", b"old", 60)
        lease = self.claim(space, "1", anew=True)
        assert payload_of(peer.read("1")) == b"old"
        assert self.fill(space, "1", lease, b"new")
        assert payload_of(peer.read("1")) == b"new"

    def test_many_keys_are_answered_in_order(self, space: Namespace, peer: Namespace) -> None:
        """One call asks for many; each answer is in its place."""
        space.write("found", b"x", 60)
        self.claim(peer, "held")
        keys = ["a", "found", "held", "b"]
        nonces = [new_nonce() for _ in keys]
        a, found, held, b = space.claim(keys, nonces, seconds=60)
        assert a.lease is not None
        assert a.lease.nonce == nonces[0]
        assert found.stored is not None
        assert held.held_for is not None
        assert b.lease is not None
        assert b.lease.nonce == nonces[3]

    def test_no_keys_are_nothing(self, space: Namespace, tail: Tail) -> None:
        """Empty lists are answered without trouble."""
        assert space.claim([], [], seconds=60) == []
        assert space.fill([]) == []
        assert space.renew([], 60) == []
        space.release([], Kind.FAILED)
        assert self.told(space, tail) == []

    def test_a_lease_belongs_to_its_namespace(
        self, calls: Calls, space: Namespace, name: str
    ) -> None:
        """The same key elsewhere is another one."""
        self.claim(space, "1")
        self.claim(calls.namespace(f"{name}-2"), "1")

    def test_one_of_many_threads_gets_it(self, store: Store, name: str) -> None:
        """However many ask at once, one is told to load."""
        barrier = threading.Barrier(8)

        def work(turn: int) -> Claim:
            space = store.namespace(name)
            barrier.wait()
            return space.claim([f"{turn}"], [new_nonce()], seconds=60)[0]

        with ThreadPoolExecutor(8) as pool:
            for turn in range(5):
                claims = list(pool.map(work, [turn] * 8))
                assert sum(claim.lease is not None for claim in claims) == 1
                assert sum(claim.held_for is not None for claim in claims) == 7

    def test_one_of_many_tasks_gets_it(self, store: Store, name: str) -> None:
        """The same for tasks of one loop."""
        space = store.namespace(name)

        async def main() -> list[list[Claim]]:
            asked = (space.aclaim(["1"], [new_nonce()], seconds=60) for _ in range(20))
            claims = await asyncio.gather(*asked)
            await store.aclose()
            return claims

        assert sum(claim.lease is not None for (claim,) in asyncio.run(main())) == 1

    # Filling

    @pytest.mark.parametrize("ttl", [100, None])
    def test_a_fill_stores_and_frees(
        self, space: Namespace, peer: Namespace, ttl: float | None
    ) -> None:
        """The value is there for all, with its life and tags; the lease is over."""
        lease = self.claim(space, "1", tags=("t",))
        assert self.fill(space, "1", lease, ttl=ttl, tags=("t", "u"))
        stored = peer.read("1")
        assert stored is not None
        assert payload_of(stored) == b"loaded"
        assert set(stored.tags) == {"t", "u"}
        assert stored.remaining is None if ttl is None else 98 < remaining_of(stored) <= 100.05
        assert self.is_free(peer, "1")

    def test_a_filled_value_expires(self, space: Namespace) -> None:
        """Its TTL is kept."""
        assert self.fill(space, "1", self.claim(space, "1"), ttl=self.short_ttl)
        self.wait_until(lambda: space.read("1") is None)

    def test_a_lease_is_good_for_one_fill(self, space: Namespace) -> None:
        """A second value under the same lease is refused."""
        lease = self.claim(space, "1")
        assert self.fill(space, "1", lease, b"first")
        assert not self.fill(space, "1", lease, b"second")
        assert payload_of(space.read("1")) == b"first"

    def test_nobody_fills_without_the_lease(self, space: Namespace, peer: Namespace) -> None:
        """A nonce that does not hold the key, or holds another, is refused and disturbs nobody."""
        lease, other = self.claim(space, "1"), self.claim(space, "2")
        assert not self.fill(peer, "1", lease._replace(nonce=new_nonce()))
        assert not self.fill(peer, "1", other)
        assert peer.read("1") is None
        assert self.fill(space, "1", lease)
        assert self.fill(space, "2", other)

    def test_a_batch_is_filled_each_for_itself(self, space: Namespace, peer: Namespace) -> None:
        """Of many values those are refused whose leases are gone."""
        keys = ["1", "2", "3"]
        claims = space.claim(keys, [new_nonce() for _ in keys], seconds=60)
        peer.delete(["2"])
        fills = [
            Fill(key, claim.lease, key.encode(), 60)
            for key, claim in zip(keys, claims, strict=True)
            if claim.lease is not None
        ]
        assert space.fill(fills) == [True, False, True]
        assert [payload_of(each) for each in peer.read_many(keys)] == [b"1", None, b"3"]

    @pytest.mark.parametrize("key", ODD_TEXTS, ids=ascii)
    def test_any_text_can_be_leased(self, space: Namespace, key: str) -> None:
        """Every str has a lease of its own, and takes any bytes."""
        plain = self.claim(space, "plain")
        lease = self.claim(space, key)
        payload = bytes(range(256)) * 1000
        assert self.fill(space, key, lease, payload)
        assert payload_of(space.read(key)) == payload
        assert self.fill(space, "plain", plain)

    # What ends a lease

    @pytest.mark.parametrize("kind", [Kind.DELETE, Kind.EXPIRE])
    @pytest.mark.parametrize("mode", LeaseMode)
    def test_a_delete_beats_a_load_under_way(
        self, space: Namespace, peer: Namespace, kind: Kind, mode: LeaseMode
    ) -> None:
        """A value loaded before it is refused; the next to ask loads anew."""
        lease = self.claim(space, "1", mode=mode)
        peer.delete(["0", "1"], kind)
        again = self.claim(peer, "1")
        assert not self.fill(space, "1", lease, b"outdated")
        assert peer.read("1") is None
        assert self.fill(peer, "1", again)

    @pytest.mark.parametrize("seconds", [30, 0])
    @pytest.mark.parametrize("mode", LeaseMode)
    def test_an_expiry_beats_a_load_under_way(
        self, space: Namespace, peer: Namespace, seconds: float, mode: LeaseMode
    ) -> None:
        """A value loaded before it is refused, whether or not the entry lives on."""
        peer.write("1", b"old", 60)
        lease = self.claim(space, "1", mode=mode, anew=True)
        peer.expire(["0", "1"], [seconds, seconds])
        again = self.claim(peer, "1", anew=True)
        assert not self.fill(space, "1", lease, b"outdated")
        assert payload_of(peer.read("1")) == (b"old" if seconds else None)
        assert self.fill(peer, "1", again)
        assert payload_of(peer.read("1")) == b"loaded"

    @pytest.mark.parametrize("mode", LeaseMode)
    def test_a_write_beats_a_load_under_way(
        self, space: Namespace, peer: Namespace, mode: LeaseMode
    ) -> None:
        """A value loaded before it is refused; the one written stands."""
        one, many = self.claim(space, "1", mode=mode), self.claim(space, "2", mode=mode)
        peer.write("1", b"written", 60)
        peer.write_many([Item("2", b"written", 60), Item("3", b"written", 60)])
        assert not self.fill(space, "1", one)
        assert not self.fill(space, "2", many)
        assert [payload_of(each) for each in peer.read_many(["1", "2"])] == [b"written"] * 2

    def test_other_keys_do_not_touch_a_load(self, space: Namespace, peer: Namespace) -> None:
        """Writing and deleting beside a key leaves its lease alone."""
        lease = self.claim(space, "1")
        peer.write("11", b"x", 60)
        peer.delete(["11", "", "2"])
        assert self.fill(space, "1", lease)

    def test_a_lease_ends_by_itself(self, space: Namespace, peer: Namespace) -> None:
        """Another takes over; what the first then brings is refused."""
        began = time.monotonic()
        late = self.claim(space, "1", seconds=self.short_ttl)
        self.wait_until(lambda: self.is_free(peer, "1"))
        assert time.monotonic() - began > self.short_ttl * 0.5
        assert not self.fill(space, "1", late)
        assert peer.read("1") is None

    def test_who_takes_over_may_fill(self, space: Namespace, peer: Namespace) -> None:
        """The late one neither fills nor ends the lease of the next."""
        late = self.claim(space, "1", seconds=self.short_ttl)
        self.let_pass(self.short_ttl)
        lease = self.claim(peer, "1")
        assert not self.fill(space, "1", late, b"late")
        space.release([("1", late.nonce)], Kind.FAILED)
        assert space.renew([("1", late.nonce)], 60) == [False]
        assert self.fill(peer, "1", lease, b"in time")
        assert payload_of(space.read("1")) == b"in time"

    def test_too_late_is_too_late(self, space: Namespace) -> None:
        """A lease that has ended takes no value even if nobody else wanted it."""
        late = self.claim(space, "1", seconds=self.short_ttl)
        self.let_pass(self.short_ttl)
        assert not self.fill(space, "1", late)
        assert space.read("1") is None

    def test_a_renewed_lease_lasts(self, space: Namespace, peer: Namespace) -> None:
        """It lasts as long as it is renewed for, from then on."""
        lease = self.claim(space, "1", seconds=20)
        assert space.renew([("1", lease.nonce)], 60) == [True]
        assert 50 < self.claim_in_vain(peer, "1") <= 60.05
        assert self.fill(space, "1", lease)

    def test_only_a_holder_renews(self, space: Namespace, peer: Namespace) -> None:
        """False for a lease that has ended, was filled, or is somebody else's; each in place."""
        held, filled = self.claim(space, "held"), self.claim(space, "filled")
        gone = self.claim(space, "gone", seconds=self.short_ttl)
        self.fill(space, "filled", filled)
        self.let_pass(self.short_ttl)
        asked = [
            ("gone", gone.nonce),
            ("held", held.nonce),
            ("held", new_nonce()),
            ("filled", filled.nonce),
            ("never", new_nonce()),
        ]
        assert space.renew(asked, 60) == [False, True, False, False, False]
        self.claim(peer, "gone")

    @pytest.mark.parametrize("kind", [Kind.LANDED, Kind.FAILED])
    def test_a_released_lease_is_free(self, space: Namespace, peer: Namespace, kind: Kind) -> None:
        """The next to ask has it at once; who gave it up fills no more."""
        leases = {key: self.claim(space, key) for key in ("1", "2")}
        space.release([(key, lease.nonce) for key, lease in leases.items()], kind)
        again = self.claim(peer, "1")
        assert not self.fill(space, "1", leases["1"])
        assert not self.fill(space, "2", leases["2"])
        assert self.fill(peer, "1", again)

    def test_only_a_holder_releases(self, space: Namespace, peer: Namespace) -> None:
        """A wrong nonce ends nothing."""
        lease = self.claim(space, "1")
        peer.release([("1", new_nonce()), ("2", new_nonce())], Kind.FAILED)
        assert self.fill(space, "1", lease)

    # Sharing and stealing

    def test_a_shared_lease_is_everybodys(self, space: Namespace, peer: Namespace) -> None:
        """All who ask get the first one's nonce, and each may fill."""
        nonce = new_nonce()
        (claim,) = space.claim(["1"], [nonce], seconds=60, mode=LeaseMode.SHARED)
        first, second = claim.lease, self.claim(peer, "1", mode=LeaseMode.SHARED)
        assert first is not None
        assert first.is_shared
        assert second.is_shared
        assert first.nonce == second.nonce == nonce
        assert self.fill(space, "1", first, b"first")
        assert self.fill(peer, "1", second, b"second")
        assert payload_of(space.read("1")) == b"second"

    def test_nobody_waits_for_a_shared_lease(self, space: Namespace, peer: Namespace) -> None:
        """Who asks for a lease of its own is let in, too."""
        self.claim(space, "1", mode=LeaseMode.SHARED)
        lease = self.claim(peer, "1")
        assert self.fill(peer, "1", lease)

    def test_who_would_share_waits_for_nobody(self, space: Namespace, peer: Namespace) -> None:
        """Asking for a shared lease is never told to wait, whoever holds the key."""
        self.claim(space, "1")
        lease = self.claim(peer, "1", mode=LeaseMode.SHARED)
        assert self.fill(peer, "1", lease)
        assert payload_of(space.read("1")) == b"loaded"

    def test_a_shared_lease_lasts_for_the_last(self, space: Namespace, peer: Namespace) -> None:
        """Who joins has it for as long as asked for."""
        self.claim(space, "1", seconds=self.short_ttl, mode=LeaseMode.SHARED)
        lease = self.claim(peer, "1", seconds=30, mode=LeaseMode.SHARED)
        self.let_pass(self.short_ttl)
        assert self.fill(peer, "1", lease)

    def test_a_delete_ends_a_shared_lease_for_all(self, space: Namespace, peer: Namespace) -> None:
        """Each who shares it is refused."""
        leases = [self.claim(each, "1", mode=LeaseMode.SHARED) for each in (space, peer)]
        space.delete(["1"])
        assert [self.fill(space, "1", lease) for lease in leases] == [False, False]

    def test_one_who_shares_does_not_release_for_all(
        self, space: Namespace, peer: Namespace
    ) -> None:
        """Giving up a shared lease leaves it to the others."""
        first, second = (self.claim(each, "1", mode=LeaseMode.SHARED) for each in (space, peer))
        space.release([("1", first.nonce)], Kind.FAILED)
        assert self.fill(peer, "1", second)

    def test_a_stolen_lease_is_the_thiefs(self, space: Namespace, peer: Namespace) -> None:
        """Who had it before is refused; others still wait."""
        robbed = self.claim(space, "1")
        lease = self.claim(peer, "1", mode=LeaseMode.STEAL)
        assert not lease.is_shared
        self.claim_in_vain(space, "1")
        assert not self.fill(space, "1", robbed, b"robbed")
        assert self.fill(peer, "1", lease, b"thief's")
        assert payload_of(space.read("1")) == b"thief's"

    def test_a_shared_lease_can_be_stolen(self, space: Namespace, peer: Namespace) -> None:
        """Nobody shares it after that."""
        robbed = self.claim(space, "1", mode=LeaseMode.SHARED)
        lease = self.claim(peer, "1", mode=LeaseMode.STEAL)
        assert not self.fill(space, "1", robbed)
        assert self.fill(peer, "1", lease)
