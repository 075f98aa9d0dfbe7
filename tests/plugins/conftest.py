"""Real databases for the plugins' tests: SQLite in a file, and PostgreSQL where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from tests.kinds import Asyncio, Kind
from tests.plugins.postgres import PostgresServer, missing


class Base(DeclarativeBase):
    """The tables."""


class User(Base):
    """What is cached as ``user:{id}``."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Pet(Base):
    """Whose owner has to exist when the transaction commits, not before."""

    __tablename__ = "pets"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int] = mapped_column(
        ForeignKey("users.id", deferrable=True, initially="DEFERRED")
    )


class Database:
    """A database with one user, Ada, and sessions of one kind of caller."""

    def __init__(self, url: str, kind: Kind) -> None:
        self.kind = kind
        self.is_postgres = url.startswith("postgresql")
        self._sessions: list[Any] = []
        self.plain = _engine(create_engine(url, poolclass=NullPool))
        if isinstance(kind, Asyncio):
            self.engine: Any = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
            _engine(self.engine.sync_engine)
        else:
            self.engine = self.plain
        Base.metadata.drop_all(self.plain)
        Base.metadata.create_all(self.plain)
        with Session(self.plain) as session, session.begin():
            session.add(User(id=1, name="Ada"))

    def session(self, **options: Any) -> Any:
        """Return a session of the callers' kind; it is closed at the end."""
        kind = AsyncSession if isinstance(self.kind, Asyncio) else Session
        options = {"expire_on_commit": False, **options}
        self._sessions.append(kind(self.engine, **options))
        return self._sessions[-1]

    def name_of(self, user_id: int = 1) -> str | None:
        """Return what the database has committed, by a connection of its own."""
        with Session(self.plain) as session:
            return session.scalar(select(User.name).where(User.id == user_id))

    def close(self) -> None:
        for session in self._sessions:
            self.kind.call(session.close)
        if self.engine is not self.plain:
            self.kind.call(self.engine.dispose)
        self.plain.dispose()


def _engine(engine: Engine) -> Engine:
    """Have SQLite check foreign keys, and begin transactions when told: it can SAVEPOINT then."""
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def connect(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA foreign_keys=ON")

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url


@pytest.fixture
def database(url: str, kind: Kind) -> Iterator[Database]:
    """A database with one user, Ada."""
    database = Database(url, kind)
    yield database
    database.close()
