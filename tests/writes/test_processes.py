"""Forks, signals, and a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.waiting import until
from tests.writes.conftest import Place
from tests.writes.database import Database
from tiercache import Cache, Redis
from tiercache.errors import ConfigurationError

SCRIPT = """
import signal, sys, time
from tests.writes.database import Database
from tiercache import Cache, Redis
{before}
cache = Cache("users", l2=Redis({url!r}, timeout=5), jitter=0)
database = Database({table!r})
behind = cache.write_behind(database.write, key="user:{{}}", max_delay="1h", on_sigterm=True)
for number in range(50):
    behind.put(number, number)
print("ready", flush=True)
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize("has_handler", [False, True])
def test_sigterm_writes_what_is_pending(server, tmp_path, has_handler):
    """Then the process ends as it would have: by the signal, or by the handler that was there."""
    before = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))" if has_handler else ""
    table = str(tmp_path / "table.db")
    script = SCRIPT.format(before=before, url=server.url, table=table)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            assert not Database(table).rows()
            process.terminate()
            assert process.wait(20) == (7 if has_handler else -signal.SIGTERM)
        finally:
            process.kill()
    assert Database(table).rows() == {number: number for number in range(50)}


def test_sigterm_is_asked_for_in_the_main_thread():
    """Elsewhere Python does not let handlers be installed; the remedy is named."""
    import threading

    caught = []

    def attempt():
        with Cache("u", l2=None) as cache:
            try:
                cache.write_behind(len, key="u:{}", durable=False, on_sigterm=True)
            except ConfigurationError as error:
                caught.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "needs the main thread" in caught[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("kind", ["memory", "redis", "sqlite"])
def test_a_forked_child_writes_its_own(kind, request, tmp_path):
    """What the parent has accepted is written once; the child has workers of its own."""
    server = request.getfixturevalue("server") if kind == "redis" else None
    place = Place(kind, server, str(tmp_path / "cache.db"))
    database = Database(str(tmp_path / "table.db"))
    behind = place.behind(database.write, max_delay="1h")
    behind.put(1, 1)
    child = os.fork()
    if not child:
        code = 1
        try:
            behind.put(2, 2)
            code = behind.flush()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert database.rows()[2] == 2
    assert behind.flush() == 0
    assert [value for _, value, _ in database.seen()].count(1) == 1
    for cache in place.caches:
        cache.close()


def test_in_a_cluster(tmp_path):
    """The journal is on one node, the entries on others."""
    from tests.clusters import RedisCluster

    with RedisCluster() as cluster:
        database = Database(str(tmp_path / "table.db"))
        with (
            Cache("users", l2=Redis.cluster(cluster.url, timeout=5), jitter=0) as cache,
            Cache("users", l2=Redis.cluster(cluster.url, timeout=5), jitter=0) as other,
        ):
            behind = cache.write_behind(database.write, key="user:{}", max_delay="1h")
            other.write_behind(database.write, key="user:{}", workers=0)
            for number in range(30):
                behind.put(number, number)
            behind.put(1, 100)
            behind.delete(2)
            assert other.get("user:1") == 100
            until(lambda: other.get("user:2") is None)
            cache.clear()
            assert other.get_or_load("user:1", lambda: "older row") == 100
            assert other.get_or_load("user:2", lambda: "older row") is None
            assert behind.flush() == 0
            rows = database.rows()
            assert (rows.pop(1), rows.pop(2)) == (100, None)
            assert rows == {number: number for number in range(30) if number not in (1, 2)}
