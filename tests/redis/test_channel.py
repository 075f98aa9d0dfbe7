"""A connection taken over from redis-py: what ends an exchange, and what becomes of it then."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.links import open_sockets
from tests.servers import Proxy
from tiercache.errors import StoreError, StoreTimeout
from tiercache.tiers._redis_async import AsyncLink
from tiercache.tiers._redis_channel import Channel
from tiercache.tiers._redis_link import Command
from tiercache.tiers._redis_permits import Permits
from tiercache.tiers.redis import Redis
from tiercache.tiers.store import Item

GET = b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n"


class Server:
    """A server that a test plays by hand: it reads, and writes what it is told."""

    def __init__(self):
        self.peers = []
        self.requests = asyncio.Queue()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        for peer in self.peers:
            peer.close()
            with contextlib.suppress(OSError):
                await peer.wait_closed()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        self.peers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.requests.put_nowait(data)


@contextlib.asynccontextmanager
async def channel_to(server):
    """Open a channel to a server."""
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    channel = Channel(writer, RuntimeError, RuntimeError)
    yield channel
    channel.close()
    await channel.wait_closed()


def ask(channel, replies=1, seconds=5.0):
    """Send a request; return the future of its end."""
    loop = asyncio.get_running_loop()
    end = loop.create_future()
    channel.ask(GET, replies, loop.time() + seconds, end.set_result)
    return end


async def answered(server, channel, reply):
    """Return how an exchange ended that the server answered so."""
    end = ask(channel)
    await server.requests.get()
    server.peers[0].write(reply)
    return await asyncio.wait_for(end, 10)


async def test_replies_in_pieces():
    """An exchange ends with its last reply, however it comes; and then the next can begin."""
    async with Server() as server, channel_to(server) as channel:
        for _ in range(3):
            end = ask(channel, replies=2)
            assert await server.requests.get() == GET
            server.peers[0].write(b"$3\r\na")
            await server.peers[0].drain()
            await asyncio.sleep(0.01)
            assert not end.done()
            server.peers[0].write(b"bc\r\n:5\r\n")
            assert await asyncio.wait_for(end, 10) == [b"abc", 5]
        assert channel.is_open


async def test_a_refusal_is_a_reply():
    """An error about the command is returned, and the connection kept."""
    async with Server() as server, channel_to(server) as channel:
        (refusal,) = await answered(server, channel, b"-ERR no\r\n")
        assert isinstance(refusal, RuntimeError)
        assert channel.is_open


@pytest.mark.parametrize("reply", [b"-MASTERDOWN no\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
async def test_a_server_of_no_use_ends_it(reply):
    """An error about the server, or no reply at all, closes the connection."""
    async with Server() as server, channel_to(server) as channel:
        assert isinstance(await answered(server, channel, reply), Exception)
        assert not channel.is_open


async def test_silence_ends_in_time():
    """One timer serves all exchanges: each ends by its own deadline, shorter ones too."""
    async with Server() as server, channel_to(server) as channel:
        await answered(server, channel, b"+OK\r\n")  # its timer is still set, for later
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert isinstance(await asyncio.wait_for(ask(channel, seconds=0.05), 10), TimeoutError)
        assert 0.04 < loop.time() - began < 3
        assert not channel.is_open


async def test_a_timer_of_an_exchange_past_does_not_end_the_next():
    """The timer that rings for one that has ended is set again for the one under way."""
    async with Server() as server, channel_to(server) as channel:
        end = ask(channel, seconds=0.05)
        await server.requests.get()
        server.peers[0].write(b"+OK\r\n")
        await end
        end = ask(channel, seconds=10)
        await asyncio.sleep(0.1)
        assert not end.done()
        server.peers[0].write(b"+OK\r\n")
        assert await asyncio.wait_for(end, 10) == [b"OK"]


async def test_a_lost_connection_ends_it():
    """When the server closes, whoever waits is told; nothing more can be asked."""
    async with Server() as server, channel_to(server) as channel:
        end = ask(channel)
        await server.requests.get()
        server.peers[0].close()
        assert isinstance(await asyncio.wait_for(end, 10), ConnectionError)
        assert not channel.is_open


async def test_what_nobody_asked_for_closes():
    """A reply without a question must not be taken for the answer to the next."""
    async with Server() as server, channel_to(server) as channel:
        await answered(server, channel, b"+OK\r\n")
        server.peers[0].write(b"+MORE\r\n")
        await asyncio.wait_for(channel.wait_closed(), 10)
        assert not channel.is_open


@pytest.mark.parametrize("more", [b"+MORE\r\n", b"+MO", b"+"])
async def test_a_reply_too_many_closes(more):
    """Not even where it comes, or begins, together with the one that was asked for."""
    async with Server() as server, channel_to(server) as channel:
        assert await answered(server, channel, b"+OK\r\n" + more) == [b"OK"]
        assert not channel.is_open


class TestLinks:
    async def test_connections_are_taken_over(self, server):
        """After its first exchange a connection is a channel, and goes on being used."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        await space.awrite("1", b"1", 60)
        (channel,) = store.loop_link()._idle
        assert isinstance(channel, Channel)
        for _ in range(5):
            assert bytes((await space.aread("1")).payload) == b"1"
        assert store.loop_link()._idle == [channel]
        await store.aclose()

    async def test_one_that_was_closed_meanwhile_is_replaced(self, server):
        """A server that hangs up on idle connections costs nobody an error: reads and writes."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        await space.awrite("1", b"1", 60)
        for _ in range(3):
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert bytes((await space.aread("1")).payload) == b"1"
            server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await space.awrite("1", b"1", 60)
        await store.aclose()

    async def test_readers_may_all_go_and_the_channel_stays(self, server):
        """A merged read whose readers were cancelled ends by itself, and spoils nothing."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5, max_connections=1)
            space = store.namespace("u")
            await space.awrite_many([Item("1", b"1", 60), Item("2", b"2", 60)])
            proxy.hold()
            readers = [asyncio.create_task(space.aread("1")) for _ in range(3)]
            await asyncio.sleep(0.02)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            proxy.release()
            assert bytes((await space.aread("2")).payload) == b"2"
            assert proxy.connections == 1
            await store.aclose()

    async def test_closing_during_a_read(self, server):
        """A store closed under a merged read opens what that needs once more."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5)
            space = store.namespace("u")
            await space.awrite("1", b"1", 60)
            await space.aread("1")
            proxy.hold()
            reading = asyncio.create_task(space.aread("1"))
            await asyncio.sleep(0.02)
            await store.aclose()
            proxy.release()
            assert bytes((await asyncio.wait_for(reading, 10)).payload) == b"1"
            await store.aclose()

    def test_a_loop_that_ends_during_a_read(self, server):
        """Whoever leaves a read behind leaves no socket: the loop closes what it had."""
        with Proxy(server.port) as proxy:
            store = Redis(proxy.url, timeout=5)
            space = store.namespace("u")

            async def main():
                await space.awrite("1", b"1", 60)
                await space.aread("1")
                proxy.hold()
                task = asyncio.create_task(space.aread("1"))
                await asyncio.sleep(0.02)
                return task

            asyncio.run(main())
            proxy.release()

            async def again():
                return await space.aread("1")

            assert bytes(asyncio.run(again()).payload) == b"1"
            store.close()

    async def test_a_silent_server_is_a_timeout_for_all_readers(self, own_server):
        """A merged read over a channel ends in the store's time, and the link goes on after."""
        store = Redis(own_server.url, timeout=0.3)
        space = store.namespace("u")
        await space.awrite("1", b"1", 60)
        await space.aread("1")
        own_server.freeze()
        readers = [space.aread("1") for _ in range(5)]
        errors = await asyncio.gather(*readers, return_exceptions=True)
        own_server.thaw()
        assert [type(error) for error in errors] == [StoreTimeout] * 5
        assert all(error.__context__ is None for error in errors)
        assert bytes((await space.aread("1")).payload) == b"1"
        await store.aclose()

    @pytest.mark.parametrize("is_taken_over", [False, True])
    async def test_what_was_given_up_is_not_sent_later(self, own_server, is_taken_over):
        """A big write that timed out neither keeps its socket nor lands after a later delete."""
        store = Redis(own_server.url, timeout=0.2)
        other = Redis(own_server.url, timeout=10)
        space, witness = store.namespace("u"), other.namespace("u")
        await witness.awrite("1", b"1", 60)
        if is_taken_over:
            await space.awrite("1", b"1", 60)
        before = open_sockets()
        own_server.freeze()
        with pytest.raises(StoreTimeout):
            await space.awrite("1", bytes(30_000_000), 60)
        await asyncio.sleep(0)  # the loop closes what was aborted in its next turn
        assert open_sockets() <= before
        assert len(before - open_sockets()) >= is_taken_over
        own_server.thaw()
        await witness.adelete(["1"])
        for _ in range(20):  # the server reads on, if there is anything to read
            await asyncio.sleep(0.01)
            assert await witness.aread("1") is None
        await store.aclose()
        await other.aclose()

    async def test_a_refused_read_is_an_error_for_all_readers(self, server):
        """What the server refuses comes out as StoreError, one for each reader."""
        store = Redis(server.url, timeout=5)
        space = store.namespace("u")
        await space.awrite("1", b"1", 60)
        await space.aread("1")
        server.command("ACL", "SETUSER", "default", "-mget")
        try:
            errors = await asyncio.gather(
                *(space.aread("1") for _ in "abc"), return_exceptions=True
            )
        finally:
            server.command("ACL", "SETUSER", "default", "+mget")
        assert all(isinstance(error, StoreError) for error in errors)
        assert len(set(map(id, errors))) == 3
        await store.aclose()

    async def test_connections_of_the_users_own_class_stay_redis_pys(self, server):
        """A class of the user's own may do as it likes: it is not taken over, and is reused."""
        import redis.asyncio as redis

        class Mine(redis.Connection):
            pass

        pool = redis.ConnectionPool(connection_class=Mine, host="127.0.0.1", port=server.port)
        store = Redis(redis.Redis(connection_pool=pool), timeout=5)
        space = store.namespace("u")
        await space.awrite("1", b"1", 60)
        for _ in range(5):
            assert bytes((await space.aread("1")).payload) == b"1"
        (connection,) = store.loop_link()._idle
        assert isinstance(connection, Mine)
        server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert bytes((await space.aread("1")).payload) == b"1"
        await store.aclose()


