"""``tiercache_plugins.sqlalchemy``: invalidated once the transaction has committed, not before."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.util import await_only

from tests.kinds import Asyncio, Blocking, Kind
from tests.plugins.conftest import Database, Pet, User
from tests.waiting import until
from tiercache import MISS, Cache, ConfigurationError, Invalidation, UncacheableArguments
from tiercache.testing import DictStore
from tiercache_plugins.sqlalchemy import after_commit, on_commit


class Unit:
    """One cached user, a session, and the functions that write through it."""

    def __init__(self, cache: Cache, database: Database, kind: Kind, **options: Any) -> None:
        self.cache, self.database, self.kind = cache, database, kind
        self.session = database.session(**options)
        self.rename = cache.invalidates("user:{user.id}", after=after_commit("session"))(
            kind.function(lambda session, user, name: setattr(user, "name", name))
        )
        self.fill()

    def fill(self, *user_ids: int) -> None:
        """Cache users as they were."""
        for user_id in user_ids or (1,):
            self.kind.do(self.cache, "set", f"user:{user_id}", "old")

    def is_cached(self, user_id: int = 1) -> bool:
        return self.cache.get(f"user:{user_id}", MISS) is not MISS

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the session."""
        return self.kind.call(getattr(self.session, method), *args, **kwargs)

    def write(self, name: str = "Ada L.", user_id: int = 1) -> None:
        """Rename a user and flush."""
        user = self.do("get", User, user_id)
        self.kind.call(self.rename, self.session, user, name)
        self.do("flush")


@pytest.fixture
def make_unit(cache: Cache, database: Database, kind: Kind) -> Callable[..., Unit]:
    """Make a unit of work; its options are those of the session."""
    return lambda **options: Unit(cache, database, kind, **options)


@pytest.fixture
def unit(make_unit: Callable[..., Unit]) -> Unit:
    """A unit of work."""
    return make_unit()


def only(kind: type[Kind]) -> Any:
    """Run a test for one kind of callers."""
    return pytest.mark.parametrize("kind", [kind], indirect=True, ids=[kind.name])


def waits(session: Any) -> bool:
    """Whether anything waits in a session."""
    return "tiercache.waiting" in session.info


# Commit and rollback


def test_waits_for_the_commit(unit: Unit) -> None:
    """The value is there until the commit, and gone after it; the session keeps nothing."""
    unit.write()
    assert unit.is_cached() and waits(unit.session)
    unit.do("commit")
    assert not unit.is_cached() and not waits(unit.session)
    assert unit.database.name_of() == "Ada L."


