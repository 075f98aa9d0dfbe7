"""One process of the chaos test: threads and tasks that use one cache at random.

Told by its parent over stdin, in lines: ``go``; ``stop``: callers end; ``converge <when>``: the
last fault was healed then, so all values are to be the present ones; ``leave``. After the last two
it closes the cache and writes down what it has seen. It answers each with a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

from tests.chaos.database import COUNTS, GROUPS, KEYS, Database, tags_of
from tests.chaos.history import Change, Debt, Lag, Load, Process, Read
from tests.chaos.mutations import MUTATIONS
from tiercache import LRU, MISS, Cache, LoadErrors, Redis
from tiercache.runtime import run

WATCH_SECONDS = 0.005
LAG_SECONDS = 0.02  # lateness that is worth writing down
CALM_TTL = 0.4  # of values that nobody invalidates: they are loaded again and again
PREFIXES = ("plain:", "valued:", "")


class DatabaseError(Exception):
    """A load failed: callers may see this, and only this."""


class Blocking:
    """What a thread calls."""

    is_async = False

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return function(*args, **options)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - run() completes it at once

    async def within(self, seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()  # a thread cannot be cancelled


class Asyncio:
    """What a task calls."""

    is_async = True

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return await function(*args, **options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def within(self, seconds: float, call: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(seconds):
            return await call()


Kind = Blocking | Asyncio


class Worker:
    """The cache of a process, and all that use it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.database = Database(Path(config["database"]))
        self.record = Process(config["number"], has_l1=config["l1"] is not None)
        self.stopping = threading.Event()
        self.closing = threading.Event()
        self.cache = Cache(
            "chaos",
            l1=None if config["l1"] is None else LRU(config["l1"]),
            l2=make_store(config),
            ttl=60,
            blind_ttl=config["blind_ttl"],
            load_timeout=30,
        )
        self.functions: dict[tuple[bool, str], Any] = {
            (kind.is_async, name): self._decorated(kind, name)
            for kind in (Blocking(), Asyncio())
            for name in COUNTS
        }

    def _decorated(self, kind: Kind, name: str) -> Any:
        options: dict[str, Any] = {
            "static": {"tags": ["all"]},
            "valued": {"tags": lambda value: tags_of(value[0])},
            "calm": {"ttl": CALM_TTL},
        }.get(name, {})

        async def load_one(number: int) -> Any:
            return (await self.load(kind, [f"{name}:{number}"]))[0]

        async def load_many(numbers: list[int]) -> list[Any]:
            return await self.load(kind, [f"{name}:{number}" for number in numbers])

        def load_one_now(number: int) -> Any:
            return run(load_one(number))

        def load_many_now(numbers: list[int]) -> list[Any]:
            return run(load_many(numbers))

        if name in ("plain", "calm"):
            options["batch"] = load_many if kind.is_async else load_many_now
        decorate = self.cache.cached(name + ":{number}", **options)
        return decorate(load_one if kind.is_async else load_one_now)

    def function(self, kind: Kind, key: str) -> tuple[Any, int]:
        """Return the function that reads a key, and its argument."""
        name, _, number = key.partition(":")
        return self.functions[kind.is_async, name], int(number)

    async def load(self, kind: Kind, keys: list[str]) -> list[tuple[str, int]]:
        """Load the values of keys, in some time, from some moment in it."""
        began, succeeded = time.monotonic(), False
        try:
            before, after = self._load_times()
            await kind.sleep(before)
            values = [(key, self.database.version(key)) for key in keys]
            await kind.sleep(after)
            if random.random() < 0.01:
                raise DatabaseError
            succeeded = True
            return values
        finally:
            ended = time.monotonic()
            self.record.loads += [Load(key, began, ended, succeeded) for key in keys]

    def _load_times(self) -> tuple[float, float]:
        if self.stopping.is_set():
            return 0.0, 0.0
        longest = random.choices(
            (self.config["load"], 0.2, 4.0), (96, 4, self.config["long_loads"])
        )[0]
        return random.random() * longest, random.random() * longest

    # Callers

    def start(self) -> list[threading.Thread]:
        """Start all callers."""
        counts = self.config["threads"], self.config["tasks"]
        share = sum(counts)

        async def tasks() -> None:
            callers = (
                Caller(self, Asyncio(), counts[0] + each, share) for each in range(counts[1])
            )
            await asyncio.gather(*(caller.work() for caller in callers))

        threads = [
            threading.Thread(
                target=lambda each=each: run(Caller(self, Blocking(), each, share).work())
            )
            for each in range(counts[0])
        ]
        threads.append(threading.Thread(target=lambda: asyncio.run(tasks())))
        for thread in threads:
            thread.start()
        return threads

    def watch(self) -> None:
        """Write down when this process did not run, owed something, and heard nothing."""
        record, flow, owed, cut_off = self.record, self.cache.flow, False, 0.0
        last = time.monotonic()
        while not self.closing.wait(WATCH_SECONDS):
            owes, live, now = bool(flow.l2.debts), flow.bus.is_live, time.monotonic()
            if now - last - WATCH_SECONDS > LAG_SECONDS:
                record.lags.append(Lag(now, now - last - WATCH_SECONDS))
            if owes is not owed:
                record.debts.append(Debt(now, owes))
                owed = owes
            if live and cut_off:
                record.cuts.append((cut_off, now))
            cut_off = 0.0 if live else cut_off or now
            last = now
        if cut_off:
            record.cuts.append((cut_off, time.monotonic()))

    def converge(self, healed: float) -> float:
        """Return how long after the healing a read began that was stale; infinity: for ever."""
        deadline = time.monotonic() + 10
        last_stale, wrong = healed, list(KEYS)
        while wrong and time.monotonic() < deadline:
            still_wrong = []
            for key in wrong:
                began = time.monotonic()
                if not self._is_current(key):
                    last_stale = began
                    still_wrong.append(key)
            wrong = still_wrong
            time.sleep(0.002 if wrong else 0)
        return inf if wrong else last_stale - healed

    def _is_current(self, key: str) -> bool:
        function, number = self.function(Blocking(), key)
        with suppress(DatabaseError):
            return bool(function(number)[1] == self.database.version(key))
        return False

    def close(self) -> None:
        """Close the cache, and write down what it has left behind."""
        until(lambda: not self.cache.flow.l2.debts)
        if self.cache.flow.l2.debts:
            self.record.left_behind.append(f"{len(self.cache.flow.l2.debts)} debts")
        stats = self.cache.stats()
        names = ("hits_l1", "hits_l2", "misses", "loads", "joined", "store_errors", "bus_gaps")
        self.record.stats = {name: getattr(stats, name) for name in names}
        self.cache.close()
        until(lambda: not remains())
        self.record.left_behind += remains()
        self.closing.set()


