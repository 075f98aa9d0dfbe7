"""Run the city service: first without the cache, for comparison, then with it."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.city_service import worker
from examples.city_service.bulletin import Columns, columns
from examples.city_service.database import build, cities
from examples.city_service.report import print_report
from examples.city_service.worker import WORKERS, Outcome, Phase, Plan
from tests.servers import RedisServer, binaries


def main() -> int:
    """Build the database, serve, and print what came of it; 1 if a promise was broken."""
    options = _options()
    console = Console()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="tiercache-demo-"))
        database = Path(directory, "cities.sqlite")
        with console.status("building the database of cities"):
            build(database)
        known = cities(database)
        console.print(f"{len(known):,} real cities in SQLite; {WORKERS} processes:")
        redis = stack.enter_context(_redis(options))
        plans = [
            Plan(number, database, Path(directory, "l2.sqlite"), redis, seed=number + 1)
            for number in range(WORKERS)
        ]
        _clear(plans[0])
        stack.callback(_clear, plans[0])
        phases = [Phase(options.seconds * 0.3, False), Phase(options.seconds * 0.7, True)]
        without, cached = _serve(plans, columns(known, WORKERS), phases, console)
    return print_report(console, without, cached, plans[0])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--redis", metavar="URL", help="L2 in this Redis; else in one of our own")
    where.add_argument("--sqlite", action="store_true", help="L2 in a SQLite file, as without one")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long to serve in all")
    return parser.parse_args()


@contextmanager
def _redis(options: argparse.Namespace) -> Iterator[str | None]:
    """Give the URL of a Redis, of a server of our own if need be; None if there is none."""
    if options.redis or options.sqlite or not binaries():
        yield options.redis
        return
    with RedisServer() as server:
        yield server.url


def _clear(plan: Plan) -> None:
    """Leave nothing of an earlier run in L2, nor of this one."""
    with plan.cache() as cache:
        cache.clear()


def _serve(
    plans: Sequence[Plan], shared: Columns, phases: Sequence[Phase], console: Console
) -> list[list[Outcome]]:
    """Run the phases in one process per plan; return each phase's outcomes."""
    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    for plan in plans:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=worker.main, args=(plan, shared, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        pipes.append(ours)
        processes.append(process)
    outcomes = [_run_phase(pipes, phase, console) for phase in phases]
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    return outcomes


def _run_phase(pipes: Sequence[Connection], phase: Phase, console: Console) -> list[Outcome]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[reads]:>9,} reads"),
        TimeRemainingColumn(),
    )
    name = "with the cache   " if phase.is_cached else "without the cache"
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=phase.seconds, reads=0)
        began = time.monotonic()

        def show(reads: int) -> None:
            done = min(phase.seconds, time.monotonic() - began)
            progress.update(task, completed=done, reads=reads)

        for pipe in pipes:
            pipe.send(phase)
        outcomes = _gather(pipes, show)
        progress.update(task, completed=phase.seconds)
        show(sum(outcome.tally.reads for outcome in outcomes))
    return outcomes


def _gather(pipes: Sequence[Connection], show: Callable[[int], None]) -> list[Outcome]:
    """Follow the workers until each has sent its outcome. EOFError: one has died."""
    reads = dict.fromkeys(pipes, 0)
    outcomes: dict[Connection, Outcome] = {}
    while len(outcomes) < len(pipes):
        for pipe in wait([pipe for pipe in pipes if pipe not in outcomes]):
            assert isinstance(pipe, Connection)
            message = pipe.recv()
            if isinstance(message, Outcome):
                outcomes[pipe] = message
            else:
                reads[pipe] = message
        show(sum(reads.values()))
    return [outcomes[pipe] for pipe in pipes]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
