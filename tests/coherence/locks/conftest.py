"""Locks of processes on one store, and who uses them."""

from __future__ import annotations

import pytest

from tests.coherence.locks.cluster import Cluster
from tests.coherence.locks.users import LONG, AsyncUser, BlockingUser
from tests.waiting import until
from tiercache.coherence import pursuit as pursuits
from tiercache.coherence.keeper import Keeper
from tiercache.coherence.lock import Locks
from tiercache.waits import Waits


@pytest.fixture
def cluster():
    """Processes on one DictStore; at the end nobody waits or renews."""
    cluster = Cluster()
    yield cluster
    cluster.close()
    for process in cluster.processes:
        assert len(process.waits) == 0
        until(lambda process=process: len(process.keeper) == 0)
        process.keeper.rest()


@pytest.fixture(params=[BlockingUser, AsyncUser], ids=["blocking", "asyncio"])
def user(request):
    user = request.param()
    yield user
    user.close()


@pytest.fixture(params=["store", "local"])
def any_locks(request, cluster):
    """The locks of a cache with L2 whose bus is silent, and of one without."""
    if request.param == "store":
        yield cluster.process(listens=False).locks
        return
    locks = Locks("test", None, Waits(), 0.5, keeper=Keeper())
    yield locks
    locks.close()


@pytest.fixture
def never_polling(monkeypatch):
    """Only news lets a waiter in: polls come too late for any test."""
    monkeypatch.setattr(pursuits, "FIRST_POLL", LONG)
    monkeypatch.setattr(pursuits, "LONGEST_POLL", LONG)
