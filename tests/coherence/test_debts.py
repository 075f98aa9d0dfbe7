"""Invalidations that L2 did not take: kept, and delivered before it is believed again."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.coherence.conftest import hear_all, listen
from tests.waiting import until
from tiercache import MISS, Redis, StoreError
from tiercache.coherence import debts as debts_module
from tiercache.coherence.debts import AT_ONCE, Debts
from tiercache.tiers.store import Kind


def drained(debts):
    """Deliver everything; return it in order."""
    delivered = []
    while (owed := debts.next()) is not None:
        delivered.append((owed.kind, *owed.names))
        debts.paid(owed)
    return delivered


class TestBookkeeping:
    @pytest.fixture
    def debts(self):
        return Debts()

    def test_nothing_is_owed_at_first(self, debts):
        """Nor is there anything to pay."""
        assert not debts
        assert debts.next() is None

    def test_in_order(self, debts):
        """Those of one kind that follow one another are delivered together."""
        debts.owe(Kind.DELETE, ["a", "b"])
        debts.owe(Kind.DELETE, ["c"])
        debts.owe(Kind.TAGS, ["t"])
        debts.owe(Kind.CLEAR, ["p:"])
        debts.owe(Kind.CLEAR, ["q:"])
        debts.owe(Kind.DELETE, ["d"])
        assert drained(debts) == [
            (Kind.DELETE, "a", "b", "c"),
            (Kind.TAGS, "t"),
            (Kind.CLEAR, "p:"),
            (Kind.CLEAR, "q:"),
            (Kind.DELETE, "d"),
        ]
        assert not debts

    def test_newest_per_key(self, debts):
        """What is owed twice is delivered once, where it was owed last."""
        debts.owe(Kind.DELETE, ["a", "b"])
        debts.owe(Kind.TAGS, ["a"])
        debts.owe(Kind.DELETE, ["a"])
        assert drained(debts) == [(Kind.DELETE, "b"), (Kind.TAGS, "a"), (Kind.DELETE, "a")]

    def test_not_too_many_at_once(self, debts):
        """One command names at most AT_ONCE of them."""
        debts.owe(Kind.DELETE, map(str, range(AT_ONCE + 10)))
        assert [len(each) - 1 for each in drained(debts)] == [AT_ONCE, 10]

    def test_past_the_bound_all_is_cleared(self, debts, monkeypatch):
        """One debt says all of them and more, and what comes later is owed beside it."""
        monkeypatch.setattr(debts_module, "MOST_DEBTS", 10)
        debts.owe(Kind.DELETE, map(str, range(10)))
        assert len(debts) == 10
        debts.owe(Kind.TAGS, ["t"])
        assert len(debts) == 1
        debts.owe(Kind.DELETE, ["late"])
        assert drained(debts) == [(Kind.CLEAR, ""), (Kind.DELETE, "late")]

    def test_a_clear_of_everything_says_the_others(self, debts):
        """What was owed before it need not be delivered."""
        debts.owe(Kind.DELETE, ["a"])
        debts.owe(Kind.TAGS, ["t"])
        debts.owe(Kind.CLEAR, [""])
        assert drained(debts) == [(Kind.CLEAR, "")]

    def test_owed_again_while_delivered(self, debts):
        """Paying strikes what was delivered, and not what was owed meanwhile."""
        debts.owe(Kind.DELETE, ["a", "b"])
        owed = debts.next()
        debts.owe(Kind.DELETE, ["a"])
        debts.paid(owed)
        assert drained(debts) == [(Kind.DELETE, "a")]

    def test_done_by_a_later_command(self, debts):
        """A delete that went through has done what an earlier one had left."""
        debts.owe(Kind.DELETE, ["a", "b"])
        until_now = debts.last
        debts.owe(Kind.DELETE, ["b"])
        debts.settled(Kind.DELETE, ["a", "b"], until_now)
        assert drained(debts) == [(Kind.DELETE, "b")]

    def test_threads(self, debts):
        """Whatever many threads owe and pay at once, each key ends up delivered after its debt."""
        paid = []
        done = threading.Event()

        def pay():
            while not done.is_set() or debts:
                owed = debts.next()
                if owed is not None:
                    paid.extend(owed.names)
                    debts.paid(owed)

        def owe(seed):
            rng = random.Random(seed)
            for _ in range(300):
                debts.owe(Kind.DELETE, [f"{rng.randrange(20)}"])
            debts.owe(Kind.DELETE, [f"last {seed}"])

        payer = threading.Thread(target=pay)
        payer.start()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(owe, range(4)))
        done.set()
        payer.join(10)
        assert not debts
        assert {f"last {seed}" for seed in range(4)} <= set(paid)

    def test_a_forked_child_owes_nothing(self, debts):
        """Its parent delivers."""
        debts.owe(Kind.DELETE, ["a"])
        debts.after_fork()
        assert not debts


class TestOfACache:
    """Processes on one store, of which the first cannot reach it for a while."""

    @pytest.fixture
    def pair(self, dict_processes):
        return dict_processes.several(2, blind_ttl=0.4)

    @pytest.mark.parametrize("read", ["get", "get_many", "get_or_load"])
    def test_delivered_before_the_first_read(self, kind, pair, inner, read):
        """In the order in which they came."""
        cache, _ = pair
        cache.store.fail("delete", "invalidate_tags", "clear", "tail")
        kind.do(cache, "delete", "a", "b")
        kind.do(cache, "invalidate_tags", "t")
        kind.do(cache, "clear_prefix", "p:")
        kind.do(cache, "expire", "c")
        cache.store.heal()
        inner.done.clear()
        args = {
            "get": ("x",),
            "get_many": (["x", "y"],),
            "get_or_load": ("x", kind.function(lambda: 1)),
        }[read]
        while cache.flow.l2.debts:  # which it may be too early to deliver
            kind.do(cache, read, *args)
        assert [(name, args[0]) for name, args in inner.done][:4] == [
            ("delete", ("a", "b")),
            ("invalidate_tags", ("t",)),
            ("clear", "p:"),
            ("delete", ("c",)),
        ]

    def test_nothing_is_believed_before(self, kind, pair):
        """While something is owed, L2 might hold what was invalidated: its answers do not count."""
        cache, peer = pair
        kind.do(peer, "set", "k", "old")
        kind.do(peer, "set", "other", "fine")
        cache.store.fail("delete")
        kind.do(cache, "delete", "k")
        assert kind.do(cache, "get", "k", MISS) is MISS
        assert kind.do(cache, "get", "other", MISS) is MISS
        assert kind.do(cache, "get_many", ["k", "other"]) == {}
        assert kind.do(cache, "get_or_load", "k", kind.function(lambda: "new")) == "new"
        cache.store.heal()
        until(lambda: kind.do(cache, "get", "other", MISS) == "fine")

    @pytest.mark.parametrize("how", ["delete", "expire", "invalidate_tags", "clear", "set"])
    def test_peers_hear_of_them(self, kind, pair, how):
        """When it is delivered, the others drop what they still served, and so does L2."""
        cache, peer = pair
        kind.do(cache, "set", "k", "old", tags=["t"])
        assert kind.do(peer, "get", "k") == "old"
        cache.store.fail()
        args = {"invalidate_tags": ("t",), "clear": (), "set": ("k", "new")}.get(how, ("k",))
        kind.do(cache, how, *args)
        assert kind.do(peer, "get", "k") == "old"  # it has no way to know
        cache.store.heal()
        until(lambda: kind.do(peer, "get", "k", MISS) is MISS)
        assert kind.do(cache, "get", "k", MISS) == ("new" if how == "set" else MISS)

    def test_delivered_without_traffic(self, pair):
        """If nobody asks this process for anything any more, its bus delivers."""
        cache, peer = pair
        cache.set("k", "old")
        cache.store.fail()
        cache.delete("k")
        cache.store.heal()
        until(lambda: not cache.flow.l2.debts)
        assert peer.get("k", MISS) is MISS

    def test_delivered_by_a_process_that_only_writes(self, dict_processes, inner):
        """One that never read, and so never listened, delivers, too."""
        cache = dict_processes.start(blind_ttl=0.4)
        cache.store.fail()
        cache.delete("k")
        assert ("delete", (["k"],)) not in inner.done
        cache.store.heal()
        until(lambda: not cache.flow.l2.debts)
        assert [name for name, _ in inner.done if name == "delete"] == ["delete"]

    def test_past_the_bound(self, kind, pair, monkeypatch):
        """With too many to remember, everything goes when L2 is back: nothing old stays."""
        monkeypatch.setattr(debts_module, "MOST_DEBTS", 10)
        cache, peer = pair
        kind.do(peer, "set_many", {f"{n}": n for n in range(30)})
        cache.store.fail()
        for number in range(20):
            kind.do(cache, "delete", f"{number}")
        assert len(cache.flow.l2.debts) <= 10
        cache.store.heal()
        until(lambda: not cache.flow.l2.debts)
        until(lambda: len(peer.memory) == 0)
        assert kind.do(peer, "get_many", [f"{n}" for n in range(30)]) == {}

    def test_what_was_not_written_is_owed(self, kind, pair):
        """Of a set that L2 did not take, the old value goes: nobody is left with it for good."""
        cache, peer = pair
        kind.do(peer, "set_many", {"a": 1, "b": 1})
        hear_all(cache, peer)
        cache.store.fail("write", "write_many")
        kind.do(cache, "set_many", {"a": 2, "b": 2})
        assert kind.do(cache, "get_many", ["a", "b"]) == {"a": 2, "b": 2}
        cache.store.heal()
        until(lambda: kind.do(peer, "get_many", ["a", "b"]) == {})

    async def test_a_caller_that_is_cancelled(self, pair, inner):
        """Nobody knows whether a delete that was broken off was done: so it is owed."""
        cache, peer = pair
        await peer.aset("k", "old")
        gate = inner.gate("delete")
        deleting = asyncio.create_task(cache.adelete("k"))
        await gate.auntil_reached()
        cache.store.fail("delete")  # it is not to be paid before anybody has looked
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
        assert len(cache.flow.l2.debts) == 1
        assert await cache.aget("k", MISS) is MISS
        cache.store.heal()
        until(lambda: "k" not in peer.memory)
        assert await peer.aget("k", MISS) is MISS
        gate.open()

    def test_one_delivers_and_nobody_waits(self, pair, inner):
        """While a thread is at it, others go on without L2."""
        cache, _ = pair
        cache.set("k", 1)
        cache.store.fail()
        cache.delete("j")
        cache.store.heal()
        gate = inner.gate("delete")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(cache.get, "k2")
            gate.until_reached()
            assert cache.get_or_load("k3", lambda: 3) == 3
            cache.delete("k")
            gate.open()
            first.result(10)
        until(lambda: not cache.flow.l2.debts)
        cache.memory.clear()
        assert cache.get("k", MISS) is MISS

    def test_a_failure_in_the_middle(self, pair, inner):
        """What was delivered before it is not delivered again; the rest is, in order."""
        cache, _ = pair
        cache.store.fail()
        cache.delete("a")
        cache.invalidate_tags("t")
        cache.delete("b")
        cache.store.fail("invalidate_tags", error=StoreError("not this"))
        cache.flow.l2.breaker.succeeded(0, 0)
        until(lambda: len(cache.flow.l2.debts) == 2)
        cache.store.heal()
        until(lambda: not cache.flow.l2.debts)
        owed = [args[0] for name, args in inner.done if name in ("delete", "invalidate_tags")]
        assert owed == [("a",), ("t",), ("b",)]


def test_on_a_frozen_server(kind, redis_processes, redis_server):
    """Invalidations of a process whose Redis hangs reach the others once it does no more."""
    store = Redis(redis_server.url, timeout=0.5)
    cache = redis_processes.start(l2=store, blind_ttl=1)
    (peer,) = redis_processes.several(1)
    listen(cache)
    kind.do(cache, "set_many", {"a": "old", "b": "old"}, tags=["t"])
    assert kind.do(peer, "get_many", ["a", "b"]) == {"a": "old", "b": "old"}
    redis_server.freeze()
    kind.do(cache, "delete", "a")
    kind.do(cache, "invalidate_tags", "t")
    redis_server.thaw()
    until(lambda: kind.do(peer, "get_many", ["a", "b"]) == {})
    until(lambda: not cache.flow.l2.debts)
