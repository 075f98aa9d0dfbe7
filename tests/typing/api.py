"""Only type-checked, never run: what mypy and pyright see of a decorated function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tiercache import (
    LRU,
    MISS,
    Cache,
    CacheInfo,
    Explanation,
    Invalidation,
    Miss,
    SQLite,
    Stats,
    cached,
    current_load,
)
from tiercache_plugins.sqlalchemy import after_commit, on_commit

cache = Cache("typed", l1=LRU(10), l2=SQLite("l2.db"), ttl="1h")


@cache.cached
def bare(x: int, flag: bool = False) -> str:
    return str(x)


@cache.cached("user:{x}", ttl="5m", tags=["users"], ignore=())
def with_options(x: int) -> list[str]:
    return [str(x)]


def by_x(x: int) -> str:
    return f"k:{x}"


@cache.cached(key=by_x, ttl=len, when=bool)
async def awaited(x: int) -> str:
    return str(x)


@cached
def by_default(x: int) -> int:
    return x


class Repo:
    @cache.cached(ignore=("self",))
    def get(self, x: int) -> str:
        return str(x)

    @cache.cached(ignore=("self",))
    async def aget(self, x: int) -> str:
        return str(x)


def blocking() -> None:
    assert_type(bare(1), str)
    assert_type(bare(x=1, flag=True), str)
    assert_type(with_options(1), list[str])
    assert_type(bare.peek(1), str | Miss)
    assert_type(bare.refresh(1), str)
    assert_type(bare.many([1, 2]), dict[int, str])
    assert_type(bare.key(1), str)
    assert_type(bare.cache_info(), CacheInfo)
    assert_type(by_default(1), int)
    bare.set("x", 1)
    bare.invalidate(1, flag=True)
    bare.cache_clear()
    bare.__wrapped__(1)
    bare("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.set(5, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare.invalidate()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def in_a_loop() -> None:
    assert_type(await awaited(1), str)
    assert_type(await awaited.peek(1), str | Miss)
    assert_type(await awaited.refresh(1), str)
    assert_type(await awaited.many([1]), dict[int, str])
    await awaited.set("x", 1)
    await awaited.invalidate(1)


async def methods(repo: Repo) -> None:
    assert_type(repo.get(1), str)
    assert_type(await repo.aget(1), str)
    assert_type(repo.get.peek(1), str | Miss)
    assert_type(await repo.aget.refresh(1), str)
    repo.get.invalidate(1)
    await repo.aget.invalidate(1)
    Repo.get.invalidate(repo, 1)
    repo.get("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def cache_aside() -> None:
    def load() -> int:
        return 1

    async def aload() -> int:
        return 1

    assert_type(cache.get_or_load("k", load), int)
    assert_type(await cache.aget_or_load("k", aload), int)
    assert_type(cache.get_many(["k"]), dict[str, Any])
    assert_type(cache.delete("k"), int)
    assert_type(cache.stats(), Stats)
    if cache.get("k", MISS) is MISS:
        cache.set("k", 1, ttl="5m", tags=["t"])
    with cache as same:
        assert_type(same, Cache)


# What @cache.invalidates leaves as it is: everything.


def django_on_commit(func: Callable[[], object], using: str | None = None) -> None:
    func()


async def async_hook(invalidation: Invalidation) -> None:
    assert_type(invalidation.keys, tuple[str, ...])
    assert_type(invalidation.arguments["result"], Any)
    await invalidation.acall()


@cache.invalidates(["user:{x}", "name:{result}"], tags=["users"], after=django_on_commit)
def renamed(x: int, *, name: str = "") -> str:
    return name


@cache.invalidates(bare.key, after=async_hook)
async def arenamed(x: int) -> list[str]:
    return [str(x)]


def tags_of(x: int) -> list[str]:
    return [f"t:{x}"]


class Writer:
    session: Session

    @cache.invalidates("user:{x}", after=after_commit("self.session"))
    def save(self, x: int) -> Self:
        return self

    @classmethod
    @cache.invalidates("user:{x}")
    async def make(cls, x: int) -> Self:
        return cls()

    @cache.invalidates(tags=tags_of)
    @staticmethod
    def touch(x: int) -> None:
        return None


async def invalidating(writer: Writer, session: AsyncSession) -> None:
    assert_type(renamed(1, name="Ada"), str)
    assert_type(await arenamed(1), list[str])
    assert_type(writer.save(1), Writer)
    assert_type(await Writer.make(1), Writer)
    writer.touch(1)
    renamed("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    renamed(1, nam="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    cache.invalidates(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    on_commit(session, async_callback)
    on_commit(writer.session, lambda: writer)


async def async_callback() -> None:
    pass


# Stale values, writing and reading through, warming


@cache.cached("stale:{x}", stale_if_error="1h", refresh_ahead="xfetch", soft_timeout=0.2)
def stale(x: int) -> str:
    load = current_load()
    load.ttl = "5m"
    load.tags += ["a"]
    return str(x) if load.stale_value is MISS else str(load.not_modified())


def value_of(x: int, *, name: str, result: str) -> str:
    return result


@cache.write_through("stale:{x}", value=value_of, tags=["a"])
def written(x: int, *, name: str) -> str:
    return name


@cache.write_through("stale:{x}")
async def awritten(x: int) -> int:
    return x


def load_user(user_id: int) -> str:
    return str(user_id)


async def aload_user(user_id: int) -> str:
    return str(user_id)


@cache.warmer(stale)
def some() -> list[int]:
    return [1, 2]


@cache.warmer
def pairs() -> list[tuple[str, int]]:
    return [("k", 1)]


async def writing_and_reading() -> None:
    assert_type(stale(1), str)
    assert_type(stale.explain(1), Explanation)
    assert_type(written(1, name="Ada"), str)
    assert_type(await awritten(1), int)
    written("x", name="Ada")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    users = cache.read_through(load_user, key="user:{}")
    assert_type(users.get(1), str)
    assert_type(users.many([1]), dict[int, str])
    ausers = cache.read_through(aload_user, key="user:{}")
    assert_type(await ausers.get(1), str)
    users.get("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with cache.writing("k", 1) as block:
        assert_type(block.value, Any)
    async with cache.writing("k", 1, after=after_commit(Session)):
        pass