def test_others_see_the_write_first(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the key is removed, any other connection reads what was written."""
    seen: list[Any] = []
    delete, adelete = unit.cache.delete, unit.cache.adelete

    def look(*keys: str) -> int:
        seen.append((keys, unit.database.name_of()))
        return delete(*keys)

    async def alook(*keys: str) -> int:
        seen.append((keys, unit.database.name_of()))
        return await adelete(*keys)

    monkeypatch.setattr(unit.cache, "delete", look)
    monkeypatch.setattr(unit.cache, "adelete", alook)
    unit.write()
    unit.do("commit")
    assert seen == [(("user:1",), "Ada L.")]


@pytest.mark.parametrize("ending", ["rollback", "close", "reset", "invalidate"])
def test_dropped_without_a_commit(unit: Unit, ending: str) -> None:
    """A transaction that is rolled back has changed nothing, and drops what was collected."""
    unit.write()
    unit.do(ending)
    assert unit.is_cached() and not waits(unit.session)
    if ending == "rollback":
        unit.do("get", User, 1)
        unit.do("commit")  # another transaction
        assert unit.is_cached()
    assert unit.database.name_of() == "Ada"


def test_begin_as_a_context(unit: Unit) -> None:
    """``with session.begin()`` commits at its end, and rolls back when it is left by an error."""
    for fails in (True, False):
        with contextlib.suppress(ZeroDivisionError):
            _in_context(unit, fails=fails)
        assert unit.is_cached() is fails


def _in_context(unit: Unit, *, fails: bool) -> None:
    session = unit.session
    if unit.kind.name == "blocking":
        with session.begin():
            unit.rename(session, session.get(User, 1), "Ada L.")
            assert unit.is_cached()
            assert 1 / (not fails)
        return

    async def work() -> None:
        async with session.begin():
            await unit.rename(session, await session.get(User, 1), "Ada L.")
            assert unit.is_cached()
            assert 1 / (not fails)

    unit.kind.call(work)


def test_one_transaction_after_the_other(unit: Unit) -> None:
    """Each transaction of a session sends its own."""
    for ending, stays in [("commit", False), ("rollback", True), ("commit", False)]:
        unit.fill()
        unit.write(f"Ada {ending}")
        unit.do(ending)
        assert unit.is_cached() is stays


def test_at_once_outside_a_transaction(unit: Unit) -> None:
    """Where there is no transaction there is nothing to wait for."""
    touch = unit.cache.invalidates("user:{user_id}", after=after_commit("session"))(
        unit.kind.function(lambda session, user_id: None)
    )
    unit.kind.call(touch, unit.session, 1)
    assert not unit.is_cached()


# Functions that commit themselves


def test_a_function_that_commits(unit: Unit) -> None:
    """What the function has committed is invalidated before it returns."""
    unit.kind.call(_committing(unit, "user:{user_id}"), unit.session, 1)
    assert not unit.is_cached() and not waits(unit.session)


def test_a_function_that_commits_and_reads_on(unit: Unit) -> None:
    """The transaction that began after the function's commit has nothing to wait for."""
    unit.kind.call(_committing(unit, "user:{user_id}", reads=True), unit.session, 1)
    assert not unit.is_cached()
    unit.do("rollback")
    assert not unit.is_cached()


@only(Blocking)
def test_an_object_that_has_expired(make_unit: Callable[..., Unit]) -> None:
    """Rendering an object that the commit has expired reads it again; that changes nothing."""
    unit = make_unit(expire_on_commit=True)
    _committing(unit, "user:{result.id}")(unit.session, 1)
    assert unit.session.in_transaction()
    assert not unit.is_cached()


@only(Asyncio)
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)  # aiosqlite forgets a coroutine
def test_an_expired_object_of_an_async_session(make_unit: Callable[..., Unit]) -> None:
    """There reading it again cannot be awaited: the error names the template."""
    unit = make_unit(expire_on_commit=True)
    with pytest.raises(UncacheableArguments, match=r"'user:{result.id}' .*MissingGreenlet"):
        unit.kind.call(_committing(unit, "user:{result.id}"), unit.session, 1)
    assert unit.database.name_of() == "Ada L."


def _committing(unit: Unit, key: str, *, reads: bool = False) -> Callable[..., Any]:
    decorate = unit.cache.invalidates(key, after=after_commit("session"))
    if unit.kind.name == "blocking":

        @decorate
        def update(session: Session, user_id: int) -> User:
            user = session.get_one(User, user_id)
            user.name = "Ada L."
            session.commit()
            if reads:
                session.scalars(select(User)).all()
            return user

        return update

    @decorate
    async def aupdate(session: AsyncSession, user_id: int) -> User:
        user = await session.get_one(User, user_id)
        user.name = "Ada L."
        await session.commit()
        if reads:
            (await session.scalars(select(User))).all()
        return user

    return aupdate


# SAVEPOINTs


def test_a_released_savepoint(unit: Unit) -> None:
    """What was collected inside is kept for the outer commit."""
    unit.do("connection")
    savepoint = unit.do("begin_nested")
    unit.write()
    unit.kind.call(savepoint.commit)
    assert unit.is_cached()
    unit.do("commit")
    assert not unit.is_cached()


def test_a_savepoint_rolled_back(unit: Unit) -> None:
    """Only what was collected inside is dropped."""
    unit.do("connection")
    unit.do("merge", User(id=2, name="Bob"))
    unit.do("flush")
    unit.fill(1, 2)
    unit.write("Robert", user_id=2)
    savepoint = unit.do("begin_nested")
    unit.write()
    unit.kind.call(savepoint.rollback)
    unit.do("commit")
    assert (unit.is_cached(1), unit.is_cached(2)) == (True, False)
    assert (unit.database.name_of(1), unit.database.name_of(2)) == ("Ada", "Robert")