class TestCancelledAndAnsweredAtOnce:
    """A reply may come between the cancellation of who awaits it and his hearing of it."""

    @contextlib.asynccontextmanager
    async def moment(self, server):
        """Open a link to a server, whose one exchange was cancelled and then answered."""
        async with channel_to(server) as channel:
            link = AsyncLink(pytest.fail, 2, 5.0, "x")
            link._idle.append(channel)
            asking = asyncio.create_task(link.exchange("get", [Command(None, GET)]))
            await server.requests.get()
            asking.cancel()
            channel.data_received(b"+LATE\r\n")
            yield link, channel, asking

    async def test_the_connection_is_given_back_once(self):
        """Its permit is not given back twice, nor a connection closed that is idle."""
        async with Server() as server, self.moment(server) as (link, channel, asking):
            await asyncio.gather(asking, return_exceptions=True)
            assert asking.cancelled()
            assert link._idle == [channel]
            assert channel.is_open
            assert [link._permits.take() for _ in range(3)] == [True, True, False]

    async def test_the_next_exchange_is_told_of_its_reply(self):
        """Whoever has taken the connection meanwhile keeps it, and gets his own reply."""
        async with Server() as server, self.moment(server) as (link, channel, asking):
            end = asyncio.get_running_loop().create_future()
            assert link.start("get", GET, 1, None, end.set_result)
            await asyncio.gather(asking, return_exceptions=True)
            await server.requests.get()
            server.peers[0].write(b"+MINE\r\n")
            assert await asyncio.wait_for(end, 10) == [b"MINE"]
            assert link._idle == [channel]


class TestPermits:
    async def test_first_come_first_served(self):
        """A permit that is given back goes to who has waited for the longest."""
        permits, order = Permits(1), []

        async def work(name):
            await permits.wait()
            order.append(name)
            await asyncio.sleep(0)
            permits.give_back()

        await asyncio.gather(*map(work, "abcd"))
        assert order == list("abcd")
        assert permits.take()
        assert not permits.take()

    async def test_who_was_cancelled_takes_none(self):
        """Neither one who still waits, nor one who was just handed the permit, keeps it."""
        permits = Permits(1)
        assert permits.take()
        waiting = [asyncio.create_task(permits.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        permits.give_back()  # to the first of those that are not cancelled yet: the very first
        waiting[1].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(each) for each in results[:2]] == [asyncio.CancelledError] * 2
        assert results[2] is None
        permits.give_back()
        assert permits.take()
