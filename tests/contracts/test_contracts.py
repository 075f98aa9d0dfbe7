"""The store contract on the stores that need no server; Redis has it in tests/redis."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from tiercache.testing import DictStore, FaultyStore
from tiercache.testing.contract import StoreContract
from tiercache.tiers.sqlite import SQLite
from tiercache.tiers.store import Item


class TestSQLite(StoreContract):
    """Every case, on a file of its own."""

    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "cache.db"

    @pytest.fixture
    def store(self, path):
        store = SQLite(path)
        yield store
        store.close()

    @pytest.fixture
    def short_log_store(self, path):
        store = SQLite(path, log_length=20)
        yield store
        store.close()

    @pytest.fixture
    def lose_tag(self, path, store):
        """Lose a token in the only way there is: it is forgotten in tidying up."""

        def lose(name, tag):
            with closing(sqlite3.connect(path)) as db:
                changed = db.execute(
                    "UPDATE tag SET uses = 0, kept_until = 0 WHERE name = ?"
                    " AND space = (SELECT id FROM space WHERE name = ?)",
                    (tag.encode(), name.encode()),
                )
                assert changed.rowcount == 1
                db.commit()
            store.namespace("other").write_many([Item(f"{n}", b"", 60) for n in range(100)])

        return lose


class TestDictStore(StoreContract):
    """Every case, on the store in memory that unit tests use."""

    @pytest.fixture
    def store(self):
        return DictStore()

    @pytest.fixture
    def short_log_store(self):
        return DictStore(log_length=20)

    @pytest.fixture
    def lose_tag(self, store):
        return lambda name, tag: store._spaces[name].tags.pop(tag)


class TestFaultyStore(StoreContract):
    """Every case, through a FaultyStore that has nothing to do."""

    @pytest.fixture
    def store(self):
        return FaultyStore(DictStore())

    @pytest.fixture
    def short_log_store(self):
        return FaultyStore(DictStore(log_length=20))

    @pytest.fixture
    def lose_tag(self, store):
        return lambda name, tag: store._store._spaces[name].tags.pop(tag)
