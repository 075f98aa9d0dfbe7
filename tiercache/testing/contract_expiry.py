"""The store contract: the lives of entries that stand can be shortened, never lengthened."""

from __future__ import annotations

import pytest

from tiercache.testing.contract_base import (
    ODD_TEXTS,
    ContractBase,
    payload_of,
    remaining_of,
)
from tiercache.tiers.store import Item, Namespace


class ExpiryContract(ContractBase):
    """Cases of ``expire``; what it does to loads under way is with the leases."""

    def test_a_life_is_shortened(self, space: Namespace, peer: Namespace) -> None:
        """The entry is served for so long and no longer, tags and bytes as they were."""
        payload = bytes(range(256)) * 20
        space.write_many([Item("1", b"plain", 100), Item("2", payload, 100, ("t",))])
        assert peer.expire(["1", "2"], [40, 50]) == 2
        one, two = space.read_many(["1", "2"], ("t",))
        assert one is not None
        assert two is not None
        assert 38 < remaining_of(one) <= 40.05
        assert 48 < remaining_of(two) <= 50.05
        assert (payload_of(one), payload_of(two), two.tags) == (b"plain", payload, ("t",))

    def test_a_life_without_end_gets_one(self, space: Namespace) -> None:
        """What had no TTL ends, too."""
        space.write("1", b"payload", None)
        assert space.expire(["1"], [40]) == 1
        assert 38 < remaining_of(space.read("1")) <= 40.05

    def test_an_earlier_end_stays(self, space: Namespace) -> None:
        """No life is lengthened."""
        space.write("1", b"payload", 40)
        assert space.expire(["1"], [100]) == 1
        assert 38 < remaining_of(space.read("1")) <= 40.05

    def test_a_shortened_life_ends(self, space: Namespace) -> None:
        """The entry is gone after its new end, and counts as gone."""
        space.write_many([Item("1", b"payload", 60), Item("2", b"payload", None)])
        assert space.expire(["1", "2"], [self.short_ttl, self.short_ttl]) == 2
        self.wait_until(lambda: space.read_many(["1", "2"]) == [None, None])
        self.let_pass(self.short_ttl / 4)
        assert space.expire(["1", "2"], [60, 60]) == 0
        assert space.read_many(["1", "2"]) == [None, None]

    @pytest.mark.parametrize("seconds", [0, -5])
    def test_no_life_left_is_gone(self, space: Namespace, seconds: float) -> None:
        """Zero seconds or less remove the entry at once; others in the batch live on."""
        space.write_many([Item("1", b"1", 60), Item("2", b"2", 60), Item("3", b"3", None)])
        assert space.expire(["1", "2", "missing"], [seconds, 30, 30]) == 2
        assert [payload_of(each) for each in space.read_many(["1", "2", "3"])] == [None, b"2", b"3"]

    def test_what_is_not_valid_stays_so(self, space: Namespace, peer: Namespace) -> None:
        """Neither an invalidated entry nor a missing one comes to life."""
        space.write("1", b"payload", 60, ("t",))
        peer.invalidate_tags(["t"])
        space.expire(["1", "missing"], [30, 30])
        assert space.read_many(["1", "missing"]) == [None, None]

    def test_an_invalidation_after_it_counts(self, space: Namespace, peer: Namespace) -> None:
        """A shortened entry still falls with its tag, and with its namespace."""
        space.write_many([Item("1", b"1", 60, ("t",)), Item("2", b"2", 60)])
        space.expire(["1", "2"], [30, 30])
        peer.invalidate_tags(["t"])
        assert [payload_of(each) for each in space.read_many(["1", "2"])] == [None, b"2"]
        peer.clear()
        assert space.read("2") is None

    def test_tiny_and_huge_lives_are_taken(self, space: Namespace) -> None:
        """Less than a millisecond and thousands of years are no error."""
        space.write_many([Item("1", b"1", 60), Item("2", b"2", None)])
        space.expire(["1", "2"], [1e-9, 1e12])
        assert space.read("2") is not None

    def test_a_large_batch_is_shortened_whole(self, space: Namespace) -> None:
        """Thousands of keys in one call."""
        keys = [f"{n}" for n in range(2000)]
        space.write_many([Item(key, b"x", 60) for key in keys])
        assert space.expire(keys, [30.0] * len(keys)) == len(keys)
        assert max(map(remaining_of, space.read_many(keys))) <= 30.05

    @pytest.mark.parametrize("key", ODD_TEXTS, ids=ascii)
    def test_any_text_can_expire(self, space: Namespace, key: str) -> None:
        """Every str works as a key and is not taken for another."""
        space.write_many([Item(key, b"odd", 60), Item("plain", b"plain", 60)])
        assert space.expire([key], [30]) == 1
        odd, plain = space.read_many([key, "plain"])
        assert remaining_of(odd) <= 30.05 < remaining_of(plain)
