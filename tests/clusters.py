"""Groups of servers that belong together: a cluster, and a master with sentinels. No pytest here.

Both are made of the servers in ``tests.servers``, with commands alone: neither redis-cli nor
anything but the server itself is needed. Timeouts are small, so that a failover takes about two
seconds, and a group is ready in less than three.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Self

from tests.servers import RedisServer, _until, free_port

SLOTS = 16384


class _Group:
    """Servers that end together."""

    def __init__(self, binary: str | None, password: str | None) -> None:
        self.servers: list[RedisServer] = []
        self._binary = binary
        self._password = password
        self._stack = ExitStack()

    def _start(
        self, *options: str, port: int | None = None, password: str | None = None, config: str = ""
    ) -> RedisServer:
        server = RedisServer(
            self._binary, port=port, password=password, options=options, config=config
        )
        self.servers.append(self._stack.enter_context(server))
        return server

    def stop(self) -> None:
        """Kill all servers for good; may be called again."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class RedisCluster(_Group):
    """A cluster of our own; the slots are dealt out evenly.

    Args:
        binary: As of RedisServer.
        masters: How many.
        replicas: How many each master has.
        password: If set, clients must log in with it.
        announce: Returns the port that a node is to tell others of, from its own: a proxy's.
        timeout_ms: How long a node may be silent before others think it dead.
    """

    def __init__(
        self,
        binary: str | None = None,
        *,
        masters: int = 3,
        replicas: int = 0,
        password: str | None = None,
        announce: Callable[[int], int] | None = None,
        timeout_ms: int = 1000,
    ) -> None:
        super().__init__(binary, password)
        self._announce = announce
        self._bus: dict[RedisServer, str] = {}
        self._options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout_ms)]
        self._options += [
            "--cluster-replica-validity-factor",
            "0",
            "--repl-diskless-load",
            "swapdb",
        ]
        self._options += ["--repl-diskless-sync-delay", "0"]
        if password:
            self._options += ["--masterauth", password]
        try:
            self._form(masters, replicas)
        except BaseException:
            self.stop()
            raise

    def _form(self, masters: int, replicas: int) -> None:
        for _ in range(masters * (1 + replicas)):
            self._start_node()
        for number, node in enumerate(self.servers[:masters]):
            first, after = number * SLOTS // masters, (number + 1) * SLOTS // masters
            _ok(node.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(after - 1)))
            _ok(node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)))
        for node in self.servers[1:]:
            _ok(
                self.servers[0].command(
                    "CLUSTER", "MEET", "127.0.0.1", str(node.port), self._bus[node]
                )
            )
        _until(self._all_met, "the nodes did not find one another")
        for number, node in enumerate(self.servers[masters:]):
            _ok(node.command("CLUSTER", "REPLICATE", self.id_of(self.servers[number % masters])))
        _until(self.is_well, "the cluster did not form")

    def _start_node(self) -> None:
        port, bus = free_port(), str(free_port())
        options = [*self._options, "--cluster-port", bus]
        if self._announce is not None:
            options += ["--cluster-announce-port", str(self._announce(port))]
            options += ["--cluster-announce-bus-port", bus]
        node = self._start(*options, port=port, password=self._password)
        self._bus[node] = bus

    def _all_met(self) -> bool:
        count = f"cluster_known_nodes:{len(self.servers)}"
        met = all(count in _text(node, "CLUSTER", "INFO") for node in self.servers)
        return met and all(
            "handshake" not in _text(node, "CLUSTER", "NODES") for node in self.servers
        )

    def is_well(self) -> bool:
        """Tell whether every node that runs serves, and every replica has what its master has."""
        running = [node for node in self.servers if node.is_running]
        return all(
            "cluster_state:ok" in _text(node, "CLUSTER", "INFO")
            and f"cluster_slots_ok:{SLOTS}" in _text(node, "CLUSTER", "INFO")
            and "master_link_status:down" not in _text(node, "INFO", "replication")
            for node in running
        )

    def id_of(self, node: RedisServer) -> str:
        """Return what a node calls itself."""
        return _text(node, "CLUSTER", "MYID")

    def slot_of(self, key: str) -> int:
        """Return a key's slot, as a node says."""
        return int(self.servers[0].command("CLUSTER", "KEYSLOT", key)[1:])

    def owner_of(self, key: str) -> RedisServer:
        """Return the node that serves a key; on a busy machine none may, for a moment."""
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            for node in self.servers:
                if node.is_running and not node.command("GET", key).startswith(b"-"):
                    return node
            time.sleep(0.05)
        raise RuntimeError(f"no node serves {key}")

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Begin moving a slot: the source says ASK for what it has not."""
        _ok(target.command("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.id_of(source)))
        _ok(source.command("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.id_of(target)))

    def end_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Give a slot, which must be empty at the source, to the target: it says MOVED then.

        The target's epoch must be the greatest before it claims the slot: else a node that has
        heard of the claim, and not that the source gave it up, has the target give it back, and
        the two send clients to each other for good.
        """
        target.command("CLUSTER", "BUMPEPOCH")
        for node in (target, source):
            _ok(node.command("CLUSTER", "SETSLOT", str(slot), "STABLE"))
            _ok(node.command("CLUSTER", "SETSLOT", str(slot), "NODE", self.id_of(target)))
        _until(lambda: self._agree_on(slot, target), f"the nodes do not agree on slot {slot}")

    def _agree_on(self, slot: int, owner: RedisServer) -> bool:
        wanted = self.id_of(owner)
        return all(
            _owner_in(_text(node, "CLUSTER", "NODES"), slot) == wanted for node in self.servers
        )

    def flush(self) -> None:
        """Empty all masters, and reset what they count."""
        for node in self.servers:
            node.command("FLUSHALL")
            node.command("CONFIG", "RESETSTAT")

    @property
    def url(self) -> str:
        return self.servers[0].url


