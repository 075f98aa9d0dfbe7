"""TLS for the tests, whatever server there is: throwaway certificates, and a proxy that speaks it.

The test-only server in a wheel has no TLS. So a proxy in front of it does the TLS, with a
certificate that the ``openssl`` command makes; without that command there are none.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

HAS_OPENSSL = shutil.which("openssl") is not None


class Authority:
    """Makes certificates for 127.0.0.1, signed by one that clients are told to trust.

    Args:
        directory: Where the files go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca.key"
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
        self._openssl(
            *("req", "-x509", "-subj", "/CN=tiercache test authority", "-days", "2"),
            *self._new_key(self._key),
            *(word for one in extensions for word in ("-addext", one)),
            *("-out", str(self.certificate)),
        )

    def issue(self, name: str, host: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request = self._directory / f"{name}.csr"
        self._openssl("req", "-subj", f"/CN={name}", *self._new_key(key), "-out", str(request))
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName={host}\nbasicConstraints=critical,CA:FALSE\n"
            "keyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n"
        )
        self._openssl(
            *("x509", "-req", "-in", str(request), "-days", "2", "-extfile", str(extensions)),
            *("-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial"),
            *("-out", str(certificate)),
        )
        return certificate, key

    def server_context(self, host: str = "IP:127.0.0.1", *, asks: bool = False) -> ssl.SSLContext:
        """Return what a server for the host needs; it may ask for the client's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(f"server-{host.rpartition(':')[2]}", host))
        if asks:
            context.load_verify_locations(self.certificate)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _new_key(self, key: Path) -> list[str]:
        words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        return [*words, "-keyout", str(key)]

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True)


class TlsProxy:
    """A proxy to 127.0.0.1:target that speaks TLS; plain TCP too, for those who begin with that.

    Attributes:
        connections: How many have spoken TLS.
    """

    def __init__(self, target: int, context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._main(started))

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepting = asyncio.create_task(self._accept())
        started.set()
        with self._listener:
            await self._accepting

    async def _accept(self) -> None:
        tasks = set()  # the loop alone would let them be collected
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            client.setblocking(False)
            task = self._loop.create_task(self._serve(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            stack.callback(client.close)
            first = await self._peek(client)
            context = self._context if first == b"\x16" else None  # a TLS handshake
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, client, ssl=context
            )
            stack.callback(transport.abort)
            self.connections += context is not None
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            stack.callback(up_writer.transport.abort)
            ways = [_copy(reader, up_writer), _copy(up_reader, writer)]
            tasks = [self._loop.create_task(way) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _peek(self, client: socket.socket) -> bytes:
        readable = asyncio.Event()
        self._loop.add_reader(client, readable.set)
        try:
            await readable.wait()
        finally:
            self._loop.remove_reader(client)
        return client.recv(1, socket.MSG_PEEK)

    def close(self) -> None:
        """End the proxy, its connections and its thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._accepting.cancel)
            self._thread.join(10)

    def __enter__(self) -> TlsProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(65536):
            sink.write(chunk)
            await sink.drain()
