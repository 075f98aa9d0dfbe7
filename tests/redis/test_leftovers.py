"""Connections over event loops, threads and forks: none is shared, and none is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.links import open_sockets
from tests.servers import Proxy
from tiercache.tiers.redis import Redis


class TestLeftovers:
    def test_close_leaves_nothing_behind(self, server):
        """After close, from blocking use and from several loops: no socket, no thread."""
        gc.collect()
        sockets, threads = open_sockets(), threading.enumerate()
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")

        async def main():
            await asyncio.gather(*(space.aread(f"{n}") for n in range(20)))
            await asyncio.gather(*(space.awrite(f"{n}", b"1", 60) for n in range(20)))

        for _ in range(3):
            asyncio.run(main())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: space.write(f"{n}", b"1", 60), range(50)))
        store.close()
        store.close()
        gc.collect()
        assert open_sockets() <= sockets
        assert set(threading.enumerate()) <= set(threads)

    def test_a_tail_leaves_nothing_behind(self, server):
        """A reader of the log has one connection, which its close ends."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        tail = space.tail(space.log_end())
        before = open_sockets()
        space.write("1", b"1", 60)
        assert [message.names for message in tail.read(5) if message.names] == [("1",)]
        assert len(open_sockets() - before) == 1
        tail.close()
        tail.close()
        assert open_sockets() <= before
        space.delete(["1"])
        assert [message.names for message in tail.read(5) if message.names] == [("1",)]
        tail.close()
        store.close()

    def test_a_loop_that_ends_takes_its_connections_along(self, server):
        """asyncio.run without aclose leaves no socket and no warning."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sockets = open_sockets()
            for _ in range(3):
                asyncio.run(space.aread("1"))
                gc.collect()
                assert open_sockets() <= sockets
        store.close()

    def test_a_loop_closed_by_hand_is_cleaned_up_later(self, server, recwarn):
        """loop.close() alone leaves sockets until the next loop or close; no warning then."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        sockets = open_sockets()
        for _ in range(3):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(space.aread("1"))
            loop.close()
        store.close()
        del loop
        gc.collect()
        assert open_sockets() <= sockets
        assert [str(w.message) for w in recwarn] == []

    async def test_aclose_closes_this_loop_now(self, server):
        """After aclose returns, the sockets are gone."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        sockets = open_sockets()
        await asyncio.gather(*(space.awrite(f"{n}", b"1", 60) for n in range(10)))
        assert open_sockets() - sockets
        await store.aclose()
        assert open_sockets() <= sockets

    def test_close_reaches_loops_of_other_threads(self, server):
        """close() from one thread closes the connections of a loop that runs in another."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        before = open_sockets()
        asyncio.run_coroutine_threadsafe(space.aread("1"), loop).result(10)
        assert len(open_sockets() - before) == 1
        store.close()
        deadline = time.monotonic() + 10
        while open_sockets() - before:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def test_loops_do_not_pile_up(self, server):
        """A store that has seen many loops keeps none of the gone ones."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        for _ in range(5):
            asyncio.run(space.aread("1"))
        gc.collect()
        assert len(store._links) <= 1
        store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    def in_child(self, work):
        """Run work in a forked child; return what it reports."""
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(send, repr(work()).encode())
            except BaseException:
                os.write(send, traceback.format_exc().encode())
            finally:
                os._exit(0)
        os.close(send)
        with os.fdopen(receive) as pipe:
            report = pipe.read()
        os.waitpid(pid, 0)
        return report

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_child_has_connections_of_its_own(self, server):
        """Parent and child read and write at once, blocking and awaited, and mix up nothing."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        space.write("1", b"1", 60)

        def child():
            warnings.simplefilter("error")
            answers = set()
            for turn in range(50):
                space.write("child", b"%d" % turn, 60)
                answers.add(bytes(space.read("child").payload) == b"%d" % turn)
            answers.add(bytes(asyncio.run(space.aread("1")).payload) == b"1")
            store.close()
            return answers

        async def parent():
            await space.aread("1")
            report = asyncio.get_running_loop().run_in_executor(None, self.in_child, child)
            while not report.done():
                answer = await space.aread("1")
                assert bytes(answer.payload) == b"1"
                assert bytes(space.read("1").payload) == b"1"
            assert await report == "{True}"
            await store.aclose()

        asyncio.run(parent())

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_fork_during_a_read_leaves_the_child_unlocked(self, server):
        """Locks that another thread held at the fork are new in the child."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5)
            space = store.namespace("u")
            space.write("1", b"1", 60)
            proxy.hold()
            with ThreadPoolExecutor(2) as pool:
                read = pool.submit(space.read, "1")
                while not space._threads._is_busy:
                    time.sleep(0.001)

                def child():
                    direct = Redis(server.url, timeout=5).namespace("u")
                    assert not space._threads._is_busy
                    return bytes(direct.read("1").payload)

                assert self.in_child(child) == "b'1'"
                proxy.release()
                assert bytes(read.result(10).payload) == b"1"
            store.close()
