"""The store contract: entries are kept, expire, are replaced and deleted; namespaces are apart."""

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
    payload_of,
    remaining_of,
)
from tiercache.tiers.store import Item, Namespace, Store


class EntriesContract(ContractBase):
    """Cases of payloads by key."""

    def test_a_missing_key_reads_as_none(self, space: Namespace) -> None:
        """What was never written is None."""
        assert space.read("missing") is None

    def test_what_was_written_is_read(self, space: Namespace) -> None:
        """A payload comes back byte for byte."""
        payload = bytes(range(256))
        space.write("1", payload, 60)
        assert payload_of(space.read("1")) == payload

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096, 300_000])
    def test_any_size_comes_back(self, space: Namespace, size: int) -> None:
        """Payloads of all sizes come back, the empty one too, alone and in a batch."""
        space.write("sized", b"\x01" * size, 60)
        assert payload_of(space.read("sized")) == b"\x01" * size
        assert payload_of(space.read_many(["none", "sized"])[1]) == b"\x01" * size

    def test_a_payload_is_a_readonly_buffer(self, space: Namespace) -> None:
        """A reader cannot change what another reader gets."""
        space.write("1", b"payload", 60)
        stored = space.read("1")
        assert stored is not None
        assert memoryview(stored.payload).readonly

    def test_writing_again_replaces_value_and_life(self, space: Namespace) -> None:
        """The last write wins, its TTL included."""
        space.write("1", b"old", 1000)
        space.write("1", b"new", 10)
        stored = space.read("1")
        assert payload_of(stored) == b"new"
        assert 0 < remaining_of(stored) <= 10.05

    def test_remaining_tells_the_life_left(self, space: Namespace) -> None:
        """The remaining seconds are near the TTL right after a write."""
        space.write("1", b"payload", 100)
        assert 98 < remaining_of(space.read("1")) <= 100.05

    def test_remaining_shrinks(self, space: Namespace) -> None:
        """The remaining seconds follow the clock."""
        space.write("1", b"payload", 100)
        began = time.monotonic()
        first, seen = remaining_of(space.read("1")), time.monotonic()
        time.sleep(self.short_ttl)
        again = time.monotonic()
        second, ended = remaining_of(space.read("1")), time.monotonic()
        assert again - seen - 0.05 <= first - second <= ended - began + 0.05

    def test_without_ttl_there_is_no_end(self, space: Namespace) -> None:
        """A TTL of None reads as remaining None, and replaces an earlier TTL."""
        space.write("1", b"payload", 10)
        space.write("1", b"payload", None)
        stored = space.read("1")
        assert stored is not None
        assert stored.remaining is None

    def test_an_expired_entry_is_missing(self, space: Namespace) -> None:
        """After its TTL an entry is gone, for single and batch reads; not before."""
        space.write("long", b"payload", 100)
        began = time.monotonic()
        space.write("short", b"payload", self.short_ttl)
        self.wait_until(lambda: space.read("short") is None)
        assert time.monotonic() - began > self.short_ttl * 0.5
        assert space.read_many(["short"]) == [None]
        assert space.read("long") is not None

    def test_an_expired_entry_does_not_count_as_deleted(self, space: Namespace) -> None:
        """Deleting what has expired removes nothing."""
        space.write("short", b"payload", self.short_ttl)
        self.wait_until(lambda: space.read("short") is None)
        time.sleep(self.short_ttl / 4)  # a reader's clock and the store's may differ by a moment
        assert space.delete(["short"]) == 0

    def test_a_tiny_and_a_huge_ttl_are_taken(self, space: Namespace) -> None:
        """A TTL below a millisecond or of thousands of years is no error."""
        space.write("tiny", b"payload", 1e-9)
        space.write("huge", b"payload", 1e12)
        assert space.read("huge") is not None

    def test_a_batch_is_read_in_order(self, space: Namespace) -> None:
        """read_many answers each key in its place, misses and repeated keys included."""
        space.write_many([Item(f"{n}", b"%d" % n, 60) for n in range(50)])
        keys = ["7", "missing", "3", "7", *(f"{n}" for n in range(50))]
        expected = [b"7", None, b"3", b"7", *(b"%d" % n for n in range(50))]
        assert [payload_of(each) for each in space.read_many(keys)] == expected

    def test_an_empty_batch_is_nothing(self, space: Namespace) -> None:
        """No keys and no items are answered without trouble."""
        assert space.read_many([]) == []
        space.write_many([])
        assert space.delete([]) == 0

    def test_a_batch_keeps_each_items_life(self, space: Namespace) -> None:
        """write_many gives every item its own TTL."""
        space.write_many([Item("a", b"a", 50), Item("b", b"b", None), Item("c", b"c", 100)])
        a, b, c = space.read_many(["a", "b", "c"])
        assert 48 < remaining_of(a) <= 50.05
        assert b is not None
        assert b.remaining is None
        assert 98 < remaining_of(c) <= 100.05

    def test_the_last_of_a_repeated_key_wins(self, space: Namespace) -> None:
        """One key twice in a batch keeps the later payload."""
        space.write_many([Item("1", b"first", 60), Item("1", b"second", 60)])
        assert payload_of(space.read("1")) == b"second"

    def test_a_large_batch_works(self, space: Namespace) -> None:
        """Thousands of keys go in, out and away in one call each."""
        items = [Item(f"{n}", b"%d" % n, 60.0) for n in range(3000)]
        space.write_many(items)
        keys = [item.key for item in items]
        assert [payload_of(each) for each in space.read_many(keys)] == [
            item.payload for item in items
        ]
        assert space.delete(keys) == 3000

    def test_delete_counts_what_existed(self, space: Namespace) -> None:
        """Delete removes the keys, and says how many there were."""
        space.write_many([Item("1", b"1", 60), Item("2", b"2", None), Item("3", b"3", 60)])
        assert space.delete(["1", "2", "missing"]) == 2
        assert space.delete(["1"]) == 0
        assert [payload_of(each) for each in space.read_many(["1", "2", "3"])] == [None, None, b"3"]

    @pytest.mark.parametrize("key", ODD_TEXTS, ids=ascii)
    def test_any_text_is_a_key(self, space: Namespace, key: str) -> None:
        """Every str works as a key and is not taken for another."""
        space.write("plain", b"plain", 60)
        space.write(key, b"odd", 60)
        assert payload_of(space.read(key)) == b"odd"
        assert [payload_of(each) for each in space.read_many([key, "plain"])] == [b"odd", b"plain"]
        assert space.delete([key]) == 1
        assert space.read("plain") is not None

    def test_tags_come_back(self, space: Namespace) -> None:
        """An entry says what tags it carries, to whoever knows them already and who does not."""
        space.write("1", b"1", 60, ("a", "b"))
        space.write_many([Item("2", b"2", 60, ("b",)), Item("3", b"3", 60)])
        for likely in ((), ("a", "b"), ("other",)):
            one, two, three, none = space.read_many(["1", "2", "3", "none"], likely)
            single = space.read("1", likely)
            assert one is not None
            assert two is not None
            assert three is not None
            assert single is not None
            assert set(one.tags) == set(single.tags) == {"a", "b"}
            assert two.tags == ("b",)
            assert three.tags == ()
            assert none is None

    def test_namespaces_are_apart(self, calls: Calls, space: Namespace, name: str) -> None:
        """One key in two namespaces is two keys, however alike the names of those."""
        others = [calls.namespace(f"{name}{more}") for more in (":", "2", "x:1", "*")]
        for number, other in enumerate(others):
            other.write("1", b"%d" % number, 60)
        assert space.read("1") is None
        space.write("1", b"own", 60)
        assert space.delete(["1"]) == 1
        assert [payload_of(each.read("1")) for each in others] == [b"0", b"1", b"2", b"3"]

    def test_who_has_the_name_has_the_entries(self, space: Namespace, peer: Namespace) -> None:
        """What one process writes, another reads."""
        space.write("1", b"1", 60)
        assert payload_of(peer.read("1")) == b"1"
        assert peer.delete(["1"]) == 1
        assert space.read("1") is None

    def test_a_closed_store_opens_again(self, calls: Calls, space: Namespace) -> None:
        """Close may come twice, and a call after it works."""
        space.write("1", b"payload", 60)
        calls.close()
        calls.close()
        space.write("2", b"payload", 60)
        assert space.read("2") is not None

    def test_threads_do_not_mix_up_their_answers(self, store: Store, name: str) -> None:
        """Many threads that read and write at once each get their own key's payload."""
        space = store.namespace(name)
        space.write_many([Item(f"{n}", b"%d" % n, 60) for n in range(8)])
        barrier = threading.Barrier(8)

        def work(number: int) -> None:
            barrier.wait()
            for turn in range(30):
                assert payload_of(space.read(f"{number}")) == b"%d" % number
                space.write(f"own{number}", b"%d" % turn, 60)
                assert payload_of(space.read(f"own{number}")) == b"%d" % turn

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    def test_tasks_do_not_mix_up_their_answers(self, store: Store, name: str) -> None:
        """Many tasks that read at once each get their own key's payload, or their miss."""
        space = store.namespace(name)

        async def main() -> None:
            await space.awrite_many([Item(f"{n}", b"%d" % n, 60) for n in range(100)])
            for _ in range(10):
                answers = await asyncio.gather(*(space.aread(f"{n}") for n in range(120)))
                expected = [b"%d" % n if n < 100 else None for n in range(120)]
                assert [payload_of(each) for each in answers] == expected
            await store.aclose()

        asyncio.run(main())

    def test_a_store_outlives_event_loops(self, store: Store, name: str) -> None:
        """One asyncio.run after another, and blocking calls between them, all work."""
        space = store.namespace(name)

        async def bump(number: int) -> bytes | None:
            before = payload_of(await space.aread("1"))
            await space.awrite("1", b"%d" % number, 60)
            return before

        assert asyncio.run(bump(1)) is None
        assert payload_of(space.read("1")) == b"1"
        assert asyncio.run(bump(2)) == b"1"
        assert asyncio.run(bump(3)) == b"2"

    def test_loops_in_several_threads_work_at_once(self, store: Store, name: str) -> None:
        """Each thread may run its own loop over the same store."""
        space = store.namespace(name)

        async def work(number: int) -> None:
            for turn in range(20):
                await space.awrite(f"{number}", b"%d" % turn, 60)
                assert payload_of(await space.aread(f"{number}")) == b"%d" % turn

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: asyncio.run(work(number)), range(4)))

    def test_a_cancelled_read_disturbs_nobody(self, store: Store, name: str) -> None:
        """Cancelling one of several concurrent reads leaves the others' answers alone."""
        space = store.namespace(name)

        async def main() -> None:
            await space.awrite("1", b"payload", 60)
            for victim in range(5):
                tasks = [asyncio.ensure_future(space.aread("1")) for _ in range(5)]
                await asyncio.sleep(0)
                tasks[victim].cancel()
                await asyncio.wait(tasks)
                others = tasks[:victim] + tasks[victim + 1 :]
                assert {payload_of(each.result()) for each in others} == {b"payload"}
                assert tasks[victim].cancelled() or tasks[victim].result() is not None
            await store.aclose()

        asyncio.run(main())

    def test_it_says_who_it_is(self, store: Store) -> None:
        """A label and a positive timeout are there for logs and budgets."""
        assert store.label
        assert store.timeout > 0