class Caller:
    """One thread or task. Where there is no L1 it reads keys of its own only: it joins nobody."""

    def __init__(self, worker: Worker, kind: Kind, number: int, share: int) -> None:
        self.worker = worker
        self.kind = kind
        self.cache = worker.cache
        self.database = worker.database
        self.record = worker.record
        self.keys = KEYS if worker.record.has_l1 else KEYS[number::share]
        self.rng = random.Random(f"{worker.config['seed']} {worker.record.number} {number}")

    async def work(self) -> None:
        """Do one thing after another until told to stop."""
        rng, pace = self.rng, self.worker.config["pace"]
        while not self.worker.stopping.is_set():
            await self.kind.sleep(rng.random() * pace)
            act = self.update if rng.random() < self.worker.config["updates"] else self.read
            try:
                await act()
            except DatabaseError:
                continue
            except LoadErrors as errors:
                others = [each for each in errors.exceptions if not isinstance(each, DatabaseError)]
                self.record.troubles += [f"{act.__name__}: {each!r}" for each in others]
            except Exception as error:
                self.record.troubles.append(f"{act.__name__}: {error!r}")

    def method(self, name: str) -> Any:
        """Return a method of the cache, as this kind calls it."""
        return getattr(self.cache, f"a{name}" if self.kind.is_async else name)

    # Reading

    async def read(self) -> None:
        """Read a key, or some, in one of all ways, and write down what came."""
        rng = self.rng
        key = rng.choice(self.keys)
        how = rng.choice(("call",) * 8 + ("many", "get", "get_many", "peek", "load", "load_many"))
        patience = rng.random() * 0.02 if rng.random() < 0.03 else 60
        began = time.monotonic()
        try:
            values = await self.kind.within(patience, lambda: self._read(how, key))
        except TimeoutError:
            return
        ended = time.monotonic()
        for asked, value in values.items():
            if value is not MISS:
                self.record.reads.append(Read(asked, *value, began, ended, how))

    async def _read(self, how: str, key: str) -> dict[str, Any]:
        kind, (function, number) = self.kind, self.worker.function(self.kind, key)
        name = key.partition(":")[0]
        alike = [each for each in self.keys if each.startswith(f"{name}:")]
        match how:
            case "call":
                return {key: await kind.call(function, number)}
            case "many":
                numbers = [int(each.partition(":")[2]) for each in alike]
                found = await kind.call(function.many, numbers)
                return {f"{name}:{each}": value for each, value in found.items()}
            case "get":
                return {key: await kind.call(self.method("get"), key, MISS)}
            case "get_many":
                found = await kind.call(self.method("get_many"), alike)
                return dict(found)
            case "peek":
                return {key: await kind.call(function.peek, number)}
            case "load":
                return await self._get_or_load(key)
        return await self._get_or_load_many(alike)

    async def _get_or_load(self, key: str) -> dict[str, Any]:
        async def aload() -> Any:
            return (await self.worker.load(self.kind, [key]))[0]

        def load() -> Any:
            return run(aload())

        loader = aload if self.kind.is_async else load
        return {key: await self.kind.call(self.method("get_or_load"), key, loader, **_life(key))}

    async def _get_or_load_many(self, keys: list[str]) -> dict[str, Any]:
        async def aload(missing: list[str]) -> Any:
            return await self.worker.load(self.kind, missing)

        def load(missing: list[str]) -> Any:
            return run(aload(missing))

        loader = aload if self.kind.is_async else load
        options = _life(keys[0])
        if options.get("tags"):
            options["tags"] = lambda value: tags_of(value[0])
        found = await self.kind.call(self.method("get_or_load_many"), keys, loader, **options)
        return dict(found)

    # Updating

    async def update(self) -> None:
        """Change some rows, and have them forgotten, or written, in one of all ways."""
        rng = self.rng
        how = rng.choices(
            ("delete", "expire", "tags", "clear", "refresh", "set", "many"), (8, 2, 3, 1, 3, 5, 2)
        )[0]
        if how == "set":
            key = rng.choice([key for key in KEYS if key.startswith("written:")])
            with self.database.held(key) as is_held:
                if is_held:
                    await self._write(key)
            return
        names, covered = self._scope(how)
        for key in covered:
            if not key.startswith(("written:", "calm:")) and rng.random() < 0.7:
                self.database.raise_version(key)
        await self._invalidate(how, names, covered)

    def _scope(self, how: str) -> tuple[list[str], list[str]]:
        """Return what to name in an invalidation, and the keys that it is about."""
        rng = self.rng
        if how == "tags":
            tag = rng.choice(["all", *(f"group {each}" for each in range(GROUPS))])
            return [tag], [key for key in KEYS if tag in tags_of(key)]
        if how == "clear":
            prefix = rng.choices(PREFIXES, (5, 5, 1))[0]
            return [prefix], [key for key in KEYS if key.startswith(prefix)]
        mine = self.keys if how == "refresh" else KEYS
        some = [key for key in mine if not key.startswith(("written:", "calm:"))]
        keys = rng.sample(some, 3 if how == "many" else 1)
        return keys, keys

    async def _write(self, key: str) -> None:
        version = self.database.raise_version(key)
        function, number = self.worker.function(self.kind, key)
        began = time.monotonic()
        await self._patiently(lambda: self.kind.call(function.set, (key, version), number))
        self._note("set", {key: version}, began)

    async def _invalidate(self, how: str, names: list[str], covered: list[str]) -> None:
        floors = self.database.versions(covered)
        began = time.monotonic()
        call = self.kind.call
        match how:
            case "tags":
                await self._patiently(lambda: call(self.method("invalidate_tags"), *names))
            case "clear":
                await self._patiently(lambda: call(self.method("clear_prefix"), names[0]))
            case "expire":
                await self._patiently(lambda: call(self.method("expire"), *names))
            case "refresh":
                function, number = self.worker.function(self.kind, names[0])
                try:
                    value = await call(function.refresh, number)
                except DatabaseError:  # then nothing is promised, and somebody has to delete
                    await call(function.invalidate, number)
                else:
                    ended = time.monotonic()
                    self.record.reads.append(Read(names[0], *value, began, ended, how))
            case _:
                await self._patiently(lambda: call(self.method("delete"), *names))
        self._note(how, floors, began)

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Do something; now and then be cancelled in the midst of it, and do it again."""
        if self.rng.random() < 0.05:
            try:
                await self.kind.within(self.rng.random() * 0.01, call)
            except TimeoutError:
                self.record.lapses.append(time.monotonic())
            else:
                return
        await call()

    def _note(self, how: str, floors: dict[str, int], began: float) -> None:
        delivered = not self.cache.flow.l2.debts
        ended = time.monotonic()
        is_local = how == "refresh"
        self.record.changes.append(Change(how, floors, began, ended, delivered, is_local))


def _life(key: str) -> dict[str, Any]:
    """Return the options with which a key's values are stored without its function."""
    options: dict[str, Any] = {}
    if key.startswith("calm:"):
        options["ttl"] = CALM_TTL
    if tags_of(key):
        options["tags"] = tags_of(key)
    return options


