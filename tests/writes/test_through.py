"""Write-through: what a function has written stands in the cache when it returns, or nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.gates import GatedStore
from tests.kinds import Kind
from tests.waiting import until
from tiercache import MISS, Cache, ConfigurationError, UncacheableArguments, WriteFailed
from tiercache.testing import DictStore, FaultyStore


class Failure(Exception):
    """A database's error."""


def peek(kind: Kind, cache: Cache, key: str) -> Any:
    return kind.do(cache, "get", key, MISS)


@pytest.mark.parametrize("has_l2", [False, True])
def test_it_stands_in_the_cache(kind: Kind, make_cache: Callable[..., Cache], has_l2: bool) -> None:
    """The result is in L1 and L2 when the call returns, without a load."""
    store = DictStore() if has_l2 else None
    cache = make_cache(l2=store)

    @cache.write_through("user:{user_id}")
    @kind.function
    def save(user_id: int, name: str) -> dict[str, Any]:
        """Write a row."""
        return {"id": user_id, "name": name}

    assert save.__name__ == "save"
    assert save.__doc__ == "Write a row."
    assert kind.call(save, 1, "Ada") == {"id": 1, "name": "Ada"}
    assert cache.memory.get("user:1").value == {"id": 1, "name": "Ada"}
    if has_l2:
        other = make_cache(l2=store)
        assert peek(kind, other, "user:1") == {"id": 1, "name": "Ada"}


