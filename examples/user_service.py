"""A user service over a real table: get, create, update, delete, batch get, and metrics.

Run it by ``python -m examples.user_service``. ``UserService`` is for blocking code,
``AsyncUserService`` for asyncio; they differ in ``await`` and nothing else. What is cached is
decided in their ``__init__``, and what a change makes untrue in ``_forget``.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from tiercache import Cache, CacheInfo

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL, team TEXT NOT NULL)
"""
_SELECT = "SELECT id, email, name, team FROM users"


@dataclass(frozen=True, slots=True)
class User:
    """One row of the table."""

    id: int
    email: str
    name: str
    team: str


class Users:
    """The table, in SQL; knows of no cache.

    Attributes:
        queries: How many statements were sent.
    """

    def __init__(self, path: str = ":memory:") -> None:
        self.queries = 0
        self._lock = threading.Lock()  # guards the connection, and queries
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute(_SCHEMA)

    def by_id(self, user_id: int) -> User | None:
        """Return a user, or None."""
        return self._one(f"{_SELECT} WHERE id = ?", user_id)

    def by_email(self, email: str) -> User | None:
        """Return the user with this address, or None."""
        return self._one(f"{_SELECT} WHERE email = ?", email)

    def by_ids(self, user_ids: Sequence[int]) -> dict[int, User]:
        """Return the users among these ids, in one query."""
        marks = ", ".join("?" * len(user_ids))
        rows = self._execute(f"{_SELECT} WHERE id IN ({marks})", *user_ids)
        return {row[0]: User(*row) for row in rows}

    def of_team(self, team: str) -> list[User]:
        """Return the users of a team, by name."""
        rows = self._execute(f"{_SELECT} WHERE team = ? ORDER BY name, id", team)
        return [User(*row) for row in rows]

    def insert(self, email: str, name: str, team: str) -> User:
        """Add a user."""
        sql = "INSERT INTO users (email, name, team) VALUES (?, ?, ?) RETURNING id"
        ((user_id,),) = self._execute(sql, email, name, team)
        return User(user_id, email, name, team)

    def save(self, user: User) -> None:
        """Write a user as it now is."""
        sql = "UPDATE users SET email = :email, name = :name, team = :team WHERE id = :id"
        self._execute(sql, **asdict(user))

    def remove(self, user_id: int) -> None:
        """Delete a user."""
        self._execute("DELETE FROM users WHERE id = ?", user_id)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _one(self, sql: str, argument: object) -> User | None:
        rows = self._execute(sql, argument)
        return User(*rows[0]) if rows else None

    def _execute(self, sql: str, *args: object, **named: object) -> list[tuple[Any, ...]]:
        with self._lock:
            self.queries += 1
            return self._connection.execute(sql, named or args).fetchall()


class UserService:
    """Users for blocking code."""

    def __init__(self, users: Users, cache: Cache) -> None:
        self.users = users
        self.cache = cache
        self.get = cache.cached("user:{user_id}", batch=users.by_ids)(users.by_id)
        self.get_by_email = cache.cached("user:email:{email}")(users.by_email)
        self.team = cache.cached("team:{team}")(users.of_team)

    def get_batch(self, user_ids: Iterable[int]) -> dict[int, User | None]:
        """Return users by id; those that no tier has are loaded in one query."""
        return self.get.many(user_ids)

    def create(self, email: str, name: str, team: str) -> User:
        """Add a user."""
        user = self.users.insert(email, name, team)
        self._forget(user)  # "there is none" may be what was remembered
        return user

    def update(self, user_id: int, **changes: Any) -> User:
        """Change some of a user's fields. LookupError: there is no such user."""
        before = self._existing(user_id)
        after = replace(before, **changes)
        self.users.save(after)
        self._forget(before, after)
        return after

    def delete(self, user_id: int) -> None:
        """Remove a user. LookupError: there is no such user."""
        user = self._existing(user_id)
        self.users.remove(user_id)
        self._forget(user)

    def metrics(self) -> dict[str, CacheInfo]:
        """Return what became of the calls so far, by what was asked."""
        return {
            "get": self.get.cache_info(),
            "get_by_email": self.get_by_email.cache_info(),
            "team": self.team.cache_info(),
        }

    def _existing(self, user_id: int) -> User:
        user = self.users.by_id(user_id)  # what is about to be changed is read from the table
        if user is None:
            raise LookupError(f"there is no user {user_id}")
        return user

    def _forget(self, *versions: User) -> None:
        """Drop all that a change touches: under the old address and team, and the new ones."""
        for user in set(versions):
            self.get.invalidate(user.id)
            self.get_by_email.invalidate(user.email)
            self.team.invalidate(user.team)


