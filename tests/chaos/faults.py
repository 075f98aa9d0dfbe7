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
    """What may happen to the lines, or to the processes.

    Args:
        proxies: The lines: one for each process, in order, or some that all share.
        pids: Of the processes.
        are_shared: Whether all share the lines.
        is_brief: Whether nothing may last: sentinels would name another master.
    """

    def __init__(
        self, proxies: Sequence[Proxy], pids: Sequence[int], *, are_shared: bool, is_brief: bool
    ) -> None:
        self._proxies = proxies
        self._pids = pids
        self._are_shared = are_shared
        self._is_brief = is_brief

    def draw(self, rng: random.Random) -> Trouble:
        if rng.random() < 0.15:
            return self._frozen(rng.randrange(len(self._pids)))
        number = rng.randrange(len(self._proxies))
        proxy, victim = self._proxies[number], ALL if self._are_shared else number
        troubles = self._brief(rng, proxy, victim)
        if not self._is_brief:
            troubles += self._lasting(rng, proxy, victim)
        return rng.choice(troubles)

    def _frozen(self, victim: int) -> Trouble:
        pid = self._pids[victim]
        return Trouble(
            "process frozen",
            victim,
            lambda: os.kill(pid, signal.SIGSTOP),
            lambda: os.kill(pid, signal.SIGCONT),
            4.0,
        )

    def _brief(self, rng: random.Random, proxy: Proxy, victim: int) -> list[Trouble]:
        begin, end = _setting(proxy, "piece", rng.randrange(1, 8))
        return [
            Trouble("line cut", victim, proxy.cut, nothing, 0.0),
            Trouble("line half closed", victim, proxy.half_close, nothing, 0.0),
            Trouble("line in pieces", victim, begin, end, 1.0),
        ]

    def _lasting(self, rng: random.Random, proxy: Proxy, victim: int) -> list[Trouble]:
        refuse, welcome = _setting(proxy, "is_refusing", True)
        slow_down, speed_up = _setting(proxy, "delay", rng.choice((0.03, 0.1, 0.4)))

        def go_down() -> None:
            refuse()
            proxy.cut()

        return [
            Trouble("line down", victim, go_down, welcome, 2.0),
            Trouble("line silent", victim, proxy.hold, proxy.release, 1.5),
            Trouble("line slow", victim, slow_down, speed_up, 1.0),
        ]


def _setting(
    proxy: Proxy, name: str, value: float
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what gives a proxy a setting, and what takes it back."""
    before = getattr(proxy, name)
    return lambda: setattr(proxy, name, value), lambda: setattr(proxy, name, before)


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
