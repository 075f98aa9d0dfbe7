"""What every store must do, as tests that its author runs.

    from tiercache.testing import StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            store = MyStore(...)
            yield store
            store.close()

Each case runs twice: through the blocking methods and through their asyncio twins, by way of
``calls``, a fixture of this class. Set ``short_ttl`` (seconds) higher for a store whose clock is
coarse. Needs pytest.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import pytest

from tiercache.tiers.store import Item, Store, Stored

__all__ = ["StoreContract"]

_ODD_KEYS = [
    "c:",
    "c:with space",
    "c:line\nbreak\r\n",
    "c:nul\0byte",
    "c:{braces}",
    "c:}{",
    "c:*?[a]\\",
    "c:é漢字🎈",
    "c:lone\ud800surrogate",
    "c:" + "long" * 500,
    "c:'; DROP TABLE entry; --",
]
_PATIENCE = 10.0  # seconds until a test that waits for an expiry gives up


class _Calls(Protocol):
    """A store's methods, all blocking."""

    def read(self, key: str) -> Stored | None: ...
    def read_many(self, keys: Sequence[str]) -> list[Stored | None]: ...
    def write(self, key: str, payload: bytes, ttl: float | None) -> None: ...
    def write_many(self, items: Sequence[Item]) -> None: ...
    def delete(self, keys: Sequence[str]) -> int: ...
    def clear(self, prefix: str) -> None: ...
    def close(self) -> None: ...


class _AsyncioCalls:
    """The asyncio twins of a store's methods, each completed in one loop of its own."""

    def __init__(self, store: Store, runner: asyncio.Runner) -> None:
        self._store = store
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        twin = getattr(self._store, f"a{name}")

        async def call(*args: Any) -> Any:
            return await twin(*args)

        return lambda *args: self._runner.run(call(*args))