def make_store(config: dict[str, Any]) -> Redis:
    """Return the store that the configuration describes."""
    timeout = config["timeout"]
    match config["topology"]:
        case "sentinel":
            addresses = [tuple(address) for address in config["addresses"]]
            return Redis.sentinel(addresses, config["service"], timeout=timeout)
        case "cluster":
            return Redis.cluster(config["url"], timeout=timeout)
    return Redis(config["url"], timeout=timeout)


def until(happened: Callable[[], object], seconds: float = 5.0) -> None:
    """Return once something has happened, or after some seconds."""
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.01)


def remains() -> list[str]:
    """Return the threads and sockets of the cache that there are."""
    left = [each.name for each in threading.enumerate() if each.name.startswith("tiercache")]
    with suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                    left.append("a socket")
    return left


def main() -> None:
    """Do as told over stdin."""
    config = json.loads(sys.argv[1])
    random.seed(f"{config['seed']} {config['number']}")
    if config["mutation"]:
        MUTATIONS[config["mutation"]]()
    worker = Worker(config)
    watching = threading.Thread(target=worker.watch)
    threads: list[threading.Thread] = []
    say("ready")
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "go":
            threads = worker.start()
            watching.start()
        elif word == "stop":
            worker.stopping.set()
            for thread in threads:
                thread.join()
        else:
            if word == "converge":
                worker.record.converged = worker.converge(float(rest[0]))
            worker.close()
            watching.join()
            Path(config["history"]).write_bytes(pickle.dumps(worker.record))
        say(word)


def say(word: str) -> None:
    """Answer the parent."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
