"""The lock on a real server: killed, frozen, restarted empty, and processes that contend for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.waiting import until
from tiercache import Cache, LockLost, LockTimeout, Redis
from tiercache.coherence import pursuit

ROOT = Path(__file__).parents[2]
TIMEOUT = 0.15  # the store's, where it is to be waited for
TTL = 1.5
LONG = 60.0
SLACK = 3.0  # for a busy machine; less than what would come instead


@pytest.fixture
def make_cache():
    """Make caches as processes would: each has its own store, connections and bus."""
    caches = []

    def make(server, timeout=5.0):
        caches.append(Cache("jobs", l2=Redis(server.url, timeout=timeout)))
        return caches[-1]

    yield make
    for cache in caches:
        cache.close()


@pytest.fixture
def script():
    """Run pieces of Python in processes of their own."""
    processes = []

    def run(code, *args):
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *map(str, args)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def has_waiters(server):
    """Whether somebody was refused the lock, and marked it so (lock.lua)."""
    keys = server.command("EVAL", LOCKS_WITH_WAITERS, "0")
    return keys == b":1\r\n"


LOCKS_WITH_WAITERS = """
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TYPE', key).ok == 'string' and redis.call('GET', key):match('^x.*w$') then
    return 1
  end
end
return 0
"""


def test_two_commands(server, make_cache):
    """A lock that is free costs one command to get and one to release."""
    cache = make_cache(server)
    with cache.lock("warm"):
        pass
    server.command("CONFIG", "RESETSTAT")
    with cache.lock("job"):
        pass
    calls = server.command_calls()
    assert calls["evalsha"] == 2 and "eval" not in calls and "xadd" not in calls


@pytest.fixture
def never_polling(monkeypatch):
    """Only news lets a waiter in: polls come too late for any test."""
    monkeypatch.setattr(pursuit, "FIRST_POLL", LONG)


@pytest.mark.usefixtures("never_polling")
def test_a_waiter_in_another_process_is_woken(server, make_cache):
    """News of the release comes over the bus, long before the holder's time would end."""
    one, other = make_cache(server), make_cache(server)
    other.get("warm")  # it listens from now on
    woken_after = []
    for _ in range(3):
        lock = one.lock("job", ttl=LONG)
        lock.acquire()
        got = []

        def wait_for_it(got=got):
            with other.lock("job", ttl=LONG):
                got.append(time.monotonic())

        thread = threading.Thread(target=wait_for_it)
        thread.start()
        until(lambda: has_waiters(server))
        released = time.monotonic()
        lock.release()
        thread.join(10)
        woken_after.append(got[0] - released)
    assert min(woken_after) < 0.1


@pytest.mark.usefixtures("never_polling")
async def test_a_waiting_task_is_woken(server, make_cache):
    """The same for a task."""
    one, other = make_cache(server), make_cache(server)
    await other.aget("warm")
    woken_after = []
    for _ in range(3):
        lock, wanted = one.alock("job", ttl=LONG), other.alock("job", ttl=LONG)
        await lock.acquire()
        waiter = asyncio.create_task(wanted.acquire())
        while not has_waiters(server):
            await asyncio.sleep(0.01)
        released = time.monotonic()
        await lock.release()
        await waiter
        woken_after.append(time.monotonic() - released)
        await wanted.release()
    assert min(woken_after) < 0.1
    await one.aclose()
    await other.aclose()


def test_no_keys_are_left_behind(server, make_cache):
    """However many names there were, the namespace keeps one counter for their fences."""
    cache = make_cache(server)
    before = int(server.command("DBSIZE").strip(b":\r\n"))
    for number in range(50):
        with cache.lock(f"job {number}"):
            pass
    assert int(server.command("DBSIZE").strip(b":\r\n")) <= before + 1


