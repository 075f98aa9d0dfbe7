"""The store contract on the stores that need no server; Redis has it in tests/redis."""

from __future__ import annotations

import pytest

from tiercache.testing.contract import StoreContract
from tiercache.testing.stores import DictStore, FaultyStore
from tiercache.tiers.sqlite import SQLite


class TestSQLite(StoreContract):
    """Every case, on a file of its own."""

    @pytest.fixture
    def store(self, tmp_path):
        store = SQLite(tmp_path / "cache.db")
        yield store
        store.close()


class TestDictStore(StoreContract):
    """Every case, on the store in memory that unit tests use."""

    @pytest.fixture
    def store(self):
        return DictStore()


class TestFaultyStore(StoreContract):
    """Every case, through a FaultyStore that has nothing to do."""

    @pytest.fixture
    def store(self):
        return FaultyStore(DictStore())
