"""The traffic of ``benchmarks.outage``: a process that keeps asking, and notes how long it waits.

One process serves from threads, another from asyncio, as two instances of one service. In each,
some clients ask through a cache with an L2, and as many through one that has only L1, for the same
keys at the same pace: what the second ones wait is what an outage should cost.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from tiercache import Cache, Redis
from tiercache.health import health_of

SIDES = ("tiercache", "L1 only")
KEYS = 300
TTL = 2.0  # seconds
LOAD_SECONDS = 0.005
CLIENTS = 6  # per side and process
PAUSE = 0.010  # seconds between a client's calls, on average
_SAMPLE_SECONDS = 0.002  # how often the breaker's state is looked at


@dataclass
class Seen:
    """What a process saw; the times are CLOCK_MONOTONIC."""

    kind: str
    calls: dict[str, array[float]] = field(  # when each began, and how long it took, in turn
        default_factory=lambda: {side: array("d") for side in SIDES}
    )
    loads: dict[str, array[float]] = field(  # when each began
        default_factory=lambda: {side: array("d") for side in SIDES}
    )
    breaker: list[tuple[float, str]] = field(default_factory=list)  # its changes of state


def serve(kind: str, url: str, pipe: Connection) -> None:
    """Say when ready; then ask until the instant that is sent, and send what was seen."""
    logging.getLogger("tiercache").setLevel(logging.ERROR)  # that Redis is down is the point
    seen = Seen(kind)
    caches = {
        SIDES[0]: Cache("bench", l2=Redis(url), ttl=TTL),
        SIDES[1]: Cache("bench-alone", ttl=TTL),
    }
    with _watching(caches[SIDES[0]], seen):
        if kind == "threads":
            _serve_threads(caches, seen, pipe)
        else:
            asyncio.run(_serve_tasks(caches, seen, pipe))
    pipe.send(seen)


def _serve_threads(caches: dict[str, Cache], seen: Seen, pipe: Connection) -> None:
    users = {side: _user(cache, seen.loads[side]) for side, cache in caches.items()}
    for user in users.values():
        for key in range(KEYS):
            user(key)
    pipe.send("ready")
    until = pipe.recv()
    clients = [
        threading.Thread(target=_ask, args=(users[side], seen.calls[side], until, seed))
        for seed in range(CLIENTS)
        for side in SIDES
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    for cache in caches.values():
        cache.close()


def _user(cache: Cache, loads: array[float]) -> Callable[[int], str]:
    @cache.cached("user:{key}")
    def user(key: int) -> str:
        loads.append(monotonic())
        time.sleep(LOAD_SECONDS)
        return f"user {key}"

    return user


def _ask(user: Callable[[int], str], calls: array[float], until: float, seed: int) -> None:
    draw = random.Random(seed)
    while (began := monotonic()) < until:
        user(draw.randrange(KEYS))
        calls.extend((began, monotonic() - began))
        time.sleep(draw.uniform(0, 2 * PAUSE))


async def _serve_tasks(caches: dict[str, Cache], seen: Seen, pipe: Connection) -> None:
    users = {side: _auser(cache, seen.loads[side]) for side, cache in caches.items()}
    for user in users.values():
        for key in range(KEYS):
            await user(key)
    pipe.send("ready")
    until = pipe.recv()
    async with asyncio.TaskGroup() as tasks:
        for seed in range(CLIENTS):
            for side in SIDES:
                tasks.create_task(_aask(users[side], seen.calls[side], until, seed))
    for cache in caches.values():
        await cache.aclose()


def _auser(cache: Cache, loads: array[float]) -> Callable[[int], Any]:
    @cache.cached("user:{key}")
    async def user(key: int) -> str:
        loads.append(monotonic())
        await asyncio.sleep(LOAD_SECONDS)
        return f"user {key}"

    return user


async def _aask(user: Callable[[int], Any], calls: array[float], until: float, seed: int) -> None:
    draw = random.Random(seed)
    while (began := monotonic()) < until:
        await user(draw.randrange(KEYS))
        calls.extend((began, monotonic() - began))
        await asyncio.sleep(draw.uniform(0, 2 * PAUSE))


@contextmanager
def _watching(cache: Cache, seen: Seen) -> Iterator[None]:
    """Note the breaker's changes of state, from a thread."""
    assert cache.store is not None
    breaker, is_over = health_of(cache.store).breaker, threading.Event()

    def watch() -> None:
        last = ""
        while not is_over.wait(_SAMPLE_SECONDS):
            if breaker.state.value != last:
                last = breaker.state.value
                seen.breaker.append((monotonic(), last))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