class StoreContract:
    """The cases. Subclass it, name the class ``Test...`` and give it a ``store`` fixture."""

    short_ttl = 0.1

    @pytest.fixture(params=["blocking", "asyncio"])
    def calls(self, request: pytest.FixtureRequest, store: Store) -> Iterator[_Calls]:
        """Return the store's methods, of one kind or the other, to be called blocking."""
        if request.param == "blocking":
            yield store
            return
        with asyncio.Runner() as runner:
            yield _AsyncioCalls(store, runner)
            runner.run(store.aclose())

    def test_a_missing_key_reads_as_none(self, calls: _Calls) -> None:
        """What was never written is None."""
        assert calls.read("c:missing") is None

    def test_what_was_written_is_read(self, calls: _Calls) -> None:
        """A payload comes back byte for byte."""
        payload = bytes(range(256))
        calls.write("c:1", payload, 60)
        assert _payload(calls.read("c:1")) == payload

    @pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096, 300_000])
    def test_any_size_comes_back(self, calls: _Calls, size: int) -> None:
        """Payloads of all sizes come back, the empty one too, alone and in a batch."""
        calls.write("c:sized", b"\x01" * size, 60)
        assert _payload(calls.read("c:sized")) == b"\x01" * size
        assert _payload(calls.read_many(["c:none", "c:sized"])[1]) == b"\x01" * size

    def test_a_payload_is_a_readonly_buffer(self, calls: _Calls) -> None:
        """A reader cannot change what another reader gets."""
        calls.write("c:1", b"payload", 60)
        stored = calls.read("c:1")
        assert stored is not None
        assert memoryview(stored.payload).readonly

    def test_writing_again_replaces_value_and_life(self, calls: _Calls) -> None:
        """The last write wins, its TTL included."""
        calls.write("c:1", b"old", 1000)
        calls.write("c:1", b"new", 10)
        stored = calls.read("c:1")
        assert _payload(stored) == b"new"
        assert 0 < _remaining(stored) <= 10.05

    def test_remaining_tells_the_life_left(self, calls: _Calls) -> None:
        """The remaining seconds are near the TTL right after a write."""
        calls.write("c:1", b"payload", 100)
        assert 98 < _remaining(calls.read("c:1")) <= 100.05

    def test_remaining_shrinks(self, calls: _Calls) -> None:
        """The remaining seconds follow the clock."""
        calls.write("c:1", b"payload", 100)
        first, began = _remaining(calls.read("c:1")), time.monotonic()
        time.sleep(self.short_ttl)
        second, ended = _remaining(calls.read("c:1")), time.monotonic()
        assert first - second == pytest.approx(ended - began, abs=0.05)

    def test_without_ttl_there_is_no_end(self, calls: _Calls) -> None:
        """A TTL of None reads as remaining None, and replaces an earlier TTL."""
        calls.write("c:1", b"payload", 10)
        calls.write("c:1", b"payload", None)
        stored = calls.read("c:1")
        assert stored is not None
        assert stored.remaining is None

    def test_an_expired_entry_is_missing(self, calls: _Calls) -> None:
        """After its TTL an entry is gone, for single and batch reads; not before."""
        calls.write("c:short", b"payload", self.short_ttl)
        calls.write("c:long", b"payload", 100)
        began = time.monotonic()
        while calls.read("c:short") is not None:
            assert time.monotonic() - began < _PATIENCE
            time.sleep(self.short_ttl / 20)
        assert time.monotonic() - began > self.short_ttl * 0.5
        assert calls.read_many(["c:short"]) == [None]
        assert calls.read("c:long") is not None

    def test_an_expired_entry_does_not_count_as_deleted(self, calls: _Calls) -> None:
        """Deleting what has expired removes nothing."""
        calls.write("c:short", b"payload", self.short_ttl)
        began = time.monotonic()
        while calls.read("c:short") is not None:
            assert time.monotonic() - began < _PATIENCE
            time.sleep(self.short_ttl / 20)
        time.sleep(self.short_ttl / 4)  # a reader's clock and the store's may differ by a moment
        assert calls.delete(["c:short"]) == 0

    def test_a_tiny_and_a_huge_ttl_are_taken(self, calls: _Calls) -> None:
        """A TTL below a millisecond or of thousands of years is no error."""
        calls.write("c:tiny", b"payload", 1e-9)
        calls.write("c:huge", b"payload", 1e12)
        assert calls.read("c:huge") is not None

    def test_a_batch_is_read_in_order(self, calls: _Calls) -> None:
        """read_many answers each key in its place, misses and repeated keys included."""
        calls.write_many([(f"c:{n}", b"%d" % n, 60) for n in range(50)])
        keys = ["c:7", "c:missing", "c:3", "c:7", *(f"c:{n}" for n in range(50))]
        expected = [b"7", None, b"3", b"7", *(b"%d" % n for n in range(50))]
        assert [_payload(each) for each in calls.read_many(keys)] == expected

    def test_an_empty_batch_is_nothing(self, calls: _Calls) -> None:
        """No keys and no items are answered without trouble."""
        assert calls.read_many([]) == []
        calls.write_many([])
        assert calls.delete([]) == 0

    def test_a_batch_keeps_each_items_life(self, calls: _Calls) -> None:
        """write_many gives every item its own TTL."""
        calls.write_many([("c:a", b"a", 50), ("c:b", b"b", None), ("c:c", b"c", 100)])
        a, b, c = calls.read_many(["c:a", "c:b", "c:c"])
        assert 48 < _remaining(a) <= 50.05
        assert b is not None
        assert b.remaining is None
        assert 98 < _remaining(c) <= 100.05

    def test_the_last_of_a_repeated_key_wins(self, calls: _Calls) -> None:
        """One key twice in a batch keeps the later payload."""
        calls.write_many([("c:1", b"first", 60), ("c:1", b"second", 60)])
        assert _payload(calls.read("c:1")) == b"second"

    def test_a_large_batch_works(self, calls: _Calls) -> None:
        """Thousands of keys go in, out and away in one call each."""
        items = [(f"c:{n}", b"%d" % n, 60.0) for n in range(3000)]
        calls.write_many(items)
        keys = [key for key, _, _ in items]
        assert [_payload(each) for each in calls.read_many(keys)] == [item[1] for item in items]
        assert calls.delete(keys) == 3000

    def test_delete_counts_what_existed(self, calls: _Calls) -> None:
        """Delete removes the keys, and says how many there were."""
        calls.write_many([("c:1", b"1", 60), ("c:2", b"2", None), ("c:3", b"3", 60)])
        assert calls.delete(["c:1", "c:2", "c:missing"]) == 2
        assert calls.delete(["c:1"]) == 0
        assert [_payload(each) for each in calls.read_many(["c:1", "c:2", "c:3"])] == [
            None,
            None,
            b"3",
        ]

    @pytest.mark.parametrize("key", _ODD_KEYS, ids=ascii)
    def test_any_text_is_a_key(self, calls: _Calls, key: str) -> None:
        """Every str works as a key and is not taken for another."""
        calls.write("c:plain", b"plain", 60)
        calls.write(key, b"odd", 60)
        assert _payload(calls.read(key)) == b"odd"
        assert [_payload(each) for each in calls.read_many([key, "c:plain"])] == [b"odd", b"plain"]
        assert calls.delete([key]) == 1
        assert calls.read("c:plain") is not None

    def test_clear_removes_one_prefix(self, calls: _Calls) -> None:
        """Clear takes every key of a prefix and no other, however alike their names."""
        spared = ["cc:1", "c", "ca:1", "C:1", "b:c:1", "c;1"]
        calls.write_many([(key, b"spared", 60) for key in spared])
        calls.write_many([(f"c:{n}", b"gone", 60) for n in range(2500)])
        calls.clear("c:")
        assert calls.read_many([f"c:{n}" for n in range(2500)]) == [None] * 2500
        assert None not in calls.read_many(spared)

    @pytest.mark.parametrize("namespace", ["*", "a?c", "[ab]", "a\\", "{x}", "a^-b"])
    def test_clear_takes_a_prefix_literally(self, calls: _Calls, namespace: str) -> None:
        """Characters that are wildcards somewhere mean themselves."""
        calls.write_many([("abc:1", b"spared", 60), ("a:1", b"spared", 60)])
        calls.write(f"{namespace}:1", b"gone", 60)
        calls.clear(f"{namespace}:")
        assert calls.read(f"{namespace}:1") is None
        assert None not in calls.read_many(["abc:1", "a:1"])

    def test_clear_of_nothing_is_no_error(self, calls: _Calls) -> None:
        """A prefix without keys can be cleared."""
        calls.clear("never-used:")

    def test_a_closed_store_opens_again(self, calls: _Calls) -> None:
        """Close may come twice, and a call after it works."""
        calls.write("c:1", b"payload", 60)
        calls.close()
        calls.close()
        calls.write("c:2", b"payload", 60)
        assert calls.read("c:2") is not None

    def test_threads_do_not_mix_up_their_answers(self, store: Store) -> None:
        """Many threads that read and write at once each get their own key's payload."""
        store.write_many([(f"c:{n}", b"%d" % n, 60) for n in range(8)])
        barrier = threading.Barrier(8)

        def work(number: int) -> None:
            barrier.wait()
            for turn in range(30):
                assert _payload(store.read(f"c:{number}")) == b"%d" % number
                store.write(f"c:own{number}", b"%d" % turn, 60)
                assert _payload(store.read(f"c:own{number}")) == b"%d" % turn

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    def test_tasks_do_not_mix_up_their_answers(self, store: Store) -> None:
        """Many tasks that read at once each get their own key's payload, or their miss."""

        async def main() -> None:
            await store.awrite_many([(f"c:{n}", b"%d" % n, 60) for n in range(100)])
            for _ in range(10):
                answers = await asyncio.gather(*(store.aread(f"c:{n}") for n in range(120)))
                expected = [b"%d" % n if n < 100 else None for n in range(120)]
                assert [_payload(each) for each in answers] == expected
            await store.aclose()

        asyncio.run(main())

    def test_a_store_outlives_event_loops(self, store: Store) -> None:
        """One asyncio.run after another, and blocking calls between them, all work."""

        async def bump(number: int) -> bytes | None:
            before = _payload(await store.aread("c:1"))
            await store.awrite("c:1", b"%d" % number, 60)
            return before

        assert asyncio.run(bump(1)) is None
        assert _payload(store.read("c:1")) == b"1"
        assert asyncio.run(bump(2)) == b"1"
        assert asyncio.run(bump(3)) == b"2"

    def test_loops_in_several_threads_work_at_once(self, store: Store) -> None:
        """Each thread may run its own loop over the same store."""

        async def work(number: int) -> None:
            for turn in range(20):
                await store.awrite(f"c:{number}", b"%d" % turn, 60)
                assert _payload(await store.aread(f"c:{number}")) == b"%d" % turn

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: asyncio.run(work(number)), range(4)))

    def test_a_cancelled_read_disturbs_nobody(self, store: Store) -> None:
        """Cancelling one of several concurrent reads leaves the others' answers alone."""

        async def main() -> None:
            await store.awrite("c:1", b"payload", 60)
            for victim in range(5):
                tasks = [asyncio.ensure_future(store.aread("c:1")) for _ in range(5)]
                await asyncio.sleep(0)
                tasks[victim].cancel()
                await asyncio.wait(tasks)
                others = tasks[:victim] + tasks[victim + 1 :]
                assert {_payload(each.result()) for each in others} == {b"payload"}
                assert tasks[victim].cancelled() or tasks[victim].result() is not None
            await store.aclose()

        asyncio.run(main())

    def test_it_says_who_it_is(self, store: Store) -> None:
        """A label and a positive timeout are there for logs and budgets."""
        assert store.label
        assert store.timeout > 0


def _payload(stored: Stored | None) -> bytes | None:
    return None if stored is None else bytes(stored.payload)


def _remaining(stored: Stored | None) -> float:
    assert stored is not None
    assert stored.remaining is not None
    return stored.remaining
