"""What an attack on writes broke, once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import RedisServer
from tests.writes.conftest import Place
from tiercache import MISS, Cache, CacheError, Redis, SQLite
from tiercache.tiers.journal import JournalMismatch
from tiercache.writes import entering
from tiercache.writes.operation import Operation
from tiercache.writes.publishing import Publication


@pytest.fixture
def alone() -> Cache:
    """A cache without an L2, whose leases would tell."""
    with Cache("alone", jitter=0) as cache:
        yield cache


# Writing through, without L2


@pytest.mark.parametrize(
    "come_between",
    [
        lambda cache: cache.delete("k"),
        lambda cache: cache.set("k", "newer"),
        lambda cache: cache.writing("k", "newer").__enter__().__exit__(None, None, None),
        lambda cache: cache.clear(),
        lambda cache: cache.invalidate_tags("t"),
    ],
    ids=["delete", "set", "write", "clear", "tag"],
)
def test_a_publication_that_was_overtaken_removes_the_key(
    alone: Cache, come_between: Callable[[Cache], object]
) -> None:
    """Its value may be the older one: another write has come between."""
    waiting: list[Publication] = []
    with alone.writing("k", "older", tags=["t"], after=waiting.append):
        pass
    come_between(alone)
    waiting.pop()()
    assert alone.get("k", MISS) is MISS


def test_publications_in_the_wrong_order_leave_nothing(alone: Cache) -> None:
    """The one transaction committed first, and was told of last."""
    waiting: list[Publication] = []
    for value in "older", "newer":
        with alone.writing("k", value, after=waiting.append):
            pass
    waiting[1]()
    waiting[0]()
    assert alone.get("k", MISS) is MISS
    with alone.writing("k", "alone", after=waiting.append):
        pass
    waiting[2]()
    assert alone.get("k") == "alone"


@pytest.mark.parametrize(
    "invalidate",
    [lambda cache: cache.clear(), lambda cache: cache.invalidate_tags("t")],
    ids=["clear", "tag"],
)
def test_what_is_invalidated_during_a_write_is_not_kept(
    alone: Cache, invalidate: Callable[[Cache], object]
) -> None:
    """The value was made before the invalidation, of all or of its tag."""
    with alone.writing("k", "older", tags=["t"]):
        invalidate(alone)
    assert alone.get("k", MISS) is MISS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_may_leave_a_block(alone: Cache) -> None:
    """Its parent's fence is not the child's."""
    code = 1
    child = -1
    try:
        with alone.writing("k", "v"):
            child = os.fork()
        code = 0
    finally:
        if not child:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert alone.get("k") == "v"


# Writing behind


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError], ids=lambda e: e.__name__)
@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "async"])
def test_no_exception_of_a_writer_ends_its_worker(
    place: Place, error: type[BaseException], is_async: bool
) -> None:
    """One that is no Exception counts as a failure, like any other."""
    rows: dict[int, str] = {}
    failures = [error()]

    def write(operations):
        if failures:
            raise failures.pop()
        rows.update((each.item, each.value) for each in operations)

    async def awrite(operations):
        write(operations)

    users = place.behind(awrite if is_async else write)
    users.put(1, "Ann")
    assert users.flush(5) == 0
    assert rows == {1: "Ann"}
    assert users.stats().failures == 1


def test_a_worker_outlives_what_nobody_thought_of(place: Place, monkeypatch) -> None:
    """An error of a journal that is no StoreError is trouble, too, and passes."""
    rows: dict[int, str] = {}
    users = place.behind(lambda ops: rows.update((each.item, each.value) for each in ops))
    errors, take = [RuntimeError("nobody thought of it")], users.journal.take

    def take_badly(*args):
        if errors:
            raise errors.pop()
        return take(*args)

    monkeypatch.setattr(users.journal, "take", take_badly)
    users.put(1, "Ann")
    assert users.flush(5) == 0
    assert rows == {1: "Ann"}


def test_what_a_put_brings_during_close_is_written(monkeypatch) -> None:
    """A put that had begun is in what close() writes, or is refused: its journal dies with it."""
    rows: dict[int, str] = {}
    is_in, may_go_on = threading.Event(), threading.Event()
    make = entering.Entering.make

    async def make_slowly(*args):
        is_in.set()
        may_go_on.wait(5)
        return await make(*args)

    monkeypatch.setattr(entering.Entering, "make", make_slowly)
    with Cache("closing") as cache:
        users = cache.write_behind(
            lambda ops: rows.update((each.item, each.value) for each in ops),
            key="user:{}",
            durable=False,
        )
        putting = threading.Thread(target=users.put, args=(1, "Ann"))
        putting.start()
        assert is_in.wait(5)
        threading.Timer(0.2, may_go_on.set).start()
        assert users.close() == 0
        putting.join()
        assert rows == {1: "Ann"}
        with pytest.raises(CacheError, match="closed"):
            users.put(2, "Bob")


def test_a_cancelled_put_leaves_no_older_value(server: RedisServer) -> None:
    """The journal in memory has it, the entry in L2 may not: that is owed, and paid unasked."""
    rows: list[Operation] = []

    async def main() -> None:
        here, there = (Cache("users", l2=Redis(server.url, timeout=5), jitter=0) for _ in range(2))
        users = here.write_behind(lambda ops: rows.extend(ops), key="user:{}", durable=False)
        await users.aput(2, "before")  # it is connected
        await there.aset("user:1", "older")
        putting = asyncio.create_task(users.aput(1, "newer"))
        await asyncio.sleep(0)
        putting.cancel()
        await asyncio.wait([putting])
        for _ in range(60):
            if await there.aget("user:1", MISS) != "older":
                break
            await asyncio.sleep(0.05)
        assert await there.aget("user:1", MISS) in ("newer", MISS)
        assert await users.aflush() == 0
        assert [each.item for each in rows] == [2, 1]
        await here.aclose()
        await there.aclose()

    asyncio.run(main())


def test_a_journal_of_another_format_is_not_said_to_be_empty(server: RedisServer) -> None:
    """A flush, or a look at the dead letters, that says "nothing is left" would be believed."""
    with Cache("users", l2=Redis(server.url, timeout=5), jitter=0) as cache:
        users = cache.write_behind(lambda ops: None, key="user:{}", name="w", workers=0)
        users.put(1, "Ann")
        server.command("HSET", "tc:{users}:writes:w:state", "format", "9")
        for look in lambda: users.flush(1), users.dead_letters, users.replay:
            with pytest.raises(JournalMismatch, match="of format '9'"):
                look()
        assert users.stats().depth is None


def test_a_put_interrupted_in_the_journal_leaves_no_older_value(
    server: RedisServer, monkeypatch
) -> None:
    """Nobody knows what became of it, in a cluster half of it: the key is invalidated."""

    async def interrupted(*args):
        raise asyncio.CancelledError

    async def main() -> None:
        async with Cache("users", l2=Redis(server.url, timeout=5), jitter=0) as cache:
            users = cache.write_behind(lambda ops: None, key="user:{}")
            await cache.aset("user:1", "older")
            monkeypatch.setattr(users.journal, "aput", interrupted)
            with pytest.raises(asyncio.CancelledError):
                await users.aput(1, "newer")
            assert await cache.aget("user:1", MISS) is MISS

    asyncio.run(main())


def test_puts_of_many_threads_take_turns(tmp_path) -> None:
    """SQLite has them poll for its lock: some starve until the timeout, and the breaker opens."""
    with Cache("turns", l2=SQLite(str(tmp_path / "cache.db"), timeout=5)) as cache:
        users = cache.write_behind(lambda ops: None, key="user:{}", workers=0)
        users.put(0, 0)
        inside: list[int] = []
        most = 0
        space = users.journal._space

        def entered(db):
            nonlocal most
            inside.append(1)
            most = max(most, len(inside))
            try:
                time.sleep(0.005)
                return space(db)
            finally:
                inside.pop()

        users.journal._space = entered
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(users.put, range(16), range(16)))
        assert most == 1