class AsyncUserService:
    """Users for asyncio: the same, with the table asked from a thread."""

    def __init__(self, users: Users, cache: Cache) -> None:
        self.users = users
        self.cache = cache

        async def by_ids(user_ids: Sequence[int]) -> dict[int, User]:
            return await asyncio.to_thread(users.by_ids, user_ids)

        @cache.cached("user:{user_id}", batch=by_ids)
        async def get(user_id: int) -> User | None:
            return await asyncio.to_thread(users.by_id, user_id)

        @cache.cached("user:email:{email}")
        async def get_by_email(email: str) -> User | None:
            return await asyncio.to_thread(users.by_email, email)

        @cache.cached("team:{team}")
        async def team(team: str) -> list[User]:
            return await asyncio.to_thread(users.of_team, team)

        self.get, self.get_by_email, self.team = get, get_by_email, team

    async def get_batch(self, user_ids: Iterable[int]) -> dict[int, User | None]:
        """Return users by id; those that no tier has are loaded in one query."""
        return await self.get.many(user_ids)

    async def create(self, email: str, name: str, team: str) -> User:
        """Add a user."""
        user = await asyncio.to_thread(self.users.insert, email, name, team)
        await self._forget(user)  # "there is none" may be what was remembered
        return user

    async def update(self, user_id: int, **changes: Any) -> User:
        """Change some of a user's fields. LookupError: there is no such user."""
        before = await self._existing(user_id)
        after = replace(before, **changes)
        await asyncio.to_thread(self.users.save, after)
        await self._forget(before, after)
        return after

    async def delete(self, user_id: int) -> None:
        """Remove a user. LookupError: there is no such user."""
        user = await self._existing(user_id)
        await asyncio.to_thread(self.users.remove, user_id)
        await self._forget(user)

    def metrics(self) -> dict[str, CacheInfo]:
        """Return what became of the calls so far, by what was asked."""
        return {
            "get": self.get.cache_info(),
            "get_by_email": self.get_by_email.cache_info(),
            "team": self.team.cache_info(),
        }

    async def _existing(self, user_id: int) -> User:
        user = await asyncio.to_thread(self.users.by_id, user_id)
        if user is None:
            raise LookupError(f"there is no user {user_id}")
        return user

    async def _forget(self, *versions: User) -> None:
        """Drop all that a change touches: under the old address and team, and the new ones."""
        for user in set(versions):
            await self.get.invalidate(user.id)
            await self.get_by_email.invalidate(user.email)
            await self.team.invalidate(user.team)


def make_cache() -> Cache:
    """Return the cache of this process. For several: the line below, and nothing else."""
    return Cache("users", ttl="10m")
    # return Cache("users", ttl="10m", l2=Redis("redis://localhost:6379/0"))  # noqa: ERA001


def main() -> None:
    """Use the service a little, and print what it says of itself."""
    with closing(Users()) as users, make_cache() as cache:
        service = UserService(users, cache)
        ada = service.create("ada@example.org", "Ada", "engines")
        service.create("grace@example.org", "Grace", "compilers")
        for _ in range(3):
            service.get(ada.id)
            service.team("engines")
        service.update(ada.id, team="compilers")
        print("of the team now:", [user.name for user in service.team("compilers")])
        print("together:", service.get_batch([1, 2]))
        for name, info in service.metrics().items():
            print(
                f"{name}: {info.hits} hits, {info.misses} misses, {info.loads} loads,"
                f" hit ratio {info.hit_ratio:.0%}"
            )
        print(f"queries: {users.queries}")


if __name__ == "__main__":
    main()
