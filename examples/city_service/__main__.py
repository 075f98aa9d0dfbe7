"""Play the acts, print what came of them, and leave nothing behind."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console

from examples.city_service.acts import ACTS
from examples.city_service.building import build
from examples.city_service.caching import Tier
from examples.city_service.database import CityDatabase, cities
from examples.city_service.fleet import Fleet
from examples.city_service.report import print_end, print_log, print_told, write_json
from examples.city_service.shared import Shared
from examples.city_service.stage import Stage
from examples.city_service.weather import WeatherStation
from examples.city_service.worker import WORKERS, Plan
from tests.servers import RedisServer, binaries


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the database, play, and print; 1 if a promise was broken."""
    options = _options(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    began = time.monotonic()
    with ExitStack() as stack:
        stage = _stage(stack, options, console)
        for name, act in ACTS.items():
            console.print(f"\n[bold]{len(stage.told) + 1}. {act.title}[/]")
            with console.status("…"):
                stage.told[name] = act.play(stage)
            print_told(console, stage.told[name])
            print_log(console, stage.fleet)
    console.print(f"\n{time.monotonic() - began:.0f} s in all.", highlight=False)
    if options.json:
        write_json(options.json, stage.told)
    return print_end(console, stage.told)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--redis", metavar="URL", help="L2 in this Redis; else in one of our own")
    where.add_argument("--sqlite", action="store_true", help="L2 in a SQLite file, as without one")
    parser.add_argument("--seconds", type=float, default=10.0, help="of traffic, in all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    return parser.parse_args(arguments)


def _stage(stack: ExitStack, options: argparse.Namespace, console: Console) -> Stage:
    """Set the stage; what it takes is released by the stack, the last first."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tiercache-demo-")))
    tier = stack.enter_context(_tier(options, directory / "l2.sqlite"))
    path = directory / "cities.sqlite"
    with console.status("building the database of cities"):
        build(path)
    known = cities(path)
    with closing(CityDatabase(path)) as database:
        countries, reported = database.countries(), database.reported()
    console.print(
        f"{len(known):,} real cities in SQLite; {WORKERS} processes, two of threads and two of "
        f"asyncio; L2 is {'a Redis server' if tier.redis else 'a SQLite file'}."
    )
    shared = Shared.make(known, reported, WORKERS)
    plans = [Plan(number, path, tier) for number in range(WORKERS)]
    stage = Stage(plans, shared, known, countries, reported, options.seconds, Fleet(plans, shared))
    stack.callback(stage.close)
    stack.enter_context(WeatherStation(path, reported, shared))
    return stage


@contextmanager
def _tier(options: argparse.Namespace, file: Path) -> Iterator[Tier]:
    """Give a tier in a Redis, of a server of our own if need be; in a file if there is none."""
    prefix = f"city-demo-{secrets.token_hex(4)}"  # apart from all else in a Redis of yours
    if options.redis:
        with _client(options.redis) as client:
            try:
                yield Tier(options.redis, file, prefix)
            finally:
                _remove_all(client, prefix)
    elif options.sqlite or not binaries():
        yield Tier(None, file)
    else:
        with RedisServer() as server:
            yield Tier(server.url, file, prefix)


def _client(url: str) -> redis.Redis:
    """Connect to a Redis that is not ours, or say at once that it cannot be reached."""
    try:
        client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise SystemExit(f"make demo: REDIS does not answer: {error}") from None
    return client


def _remove_all(client: redis.Redis, prefix: str) -> None:
    """Leave nothing behind in it."""
    for key in client.scan_iter(f"*{prefix}*", count=1000):
        client.unlink(key)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