def test_restarted_empty(own_server, make_cache):
    """A holder hears that its lock is gone; the next one's fence is greater all the same."""
    cache = make_cache(own_server)
    lock = cache.lock("job", ttl=6)
    lock.acquire()
    own_server.restart()
    until(lambda: lock.lost)
    with pytest.raises(LockLost, match="the store no longer holds it"):  # it was not overdue
        lock.check()
    with pytest.raises(LockLost):
        lock.release()
    with cache.lock("job", wait=5) as other:
        assert other.fence > lock.fence


async def test_restarted_empty_under_a_task(own_server, make_cache):
    """The block of a task is cancelled, and LockLost comes out of it."""
    cache = make_cache(own_server)
    lock = cache.alock("job", ttl=TTL)
    reached = []

    async def hold():
        async with lock:
            own_server.restart()
            await asyncio.sleep(10)
            reached.append(1)

    with pytest.raises(LockLost):
        await hold()
    assert not reached
    async with cache.alock("job", wait=5) as other:
        assert other.fence > lock.fence
    await cache.aclose()


def test_killed_under_a_held_lock(own_server, make_cache):
    """Within its ttl a holder knows that the lock is lost; who wants one is told why not."""
    cache, other = make_cache(own_server), make_cache(own_server)
    lock = cache.lock("job", ttl=TTL)
    began = time.monotonic()
    lock.acquire()
    own_server.kill()
    with pytest.raises(LockTimeout, match="store is out of reach") as caught:
        other.lock("job", wait=0.1).acquire()
    assert f"127.0.0.1:{own_server.port}" in str(caught.value)
    until(lambda: lock.lost)
    assert time.monotonic() - began < TTL + SLACK
    with pytest.raises(LockLost, match="did not renew it within its ttl"):
        lock.release()
    own_server.start()
    with other.lock("job", wait=5) as next_one:
        assert next_one.fence > lock.fence


def test_a_short_freeze_loses_nothing(own_server, make_cache):
    """A server that stands still for less than the ttl costs no lock."""
    cache = make_cache(own_server, TIMEOUT)
    with cache.lock("job", ttl=3) as lock:
        own_server.freeze()
        end = lock._hold.until
        time.sleep(1.0 + 2 * TIMEOUT)  # a renewal fails meanwhile
        assert lock._hold.until == end
        own_server.thaw()
        until(lambda: lock._hold.until > end)
        assert lock.is_held


def test_frozen_under_a_held_lock(own_server, make_cache):
    """Frozen for longer, holders are told in time, and afterwards the lock is free again."""
    cache, other = make_cache(own_server, TIMEOUT), make_cache(own_server, TIMEOUT)
    lock = cache.lock("job", ttl=TTL)
    began = time.monotonic()
    lock.acquire()
    own_server.freeze()
    try:
        until(lambda: lock.lost)
        assert time.monotonic() - began < TTL + SLACK
        asked = time.monotonic()
        with pytest.raises(LockTimeout, match="out of reach"):
            other.lock("job", ttl=TTL, wait=0).acquire()
        assert time.monotonic() - asked < 3 * TIMEOUT + SLACK
        with pytest.raises(LockLost):
            lock.release()
    finally:
        own_server.thaw()
    # What was asked of the frozen server is done now, and has ended within its ttl.
    with other.lock("job", wait=5) as next_one:
        assert next_one.fence > lock.fence


async def test_frozen_under_a_task(own_server, make_cache):
    """The block of a task is cancelled within the ttl, though no answer comes."""
    cache = make_cache(own_server, TIMEOUT)
    left = []

    async def hold():
        async with cache.alock("job", ttl=TTL):
            own_server.freeze()
            began = time.monotonic()
            try:
                await asyncio.sleep(10)
            finally:
                left.append(time.monotonic() - began)

    try:
        with pytest.raises(LockLost):
            await hold()
    finally:
        own_server.thaw()
    assert left[0] < TTL + SLACK
    async with cache.alock("job", wait=5):
        pass
    await cache.aclose()