class RedisSentinels(_Group):
    """A master, its replicas, and sentinels that watch over them.

    Args:
        binary: As of RedisServer.
        replicas: How many.
        sentinels: How many.
        password: Of the master and its replicas.
        sentinel_password: Of the sentinels.
        announce: Returns the port that sentinels are to name, from a server's own: a proxy's.
    """

    service = "mymaster"

    def __init__(
        self,
        binary: str | None = None,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        password: str | None = None,
        sentinel_password: str | None = None,
        announce: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__(binary, password)
        self._sentinel_password = sentinel_password
        self._announce = announce or (lambda port: port)
        self._announced: dict[int, RedisServer] = {}
        try:
            self._form(replicas, sentinels)
        except BaseException:
            self.stop()
            raise

    def _form(self, replicas: int, sentinels: int) -> None:
        master = self._start_server()
        named = next(iter(self._announced))
        self.data = [master]
        for _ in range(replicas):
            self.data.append(self._start_server("--replicaof", "127.0.0.1", str(named)))
        self.sentinels = [
            self._start(
                "--sentinel",
                password=self._sentinel_password,
                config=self._sentinel_config(named, sentinels),
            )
            for _ in range(sentinels)
        ]
        # The periods are those of servers far apart: seconds.
        hurry = [*("INFO-PERIOD", "300", "PUBLISH-PERIOD", "100", "PING-PERIOD", "100")]
        hurry += [*("ASK-PERIOD", "100", "ELECTION-TIMEOUT", "1000", "TILT-PERIOD", "500")]
        for sentinel in self.sentinels:
            _ok(sentinel.command("SENTINEL", "DEBUG", *hurry))
        _until(self.is_well, "the sentinels did not find one another")

    def _start_server(self, *options: str) -> RedisServer:
        port = free_port()
        named = self._announce(port)
        options = (
            *options,
            "--repl-diskless-sync-delay",
            "0",
            "--replica-announce-port",
            str(named),
        )
        if self._password:
            options += ("--masterauth", self._password)
        server = self._start(*options, port=port, password=self._password)
        self._announced[named] = server
        return server

    def _sentinel_config(self, port: int, count: int) -> str:
        lines = [f"monitor {self.service} 127.0.0.1 {port} {count // 2 + 1}"]
        lines += [f"down-after-milliseconds {self.service} 500"]
        lines += [f"failover-timeout {self.service} 1000"]
        if self._password:
            lines += [f"auth-pass {self.service} {self._password}"]
        if self._sentinel_password:
            lines += [f"sentinel-pass {self._sentinel_password}"]
        return "".join(f"sentinel {line}\n" for line in lines)

    def is_well(self) -> bool:
        """Tell whether sentinels know one another and the replicas, and replicas their master."""
        wanted = f"status=ok,.*slaves={len(self.data) - 1},sentinels={len(self.sentinels)}"
        sentinels = [one for one in self.sentinels if one.is_running]
        return all(
            re.search(wanted, _text(one, "INFO", "sentinel")) and self._may_promote(one)
            for one in sentinels
        )

    def _may_promote(self, sentinel: RedisServer) -> bool:
        """Tell whether a sentinel has heard well of all replicas: it promotes none before."""
        told = _text(sentinel, "SENTINEL", "REPLICAS", self.service)
        return told.count("master-link-status\r\n$2\r\nok") == len(self.data) - 1

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where the sentinels listen."""
        return [("127.0.0.1", one.port) for one in self.sentinels]

    @property
    def master(self) -> RedisServer:
        """The master, as the first sentinel that runs says."""
        sentinel = next(one for one in self.sentinels if one.is_running)
        reply = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
        return self._announced[int(reply.split(b"\r\n")[4])]

    def fail_over(self) -> None:
        """Have a replica take the master's place, and wait until it has."""
        before, sentinel = self.master, self.sentinels[0]

        def is_done() -> bool:
            if self._is_master_another(before):
                return True
            # Refused, or given up, until it has heard well of the replica; or while it is at it.
            sentinel.command("SENTINEL", "FAILOVER", self.service)
            return False

        _until(is_done, "no replica took over")

    def wait_for_another(self, before: RedisServer) -> RedisServer:
        """Wait until the sentinels name another master, and it is one; return it."""
        # An election that nobody wins is held again some seconds later.
        _until(lambda: self._is_master_another(before), "no other server became master", 30)
        return self.master

    def _is_master_another(self, before: RedisServer) -> bool:
        with suppress(OSError):
            master = self.master
            return master is not before and "role:master" in _text(master, "INFO", "replication")
        return False


def _owner_in(nodes: str, slot: int) -> str | None:
    """Return the id of the node that has a slot, of a node's view of all."""
    for line in nodes.splitlines():
        for part in line.split()[8:]:  # "0-5460", "7", or "[7->-id]" of a slot on its way
            first, _, last = part.partition("-")
            if first.isdigit() and int(first) <= slot <= int(last or first):
                return line.split()[0]
    return None


def _ok(reply: bytes) -> None:
    if not reply.startswith(b"+OK"):
        raise RuntimeError(f"the server refused: {reply!r}")


def _text(server: RedisServer, *words: str) -> str:
    return server.command(*words).decode()