def test_a_released_savepoint_and_a_rollback(unit: Unit) -> None:
    """The outer rollback takes what the inner ones handed on."""
    unit.do("connection")
    outer = unit.do("begin_nested")
    inner = unit.do("begin_nested")
    unit.write()
    unit.kind.call(inner.commit)
    unit.kind.call(outer.rollback)
    unit.do("commit")
    assert unit.is_cached()


@only(Blocking)
def test_a_function_that_releases_a_savepoint(unit: Unit) -> None:
    """That is no commit: what the function wrote can still be rolled back."""

    @unit.cache.invalidates("user:{user_id}", after=after_commit("session"))
    def update(session: Session, user_id: int) -> None:
        with session.begin_nested():
            session.get(User, user_id)

    unit.do("connection")
    update(unit.session, 1)
    assert unit.is_cached()
    unit.do("commit")
    assert not unit.is_cached()


def test_a_commit_with_a_savepoint_open(unit: Unit) -> None:
    """The outer commit releases what is open, and sends all of it."""
    unit.do("connection")
    unit.do("begin_nested")
    unit.do("begin_nested")
    unit.write()
    unit.do("commit")
    assert not unit.is_cached()


def test_a_savepoint_left_by_an_error(unit: Unit) -> None:
    """``with session.begin_nested()`` does it, too."""

    async def ainside() -> None:
        async with unit.session.begin_nested():
            await unit.rename(unit.session, user, "Ada L.")
            raise ZeroDivisionError

    def inside() -> None:
        with unit.session.begin_nested():
            unit.rename(unit.session, user, "Ada L.")
            raise ZeroDivisionError

    user = unit.do("get", User, 1)
    with pytest.raises(ZeroDivisionError):
        unit.kind.call(inside if unit.kind.name == "blocking" else ainside)
    unit.do("commit")
    assert unit.is_cached()


# Commits that fail


def test_a_flush_that_fails_in_the_commit(unit: Unit) -> None:
    """COMMIT was not sent: nothing is invalidated."""
    user = unit.do("get", User, 1)
    unit.kind.call(unit.rename, unit.session, user, "Ada L.")
    unit.session.add(Pet(id=None, owner=None))
    with pytest.raises(IntegrityError):
        unit.do("commit")
    unit.do("rollback")
    assert unit.is_cached() and not waits(unit.session)


def test_a_commit_that_fails(unit: Unit) -> None:
    """COMMIT was sent, and nobody knows what became of it: invalidated; callbacks do not run."""
    called: list[int] = []
    unit.write()
    on_commit(unit.session, lambda: called.append(1))
    unit.session.add(Pet(id=1, owner=99))
    with pytest.raises(IntegrityError):
        unit.do("commit")
    unit.do("rollback")
    assert not unit.is_cached() and not waits(unit.session)
    assert called == []


@only(Blocking)
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_two_phases(make_unit: Callable[..., Unit]) -> None:
    """Between prepare and commit nothing is sent."""
    unit = make_unit(twophase=True)
    unit.write()
    unit.session.prepare()
    assert unit.is_cached()
    unit.session.commit()
    assert not unit.is_cached()
    unit.fill()
    unit.write("Ada")
    unit.session.commit()
    assert not unit.is_cached()


# The event loop


