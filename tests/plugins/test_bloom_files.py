"""Snapshots of a Bloom filter: believed only where they are whole, ours, and say all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until
from tiercache import Cache, Event
from tiercache.testing import DictStore
from tiercache_plugins import BloomGuard
from tiercache_plugins._bloom_series import Series
from tiercache_plugins._bloom_snapshot import _HEAD, NotASnapshot, SnapshotFile, decode, encode

KEY = "user:{user_id}"


class Source:
    """Ids that can be held back."""

    def __init__(self, *ids: int) -> None:
        self.rows = list(ids)
        self.reads = 0
        self.may_read = threading.Event()
        self.may_read.set()

    def __call__(self) -> list[int]:
        self.reads += 1
        assert self.may_read.wait(10)
        return list(self.rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.bloom"


@pytest.fixture
def source() -> Source:
    return Source(1, 2, 3)


def run(make_cache: Callable[..., Cache], source: Any, path: Path, **options: Any) -> Any:
    guard = BloomGuard(source, key=KEY, snapshot=path, **options)
    return make_cache(plugins=[guard]), guard


class TestTrusted:
    def test_begins_ready(self, make_cache: Callable[..., Cache], source: Source, path) -> None:
        """What a clean stop has left is answered from at once, without reading an id."""
        cache, guard = run(make_cache, source, path, trust_snapshot=True)
        assert guard.wait_until_ready(10)
        cache.delete("user:77")
        cache.close()
        source.may_read.clear()
        _, guard = run(make_cache, source, path, trust_snapshot=True)
        assert guard.wait_until_ready(10)
        assert source.reads == 1
        assert guard.contains(2) and guard.contains(77) and not guard.contains(78)

    def test_not_after_a_crash(
        self, make_cache: Callable[..., Cache], source: Source, path
    ) -> None:
        """A file whose process has added a key since, and has not stopped, is not answered from."""
        cache, guard = run(make_cache, source, path, trust_snapshot=True)
        assert guard.wait_until_ready(10)
        until(path.exists)
        left_behind = path.read_bytes()
        assert decode(left_behind, KEY, 0.01).is_complete
        cache.delete("user:1")  # known
        assert path.read_bytes() == left_behind
        cache.delete("user:77")
        left_behind = path.read_bytes()
        assert not decode(left_behind, KEY, 0.01).is_complete
        cache.close()
        path.write_bytes(left_behind)
        source.may_read.clear()
        _, guard = run(make_cache, source, path, trust_snapshot=True)
        until(lambda: source.reads == 2)
        assert guard.contains(78) and not guard.is_ready
        source.may_read.set()
        assert guard.wait_until_ready(10)

    def test_not_twice_where_others_create(
        self, make_cache: Callable[..., Cache], source: Source, path
    ) -> None:
        """With an L2 a file is complete on a clean stop only, and only until it is used."""
        store = DictStore()

        def start() -> tuple[Cache, BloomGuard]:
            guard = BloomGuard(source, key=KEY, snapshot=path, trust_snapshot=True)
            return make_cache(l2=store, plugins=[guard]), guard

        def is_complete() -> bool:
            return path.exists() and decode(path.read_bytes(), KEY, 0.01).is_complete

        cache, guard = start()
        assert guard.wait_until_ready(10)
        until(path.exists)
        assert not is_complete()
        cache.close()
        assert is_complete()
        cache, guard = start()
        assert guard.wait_until_ready(10)
        assert source.reads == 1 and not is_complete()
        cache.hooks.tell(Event("bus_gap", cache.name, ""))
        source.may_read.clear()
        until(lambda: source.reads >= 2)
        other, _ = start()
        other.close()  # before it was ready
        assert not is_complete()
        source.may_read.set()
        assert guard.wait_until_ready(10)
        cache.close()
        assert is_complete()

    def test_not_if_something_came_first(
        self, make_cache: Callable[..., Cache], source: Source, path
    ) -> None:
        """A key that is written before the file has been read makes it incomplete."""
        cache, guard = run(make_cache, source, path)
        assert guard.wait_until_ready(10)
        cache.close()
        guard = BloomGuard(source, key=KEY, snapshot=path, trust_snapshot=True)
        guard.on_write(["user:77"])
        make_cache(plugins=[guard])
        assert guard.wait_until_ready(10)
        assert source.reads == 2 and guard.contains(77)


def test_untrusted_tells_the_size(
    make_cache: Callable[..., Cache], source: Source, path: Path
) -> None:
    """By default a file only says how large the filter has to be; the ids are read."""
    source.rows = list(range(5_000))
    cache, guard = run(make_cache, source, path, capacity=1_000)
    assert guard.wait_until_ready(10)
    cache.close()

    def ids() -> Any:
        source()
        yield from source.rows  # of unknown number

    source.may_read.clear()
    _, guard = run(make_cache, ids, path, capacity=1_000)
    until(lambda: source.reads == 2)
    assert guard.contains(-1) and not guard.is_ready
    source.may_read.set()
    assert guard.wait_until_ready(10)
    stats = guard.stats()
    assert stats.capacity == pytest.approx(6_250, rel=0.02)
    assert len(guard._members.live.filters) == 1


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "of zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: os.urandom(len(data)),
    "its head": lambda data: data[:20],
    "truncated": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "one bit in its head": lambda data: _flipped(data, _HEAD.size + 5),
    "one bit in its bits": lambda data: _flipped(data, len(data) - 10),
    "an enormous head": lambda data: data[:16] + b"\xff\xff\xff\xff" + data[20:],
    "another version": lambda data: b"TCBLM9\n" + data[7:],
    "of other keys": lambda data: encode(Series(10, 0.01), "post:{}", is_complete=True),
    "of another rate": lambda data: encode(Series(10, 0.02), KEY, is_complete=True),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(
    make_cache: Callable[..., Cache],
    source: Source,
    path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file that is truncated, damaged or foreign is ignored with one warning, and replaced."""
    series = Series(1_000, 0.01)
    series.add("user:1")
    path.write_bytes(DAMAGES[damage](encode(series, KEY, is_complete=True)))
    cache, guard = run(make_cache, source, path, trust_snapshot=True)
    assert guard.wait_until_ready(10)
    assert source.reads == 1 and guard.contains(2) and not guard.contains(77)
    assert caplog.text.count("is ignored") == 1
    cache.close()
    assert SnapshotFile(path, KEY, 0.01).read() is not None