def test_peers_are_told(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """What another process holds in its L1 is dropped there."""
    store = DictStore()
    one, two = make_cache(l2=store), make_cache(l2=store)
    save = one.write_through("k:{x}")(kind.function(lambda x, value: value))
    kind.call(save, 1, "old")
    assert peek(kind, two, "k:1") == "old"
    kind.call(save, 1, "new")
    until(lambda: two.flow.fresh("k:1") is None)
    assert peek(kind, two, "k:1") == "new"


def test_key_and_value_are_chosen(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """The value may be made of the arguments and the result; so may the key of what is created."""
    cache = make_cache(l2=DictStore(), ttl=100)
    by_result = cache.write_through(
        "user:{result[id]}", value=lambda name, result: f"{result['id']} {name}", tags=["users"]
    )(kind.function(lambda name: {"id": 7, "name": name}))
    assert kind.call(by_result, "Ada") == {"id": 7, "name": "Ada"}
    assert peek(kind, cache, "user:7") == "7 Ada"
    kind.do(cache, "invalidate_tags", "users")
    assert peek(kind, cache, "user:7") is MISS
    by_function = cache.write_through(lambda x: f"f:{x}", ttl=5)(kind.function(lambda x: x))
    kind.call(by_function, 3)
    assert cache.memory.get("f:3").fresh_until == 5


def test_methods(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """It decorates methods, class methods and static methods."""
    cache = make_cache()

    class Repository:
        @cache.write_through("a:{x}")
        @kind.function
        def save(self, x: int) -> int:
            return x

        @cache.write_through("b:{x}")
        @classmethod
        def make(cls, x: int) -> int:
            return x

    kind.call(Repository().save, 1)
    Repository.make(2)
    assert (peek(kind, cache, "a:1"), peek(kind, cache, "b:2")) == (1, 2)


def test_a_load_that_began_earlier_does_not_overwrite(make_cache: Callable[..., Cache]) -> None:
    """A load that has read the old row fills neither tier once the write has begun."""
    store = DictStore()
    one, two = make_cache(l2=store), make_cache(l2=store)
    row = {"v": "old"}
    has_read, may_end = threading.Event(), threading.Event()

    def load(x: int) -> str:
        value = row["v"]
        has_read.set()
        assert may_end.wait(10)
        return value

    def save(x: int, value: str) -> str:
        row["v"] = value
        return value

    for reader in (one, two):
        row["v"] = "old"
        kind_of = reader.cached("k:{x}")(load)
        writer = one.write_through("k:{x}")(save)
        has_read.clear()
        may_end.clear()
        answers: list[str] = []
        thread = threading.Thread(target=lambda f=kind_of, a=answers: a.append(f(1)))
        thread.start()
        assert has_read.wait(10)
        writer(1, "new")
        may_end.set()
        thread.join()
        assert answers == ["old"]
        assert one.get("k:1") == "new"
        assert make_cache(l2=store).get("k:1") == "new"
        one.delete("k:1")


def test_overlapping_writes_leave_nothing(make_cache: Callable[..., Cache]) -> None:
    """Where two writes of a key overlap, here or in two processes, the next read loads."""
    for far in (False, True):
        store = DictStore()
        one = make_cache(l2=store)
        two = make_cache(l2=store) if far else one
        entered, may_return = threading.Event(), threading.Event()

        def slow(x: int, gates: Any = (entered, may_return)) -> str:
            gates[0].set()
            assert gates[1].wait(10)
            return "first"

        first = one.write_through("k:{x}")(slow)
        second = two.write_through("k:{x}")(lambda x: "second")
        thread = threading.Thread(target=first, args=(1,))
        thread.start()
        assert entered.wait(10)
        second(1)
        may_return.set()
        thread.join()
        until(lambda caches=(one, two): all(c.flow.fresh("k:1") is None for c in caches))
        assert make_cache(l2=store).get("k:1", MISS) is MISS
        assert one.cached("k:{x}")(lambda x: "loaded")(1) == "loaded"


def test_a_write_that_fails_leaves_nothing(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A function that raises may have written all the same: what stood there is forgotten."""
    store = DictStore()
    cache = make_cache(l2=store)
    kind.do(cache, "set", "k:1", "old")

    def fail(x: int) -> None:
        raise Failure

    save = cache.write_through("k:{x}")(kind.function(fail))
    with pytest.raises(Failure):
        kind.call(save, 1)
    assert peek(kind, cache, "k:1") is MISS
    assert peek(kind, make_cache(l2=store), "k:1") is MISS
    assert kind.call(cache.cached("k:{x}")(kind.function(lambda x: "loaded")), 1) == "loaded"


def test_its_own_reads_do_not_wait_for_it(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A function that reads what it writes, through the cache, does not wait for itself."""
    cache = make_cache(l2=DictStore(), load_timeout=5)
    get = cache.cached("k:{x}")(kind.function(lambda x: "old"))
    if kind.name == "blocking":

        def save(x: int) -> str:
            return get(x) + "+"
    else:

        async def save(x: int) -> str:
            return await get(x) + "+"

    through = cache.write_through("k:{x}")(save)
    assert kind.call(through, 1) == "old+"
    assert peek(kind, cache, "k:1") == "old+"
    assert kind.call(through, 1) == "old++" or peek(kind, cache, "k:1") == "old+"


@pytest.mark.parametrize("fault", ["claim", "fill"])
def test_where_l2_fails_the_key_is_invalidated(
    kind: Kind, make_cache: Callable[..., Cache], fault: str
) -> None:
    """Without L2 the write succeeds, and the key is invalidated as soon as can be; or it raises."""
    inner = DictStore()
    store = FaultyStore(inner)
    cache, other = make_cache(l2=store), make_cache(l2=inner)
    kind.do(cache, "set", "k:1", "old")
    save = cache.write_through("k:{x}")(kind.function(lambda x, value: value))
    strict = cache.write_through("k:{x}", on_cache_failure="raise")(
        kind.function(lambda x, value: value)
    )
    store.fail()
    assert kind.call(save, 1, "new") == "new"
    assert cache.flow.fresh("k:1") is None
    with pytest.raises(WriteFailed, match="invalidated"):
        kind.call(strict, 1, "newer")
    assert cache.stats().owed
    store.heal()
    until(lambda: not cache.stats().owed)
    assert peek(kind, other, "k:1") is MISS


def test_a_value_without_bytes(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """A value that has no bytes is not in L2: the key is invalidated, or WriteFailed raised."""
    store = DictStore()
    cache = make_cache(l2=store)
    kind.do(cache, "set", "k:1", "old")
    save = cache.write_through("k:{x}")(kind.function(lambda x: threading.Lock()))
    with pytest.warns(UserWarning, match="cannot encode"):
        kind.call(save, 1)
    assert peek(kind, make_cache(l2=store), "k:1") is MISS
    strict = cache.write_through("k:{x}", on_cache_failure="raise")(
        kind.function(lambda x: threading.Lock())
    )
    with pytest.raises(WriteFailed), pytest.warns(UserWarning, match="cannot encode"):
        kind.call(strict, 1)


async def test_cancelling_the_writer(make_cache: Callable[..., Cache]) -> None:
    """A writer that is cancelled in its function leaves nothing; at the fill, its value stands."""
    store = GatedStore()
    cache = make_cache(l2=store)
    await cache.aset("k:1", "old")
    entered = asyncio.Event()

    async def hang(x: int) -> str:
        entered.set()
        await asyncio.sleep(30)
        return "new"

    task = asyncio.create_task(cache.write_through("k:{x}")(hang)(1))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.aget("k:1", MISS) is MISS

    async def quick(x: int) -> str:
        return "new"

    gate = store.gate("fill")
    task = asyncio.create_task(cache.write_through("k:{x}")(quick)(1))
    await gate.auntil_reached()
    task.cancel()
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await cache.aget("k:1") == "new"


@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        (None, {}, "needs a key"),
        ("k:{y}", {}, "no argument"),
        ("k:{x}", {"value": 1}, "value of"),
        ("k:{x}", {"ttl": -1}, "ttl"),
        ("k:{x}", {"on_cache_failure": "ignore"}, '"raise" or "invalidate"'),
        ("k:{x}", {"after": "commit"}, "after must be"),
    ],
)
def test_bad_options(cache: Cache, key: Any, options: dict[str, Any], message: str) -> None:
    """What cannot work is refused at decoration."""
    with pytest.raises(ConfigurationError, match=message):
        cache.write_through(key, **options)(lambda x: x)


def test_a_key_that_cannot_be_made(kind: Kind, cache: Cache) -> None:
    """Where the arguments tell the key it is made before the function runs."""
    ran: list[int] = []
    save = cache.write_through("k:{x.id}")(kind.function(lambda x: ran.append(1)))
    with pytest.raises(UncacheableArguments):
        kind.call(save, object())
    assert ran == []
    two = cache.write_through(lambda x: [f"a:{x}", f"b:{x}"])(kind.function(lambda x: x))
    with pytest.raises(ConfigurationError, match="one key"):
        kind.call(two, 1)


def test_read_through(kind: Kind, make_cache: Callable[..., Cache]) -> None:
    """An object reads through, for code that has no function to decorate."""
    cache = make_cache(l2=DictStore())
    loads: list[int] = []
    users = cache.read_through(
        kind.function(lambda user_id: loads.append(user_id) or user_id * 10), key="user:{}"
    )
    assert kind.call(users.get, 4) == kind.call(users.get, 4) == 40
    assert loads == [4]
    assert users.key(4) == "user:4"
    assert kind.call(users.many, [4, 5]) == {4: 40, 5: 50}
    kind.call(users.set, 99, 4)
    assert kind.call(users.peek, 4) == 99
    assert kind.call(users.refresh, 4) == 40
    kind.call(users.invalidate, 4)
    assert kind.call(users.peek, 4) is MISS
    assert users.cache_info().loads == 3
    assert "ReadThrough of" in repr(users)