async def test_cancelled_tasks_leave_the_lock_free(server, make_cache):
    """Tasks cancelled at any point of asking, waiting, holding and releasing keep nothing."""
    cache = make_cache(server)

    async def work():
        async with cache.alock("job", ttl=LONG):
            await asyncio.sleep(0.0005)

    for delay in range(40):
        tasks = [asyncio.create_task(work()) for _ in range(5)]
        await asyncio.sleep(delay * 0.0002)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with cache.alock("job", wait=2):
        pass
    await cache.aclose()


HOLDER = """
import sys, time
from tiercache import Cache, Redis, LockLost
url, ttl = sys.argv[1], float(sys.argv[2])
cache = Cache("jobs", l2=Redis(url, timeout=5))
with cache.lock("warm"):  # what it imports is not to use up the ttl
    pass
lock = cache.lock("job", ttl=ttl)
lock.acquire()
print(lock.fence, flush=True)
sys.stdin.readline()
print("lost" if lock.lost else "held", flush=True)
try:
    lock.release()
    print("released", flush=True)
except LockLost:
    print("LockLost", flush=True)
"""


def test_a_holder_that_is_killed(server, make_cache, script):
    """Its lock ends by the ttl, however long it had been renewed, and the fence grows."""
    holder = script(HOLDER, server.url, TTL)
    fence = int(holder.stdout.readline())
    time.sleep(1.3 * TTL)
    cache = make_cache(server)
    with pytest.raises(LockTimeout):
        cache.lock("job", wait=0).acquire()
    holder.kill()
    killed = time.monotonic()
    with cache.lock("job", wait=10) as lock:
        assert time.monotonic() - killed < TTL + SLACK
        assert lock.fence > fence


def test_a_holder_that_is_stopped(server, make_cache, script):
    """It cannot know while it stands still; as soon as it goes on it does, and the fence tells."""
    holder = script(HOLDER, server.url, TTL)
    fence = int(holder.stdout.readline())
    os.kill(holder.pid, signal.SIGSTOP)
    cache = make_cache(server)
    with cache.lock("job", wait=10) as lock:
        assert lock.fence > fence
        os.kill(holder.pid, signal.SIGCONT)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "lost\n"
        assert holder.stdout.readline() == "LockLost\n"
        assert lock.is_held  # the late release took nothing from us
    assert not lock.lost


CONTENDER = """
import asyncio, json, pathlib, sys
from tiercache import Cache, Redis
url, directory, rounds, kind = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
cache = Cache("jobs", l2=Redis(url, timeout=5))

def touch(fence):  # a read, a write and a line: wrong at once if two do it together
    path = directory / "count"
    count = int(path.read_text())
    path.write_text("")
    path.write_text(str(count + 1))
    with (directory / "log").open("a") as log:
        log.write(json.dumps([count, fence]) + "\\n")

async def task():
    for _ in range(rounds):
        async with cache.alock("job", ttl=5) as lock:
            touch(lock.fence)

async def main():
    await asyncio.gather(*[task() for _ in range(4)])
    await cache.aclose()

print("ready", flush=True)
sys.stdin.readline()
if kind == "asyncio":
    asyncio.run(main())
else:
    import threading

    def work():
        for _ in range(rounds):
            with cache.lock("job", ttl=5) as lock:
                touch(lock.fence)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    cache.close()
print("done", flush=True)
"""


def test_processes_contend(server, script, tmp_path):
    """Two processes of threads and tasks count in a file without losing one, fences in order."""
    rounds = 15
    (tmp_path / "count").write_text("0")
    contenders = [
        script(CONTENDER, server.url, tmp_path, rounds, kind) for kind in ("blocking", "asyncio")
    ]
    for contender in contenders:
        assert contender.stdout.readline() == "ready\n"
    for contender in contenders:
        contender.stdin.write("\n")
        contender.stdin.flush()
    for contender in contenders:
        assert contender.stdout.readline() == "done\n"
        assert contender.wait(30) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert int((tmp_path / "count").read_text()) == 2 * 4 * rounds
    assert [count for count, _ in lines] == list(range(2 * 4 * rounds))
    fences = [fence for _, fence in lines]
    assert fences == sorted(set(fences))
