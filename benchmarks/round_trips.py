"""Round trips and commands that each operation costs, and what a write costs the other processes.

Two caches of one name stand for two processes. Each talks to the server through a proxy of its own,
which counts *turns*: the client speaks after the server has answered. On a connection that XREAD
goes through, that is the bus; on all others it is a round trip that somebody waits for. Commands
are counted by the server itself (INFO commandstats), those that a script calls included.

Starts a server of its own. Run as ``python -m benchmarks.round_trips``.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from rich.table import Table

from benchmarks.measure import circumstances
from benchmarks.report import CONSOLE, write_result
from benchmarks.rivals import rival
from tests.kinds import Asyncio, Blocking, Kind
from tests.servers import RedisServer
from tiercache import Cache, Redis

BUS_COMMANDS = {"xread", "xrange"}
ADMINISTRATION = {"info", "config|resetstat", "hello", "client|setinfo", "client|setname"}
AGAIN = 5  # times that each operation is counted
QUIET = 0.05  # seconds after which the bus has said what it had to say

_numbers = count()


# --- counting -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Link:
    """One connection through a proxy."""

    client: socket.socket
    server: socket.socket
    turns: int = 0
    is_bus: bool = False
    client_spoke: bool = False  # last, of the two


class CountingProxy:
    """A proxy to a port of this machine that counts turns."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._links: list[Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def turns(self, *, bus: bool) -> int:
        """Return the turns so far, on the bus or elsewhere."""
        return sum(link.turns for link in self._links if link.is_bus is bus)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                link = Link(client, socket.create_connection(("127.0.0.1", self._target)))
                self._links.append(link)
                threading.Thread(target=self._ask, args=(link,), daemon=True).start()
                threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _ask(self, link: Link) -> None:
        with suppress(OSError):
            while data := link.client.recv(65536):
                link.is_bus |= b"XREAD" in data
                link.turns += not link.client_spoke
                link.client_spoke = True
                link.server.sendall(data)
            link.server.shutdown(socket.SHUT_WR)

    def _answer(self, link: Link) -> None:
        with suppress(OSError):
            while data := link.server.recv(65536):
                link.client_spoke = False
                link.client.sendall(data)
            link.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Cut everything."""
        self._listener.close()
        for link in self._links:
            link.client.close()
            link.server.close()


@dataclass(frozen=True)
class Cost:
    """What one operation costs."""

    round_trips: int  # of who called it
    commands: str  # that the server ran for it, the bus left out
    elsewhere: int  # round trips of another process, the bus left out
    deliveries: int  # on another process's bus


# --- the two processes ------------------------------------------------------------------------


class Node:
    """A process: a cache, and the proxy between it and the server."""

    def __init__(self, proxy: CountingProxy, kind: Kind) -> None:
        self.proxy = proxy
        self.kind = kind
        self.cache = Cache("bench", l2=Redis(proxy.url), ttl=600, jitter=0)
        load, cached = kind.function(_load), self.cache.cached
        self.user = cached("user:{number}")(load)
        self.tagged = cached("tagged:{number}", tags=["users"])(load)
        self.valued = cached("valued:{number}", tags=lambda value: [value])(load)
        self._load_many = kind.function(lambda keys: dict.fromkeys(keys, 1))

    def read(self, function: Any, number: int) -> None:
        assert self.kind.call(function, number) == _load(number)

    def do(self, method: str, *args: Any) -> Any:
        return self.kind.do(self.cache, method, *args)

    def refresh(self, number: int) -> None:
        self.kind.call(self.user.refresh, number)

    def set_many(self, number: int) -> None:
        self.do("set_many", dict.fromkeys(_many(number), 1))

    def get_many(self, number: int) -> None:
        assert len(self.do("get_many", _many(number))) == MANY

    def get_or_load_many(self, number: int) -> None:
        assert len(self.do("get_or_load_many", _many(number), self._load_many)) == MANY

    def settle(self) -> None:
        """Have everything done once that is done once per process."""
        for case in CASES:
            number = next(_numbers)
            case.there(self, number)
            case.here(self, number)
            case.act(self, number)
        self.read(self.tagged, next(_numbers))


MANY = 100


def _many(number: int) -> list[str]:
    return [f"many:{number}:{each}" for each in range(MANY)]


def _load(number: int) -> str:
    return f"user {number}"


# --- the operations ---------------------------------------------------------------------------

Operation = Callable[[Node, int], Any]


def _nothing(node: Node, number: int) -> None:
    """There is nothing to prepare."""


def _user(node: Node, number: int) -> None:
    node.read(node.user, number)


@dataclass(frozen=True)
class Case:
    """An operation, what another process and this one do before, and its bound."""

    what: str
    act: Operation
    there: Operation = _nothing
    here: Operation = _nothing
    goal: int | None = None  # round trips


CASES = [
    Case("L2 hit", _user, there=_user, goal=1),
    Case(
        "L2 hit, with a tag of the function",
        lambda node, n: node.read(node.tagged, n),
        there=lambda node, n: node.read(node.tagged, n),
        goal=1,
    ),
    Case(
        "L2 hit, with a tag of the value",
        lambda node, n: node.read(node.valued, n),
        there=lambda node, n: node.read(node.valued, n),
    ),
    Case("get_many of 100", Node.get_many, there=Node.set_many, goal=1),
    Case("L2 miss and load", _user, goal=3),
    Case("the same, with a tag of the function", lambda node, n: node.read(node.tagged, n), goal=3),
    Case("the same, with a tag of the value", lambda node, n: node.read(node.valued, n), goal=3),
    Case("get_or_load_many of 100, all loaded", Node.get_or_load_many, goal=3),
    Case("refresh", Node.refresh, _user, _user),
    Case("set", lambda node, n: node.do("set", f"user:{n}", "x"), _user, _user, 1),
    Case("set_many of 100", Node.set_many, Node.set_many, Node.get_many, 1),
    Case("delete", lambda node, n: node.do("delete", f"user:{n}"), _user, _user, 1),
    Case(
        "delete of 100",
        lambda node, n: node.do("delete", *_many(n)),
        Node.set_many,
        Node.get_many,
        1,
    ),
    Case("expire", lambda node, n: node.do("expire", f"user:{n}"), _user, _user, 1),
    Case("invalidate_tags", lambda node, _: node.do("invalidate_tags", "users"), goal=1),
    Case("clear", lambda node, _: node.do("clear"), goal=1),
]


# --- the run ----------------------------------------------------------------------------------


@contextmanager
def nodes(server: RedisServer, kind: Kind) -> Iterator[tuple[Node, Node]]:
    """Make two processes that have done everything once."""
    proxies = [CountingProxy(server.port) for _ in range(2)]
    both = Node(proxies[0], kind), Node(proxies[1], kind)
    try:
        for node in both:
            node.settle()
        yield both
    finally:
        for node in both:
            node.do("close")
        for proxy in proxies:
            proxy.close()


def cost(case: Case, server: RedisServer, here: Node, there: Node) -> Cost:
    """Return what an operation costs, nearly always: the clock is asked for now and then."""
    costs = [_once(case, server, here, there) for _ in range(AGAIN)]
    usual = max(costs, key=costs.count)
    if costs.count(usual) < AGAIN - 1:
        message = f"{case.what} costs now this, now that: {costs}"
        raise AssertionError(message)
    return usual


def _once(case: Case, server: RedisServer, here: Node, there: Node) -> Cost:
    number = next(_numbers)
    case.there(there, number)
    case.here(here, number)
    time.sleep(QUIET)
    server.command("CONFIG", "RESETSTAT")
    mine, others = here.proxy.turns(bus=False), there.proxy.turns(bus=False)
    bus = there.proxy.turns(bus=True)
    case.act(here, number)
    time.sleep(QUIET)
    return Cost(
        here.proxy.turns(bus=False) - mine,
        _commands(server),
        there.proxy.turns(bus=False) - others,
        there.proxy.turns(bus=True) - bus,
    )


def _commands(server: RedisServer) -> str:
    calls = sorted(
        (name, calls)
        for name, calls in server.command_calls().items()
        if name not in BUS_COMMANDS | ADMINISTRATION
    )
    return ", ".join(f"{calls} {name}" if calls > 1 else name for name, calls in calls)


def table(rows: dict[str, dict[str, Cost]]) -> Table:
    """Return what is printed: blocking beside asyncio."""
    shown = Table(title="what an operation costs", title_justify="left", header_style="bold")
    shown.add_column("operation\n[dim]commands, those of scripts too[/]")
    for heading in ("round trips\nblocking / asyncio", "goal", "another process's\nbus / others"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for case in CASES:
        costs = rows[case.what].values()
        trips = [each.round_trips for each in costs]
        verdict = "met" if case.goal is None or max(trips) <= case.goal else "[red]missed[/]"
        others = [f"{each.deliveries} / {each.elsewhere}" for each in costs]
        shown.add_row(
            f"{case.what}\n[dim]{next(iter(costs)).commands}[/]",
            " / ".join(map(str, trips)),
            "" if case.goal is None else f"<= {case.goal} {verdict}",
            max(others),
        )
    return shown


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows: dict[str, dict[str, Cost]] = {case.what: {} for case in CASES}
    for make in (Blocking, Asyncio):
        kind = make()
        with RedisServer() as server, nodes(server, kind) as (here, there):
            for case in CASES:
                rows[case.what][kind.name] = cost(case, server, here, there)
        kind.close()
    CONSOLE.print(table(rows))
    counted = {
        what: {name: asdict(each) for name, each in costs.items()} for what, costs in rows.items()
    }
    made = circumstances({"tiercache": rival("tiercache")}, {})
    write_result("round_trips", made, rows=counted)


if __name__ == "__main__":
    main()
