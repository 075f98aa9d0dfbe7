"""Play one script over each of the five strategies, and print what came of it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from rich.console import Console

from examples.strategies.cache_aside import CacheAside
from examples.strategies.database import Stock
from examples.strategies.meter import Counted, Meter
from examples.strategies.play import Play, Script, Tally
from examples.strategies.read_through import ReadThrough
from examples.strategies.refresh_ahead import RefreshAhead
from examples.strategies.report import print_report
from examples.strategies.strategy import Strategy
from examples.strategies.write_behind import WriteBehind
from examples.strategies.write_through import WriteThrough
from tests.servers import RedisServer, binaries
from tiercache import Cache, Redis, SQLite

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (CacheAside, ReadThrough, WriteThrough, WriteBehind, RefreshAhead)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print, and return 1 if a table lacks a write in the end."""
    options = _options(arguments)
    console = Console()
    script = Script(options.steps, options.seconds)
    tallies = []
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tiercache-strategies-"))
        database = stack.enter_context(_database(options, directory))
        redis = stack.enter_context(_redis(options))
        for name in options.strategies or STRATEGIES:
            with console.status(name):
                address = redis or str(Path(directory, f"{name}.l2"))
                tallies.append(play(STRATEGIES[name], database, address, script))
    print_report(console, tallies)
    kind = "PostgreSQL" if database.startswith("postgresql") else "SQLite"
    console.print(f"The table is in {kind}, L2 is {'Redis' if redis else 'a SQLite file'}.")
    return 0 if all(tally.is_right for tally in tallies) else 1


def play(make: type[Strategy], database: str, l2: str, script: Script) -> Tally:
    """Play a script over a strategy in two places.

    Args:
        make: The strategy.
        database: Its URL, as SQLAlchemy spells it.
        l2: The URL of a Redis, or the path of a SQLite file.
        script: What to play.
    """
    meter = Meter()
    with ExitStack() as stack:
        stock = stack.enter_context(closing(Stock(database, meter, script.items)))
        stack.callback(stock.drop)
        places = [stack.enter_context(_cache(make.name, l2, meter)) for _ in range(2)]
        places[0].clear()
        stack.callback(places[0].clear)
        return Play(make, places, stock).run(script)


def _cache(name: str, l2: str, meter: Meter) -> Cache:
    store = Redis(l2) if l2.startswith("redis:") else SQLite(l2)
    return Cache(name, ttl="10m", l2=Counted(store, meter))


@contextmanager
def _redis(options: argparse.Namespace) -> Iterator[str | None]:
    """Give the URL of a Redis, of a server of our own if need be; None if there is none."""
    if options.redis or options.sqlite or not binaries():
        yield options.redis
        return
    with RedisServer() as server:
        yield server.url


@contextmanager
def _database(options: argparse.Namespace, directory: str) -> Iterator[str]:
    """Give the URL of the database, of a PostgreSQL of our own if asked for."""
    if options.postgres:
        from tests.plugins.postgres import PostgresServer

        with PostgresServer() as server:
            yield server.url
        return
    yield options.database or f"sqlite:///{directory}/stock.db"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.strategies", description=__doc__)
    parser.add_argument("strategies", nargs="*", help=f"by default all: {', '.join(STRATEGIES)}")
    parser.add_argument("--steps", type=int, default=4000, help="reads and writes, of each")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to play each")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--redis", metavar="URL", help="L2 in this Redis; else in one of our own")
    where.add_argument("--sqlite", action="store_true", help="L2 in a SQLite file, as without one")
    table = parser.add_mutually_exclusive_group()
    table.add_argument(
        "--database",
        metavar="URL",
        help="makes a table strategies_stock there; else in a SQLite file",
    )
    table.add_argument("--postgres", action="store_true", help="a PostgreSQL server of our own")
    options = parser.parse_args(arguments)
    unknown = set(options.strategies) - set(STRATEGIES)
    if unknown:
        known = ", ".join(STRATEGIES)
        parser.error(f"no strategy is called {', '.join(unknown)}; there are {known}")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
