"""Processes, as locks see them, in one: each with its own waits, and a reader of the log."""

from __future__ import annotations

import threading

from tiercache.coherence.keeper import Keeper
from tiercache.coherence.lock import Locks
from tiercache.errors import StoreError
from tiercache.testing.dict_store import DictStore
from tiercache.tiers.store import Kind
from tiercache.waits import Waits, lock_name


class Trouble:
    """A namespace whose lock methods can be made to fail, or to wait at a gate.

    ``calls`` lists the methods that were called; ``aunlock`` stands as ``unlock``.
    """

    def __init__(self, inside):
        self.inside = inside
        self.calls = []
        self.failing = {}  # error by method
        self.before = {}  # called before the method

    def fail(self, *methods, error=None):
        for method in methods:
            self.failing[method] = error or StoreError("store dict is out of reach")

    def heal(self):
        self.failing.clear()
        self.before.clear()

    def _do(self, method, *args):
        self.calls.append(method)
        if method in self.before:
            self.before[method]()
        if method in self.failing:
            raise self.failing[method]
        return getattr(self.inside, method)(*args)

    def lock(self, *args):
        return self._do("lock", *args)

    def renew_lock(self, *args):
        return self._do("renew_lock", *args)

    def unlock(self, *args):
        return self._do("unlock", *args)

    async def alock(self, *args):
        return await self._ado("lock", *args)

    async def arenew_lock(self, *args):
        return await self._ado("renew_lock", *args)

    async def aunlock(self, *args):
        return await self._ado("unlock", *args)

    async def _ado(self, method, *args):
        self.calls.append(method)
        if method in self.before:
            await self.before[method]()
        if method in self.failing:
            raise self.failing[method]
        return await getattr(self.inside, f"a{method}")(*args)


class Process:
    """The locks of one process, on a namespace, with news of others if it listens."""

    def __init__(self, namespace, *, listens=True, timeout=0.5):
        self.store = Trouble(namespace)
        self.waits = Waits()
        self.keeper = Keeper()
        self.locks = Locks("test", self.store, self.waits, timeout, keeper=self.keeper)
        self._tail = namespace.tail(namespace.log_end())
        self._is_closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        if listens:
            self._reader.start()

    def _read(self):
        while not self._is_closed:
            for message in self._tail.read(1.0):
                if message.kind is Kind.UNLOCKED:
                    self.waits.tell(map(lock_name, message.names), message.kind)

    def close(self):
        self.locks.close()
        self._is_closed = True
        self._tail.interrupt()
        if self._reader.is_alive():
            self._reader.join(5)
        self._tail.close()


class Cluster:
    """Processes on one store."""

    def __init__(self, store=None):
        self.store = store or DictStore()
        self.processes = []

    def process(self, **options):
        self.processes.append(Process(self.store.namespace("test"), **options))
        return self.processes[-1]

    def rows(self):
        """Return the locks that the store holds, by name."""
        return self.store._spaces["test"].locks

    def drop(self, name):
        """Lose a lock, as a server does that is restarted empty."""
        with self.store.lock:
            del self.rows()[name]

    def close(self):
        for process in self.processes:
            process.close()
