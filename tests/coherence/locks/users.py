"""Who uses locks in tests, blocking or asyncio behind one interface, and the ttls they use."""

from __future__ import annotations

import asyncio
import threading
import time

from tests.waiting import until
from tiercache.coherence.async_lock import quiesce

LONG = 60.0  # a ttl that does not end in a test
SHORT = 0.5  # a ttl that does, and outlasts a pause of a busy machine


class BlockingUser:
    """Does with a blocking lock what a test says."""

    def make(self, locks, name="job", **options):
        return locks.lock(name, **{"ttl": LONG, **options})

    def acquire(self, lock):
        return lock.acquire()

    def release(self, lock):
        lock.release()

    def inside(self, lock, do=lambda: None):
        with lock:
            return do()

    def settle(self, locks):
        """Wait for what goes on in the background."""
        until(lambda: not locks._returns)

    def close(self):
        pass


class AsyncUser:
    """Does the same with an asyncio lock, in an event loop that runs in a thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def make(self, locks, name="job", **options):
        return locks.alock(name, **{"ttl": LONG, **options})

    def acquire(self, lock):
        return self.run(lock.acquire())

    def release(self, lock):
        self.run(lock.release())

    def inside(self, lock, do=lambda: None):
        async def main():
            async with lock:
                return await asyncio.to_thread(do)

        return self.run(main())

    def settle(self, locks):
        self.run(quiesce(locks.tasks))

    def close(self):
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def seconds_of(do):
    began = time.monotonic()
    do()
    return time.monotonic() - began
