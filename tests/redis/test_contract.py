"""The store contract on real Redis and Valkey."""

from __future__ import annotations

from tiercache.testing.contract import StoreContract


class TestRedis(StoreContract):
    """Every case, on each server there is."""
