"""The store contract: tags and clearing end the validity of entries, and of loads under way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tiercache.testing.contract_base import (
    ODD_TEXTS,
    Calls,
    ContractBase,
    names_of,
    new_nonce,
    payload_of,
)
from tiercache.tiers.store import Fill, Item, Kind, LeaseMode, Namespace, Tail

LoseTag = Callable[[str, str], None]


class CoherenceContract(ContractBase):
    """Cases of tags and of ``clear``."""

    # Tags

    @pytest.mark.parametrize("likely", [(), ("users",), ("users", "other", "never-used")], ids=str)
    def test_a_tag_takes_what_carries_it(
        self, space: Namespace, peer: Namespace, likely: tuple[str, ...]
    ) -> None:
        """All entries of an invalidated tag are gone, no other is, whatever tags one expects."""
        tagged = [Item(f"{n}", b"x", 60, ("users",)) for n in range(5)]
        space.write_many([*tagged, Item("plain", b"x", 60), Item("b", b"x", 60, ("other",))])
        assert None not in peer.read_many([item.key for item in tagged], likely)
        peer.invalidate_tags(["users"])
        for each in (space, peer):
            assert each.read("0", likely) is None
            assert each.read_many([item.key for item in tagged], likely) == [None] * 5
            assert None not in each.read_many(["plain", "b"], likely)

    def test_any_of_an_entrys_tags_takes_it(self, space: Namespace) -> None:
        """An entry with several tags is valid only while each of them is."""
        for tag in ("a", "b", "c"):
            space.write("1", b"x", 60, ("a", "b", "c"))
            assert space.read("1") is not None
            space.invalidate_tags([tag])
            assert space.read("1") is None

    def test_several_tags_at_once(self, space: Namespace) -> None:
        """One call invalidates all the tags it names."""
        space.write_many([Item(tag, b"x", 60, (tag,)) for tag in "abc"])
        space.invalidate_tags(["a", "c", "never-used"])
        assert [payload_of(each) for each in space.read_many(["a", "b", "c"])] == [None, b"x", None]

    def test_a_tag_can_be_used_again(self, space: Namespace) -> None:
        """What is written after an invalidation is valid; what was before stays gone."""
        space.write_many([Item("old", b"x", 60, ("t",)), Item("both", b"old", 60, ("t",))])
        space.invalidate_tags(["t"])
        space.write("new", b"x", 60, ("t",))
        space.write("both", b"new", 60, ("t",))
        assert space.read("old") is None
        assert payload_of(space.read("new")) == b"x"
        assert payload_of(space.read("both")) == b"new"

    def test_the_last_write_says_the_tags(self, space: Namespace) -> None:
        """An entry written again without a tag does not depend on it any more."""
        space.write("1", b"x", 60, ("t",))
        space.write("1", b"x", 60)
        space.invalidate_tags(["t"])
        assert space.read("1") is not None

    def test_a_tag_never_used_can_be_invalidated(self, space: Namespace) -> None:
        """It is no error, harms nothing, and what is tagged so later is valid."""
        space.write("1", b"x", 60, ("t",))
        space.invalidate_tags(["never-used"])
        space.write("2", b"x", 60, ("never-used",))
        assert None not in space.read_many(["1", "2"])

    def test_no_tags_are_nothing(self, space: Namespace, tail: Tail) -> None:
        """Invalidating no tag does nothing and tells nothing."""
        space.invalidate_tags([])
        assert self.told(space, tail) == []

    def test_a_tag_belongs_to_its_namespace(
        self, calls: Calls, space: Namespace, name: str
    ) -> None:
        """A tag of the same name elsewhere is another one."""
        other = calls.namespace(f"{name}-2")
        other.write("1", b"x", 60, ("t",))
        space.invalidate_tags(["t"])
        assert other.read("1") is not None

    @pytest.mark.parametrize("tag", ODD_TEXTS, ids=ascii)
    def test_any_text_is_a_tag(self, space: Namespace, tag: str) -> None:
        """Every str works as a tag and is not taken for another."""
        space.write_many([Item("odd", b"x", 60, ("plain", tag)), Item("2", b"x", 60, ("plain",))])
        stored = space.read("odd", (tag,))
        assert stored is not None
        assert set(stored.tags) == {"plain", tag}
        space.invalidate_tags([tag])
        assert space.read("odd") is None
        assert space.read("2") is not None

    def test_an_invalidated_entry_is_no_answer_to_a_claim(self, space: Namespace) -> None:
        """Who asks for a lease where the entry is not valid gets the lease."""
        space.write_many([Item("1", b"x", 60, ("t",)), Item("2", b"x", 60, ("u",))])
        space.invalidate_tags(["t", "u"])
        self.claim(space, "1", tags=("t",))
        self.claim(space, "2")

    # Tags, and loads under way

    @pytest.mark.parametrize("mode", LeaseMode)
    @pytest.mark.parametrize("known", [(), ("a",), ("a", "b")], ids=str)
    def test_an_invalidation_beats_a_load_under_way(
        self, space: Namespace, peer: Namespace, known: tuple[str, ...], mode: LeaseMode
    ) -> None:
        """A value loaded before it does not stand after it, its tags known before or not."""
        space.write("old", b"x", 60, ("b",))
        lease = self.claim(space, "1", tags=known, mode=mode)
        peer.invalidate_tags(["b"])
        assert self.is_refused(space, "1", lease, ("a", "b"))
        assert peer.read("1") is None
        assert self.fill(space, "2", self.claim(space, "2", tags=known), tags=("a", "b"))
        assert peer.read("2") is not None

    @pytest.mark.parametrize("known", [(), ("t",)], ids=str)
    def test_an_invalidation_of_a_tag_never_used_beats_a_load(
        self, space: Namespace, peer: Namespace, known: tuple[str, ...]
    ) -> None:
        """That nobody has carried the tag yet makes no difference."""
        lease = self.claim(space, "1", tags=known)
        peer.invalidate_tags(["t"])
        assert self.is_refused(space, "1", lease, ("t",))

    @pytest.mark.parametrize("known", [(), ("t",)], ids=str)
    def test_an_invalidation_before_a_load_does_not_touch_it(
        self, space: Namespace, peer: Namespace, known: tuple[str, ...]
    ) -> None:
        """A load that began after it is taken, and valid for all."""
        peer.write("1", b"old", 60, ("t",))
        peer.invalidate_tags(["t"])
        lease = self.claim(space, "1", tags=known)
        assert self.fill(space, "1", lease, tags=("t",))
        assert payload_of(peer.read("1")) == payload_of(space.read("1", ("t",))) == b"loaded"

    @pytest.mark.parametrize("known", [(), ("t",)], ids=str)
    def test_another_tag_does_not_touch_a_load(
        self, space: Namespace, peer: Namespace, known: tuple[str, ...]
    ) -> None:
        """Invalidating a tag that the value does not carry leaves the load alone."""
        lease = self.claim(space, "1", tags=known)
        peer.invalidate_tags(["other"])
        assert self.fill(space, "1", lease, tags=("t",))
        assert peer.read("1") is not None

    @pytest.mark.parametrize("known", [(), ("t",)], ids=str)
    def test_a_loaded_value_falls_with_its_tag(
        self, space: Namespace, peer: Namespace, known: tuple[str, ...]
    ) -> None:
        """A tag that only the load brought up is as good as any."""
        assert self.fill(space, "1", self.claim(space, "1", tags=known), tags=("t",))
        stored = peer.read("1")
        assert stored is not None
        assert stored.tags == ("t",)
        peer.invalidate_tags(["t"])
        assert space.read("1") is None

    def test_a_batch_is_judged_each_for_itself(self, space: Namespace, peer: Namespace) -> None:
        """Of many values that are filled at once only those of the invalidated tag fail."""
        keys = ["1", "2", "3"]
        claims = space.claim(keys, [new_nonce() for _ in keys], seconds=60)
        peer.invalidate_tags(["t"])
        tags = {"1": ("t",), "2": ("u",), "3": ()}
        fills = [
            Fill(key, claim.lease, b"x", 60, tags[key])
            for key, claim in zip(keys, claims, strict=True)
            if claim.lease is not None
        ]
        assert space.fill(fills)[1:] == [True, True]
        assert [payload_of(each) for each in peer.read_many(keys)] == [None, b"x", b"x"]

    # Tags whose tokens are lost

    def test_a_lost_token_invalidates(self, space: Namespace, name: str, lose_tag: LoseTag) -> None:
        """What was written under it is gone, and does not come back with the tag."""
        space.write_many([Item("1", b"x", 60, ("t", "u")), Item("2", b"x", 60, ("u",))])
        lose_tag(name, "t")
        assert space.read("1") is None
        space.write("3", b"x", 60, ("t",))
        assert space.read("1") is None
        assert None not in space.read_many(["2", "3"])
        space.invalidate_tags(["t"])
        assert [payload_of(each) for each in space.read_many(["1", "2", "3"])] == [None, b"x", None]

    def test_a_lost_token_revives_nothing(
        self, space: Namespace, name: str, lose_tag: LoseTag
    ) -> None:
        """An invalidation is not forgotten together with the token."""
        space.write("1", b"x", 60, ("t",))
        space.invalidate_tags(["t"])
        lose_tag(name, "t")
        assert space.read("1") is None
        space.write("2", b"x", 60, ("t",))
        assert space.read("1", ("t",)) is None

    def test_a_lost_token_lets_no_load_through(
        self, space: Namespace, peer: Namespace, name: str, lose_tag: LoseTag
    ) -> None:
        """A value loaded before an invalidation does not stand after the token was lost, too."""
        lease = self.claim(space, "1", tags=("t",))
        peer.invalidate_tags(["t"])
        lose_tag(name, "t")
        assert self.is_refused(space, "1", lease, ("t",))

    # Clearing

    def test_clear_takes_everything(self, space: Namespace, peer: Namespace) -> None:
        """All entries are gone, tagged ones too; what is written later is valid."""
        keys = [f"{n}" for n in range(100)]
        space.write_many([Item(key, b"x", 60, ("t",) if key < "5" else ()) for key in keys])
        peer.clear()
        assert space.read_many(keys) == peer.read_many(keys, ("t",)) == [None] * 100
        assert space.read("1") is None
        space.write("1", b"new", 60, ("t",))
        assert payload_of(peer.read("1")) == b"new"
        assert space.read("2") is None

    def test_clear_twice(self, space: Namespace) -> None:
        """Nothing of an earlier time comes back with a later one."""
        space.write("1", b"x", 60)
        space.clear()
        space.write("2", b"x", 60)
        space.clear()
        assert space.read_many(["1", "2"]) == [None, None]

    def test_clear_spares_other_namespaces(self, calls: Calls, space: Namespace, name: str) -> None:
        """Neither all of one nor a prefix in it touches what another has."""
        others = [calls.namespace(f"{name}{more}") for more in (":", "2", "-")]
        for other in others:
            other.write("c:1", b"x", 60)
        space.clear()
        space.clear("c:")
        assert all(other.read("c:1") is not None for other in others)

    @pytest.mark.parametrize("prefix", ["", "never-used:"], ids=repr)
    def test_clear_of_nothing_is_no_error(self, space: Namespace, prefix: str) -> None:
        """What holds no key can be cleared."""
        space.clear(prefix)

    @pytest.mark.parametrize("mode", LeaseMode)
    @pytest.mark.parametrize("prefix", ["", "us"], ids=repr)
    def test_clear_beats_loads_under_way(
        self, space: Namespace, peer: Namespace, prefix: str, mode: LeaseMode
    ) -> None:
        """A value loaded before it does not stand after it."""
        lease = self.claim(space, "user:1", mode=mode)
        peer.clear(prefix)
        assert self.is_refused(space, "user:1", lease)
        assert peer.read("user:1") is None

    @pytest.mark.parametrize("prefix", ["", "us"], ids=repr)
    def test_nobody_waits_for_a_load_that_was_cleared(
        self, space: Namespace, peer: Namespace, prefix: str
    ) -> None:
        """The next to ask gets the lease at once, and it is a good one."""
        self.claim(space, "user:1")
        space.clear(prefix)
        lease = self.claim(peer, "user:1")
        assert self.fill(peer, "user:1", lease)
        assert space.read("user:1") is not None

    def test_clear_of_a_prefix_spares_other_loads(self, space: Namespace, peer: Namespace) -> None:
        """A load whose key does not begin so is taken."""
        lease = self.claim(space, "user:1")
        peer.clear("users:")
        assert self.fill(space, "user:1", lease)

    def test_clear_removes_one_prefix(self, space: Namespace) -> None:
        """Clear takes every key of a prefix and no other, however alike."""
        spared = ["cc:1", "c", "ca:1", "C:1", "b:c:1", "c;1"]
        space.write_many([Item(key, b"spared", 60) for key in spared])
        space.write_many([Item(f"c:{n}", b"gone", 60) for n in range(2500)])
        space.clear("c:")
        assert space.read_many([f"c:{n}" for n in range(2500)]) == [None] * 2500
        assert None not in space.read_many(spared)

    @pytest.mark.parametrize("prefix", ["*", "a?c", "[ab]", "a\\", "{x}", "a^-b", "é", "\0"])
    def test_clear_takes_a_prefix_literally(self, space: Namespace, prefix: str) -> None:
        """Characters that are wildcards somewhere mean themselves."""
        space.write_many([Item("abc:1", b"spared", 60), Item("a:1", b"spared", 60)])
        space.write(f"{prefix}:1", b"gone", 60)
        space.clear(f"{prefix}:")
        assert space.read(f"{prefix}:1") is None
        assert None not in space.read_many(["abc:1", "a:1"])

    def test_clear_ends_no_lock(self, space: Namespace, peer: Namespace) -> None:
        """A lock is not an entry."""
        space.lock("user:1", new_nonce(), 60)
        space.clear()
        space.clear("user:")
        assert peer.lock("user:1", new_nonce(), 60).fence is None

    def test_what_is_told_of_it(self, space: Namespace, tail: Tail) -> None:
        """Tags and prefixes are named in the log, in order; nothing else is."""
        space.invalidate_tags(["a", "b"])
        space.clear("p:")
        space.clear()
        told = self.told(space, tail)
        assert names_of(told, Kind.TAGS) == ["a", "b"]
        # A store may say of clearing everything that the prefix is "", which names_of keeps.
        assert [message.names for message in told if message.kind is Kind.CLEAR] == [
            ("p:",),
            ("",),
        ]
        assert {message.kind for message in told} == {Kind.TAGS, Kind.CLEAR}