def test_a_head_that_lies(path: Path) -> None:
    """A head with a right digest that asks for more than there is takes no memory for it."""
    series = Series(1_000, 0.01)
    data = encode(series, KEY, is_complete=True)
    length = _HEAD.unpack_from(data)[3]
    head = json.loads(data[_HEAD.size : _HEAD.size + length])
    head["filters"][0][0] = 10**15

    class Lying(Series):
        def dump(self) -> Any:
            return head["filters"], super().dump()[1]

    with pytest.raises(NotASnapshot, match="do not fit"):
        decode(encode(Lying(1_000, 0.01), KEY, is_complete=True), KEY, 0.01)


def test_a_place_that_cannot_be_written(
    make_cache: Callable[..., Cache], source: Source, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    """Trouble with the file is logged; the guard works without."""
    cache, guard = run(make_cache, source, tmp_path / "nowhere" / "users.bloom")
    assert guard.wait_until_ready(10)
    cache.delete("user:77")
    assert guard.contains(77) and not guard.contains(78)
    until(lambda: "cannot be written" in caplog.text)


def test_nothing_is_left_beside_it(
    make_cache: Callable[..., Cache], source: Source, path: Path
) -> None:
    """Files that are written are renamed into place, and no others stay."""
    cache, guard = run(make_cache, source, path)
    assert guard.wait_until_ready(10)
    guard.rebuild()
    until(lambda: guard.stats().builds == 2)
    cache.close()
    assert os.listdir(path.parent) == [path.name]