class Gated:
    """Holds a cache's ``adelete`` until it is opened."""

    def __init__(self, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._adelete = cache.adelete
        monkeypatch.setattr(cache, "adelete", self.adelete)

    async def adelete(self, *keys: str) -> int:
        self.reached.set()
        await self.opened.wait()
        return await self._adelete(*keys)


@pytest.fixture
async def asession(url: str, database: Database) -> Any:
    """An AsyncSession of the test's own event loop."""
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    async with AsyncSession(engine, expire_on_commit=False) as session:
        yield session
    await engine.dispose()


def renamer(cache: Cache) -> Callable[..., Any]:
    @cache.invalidates("user:{user_id}", after=after_commit("session"))
    async def rename(session: AsyncSession, user_id: int, name: str) -> None:
        (await session.get_one(User, user_id)).name = name

    return rename


@only(Blocking)  # the database's; the test itself is async
async def test_the_loop_runs_on(
    cache: Cache, asession: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit awaits the invalidation; other tasks of the loop run meanwhile."""
    gated = Gated(cache, monkeypatch)
    await cache.aset("user:1", "old")
    await renamer(cache)(asession, 1, "Ada L.")
    commit = asyncio.create_task(asession.commit())
    async with asyncio.timeout(10):
        await gated.reached.wait()  # this task runs while the commit's waits
    assert not commit.done()
    assert cache.get("user:1") == "old"
    gated.opened.set()
    await commit
    assert cache.get("user:1", MISS) is MISS


@only(Blocking)  # the database's; the test itself is async
async def test_the_loop_runs_on_outside_a_transaction(
    cache: Cache, asession: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is done at once is awaited by the async function, too."""
    gated = Gated(cache, monkeypatch)
    await cache.aset("user:1", "old")
    touch = cache.invalidates("user:1", after=after_commit("session"))(_touch)
    task = asyncio.create_task(touch(asession))
    async with asyncio.timeout(10):
        await gated.reached.wait()
    assert not task.done()
    gated.opened.set()
    await task
    assert cache.get("user:1", MISS) is MISS


@only(Blocking)  # the database's; the test itself is async
async def test_a_cancelled_commit_has_invalidated(
    cache: Cache, asession: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task cancelled while its commit invalidates is so once that is done."""
    gated = Gated(cache, monkeypatch)
    called: list[int] = []
    await cache.aset("user:1", "old")
    await renamer(cache)(asession, 1, "Ada L.")
    on_commit(asession, lambda: called.append(1))
    commit = asyncio.create_task(asession.commit())
    async with asyncio.timeout(10):
        await gated.reached.wait()
    commit.cancel()
    await asyncio.sleep(0)
    gated.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert cache.get("user:1", MISS) is MISS
    assert called == [1]


@only(Blocking)  # the database's; the test itself is async
async def test_a_commit_cancelled_on_its_way(
    cache: Cache, asession: AsyncSession, database: Database
) -> None:
    """A task cancelled while COMMIT is under way cannot tell: it invalidates when it closes."""
    called: list[int] = []
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    async def work() -> None:
        async with asession.begin():
            await renamer(cache)(asession, 1, "Ada L.")
            on_commit(asession, lambda: called.append(1))
            await asession.flush()
            connection = (await asession.connection()).sync_connection
            event.listen(connection, "commit", lambda _: await_only(hang()))

    await cache.aset("user:1", "old")
    task = asyncio.create_task(work())
    async with asyncio.timeout(10):
        await reached.wait()
    assert cache.get("user:1") == "old"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cache.get("user:1", MISS) is MISS
    assert called == []


@only(Blocking)  # the database's; the test itself is async
async def test_a_blocking_function_in_run_sync(cache: Cache, asession: AsyncSession) -> None:
    """A blocking function works on the Session inside an AsyncSession, in its greenlet."""

    @cache.invalidates("user:{user_id}", after=after_commit("session"))
    def rename(session: Session, user_id: int, *, commits: bool) -> None:
        session.get_one(User, user_id).name = f"Ada {commits}"
        if commits:
            session.commit()

    for commits in (False, True):
        await cache.aset("user:1", "old")
        await asession.run_sync(rename, 1, commits=commits)
        assert cache.get("user:1", MISS) == (MISS if commits else "old")
        await asession.commit()
        assert cache.get("user:1", MISS) is MISS


@only(Blocking)  # the database's; the test itself is async
async def test_many_sessions_at_once(url: str, database: Database, cache: Cache) -> None:
    """Tasks with sessions of their own do not mix what they collect."""
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))

    async def work(number: int) -> None:
        async with AsyncSession(engine) as session:
            await session.get(User, 1)
            await cache.invalidates(f"k{number}", after=after_commit("session"))(_touch)(session)
            await asyncio.sleep(0)
            await (session.rollback() if number % 2 else session.commit())

    await cache.aset_many({f"k{number}": 1 for number in range(10)})
    await asyncio.gather(*map(work, range(10)))
    assert sorted(await cache.aget_many([f"k{number}" for number in range(10)])) == [
        f"k{number}" for number in range(1, 10, 2)
    ]
    await engine.dispose()


async def _touch(session: AsyncSession) -> None:
    """Write nothing."""


# Reading meanwhile


@only(Blocking)
def test_a_load_across_the_commit(unit: Unit) -> None:
    """A load that read before the commit and ends after the invalidation is not kept."""
    has_read, may_return = threading.Event(), threading.Event()

    @unit.cache.cached("user:{user_id}")
    def get_user(user_id: int) -> str | None:
        name = unit.database.name_of(user_id)
        has_read.set()
        assert may_return.wait(10)
        return name

    unit.cache.delete("user:1")
    unit.write()
    seen: list[Any] = []
    reader = threading.Thread(target=lambda: seen.append(get_user(1)))
    reader.start()
    assert has_read.wait(10)
    unit.do("commit")
    may_return.set()
    reader.join()
    assert seen == ["Ada"]
    assert get_user(1) == "Ada L."


def test_a_load_between_write_and_commit(unit: Unit) -> None:
    """What others load before the commit is old, and is removed after it."""
    get = unit.kind.function(lambda user_id: unit.database.name_of(user_id))
    get_user = unit.cache.cached("user:{user_id}")(get)
    unit.kind.do(unit.cache, "delete", "user:1")
    unit.write()
    assert unit.kind.call(get_user, 1) == "Ada"
    unit.do("commit")
    assert unit.kind.call(get_user, 1) == "Ada L."


@only(Blocking)
def test_an_uncommitted_read_outlives_a_rollback(unit: Unit) -> None:
    """What the writer itself loads inside its transaction is cached uncommitted: see the docs."""

    @unit.cache.cached("user:{user_id}")
    def get_user(user_id: int) -> str | None:
        name: str | None = unit.session.scalar(select(User.name).where(User.id == user_id))
        return name

    for ending, left in [("commit", "Ada L."), ("rollback", "Ada B.")]:
        unit.cache.delete("user:1")
        unit.write("Ada L." if ending == "commit" else "Ada B.")
        get_user(1)
        unit.do(ending)
        assert unit.is_cached() is (ending == "rollback")
        assert get_user(1) == left


def test_another_process(make_cache: Callable[..., Cache], database: Database, kind: Kind) -> None:
    """Another process is served what was committed: at once from L2, from its L1 soon."""
    store = DictStore()
    mine, theirs, without_l1 = (
        make_cache(l2=store, **options) for options in ({}, {}, {"l1": None})
    )
    unit = Unit(mine, database, kind)
    reads = [
        cache.cached("user:{user_id}")(kind.function(database.name_of))
        for cache in (theirs, without_l1)
    ]
    assert [kind.call(read, 1) for read in reads] == ["old", "old"]
    unit.write()
    assert [kind.call(read, 1) for read in reads] == ["old", "old"]
    unit.do("commit")
    assert kind.call(reads[1], 1) == "Ada L."
    until(lambda: kind.call(reads[0], 1) == "Ada L.")


# What is sent


def test_all_of_a_cache_at_once(
    unit: Unit, make_cache: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction of many writes is one deletion per cache, of each key once."""
    other = make_cache("other")
    sent: list[Any] = []
    for cache in (unit.cache, other):
        _spy(monkeypatch, cache, sent)
    function = unit.kind.function(lambda session, n: None)
    one, two, tagged = (
        cache.invalidates(key, tags=tags, after=after_commit("session"))(function)
        for cache, key, tags in [
            (unit.cache, "k:{n}", ()),
            (other, "o:{n}", ["t:{n}"]),
            (unit.cache, None, ["t"]),
        ]
    )
    unit.do("connection")
    for n in (1, 2, 1):
        for write in (one, two, tagged):
            unit.kind.call(write, unit.session, n)
    assert sent == []
    unit.do("commit")
    assert sent == [
        ("test", "keys", "k:1", "k:2"),
        ("test", "tags", "t"),
        ("other", "keys", "o:1", "o:2"),
        ("other", "tags", "t:1", "t:2"),
    ]


def _spy(monkeypatch: pytest.MonkeyPatch, cache: Cache, sent: list[Any]) -> None:
    for method, what in [("delete", "keys"), ("invalidate_tags", "tags")]:

        def block(*names: str, what: str = what) -> None:
            sent.append((cache.name, what, *names))

        async def wait(*names: str, what: str = what) -> None:
            sent.append((cache.name, what, *names))

        monkeypatch.setattr(cache, method, block, raising=False)
        monkeypatch.setattr(cache, f"a{method}", wait, raising=False)


def test_keys_are_those_at_the_call(unit: Unit) -> None:
    """Keys are rendered when the function has succeeded; later changes do not move them."""
    rename = unit.cache.invalidates("user:{user.id}", after=after_commit("session"))(
        unit.kind.function(lambda session, user: None)
    )
    user = User(id=1, name="x")
    unit.do("connection")
    unit.kind.call(rename, unit.session, user)
    user.id = 2
    unit.do("commit")
    assert not unit.is_cached()


# Finding the session


class Repository:
    """Holds its session, as many do."""

    def __init__(self, session: Any) -> None:
        self.session = session


def test_an_attribute_of_an_argument(unit: Unit) -> None:
    """The session may be an attribute of an argument, such as of self."""
    save = unit.cache.invalidates("user:{user_id}", after=after_commit("self.session"))(
        unit.kind.function(lambda self, user_id: None)
    )
    unit.do("connection")
    unit.kind.call(save, Repository(unit.session), 1)
    assert unit.is_cached()
    unit.do("commit")
    assert not unit.is_cached()


def test_a_function_that_returns_the_session(unit: Unit) -> None:
    """Or what a function returns, such as the get of a ContextVar."""
    save = unit.cache.invalidates("user:1", after=after_commit(lambda: unit.session))(
        unit.kind.function(lambda: None)
    )
    unit.do("connection")
    unit.kind.call(save)
    assert unit.is_cached()
    unit.do("commit")
    assert not unit.is_cached()


def test_scoped_sessions(unit: Unit) -> None:
    """Or the current one of a scoped_session, given to the hook or to the function."""
    if unit.kind.name == "blocking":
        scoped: Any = scoped_session(sessionmaker(unit.database.engine))
    else:
        scoped = async_scoped_session(async_sessionmaker(unit.database.engine), scopefunc=lambda: 0)
    function = unit.kind.function(lambda session: None)
    for hook in (after_commit(scoped), after_commit("session")):
        unit.fill()
        save = unit.cache.invalidates("user:1", after=hook)(function)
        unit.kind.call(scoped.connection)
        unit.kind.call(save, scoped)
        assert unit.is_cached()
        unit.kind.call(scoped.commit)
        assert not unit.is_cached()
    unit.kind.call(scoped.remove)


def test_what_is_no_session(unit: Unit) -> None:
    """What leads to no session is a clear error, for a maker of sessions at decoration."""
    for given in (sessionmaker(), async_sessionmaker(), 5, unit.session):
        with pytest.raises(ConfigurationError, match="the name of the argument that is the ses"):
            after_commit(given)
    function = unit.kind.function(lambda session: None)
    for hook, argument, message in [
        (after_commit("sesion"), 1, "has no argument 'sesion'; it takes session, result"),
        (after_commit("session"), 1, "need a Session or an AsyncSession, got 1"),
        (after_commit(lambda: None), 1, "need a Session or an AsyncSession, got None"),
        (after_commit("session"), sessionmaker(), "got sessionmaker"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            unit.kind.call(unit.cache.invalidates("k", after=hook)(function), argument)
    with pytest.raises(ConfigurationError, match="need a Session or an AsyncSession, got 1"):
        on_commit(1, print)  # type: ignore[arg-type]


# on_commit


def test_callbacks_run_after_the_commit(unit: Unit) -> None:
    """Callbacks run in their order, after the invalidations, when the commit is known."""
    called: list[Any] = []
    unit.do("connection")
    on_commit(unit.session, lambda: called.append((1, unit.is_cached(), unit.database.name_of())))
    unit.write()
    on_commit(unit.session, lambda: called.append(2))
    assert called == []
    unit.do("commit")
    assert called == [(1, False, "Ada L."), 2]
    unit.write("Ada")
    on_commit(unit.session, lambda: called.append(3))
    unit.do("rollback")
    unit.do("connection")
    unit.do("commit")
    assert called == [(1, False, "Ada L."), 2]
    unit.do("close")
    on_commit(unit.session, lambda: called.append(4))
    assert called[-1] == 4


def test_an_invalidation_as_a_callback(unit: Unit) -> None:
    """A hook of one's own may hand on what it was given."""
    touch = unit.cache.invalidates(
        "user:1", after=lambda invalidation: on_commit(unit.session, invalidation)
    )(unit.kind.function(lambda: None))
    unit.do("connection")
    unit.kind.call(touch)
    assert unit.is_cached()
    unit.do("commit")
    assert not unit.is_cached()


def test_callbacks_that_raise(unit: Unit) -> None:
    """All run; what they raise is raised by the commit, which has succeeded."""
    called: list[int] = []

    def fail() -> None:
        called.append(1)
        raise RuntimeError("no mail")

    unit.write()
    on_commit(unit.session, fail)
    on_commit(unit.session, lambda: called.append(2))
    with pytest.raises(RuntimeError, match="no mail"):
        unit.do("commit")
    assert called == [1, 2]
    assert unit.database.name_of() == "Ada L." and not unit.is_cached()
    unit.write("Ada")
    for _ in range(2):
        on_commit(unit.session, fail)
    with pytest.raises(ExceptionGroup, match="failed after the commit") as caught:
        unit.do("commit")
    assert len(caught.value.exceptions) == 2
    unit.write("Eve")  # the session goes on
    unit.do("commit")
    assert unit.database.name_of() == "Eve"


def test_async_callbacks(unit: Unit) -> None:
    """A commit of an AsyncSession awaits async callbacks; nothing else can."""
    called: list[str] = []

    async def notify() -> None:
        await asyncio.sleep(0)
        called.append("awaited")

    unit.do("connection")
    if unit.kind.name == "blocking":
        with pytest.raises(ConfigurationError, match=r"(?s)nobody to await .*notify.*Begin"):
            on_commit(unit.session, notify)
        on_commit(unit.session, lambda: notify())
        with pytest.raises(ConfigurationError, match="nobody to await"):
            unit.do("commit")
        return
    on_commit(unit.session, notify)
    on_commit(unit.session, lambda: notify())
    unit.do("commit")
    assert called == ["awaited", "awaited"]
    with pytest.raises(ConfigurationError, match="nobody to await"):
        on_commit(unit.session, notify)


def test_a_callback_that_uses_the_cache(unit: Unit) -> None:
    """A callback may invalidate more."""
    unit.fill(1, 2)
    unit.write()
    on_commit(unit.session, lambda: unit.cache.delete("user:2"))
    unit.do("commit")
    assert not unit.is_cached(2)


# Leaving nothing


def test_a_session_that_is_dropped(unit: Unit) -> None:
    """A session that nobody closes is collected with what waits in it."""
    session = Session(unit.database.plain)
    touch = unit.cache.invalidates("user:1", after=after_commit("session"))(
        lambda session, mark: None
    )

    class Mark:
        """Something that the arguments hold."""

    mark = Mark()
    with session.begin():
        touch(session, mark)
        on_commit(session, mark.__class__)
    session.begin()
    touch(session, mark)
    on_commit(session, functools.partial(repr, session))
    gone = weakref.ref(session), weakref.ref(mark)
    del session, mark
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert unit.is_cached() is False


def test_no_listeners_pile_up(unit: Unit) -> None:
    """Sessions and hooks add no listeners: those of the class serve all."""

    def listeners() -> list[int]:
        names = ["before_commit", "after_commit", "after_soft_rollback", "after_transaction_end"]
        dispatch = Session(unit.database.plain).dispatch
        return [len(list(getattr(dispatch, name))) for name in names]

    before = listeners()
    assert min(before) >= 1
    for _ in range(20):
        after_commit("session")
        unit.write()
        unit.do("commit")
    assert listeners() == before


def test_sessions_that_nothing_waits_in(unit: Unit) -> None:
    """Other sessions of the process commit and roll back as ever."""
    with Session(unit.database.plain) as session:
        session.add(User(id=7, name="Eve"))
        session.commit()
        session.add(User(id=8, name="Mallory"))
        session.rollback()
    assert (unit.database.name_of(7), unit.database.name_of(8)) == ("Eve", None)
    assert unit.is_cached()


def test_it_is_an_invalidation(cache: Cache) -> None:
    """The hook takes what ``after=`` gives, and nothing of it is private."""
    invalidation = Invalidation(cache=cache, keys=("k",), arguments={"session": None})
    with pytest.raises(ConfigurationError, match="got None"):
        after_commit("session")(invalidation)
