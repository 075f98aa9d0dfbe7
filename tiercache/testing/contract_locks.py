"""The store contract: a lock has one holder, a fence that only grows, and an end."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tiercache.testing.contract_base import ODD_TEXTS, Calls, ContractBase, new_nonce
from tiercache.tiers.store import Grant, Kind, Message, Namespace, Store, Tail


class LocksContract(ContractBase):
    """Cases of ``lock``, ``renew_lock`` and ``unlock``."""

    def lock(self, space: Namespace, name: str, nonce: bytes, seconds: float = 60) -> int:
        """Take a lock, which must be free; return its fence."""
        fence = space.lock(name, nonce, seconds).fence
        assert fence is not None
        return fence

    def test_one_gets_the_lock_the_next_is_told_to_wait(
        self, space: Namespace, peer: Namespace
    ) -> None:
        """The first has a fence; the second learns for how long at most it must wait."""
        granted = space.lock("l", new_nonce(), 20)
        assert granted.fence is not None
        assert granted.held_for is None
        refused = peer.lock("l", new_nonce(), 20)
        assert refused.fence is None
        assert refused.held_for is not None
        assert 15 < refused.held_for <= 20.05

    def test_fences_only_grow(self, space: Namespace, peer: Namespace) -> None:
        """Across names and holders, whether a lock was held before or not."""
        fences = []
        for turn in range(5):
            for each, name in ((space, "a"), (peer, "b"), (peer, f"new{turn}")):
                nonce = new_nonce()
                fences.append(self.lock(each, name, nonce))
                each.unlock(name, nonce)
        assert fences == sorted(set(fences))

    def test_a_holder_is_granted_it_again(self, space: Namespace, peer: Namespace) -> None:
        """With a greater fence, and for the time asked for."""
        nonce = new_nonce()
        first = self.lock(space, "l", nonce, 20)
        assert self.lock(space, "l", nonce, 60) > first
        held_for = peer.lock("l", new_nonce(), 60).held_for
        assert held_for is not None
        assert 50 < held_for <= 60.05

    def test_only_a_holder_unlocks(self, space: Namespace, peer: Namespace) -> None:
        """A wrong nonce ends nothing; the right one does, once."""
        nonce = new_nonce()
        self.lock(space, "l", nonce)
        assert not peer.unlock("l", new_nonce())
        assert peer.lock("l", new_nonce(), 60).fence is None
        assert space.unlock("l", nonce)
        assert not space.unlock("l", nonce)
        self.lock(peer, "l", new_nonce())

    def test_only_a_holder_renews(self, space: Namespace, peer: Namespace) -> None:
        """A wrong nonce prolongs nothing; the right one does."""
        nonce = new_nonce()
        self.lock(space, "l", nonce, 20)
        assert not peer.renew_lock("l", new_nonce(), 100)
        assert not peer.renew_lock("never", nonce, 100)
        assert space.renew_lock("l", nonce, 60)
        held_for = peer.lock("l", new_nonce(), 60).held_for
        assert held_for is not None
        assert 50 < held_for <= 60.05

    def test_a_lock_ends_by_itself(self, space: Namespace, peer: Namespace) -> None:
        """The next has it with a greater fence; the late holder can do nothing any more."""
        late, nonce = new_nonce(), new_nonce()
        began = time.monotonic()
        fence = self.lock(space, "l", late, self.short_ttl)
        grants: list[Grant] = []

        def is_granted() -> bool:
            grants.append(peer.lock("l", nonce, 60))
            return grants[-1].fence is not None

        self.wait_until(is_granted)
        assert time.monotonic() - began > self.short_ttl * 0.5
        assert grants[-1].fence is not None
        assert grants[-1].fence > fence
        assert not space.renew_lock("l", late, 60)
        assert not space.unlock("l", late)
        assert space.lock("l", late, 60).fence is None
        assert peer.unlock("l", nonce)

    def test_a_lapsed_lock_is_not_held(self, space: Namespace) -> None:
        """Even if nobody else wanted it: who held it is told that it does not."""
        nonce = new_nonce()
        self.lock(space, "l", nonce, self.short_ttl)
        self.let_pass(self.short_ttl)
        assert not space.renew_lock("l", nonce, 60)
        assert not space.unlock("l", nonce)

    def test_who_waits_is_told(self, space: Namespace, peer: Namespace, tail: Tail) -> None:
        """Unlocking says so where somebody waits, also after the lock was granted again."""
        nonce = new_nonce()
        for turn in range(3):
            self.lock(space, "l", nonce)
            if turn > 0:
                peer.lock("l", new_nonce(), 60)
            if turn > 1:
                self.lock(space, "l", nonce)
            assert space.unlock("l", nonce)
            expected = [Message(Kind.UNLOCKED, "this", ("l",))] if turn > 0 else []
            assert self.told(space, tail) == expected

    def test_a_lock_is_no_lease(self, space: Namespace, peer: Namespace) -> None:
        """A key and a lock of one name do not meet."""
        self.lock(space, "1", new_nonce())
        lease = self.claim(peer, "1")
        space.delete(["1"])
        space.write("1", b"x", 60)
        assert not self.fill(peer, "1", lease)
        assert peer.lock("1", new_nonce(), 60).fence is None

    def test_a_lock_belongs_to_its_namespace(
        self, calls: Calls, space: Namespace, name: str
    ) -> None:
        """The same name elsewhere is another one."""
        self.lock(space, "l", new_nonce())
        self.lock(calls.namespace(f"{name}-2"), "l", new_nonce())

    @pytest.mark.parametrize("lock", ODD_TEXTS, ids=ascii)
    def test_any_text_names_a_lock(self, space: Namespace, peer: Namespace, lock: str) -> None:
        """Every str works as a name and is not taken for another."""
        nonce = new_nonce()
        self.lock(space, lock, nonce)
        self.lock(space, "plain", new_nonce())
        assert peer.lock(lock, new_nonce(), 60).fence is None
        assert space.unlock(lock, nonce)

    def test_one_of_many_threads_gets_it(self, store: Store, name: str) -> None:
        """However many ask at once, one is granted it, and no fence is given twice."""
        barrier = threading.Barrier(8)

        def work(turn: int) -> list[Grant]:
            space = store.namespace(name)
            barrier.wait()
            own = space.lock(f"{turn}-{threading.get_ident()}", new_nonce(), 60)
            return [space.lock(f"{turn}", new_nonce(), 60), own]

        fences = []
        with ThreadPoolExecutor(8) as pool:
            for turn in range(5):
                grants = list(pool.map(work, [turn] * 8))
                assert sum(common.fence is not None for common, _ in grants) == 1
                fences += [each.fence for pair in grants for each in pair if each.fence is not None]
        assert len(fences) == len(set(fences)) == 45
