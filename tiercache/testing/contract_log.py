"""The store contract: whoever listens hears of everything after it was done, or of a gap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from tiercache.errors import StoreError
from tiercache.testing.contract_base import ODD_TEXTS, PATIENCE, Calls, ContractBase, names_of
from tiercache.tiers.store import Item, Kind, LogGap, Message, Namespace, Store, Stored, Tail


class LogContract(ContractBase):
    """Cases of ``announce``, ``log_end`` and ``tail``."""

    # What is said

    def test_what_changes_is_told(self, space: Namespace, peer: Namespace, tail: Tail) -> None:
        """Each write and delete is named, in order, with the origin of who did it.

        A store may repeat itself.
        """
        space.write("1", b"x", 60)
        peer.delete(["1"])
        space.delete(["1"], Kind.EXPIRE)
        peer.announce(Kind.EXPIRE, ["2"])
        space.expire(["1", "2"], [10, 0])
        space.announce(Kind.NEWS, ["3", "4"])
        assert list(dict.fromkeys(self.told(space, tail))) == [
            Message(Kind.SET, "this", ("1",)),
            Message(Kind.DELETE, "peer", ("1",)),
            Message(Kind.EXPIRE, "this", ("1",)),
            Message(Kind.EXPIRE, "peer", ("2",)),
            Message(Kind.EXPIRE, "this", ("1", "2")),
            Message(Kind.NEWS, "this", ("3", "4")),
        ]

    def test_reading_tells_nothing(self, space: Namespace, tail: Tail) -> None:
        """Reads, claims and empty batches leave the log alone."""
        space.read("1")
        space.read_many(["1", "2"], ("t",))
        self.claim(space, "1", tags=("t",))
        space.write_many([])
        space.delete([])
        space.expire([], [])
        assert self.told(space, tail) == []

    def test_a_delete_of_what_is_not_there_is_told(self, space: Namespace, tail: Tail) -> None:
        """The store may have lost what a peer still holds."""
        space.delete(["never"])
        assert names_of(self.told(space, tail), Kind.DELETE) == ["never"]

    def test_a_large_batch_is_told_whole(self, space: Namespace, tail: Tail) -> None:
        """Every key of thousands is named, in as many messages as it takes."""
        keys = [f"{n}" for n in range(3000)]
        space.write_many([Item(key, b"x", 60) for key in keys])
        space.delete(keys)
        told = self.told(space, tail)
        assert set(names_of(told, Kind.SET)) == set(keys)
        assert set(names_of(told, Kind.DELETE)) == set(keys)

    @pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
    def test_any_text_can_be_told(self, space: Namespace, tail: Tail, text: str) -> None:
        """Keys, tags and a plugin's own words come through as they are."""
        space.announce(Kind.NEWS, [text, "plain", text])
        space.invalidate_tags([text])
        space.delete([text])
        assert self.told(space, tail) == [
            Message(Kind.NEWS, "this", (text, "plain", text)),
            Message(Kind.TAGS, "this", (text,)),
            Message(Kind.DELETE, "this", (text,)),
        ]

    def test_it_is_told_after_it_is_done(self, store: Store, name: str) -> None:
        """Who hears of a removal, and reads at once, does not find what was removed."""
        space, peer = store.namespace(name), store.namespace(name)
        begun = space.log_end()

        def change() -> None:
            for turn in range(30):
                peer.write(f"deleted{turn}", b"x", 60)
                peer.delete([f"deleted{turn}"])
                peer.write(f"tagged{turn}", b"x", 60, (f"{turn}",))
                peer.invalidate_tags([f"{turn}"])

        found: list[Stored | None] = []
        deadline = time.monotonic() + PATIENCE
        with closing(space.tail(begun)) as tail, ThreadPoolExecutor(1) as pool:
            changing = pool.submit(change)
            while len(found) < 60 and time.monotonic() < deadline:
                for kind, _, (key, *_) in tail.read(0.2):
                    if kind is not Kind.SET:
                        found.append(space.read(f"tagged{key}" if kind is Kind.TAGS else key))
            changing.result()
        assert found == [None] * 60

    def test_nothing_that_threads_say_is_lost(self, store: Store, name: str) -> None:
        """Each of many messages is heard once, those of one thread in their order."""
        space = store.namespace(name)
        with closing(space.tail(space.log_end())) as tail:
            barrier = threading.Barrier(8)

            def work(number: int) -> None:
                barrier.wait()
                for turn in range(20):
                    space.announce(Kind.NEWS, [f"{number}-{turn}"])

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(work, range(8)))
            heard = names_of(self.told(space, tail), Kind.NEWS)
        assert len(heard) == 160
        for number in range(8):
            own = [name for name in heard if name.startswith(f"{number}-")]
            assert own == [f"{number}-{turn}" for turn in range(20)]

    def test_a_long_backlog_is_heard_whole(self, store: Store, name: str) -> None:
        """Who comes late hears all that the log has kept, if in several reads."""
        space = store.namespace(name)
        with closing(space.tail(space.log_end())) as tail:
            for turn in range(1500):
                space.announce(Kind.NEWS, [f"{turn}"])
            heard = names_of(self.told(space, tail), Kind.NEWS)
        assert heard == [f"{turn}" for turn in range(1500)]

    # Who hears it

    def test_those_of_one_name_hear_one_another(self, space: Namespace, peer: Namespace) -> None:
        """Each reader has a position of its own, and hears all, its own messages too."""
        tails = [each.tail(each.log_end()) for each in (space, peer)]
        space.announce(Kind.NEWS, ["a"])
        peer.announce(Kind.NEWS, ["b"])
        for tail in tails:
            with closing(tail):
                assert self.told(space, tail)[:2] == [
                    Message(Kind.NEWS, "this", ("a",)),
                    Message(Kind.NEWS, "peer", ("b",)),
                ]

    def test_those_of_other_names_do_not(
        self, calls: Calls, space: Namespace, tail: Tail, name: str
    ) -> None:
        """What is said in one namespace is not heard in another."""
        other = calls.namespace(f"{name}-2")
        other.write("1", b"x", 60)
        other.announce(Kind.NEWS, ["1"])
        other.clear()
        assert self.told(space, tail) == []

    def test_origins_differ(self, calls: Calls, name: str) -> None:
        """Who gives no origin has one all the same, unlike any other's."""
        space, peer = calls.namespace(name), calls.namespace(name)
        with closing(space.tail(space.log_end())) as tail:
            space.announce(Kind.NEWS, ["1"])
            peer.announce(Kind.NEWS, ["2"])
            first, second = self.told(space, tail)
        assert first.origin
        assert second.origin
        assert first.origin != second.origin

    # From where

    def test_nothing_is_missed_from_the_logs_end(self, space: Namespace, peer: Namespace) -> None:
        """All since the position was taken is heard, nothing from before it."""
        peer.announce(Kind.NEWS, ["before"])
        position = space.log_end()
        peer.announce(Kind.NEWS, ["after"])
        peer.delete(["1"])
        for _ in range(2):  # a position can be used again
            with closing(space.tail(position)) as tail:
                told = self.told(space, tail)
                assert [message.names for message in told[:2]] == [("after",), ("1",)]

    def test_without_a_position_there_is_a_gap_first(
        self, space: Namespace, peer: Namespace
    ) -> None:
        """Nobody can tell what came before; what comes after is heard."""
        peer.announce(Kind.NEWS, ["before"])
        with closing(space.tail(None)) as tail:
            with pytest.raises(LogGap):
                tail.read(0)
            assert self.told(space, tail) == []
            peer.announce(Kind.NEWS, ["after"])
            assert names_of(self.told(space, tail), Kind.NEWS) == ["after"]

    def test_a_closed_tail_goes_on(self, space: Namespace, peer: Namespace, tail: Tail) -> None:
        """Closing gives back the connection and keeps the position; it may come twice."""
        peer.announce(Kind.NEWS, ["1"])
        assert names_of(self.told(space, tail), Kind.NEWS) == ["1"]
        tail.close()
        tail.close()
        peer.announce(Kind.NEWS, ["2"])
        assert names_of(self.told(space, tail), Kind.NEWS) == ["2"]

    def test_a_tail_outlives_a_close_of_the_store(
        self, calls: Calls, space: Namespace, peer: Namespace, tail: Tail
    ) -> None:
        """What is said after the store was closed, and used again, is heard."""
        peer.announce(Kind.NEWS, ["1"])
        calls.close()
        peer.announce(Kind.NEWS, ["2"])
        assert names_of(self.told(space, tail), Kind.NEWS) == ["1", "2"]

    def test_a_trimmed_log_is_a_gap(self, short_log_store: Store, name: str) -> None:
        """Who was away for too long is told, once, and then hears what comes."""
        space = short_log_store.namespace(name)
        with closing(space.tail(space.log_end())) as tail:
            space.announce(Kind.NEWS, ["1"])
            assert names_of(self.told(space, tail), Kind.NEWS) == ["1"]
            for turn in range(2000):
                space.announce(Kind.NEWS, [f"{turn}"])
            with pytest.raises(LogGap):
                tail.read(0)
            space.announce(Kind.NEWS, ["after"])
            assert names_of(self.told(space, tail), Kind.NEWS) == ["after"]

    def test_a_trimmed_log_is_no_gap_for_who_keeps_up(
        self, short_log_store: Store, name: str
    ) -> None:
        """A reader whose position is still within the log misses nothing."""
        space = short_log_store.namespace(name)
        with closing(space.tail(space.log_end())) as tail:
            for turn in range(300):
                told = [f"{turn}-{n}" for n in range(3)]
                for each in told:
                    space.announce(Kind.NEWS, [each])
                assert names_of(self.told(space, tail), Kind.NEWS) == told

    # Waiting

    def test_a_read_that_need_not_wait_does_not(self, space: Namespace, tail: Tail) -> None:
        """Nothing said and no time to wait is answered at once; with time, after it."""
        self.told(space, tail)
        began = time.monotonic()
        assert [each for each in tail.read(0) if each.names] == []
        assert time.monotonic() - began < 1
        began = time.monotonic()
        assert [each for each in tail.read(self.short_ttl) if each.names] == []
        assert self.short_ttl * 0.5 < time.monotonic() - began < self.short_ttl + 1

    def test_a_read_that_waits_is_woken(
        self, space: Namespace, peer: Namespace, tail: Tail
    ) -> None:
        """A message ends the waiting of whoever listens, soon."""
        self.told(space, tail)
        heard = self._while_it_waits(tail, lambda: peer.announce(Kind.NEWS, ["woken"]))
        assert names_of(heard, Kind.NEWS) == ["woken"]

    def test_a_read_that_waits_can_be_interrupted(self, space: Namespace, tail: Tail) -> None:
        """It returns or raises soon, and the next goes on as if nothing had been."""
        self.told(space, tail)
        with suppress(StoreError):
            self._while_it_waits(tail, tail.interrupt)
        space.announce(Kind.NEWS, ["later"])
        assert names_of(self.told(space, tail), Kind.NEWS) == ["later"]

    def _while_it_waits(self, tail: Tail, do: Callable[[], object]) -> list[Message]:
        """Do something while a thread reads and waits; return what it heard, which must be soon."""
        begun = threading.Event()

        def listen() -> list[Message]:
            begun.set()
            return tail.read(PATIENCE)

        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            begun.wait(PATIENCE)
            time.sleep(0.05)  # so that it most likely waits; it must work in any case
            do()
            return listening.result(PATIENCE / 5)
