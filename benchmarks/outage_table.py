"""How long a call takes when L2 or the loader is in trouble: the table of docs/outages.md.

Run ``python -m benchmarks.outage_table`` to print it, with ``--write`` to put it in its places. The
loader returns at once, so what is measured is what the cache adds. What a caller sees in each row
is tested in tests/outage; here it is only timed. How an outage goes over time: ``outage``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.measure import circumstances
from benchmarks.report import put_between_marks
from tests.kinds import Asyncio, Blocking, Kind
from tests.servers import RedisServer
from tiercache import Cache, Redis
from tiercache.health import health_of
from tiercache.tiers.breaker import State

STORE_TIMEOUT = 0.5  # the default of Redis(...)
LOAD_TIMEOUT = 0.2
ROOT = Path(__file__).parents[1]
FAST, FIRST, SLOW = 300, 20, 8  # samples of what does not wait, of first calls, of what waits

Trouble = Callable[[RedisServer], None]
Measure = Callable[[Kind, RedisServer], list[float]]


@dataclass(frozen=True)
class Row:
    """One situation, and one call in it."""

    situation: str
    call: str
    sees: str
    counts: str
    measure: Measure


@dataclass(frozen=True)
class Users:
    """A cached function, as in tests/outage, and the means to time it."""

    kind: Kind
    cache: Cache
    store: Redis
    get: Any

    def time(self, function: Callable[..., Any], user_id: int) -> float:
        """Return how many seconds one call takes, whatever comes of it."""
        timed = _timed if isinstance(self.kind, Blocking) else _atimed
        return float(self.kind.call(timed, function, user_id))


def _timed(function: Callable[..., Any], user_id: int) -> float:
    began = time.perf_counter()
    with suppress(Exception):
        function(user_id)
    return time.perf_counter() - began


async def _atimed(function: Callable[..., Any], user_id: int) -> float:
    began = time.perf_counter()
    with suppress(Exception):
        await function(user_id)
    return time.perf_counter() - began


def load(user_id: int) -> str:
    """Return at once; fail for negative users."""
    if user_id < 0:
        raise LookupError(user_id)
    return f"user {user_id}"


Call = Callable[[Users, int], float]  # of one user; returns how many seconds it took


@contextmanager
def users(kind: Kind, server: RedisServer, **options: Any) -> Iterator[Users]:
    """Make a cache over the server, connected."""
    store = Redis(server.url, timeout=STORE_TIMEOUT)
    cache = Cache("users", l2=store)
    get = cache.cached("user:{user_id}", **options)(kind.function(load))
    kind.call(get, 0)
    yield Users(kind, cache, store, get)
    kind.do(cache, "close")


def in_l1(trouble: Trouble) -> Measure:
    """Time calls that L1 can answer."""

    def measure(kind: Kind, server: RedisServer) -> list[float]:
        with users(kind, server) as some:
            trouble(server)
            taken = [some.time(some.get, 0) for _ in range(FAST)]
            repair(server)
        return taken

    return measure


def in_neither(kind: Kind, server: RedisServer) -> list[float]:
    """Time calls that must load."""
    with users(kind, server) as some:
        return [asking(some, number) for number in range(1, FAST + 1)]


def the_first(trouble: Trouble, call: Call, samples: int) -> Measure:
    """Time the first call after a trouble has begun, of one cache after another."""

    def measure(kind: Kind, server: RedisServer) -> list[float]:
        taken = []
        for number in range(1, samples + 1):
            with users(kind, server) as some:
                trouble(server)
                taken.append(call(some, number))
                repair(server)
        return taken

    return measure


def once_open(trouble: Trouble, call: Call) -> Measure:
    """Time calls after the breaker has opened."""

    def measure(kind: Kind, server: RedisServer) -> list[float]:
        with users(kind, server) as some:
            trouble(server)
            while health_of(some.store).breaker.state is State.CLOSED:
                some.time(some.get, -1)
            taken = [call(some, number) for number in range(1, FAST + 1)]
            repair(server)
        return taken

    return measure


def asking(some: Users, number: int) -> float:
    """Ask for a user whom no tier has."""
    return some.time(some.get, number)


def invalidating(some: Users, number: int) -> float:
    """Invalidate a user."""
    return some.time(some.get.invalidate, number)


def in_l2(spoil: bytes | None) -> Measure:
    """Time calls that L2 can answer; or, spoilt, cannot."""

    def measure(kind: Kind, server: RedisServer) -> list[float]:
        with users(kind, server) as writer, users(kind, server) as some:
            for number in range(1, FAST + 1):
                kind.call(writer.get, number)
            if spoil is not None:
                _spoil(server, spoil)
            return [some.time(some.get, number) for number in range(1, FAST + 1)]

    return measure


def _spoil(server: RedisServer, payload: bytes) -> None:
    with redis.Redis.from_url(server.url) as client:
        for key in client.scan_iter("tc:{users:*"):
            client.set(key, payload)


def restarted(kind: Kind, server: RedisServer) -> list[float]:
    """Time the first call after each of several restarts."""
    samples = []
    with users(kind, server) as some:
        for number in range(1, 21):
            server.restart()
            samples.append(some.time(some.get, number))
    return samples


def failing(kind: Kind, server: RedisServer) -> list[float]:
    """Time calls whose loader raises."""
    with users(kind, server) as some:
        return [some.time(some.get, -number) for number in range(1, FAST + 1)]


def hanging(kind: Kind, server: RedisServer) -> list[float]:
    """Time calls whose loader hangs."""

    def hang(user_id: int) -> None:
        time.sleep(5 * LOAD_TIMEOUT)

    async def ahang(user_id: int) -> None:
        await asyncio.sleep(5 * LOAD_TIMEOUT)

    with users(kind, server) as some:
        body = hang if isinstance(kind, Blocking) else ahang
        get = some.cache.cached("slow:{user_id}", timeout=LOAD_TIMEOUT)(body)
        return [some.time(get, number) for number in range(SLOW)]


def nothing(_: RedisServer) -> None:
    """Leave Redis alone."""


def kill(server: RedisServer) -> None:
    server.kill()


def freeze(server: RedisServer) -> None:
    server.freeze()


def repair(server: RedisServer) -> None:
    """Have it answer again, as closing a cache is no part of what is timed."""
    if server.is_running:
        server.thaw()
    else:
        server.start()


GARBAGE = b"\x93\x00\xff\x07" * 37
NOT_SEEN = "None; here the old value is not seen again"
ROWS = [
    Row("all is well", "in L1", "the value", "`hits_l1`", in_l1(nothing)),
    Row("", "in L2", "the value", "`hits_l2`", in_l2(None)),
    Row("", "in neither", "the loader's value", "`misses`, `loads`", in_neither),
    Row("Redis is down: refused", "in L1", "the value", "`hits_l1`", in_l1(kill)),
    Row(
        *("", "not in L1, the first", "the loader's value", "1 `store_errors`"),
        the_first(kill, asking, FIRST),
    ),
    Row(
        *("", "not in L1, the breaker being open", "the loader's value", "`misses`, `loads`"),
        once_open(kill, asking),
    ),
    Row("Redis is frozen", "in L1", "the value", "`hits_l1`", in_l1(freeze)),
    Row(
        *("", "not in L1, the first", "the loader's value", "1 `store_errors`"),
        the_first(freeze, asking, SLOW),
    ),
    Row(
        *("", "not in L1, the breaker being open", "the loader's value", "`misses`, `loads`"),
        once_open(freeze, asking),
    ),
    Row(
        *("", "`invalidate`, the first", NOT_SEEN, "1 `store_errors`"),
        the_first(freeze, invalidating, SLOW),
    ),
    Row(
        *("", "`invalidate`, the breaker being open", NOT_SEEN, ""),
        once_open(freeze, invalidating),
    ),
    Row("Redis was restarted empty", "not in L1", "the loader's value", "`misses`", restarted),
    Row("Redis holds garbage", "not in L1", "the loader's value", "`misses`", in_l2(GARBAGE)),
    Row("the loader fails", "not cached", "its exception", "`load_errors`", failing),
    Row("the loader hangs", "`timeout=0.2`", "`LoadTimeout`", "`load_errors`", hanging),
]


def measure_all() -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| situation | the call | a caller sees | blocking | asyncio | counted in `stats()` |"
    yield "|---|---|---|---:|---:|---|"
    for row in ROWS:
        cells = [row.situation, row.call, row.sees]
        for make in (Blocking, Asyncio):
            kind = make()
            with RedisServer() as server:
                samples = row.measure(kind, server)
            kind.close()
            cells.append(_shown(samples))
        yield f"| {' | '.join([*cells, row.counts])} |"


def _shown(samples: list[float]) -> str:
    p99 = sorted(samples)[max(0, round(0.99 * len(samples)) - 1)]
    return f"{_seconds(statistics.median(samples))} / {_seconds(p99)}"


def _seconds(value: float) -> str:
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.1f} µs"


def caption() -> str:
    """Say what the numbers depend on."""
    made = circumstances({}, {})
    return (
        f"Measured on {made['cores']} cores of {made['cpu']}, {made['python']},"
        f" redis-py {redis.__version__}, {platform.system()}; loopback, median / p99."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="put it into docs/outages.md and README.md"
    )
    options = parser.parse_args()
    logging.getLogger("tiercache").setLevel(logging.ERROR)  # that Redis is down is the point
    lines = []
    for line in measure_all():
        print(line, flush=True)
        lines.append(line)
    print(caption())
    if options.write:
        put_between_marks(ROOT / "docs" / "outages.md", "measured", [*lines, "", caption()])
        put_between_marks(ROOT / "README.md", "outages", lines)


if __name__ == "__main__":
    main()
