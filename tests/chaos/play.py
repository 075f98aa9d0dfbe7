"""Plays a round of chaos: servers, lines, processes, trouble, and what all of them wrote down."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos.faults import (
    ClusterTroubles,
    Injector,
    LineTroubles,
    SentinelTroubles,
    ServerTroubles,
    Source,
)
from tests.chaos.history import Lag, Process, Round, read_from
from tests.chaos.worker import LAG_SECONDS, WATCH_SECONDS
from tests.clusters import RedisCluster, RedisSentinels
from tests.servers import Proxy, RedisServer, _die_with_parent

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds in which a process must answer
BUGS = ("Traceback", "never retrieved", "was destroyed", "never awaited", "Warning: unclosed")


@dataclass
class Plan:
    """What a round is like."""

    seed: int
    seconds: float
    topology: str = "standalone"  # or sentinel, cluster
    l1: tuple[int | None, ...] = (1000, 12, 1000, None)  # entries of each process's L1
    threads: int = 2
    tasks: int = 4
    pace: float = 0.01  # seconds that a caller rests at most
    updates: float = 0.15  # share of what callers do
    load: float = 0.004  # seconds that most loads take at most, before their look and after
    long_loads: float = 0.0  # percent: of loads that outlast a lease
    blind_ttl: float = 1.0
    timeout: float = 0.2
    calm: float = 1.2  # seconds between faults, at most
    has_faults: bool = True
    mutation: str = ""
    checks_end: bool = True  # that all processes converge


@dataclass
class Ground:
    """What the processes of a round stand on."""

    configs: list[dict[str, Any]]  # of the store, for each process
    proxies: list[Proxy]
    source: Source


def play(plan: Plan) -> Round:
    """Play a round, and return what was written down."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tiercache-")))
        ground = stack.enter_context(GROUNDS[plan.topology](len(plan.l1)))
        workers = [
            stack.enter_context(_Worker(_config(plan, directory, number, config)))
            for number, config in enumerate(ground.configs)
        ]
        lags = stack.enter_context(_watched())
        _tell(workers, "")
        _tell(workers, "go")
        injectors = [stack.enter_context(each) for each in _trouble(plan, ground, workers)]
        time.sleep(plan.seconds)
        for injector in injectors:
            injector.stop()
        _tell(workers, "stop")
        _tell(workers, f"converge {time.monotonic()}" if plan.checks_end else "leave")
        processes = [worker.history() for worker in workers]
    faults = [fault for injector in injectors for fault in injector.faults]
    faults.sort(key=lambda fault: fault.began)
    return Round(plan.seed, processes, faults, plan.blind_ttl, plan.timeout, lags)


def _config(plan: Plan, directory: Path, number: int, store: dict[str, Any]) -> dict[str, Any]:
    return {
        **asdict(plan),
        **store,
        "number": number,
        "l1": plan.l1[number],
        "database": str(directory / "database"),
        "history": str(directory / f"history {number}"),
    }


def _trouble(plan: Plan, ground: Ground, workers: list[_Worker]) -> list[Injector]:
    """Return what is to make trouble."""
    if not plan.has_faults:
        return []
    rng = random.Random(plan.seed)
    lines = LineTroubles(
        ground.proxies,
        [worker.pid for worker in workers],
        are_shared=plan.topology != "standalone",
        is_brief=plan.topology == "sentinel",
    )
    return [
        Injector(source, random.Random(rng.random()), plan.calm)
        for source in (ground.source, lines)
    ]


class _Worker:
    """A process of the round."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._complaints = Path(config["history"] + " stderr")
        with self._complaints.open("w") as stderr:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "default::ResourceWarning"),
                    *("-m", "tests.chaos.worker", json.dumps(config)),
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, no lock
            )
        self.pid = self._process.pid

    def tell(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE, self._process.kill)
        watchdog.start()
        try:
            return self._process.stdout.readline().strip()
        finally:
            watchdog.cancel()

    def history(self) -> Process:
        process: Process = read_from(Path(self._config["history"]))
        if any(words in self._complaints.read_text() for words in BUGS):
            process.troubles.append(f"it said: {self.said()}")
        return process

    def said(self) -> str:
        """Return the end of what it complained of."""
        return self._complaints.read_text()[-3000:]

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _tell(workers: list[_Worker], words: str) -> None:
    """Tell all processes something, and wait until all have done it."""
    for worker in workers:
        if words:
            worker.tell(words)
    for worker in workers:
        answer = worker.hear()
        if answer != (words.split() or ["ready"])[0]:
            raise RuntimeError(f"a process answered {answer!r} to {words!r}: {worker.said()}")


@contextmanager
def _watched() -> Iterator[list[Lag]]:
    """Write down when this process, which carries the lines, did not run."""
    lags: list[Lag] = []
    ended = threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not ended.wait(WATCH_SECONDS):
            now = time.monotonic()
            if now - last - WATCH_SECONDS > LAG_SECONDS:
                lags.append(Lag(now, now - last - WATCH_SECONDS))
            last = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield lags
    finally:
        ended.set()
        thread.join()


# Grounds


@contextmanager
def _standalone(count: int) -> Iterator[Ground]:
    """One server, and a line to it for each process."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        proxies = [stack.enter_context(Proxy(server.port)) for _ in range(count)]
        configs = [{"url": proxy.url} for proxy in proxies]
        yield Ground(configs, proxies, ServerTroubles(server))


@contextmanager
def _sentinel(count: int) -> Iterator[Ground]:
    """A master, a replica and three sentinels, which all processes reach by the same lines."""
    with ExitStack() as stack:
        proxies: list[Proxy] = []

        def announce(port: int) -> int:
            proxies.append(stack.enter_context(Proxy(port)))
            return proxies[-1].port

        group = stack.enter_context(RedisSentinels(announce=announce))
        config = {"addresses": group.addresses, "service": group.service}
        yield Ground([config] * count, proxies, SentinelTroubles(group))


@contextmanager
def _cluster(count: int) -> Iterator[Ground]:
    """Three masters, which all processes reach by the same lines."""
    with ExitStack() as stack:
        proxies: dict[int, Proxy] = {}

        def announce(port: int) -> int:
            proxies[port] = stack.enter_context(Proxy(port))
            return proxies[port].port

        group = stack.enter_context(RedisCluster(announce=announce))
        first = proxies[group.servers[0].port]
        config = {"url": first.url}
        yield Ground([config] * count, list(proxies.values()), ClusterTroubles(group))


GROUNDS = {"standalone": _standalone, "sentinel": _sentinel, "cluster": _cluster}
