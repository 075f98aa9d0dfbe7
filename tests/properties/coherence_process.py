"""A process of a World: its cache, the functions decorated with it, and how they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.properties.coherence_line import Line, ManualReader
from tests.properties.coherence_model import (
    PLAIN,
    ROWS,
    SHARED,
    STATIC,
    VALUED,
    Floors,
    Value,
    covered,
    value_of,
)
from tiercache import LRU, MISS, Cache
from tiercache.tiers.store import Message

if TYPE_CHECKING:
    from tests.properties.coherence_world import World

BLIND_TTL = 5.0


class Process:
    """One of the processes that share a cache, and the floors of what may be seen in it."""

    def __init__(self, world: World, name: str, l1: LRU | None) -> None:
        self.world = world
        self.name = name
        self.reader: ManualReader | None = None
        self.trouble = ""  # on its line: one of TROUBLES
        self.was_in_trouble = False
        self.was_closed = False
        self.floors = Floors()
        self._later: list[tuple[float, Floors]] = []  # to be lifted, with time
        self.cache = Cache(
            "world",
            l1=l1,
            l2=Line(self, world.store),
            **{"ttl": None, **world.staleness},
            jitter=0,
            clock=world.clock,
            blind_ttl=BLIND_TTL,
        )
        self.l2: Any = self.cache.flow.l2
        self.l2.breaker._draw = lambda: 0.5
        self._functions: dict[str, Any] = {}  # decorated when they are first used

    # What may not be seen any more

    def floors_now(self) -> Floors:
        """Return the floors for a read that begins now."""
        while self._later and self._later[0][0] <= self.world.clock.now:
            self.floors.lift(self._later.pop(0)[1])
        return self.floors.copy()

    def after_message(self, message: Message) -> None:
        """Take note that a message was applied here. Its own, a process has applied before."""
        if message.origin != self.l2.origin:
            self.floors.lift(self.world.floors_of(message))

    def after_gap(self, *, was_blind: bool) -> None:
        """Take note that all messages up to now are as good as applied; or will be with time."""
        if not was_blind:
            self.floors.lift(self.world.stored_floors)
            return
        self._later.append((self.world.clock.now + BLIND_TTL, self.world.stored_floors.copy()))

    # What it does

    def function(self, row: str) -> tuple[Any, int]:
        """Return the function that reads a row, and its argument."""
        name, _, number = row.partition(":")
        if name not in self._functions:
            self._functions[name] = self._decorated(name)
        return self._functions[name], int(number)

    def _decorated(self, name: str) -> Any:
        async def load_many(numbers: list[int]) -> list[Value]:
            return await self.world.load(self, [f"{name}:{number}" for number in numbers])

        options: dict[str, dict[str, Any]] = {
            PLAIN: {"batch": load_many},
            SHARED: {"lease": False},
            STATIC: {"tags": ["all"]},
            VALUED: {"tags": lambda value: value[2], "batch": load_many},
        }

        @self.cache.cached(name + ":{number}", **options[name])
        async def function(number: int) -> Any:
            return (await load_many([number]))[0]

        return function

    async def read(self, how: str, row: str) -> dict[str, Any]:
        """Read a row, or it and others, in one of all ways; return values by row."""
        cache, name = self.cache, row.partition(":")[0]
        others = covered(f"{name}:") if row else list(ROWS)
        match how:
            case "get":
                return {row: await cache.aget(row, MISS)}
            case "get_many":
                return await cache.aget_many(others)
            case "load":
                row = f"{PLAIN}:{row[-1]}"
                return {row: await cache.aget_or_load(row, self._load_one)}
            case "load_many":
                return await cache.aget_or_load_many(covered(f"{PLAIN}:"), self._load_many)
        function, number = self.function(row)
        match how:
            case "call":
                return {row: await function(number)}
            case "peek":
                return {row: await function.peek(number)}
            case "many":
                found = await function.many([int(other[-1]) for other in others])
                return {f"{name}:{each}": value for each, value in found.items()}
        raise AssertionError(how)

    async def _load_one(self, key: str) -> Value:
        return (await self.world.load(self, [key]))[0]

    async def _load_many(self, keys: list[str]) -> list[Value]:
        return await self.world.load(self, keys)

    async def update(self, how: str, what: str) -> Any:
        """Invalidate or write in one of all ways; return what a refresh has brought."""
        match how:
            case "tags":
                return await self.cache.ainvalidate_tags(*what.split())
            case "clear":
                return await self.cache.aclear_prefix(what)
            case "delete":
                return await self.cache.adelete(what)
            case "expire":
                return await self.cache.aexpire(what)
        function, number = self.function(what)
        if how == "set":
            return await function.set(value_of(what, self.world.database), number)
        return await function.refresh(number)

    def block(self, how: str, what: str) -> None:
        """Do what ``update`` does, in a blocking call."""
        match how:
            case "tags":
                self.cache.invalidate_tags(*what.split())
            case "clear":
                self.cache.clear_prefix(what)
            case "delete":
                self.cache.delete(what)
            case "expire":
                self.cache.expire(what)
            case "set":
                value = value_of(what, self.world.database)
                self.cache.set(what, value, tags=value[2])
