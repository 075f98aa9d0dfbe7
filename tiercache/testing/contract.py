"""What every store must do, as tests that its author runs.

    from tiercache.testing import StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            store = MyStore(...)
            yield store
            store.close()

Each case runs twice: through the blocking methods and through their asyncio twins. A store need
not be empty: each test has a namespace of its own. Two fixtures more may be overridden, and what
they are for is skipped if they are not: ``short_log_store``, a store that keeps few messages, and
``lose_tag``, which makes it lose the token of a tag. Set ``short_ttl`` (seconds) higher for a
store whose clock is coarse. Needs pytest.
"""

from __future__ import annotations

import pytest

_PARTS = ("base", "coherence", "entries", "expiry", "leases", "locks", "log", "waiting")
# So that a failed assertion says more than that it failed; has to come before they are imported.
pytest.register_assert_rewrite(*(f"tiercache.testing.contract_{part}" for part in _PARTS))

from tiercache.testing.contract_coherence import CoherenceContract  # noqa: E402
from tiercache.testing.contract_entries import EntriesContract  # noqa: E402
from tiercache.testing.contract_expiry import ExpiryContract  # noqa: E402
from tiercache.testing.contract_leases import LeasesContract  # noqa: E402
from tiercache.testing.contract_locks import LocksContract  # noqa: E402
from tiercache.testing.contract_log import LogContract  # noqa: E402
from tiercache.testing.contract_waiting import WaitingContract  # noqa: E402

__all__ = ["StoreContract"]


class StoreContract(
    EntriesContract,
    ExpiryContract,
    CoherenceContract,
    LeasesContract,
    WaitingContract,
    LocksContract,
    LogContract,
):
    """The cases. Subclass it, name the class ``Test...`` and give it a ``store`` fixture."""
