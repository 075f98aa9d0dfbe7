"""Trouble for a round of chaos: servers die, freeze and forget, lines break, processes stop.

Two injectors work side by side, each one fault after another: one on servers, which all processes
share, and one on the lines and processes themselves. So two kinds may coincide. Everything is drawn
from a seed; when it happens depends on the machine.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

from tests.chaos.history import ALL, Fault
from tests.clusters import RedisCluster, RedisSentinels
from tests.servers import Proxy, RedisServer


class Trouble(NamedTuple):
    """A kind of fault: how it begins and ends, and for how long it may last."""

    kind: str
    victim: int
    begin: Callable[[], None]
    end: Callable[[], None]
    longest: float  # seconds
    loses: bool = False  # see Fault


class Source(Protocol):
    """Draws troubles."""

    def draw(self, rng: random.Random) -> Trouble:
        """Return the next one."""


def nothing() -> None:
    """What ends a fault that is over as soon as it has happened."""


class ServerTroubles:
    """What may happen to a server that stands alone."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def draw(self, rng: random.Random) -> Trouble:
        server = self._server
        return rng.choice(
            [
                Trouble("killed, and back empty", ALL, server.kill, server.start, 1.5),
                Trouble("restarted empty", ALL, server.restart, nothing, 0.0),
                Trouble("frozen", ALL, server.freeze, server.thaw, 2.0),
                Trouble("flushed", ALL, lambda: server.command("FLUSHALL"), nothing, 0.0),
            ]
        )


class SentinelTroubles:
    """What may happen to a master, its replica and the sentinels."""

    def __init__(self, group: RedisSentinels) -> None:
        self._group = group

    def draw(self, rng: random.Random) -> Trouble:
        group, master = self._group, self._group.master

        def lose_master() -> None:
            master.kill()
            group.wait_for_another(master)

        def freeze_master() -> None:
            master.freeze()
            group.wait_for_another(master)

        return rng.choice(
            [
                Trouble("failed over", ALL, group.fail_over, nothing, 0.0, True),
                Trouble("master killed", ALL, lose_master, master.start, 1.0, True),
                Trouble("master frozen", ALL, freeze_master, master.thaw, 1.0, True),
            ]
        )


class ClusterTroubles:
    """What may happen to the nodes of a cluster."""

    def __init__(self, group: RedisCluster) -> None:
        self._group = group

    def draw(self, rng: random.Random) -> Trouble:
        node = rng.choice(self._group.servers)
        return Trouble("node frozen", ALL, node.freeze, node.thaw, 0.8)


class LineTroubles:
    """What may happen to the line of a process, or to the process."""

    def __init__(self, proxies: Sequence[Proxy], pids: Sequence[int]) -> None:
        self._proxies = proxies
        self._pids = pids

    def draw(self, rng: random.Random) -> Trouble:
        victim = rng.randrange(max(len(self._proxies), len(self._pids)))
        troubles = self._of_process(victim)
        if victim < len(self._proxies):
            shared = len(self._proxies) < len(self._pids)
            troubles += self._of_line(rng, self._proxies[victim], ALL if shared else victim)
        return rng.choice(troubles)

    def _of_process(self, victim: int) -> list[Trouble]:
        if victim >= len(self._pids):
            return []
        pid = self._pids[victim]
        return [
            Trouble(
                "process frozen",
                victim,
                lambda: os.kill(pid, signal.SIGSTOP),
                lambda: os.kill(pid, signal.SIGCONT),
                4.0,
            )
        ]

    def _of_line(self, rng: random.Random, proxy: Proxy, victim: int) -> list[Trouble]:
        def setting(name: str, value: float) -> Callable[[], None]:
            return lambda: setattr(proxy, name, value)

        def refuse() -> None:
            proxy.is_refusing = True
            proxy.cut()

        late = rng.choice((0.03, 0.1, 0.4))
        pieces = rng.randrange(1, 8)
        return [
            Trouble("line cut", victim, proxy.cut, nothing, 0.0),
            Trouble("line down", victim, refuse, setting("is_refusing", False), 2.0),
            Trouble("line silent", victim, proxy.hold, proxy.release, 1.5),
            Trouble("line slow", victim, setting("delay", late), setting("delay", 0.0), 1.0),
            Trouble("line in pieces", victim, setting("piece", pieces), setting("piece", 0), 1.0),
            Trouble("line half closed", victim, proxy.half_close, nothing, 0.0),
        ]


class Injector:
    """Makes trouble in a thread while it is entered, until it is stopped; then all is well.

    The thread lives until the end: Linux kills a server when the thread dies that has started it.

    Args:
        source: Draws troubles.
        rng: Seeded.
        calm: The longest that it waits between two, in seconds.
    """

    def __init__(self, source: Source, rng: random.Random, calm: float) -> None:
        self.faults: list[Fault] = []
        self._error: Exception | None = None
        self._source = source
        self._rng = rng
        self._calm = calm
        self._stopping, self._stopped, self._leaving = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._leaving.set()
        self._thread.join()

    def stop(self) -> None:
        """End the last fault, and wait until it is over."""
        self._stopping.set()
        self._stopped.wait()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._rng.uniform(0.1, self._calm)):
                self._suffer(self._source.draw(self._rng))
        except Exception as error:
            self._error = error
        self._stopped.set()
        self._leaving.wait()

    def _suffer(self, trouble: Trouble) -> None:
        began = time.monotonic()
        try:
            trouble.begin()
            self._stopping.wait(self._rng.random() * trouble.longest)
        finally:
            trouble.end()
            kind, victim, loses = trouble.kind, trouble.victim, trouble.loses
            self.faults.append(Fault(kind, victim, began, time.monotonic(), loses))
