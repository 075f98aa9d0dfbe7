"""The store contract on real Redis and Valkey."""

from __future__ import annotations

import pytest

from tiercache.testing.contract import StoreContract
from tiercache.tiers.redis import Redis


class TestRedis(StoreContract):
    """Every case, on each server there is."""

    @pytest.fixture
    def short_log_store(self, server):
        store = Redis(server.url, log_length=100)
        yield store
        store.close()

    @pytest.fixture
    def lose_tag(self, server):
        def lose(name, tag):
            assert server.command("DEL", f"tc:{{{name}}}:tag:{tag}").startswith(b":1")

        return lose
