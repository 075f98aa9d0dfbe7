"""``cache.writing`` in a transaction: both the database and the cache have it, or neither."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event

from tests.kinds import Kind
from tests.plugins.conftest import Database, User
from tests.waiting import until
from tiercache import MISS, Cache, ConfigurationError, WriteFailed
from tiercache.testing import DictStore, FaultyStore
from tiercache_plugins.sqlalchemy import after_commit


class Failure(Exception):
    """What happens in a block."""


class Unit:
    """A cache of users over a faulty L2, a peer, and a session."""

    def __init__(self, kind: Kind, make_cache: Callable[..., Cache], database: Database) -> None:
        self.kind, self.database = kind, database
        inner = DictStore()
        self.store = FaultyStore(inner)
        self.cache, self.peer = make_cache(l2=self.store), make_cache(l1=None, l2=inner)
        self.session = database.session()
        kind.do(self.cache, "set", "user:1", "old")

    def seen(self) -> tuple[Any, Any]:
        """Return what this process and another find in the cache."""
        until(lambda: not self.cache.stats().owed)
        values = [self.kind.do(each, "get", "user:1", MISS) for each in (self.cache, self.peer)]
        return values[0], values[1]

    def write(self, name: str, *, fails: str = "", **options: Any) -> None:
        """Rename the user in one transaction; fails: in the block, after it, or at the commit."""
        if self.kind.name == "blocking":
            self._write(name, fails, options)
        else:
            self.kind.call(self._awrite, name, fails, options)

    def _write(self, name: str, fails: str, options: dict[str, Any]) -> None:
        with self.session as session, session.begin():
            with self.cache.writing("user:1", name, **options):
                session.get(User, 1).name = name
                session.flush()
                if fails == "in the block":
                    raise Failure
            if fails == "after it":
                raise Failure

    async def _awrite(self, name: str, fails: str, options: dict[str, Any]) -> None:
        async with self.session as session, session.begin():
            async with self.cache.writing("user:1", name, **options):
                (await session.get(User, 1)).name = name
                await session.flush()
                if fails == "in the block":
                    raise Failure
            if fails == "after it":
                raise Failure


@pytest.fixture
def unit(kind: Kind, make_cache: Callable[..., Cache], database: Database) -> Unit:
    return Unit(kind, make_cache, database)


@pytest.mark.parametrize("waits", [False, True])
def test_both(unit: Unit, waits: bool) -> None:
    """A transaction that commits leaves the value in the database, here, and elsewhere."""
    unit.write("new", **({"after": after_commit(lambda: unit.session)} if waits else {}))
    assert unit.database.name_of() == "new"
    assert unit.seen() == ("new", "new")


def test_visible_after_the_commit_only(unit: Unit) -> None:
    """With after= nobody sees the value before the database has it."""
    seen: list[Any] = []
    session = getattr(unit.session, "sync_session", unit.session)
    event.listen(session, "before_commit", lambda _: seen.append(unit.peer.get("user:1")))
    unit.write("new", after=after_commit(lambda: unit.session))
    assert seen == ["old"]
    assert unit.seen() == ("new", "new")


@pytest.mark.parametrize("fails", ["in the block", "after it"])
def test_neither_where_it_rolls_back(unit: Unit, fails: str) -> None:
    """A rollback leaves no value behind that the database does not have."""
    with pytest.raises(Failure):
        unit.write("new", fails=fails, after=after_commit(lambda: unit.session))
    assert unit.database.name_of() == "Ada"
    assert "new" not in unit.seen()
    if fails == "after it":  # and then nothing was touched
        assert unit.seen()[1] == "old"


def test_a_block_that_raises_leaves_nothing(unit: Unit) -> None:
    """Without after=, too."""
    with pytest.raises(Failure):
        unit.write("new", fails="in the block")
    assert unit.database.name_of() == "Ada"
    assert unit.seen() == (MISS, MISS)


@pytest.mark.parametrize("waits", [False, True])
def test_neither_where_the_cache_fails(unit: Unit, waits: bool) -> None:
    """A cache that is out of reach rolls the transaction back, before anything is written."""
    options = {"after": after_commit(lambda: unit.session)} if waits else {}
    unit.store.fail()
    with pytest.raises(WriteFailed):
        unit.write("new", **options)
    assert unit.database.name_of() == "Ada"
    unit.store.heal()
    assert "new" not in unit.seen()


@pytest.mark.parametrize("waits", [False, True])
def test_neither_where_the_cache_fails_meanwhile(unit: Unit, waits: bool) -> None:
    """So does one that fails during the block."""
    options = {"after": after_commit(lambda: unit.session)} if waits else {}
    session = getattr(unit.session, "sync_session", unit.session)
    event.listen(session, "after_flush", lambda *_: unit.store.fail())
    with pytest.raises(WriteFailed):
        unit.write("new", **options)
    assert unit.database.name_of() == "Ada"
    unit.store.heal()
    assert "new" not in unit.seen()


def test_by_choice_the_write_goes_on(unit: Unit) -> None:
    """With "invalidate" the database has it, and the cache forgets what it had."""
    unit.store.fail()
    unit.write("new", on_cache_failure="invalidate")
    assert unit.database.name_of() == "new"
    unit.store.heal()
    assert unit.seen() == (MISS, MISS)


def test_a_write_between_wins(unit: Unit) -> None:
    """Where the key is written between the block and the commit, neither value is kept."""
    session = getattr(unit.session, "sync_session", unit.session)
    event.listen(session, "before_commit", lambda _: unit.peer.set("user:1", "between"))
    unit.write("new", after=after_commit(lambda: unit.session))
    assert unit.seen() == (MISS, MISS)


def test_a_commit_in_doubt_invalidates(unit: Unit) -> None:
    """Where nobody knows whether the transaction was committed, the key is removed."""
    session = getattr(unit.session, "sync_session", unit.session)

    def fail(_: Any) -> None:
        raise Failure

    event.listen(session, "after_commit", fail)
    event.listen(session, "before_commit", lambda _: None)
    with pytest.raises(Failure):
        unit.write("new", after=after_commit(lambda: unit.session))
    assert unit.seen() == (MISS, MISS) or unit.seen() == ("new", "new")


def test_write_through_waits_for_the_commit(unit: Unit, kind: Kind) -> None:
    """@write_through takes after=, too."""
    save = unit.cache.write_through("user:{x}", after=after_commit(lambda: unit.session))(
        kind.function(lambda x, name: name)
    )
    kind.call(unit.session.get, User, 1)
    kind.call(save, 1, "new")
    assert unit.seen() == ("old", "old")
    kind.call(unit.session.commit)
    assert unit.seen() == ("new", "new")


def test_bad_options(cache: Cache) -> None:
    """What cannot work is refused where the block is made."""
    with pytest.raises(ConfigurationError, match="on_cache_failure"):
        cache.writing("k", 1, on_cache_failure="never")
    with pytest.raises(ConfigurationError, match="after must be"):
        cache.writing("k", 1, after=3)


def test_reads_before_the_commit_do_not_wait(unit: Unit, kind: Kind) -> None:
    """A read of the key between the block and the commit loads at once; the publication wins."""
    get = unit.cache.cached("user:{x}")(kind.function(lambda x: "loaded"))
    kind.do(unit.cache, "delete", "user:1")
    save = unit.cache.write_through("user:{x}", after=after_commit(lambda: unit.session))(
        kind.function(lambda x, name: name)
    )
    kind.call(unit.session.get, User, 1)
    kind.call(save, 1, "new")
    began = time.monotonic()
    assert kind.call(get, 1) == "loaded"
    assert kind.call(get.many, [1]) == {1: "loaded"}
    assert time.monotonic() - began < 2.5  # a lease that is waited for lasts three seconds
    kind.call(unit.session.commit)
    assert unit.seen() == ("new", "new")
