"""redis-py by hand: GET and SET with msgpack; what others are built on. The baseline in L2."""

import redis.asyncio
from msgpack import packb, unpackb

from benchmarks.rivals import TTL_SECONDS, AsyncFunction, Function, Rival


def stored(function: Function, url: str) -> Function:
    client = redis.Redis.from_url(url)

    def cached(user_id: int) -> object:
        if (raw := client.get(f"plain:{user_id}")) is None:
            client.set(f"plain:{user_id}", raw := packb(function(user_id)), TTL_SECONDS)
        return unpackb(raw)

    return cached


def astored(function: AsyncFunction, url: str) -> AsyncFunction:
    client = redis.asyncio.Redis.from_url(url)

    async def cached(user_id: int) -> object:
        if (raw := await client.get(f"a:{user_id}")) is None:
            await client.set(f"a:{user_id}", raw := packb(await function(user_id)))
        return unpackb(raw)

    return cached


RIVAL = Rival("redis", ("threads",), stored=stored, astored=astored)
