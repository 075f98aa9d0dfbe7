"""What the example of a traced service prints, and what reaches a backend."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from examples import tracing


class Backend(HTTPServer):
    """Keeps the names of the spans that it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.names: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Receiver(BaseHTTPRequestHandler):
    """Receives OTLP over HTTP."""

    server: Backend

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.names.update(span.name for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A backend on a free port."""
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("arguments", [[], ["--asyncio"]], ids=["blocking", "asyncio"])
def test_prints_trees(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of call is printed as a tree, the loader's own span below its load."""
    tracing.main(arguments)
    printed = capsys.readouterr().out
    scenes = printed.split("──\n")
    assert len(scenes) == 8
    cold = scenes[1].splitlines()
    for line, name in zip(
        cold,
        [
            "GET /products/1",
            "└── tiercache.get outcome=loaded",
            "    ├── tiercache.l2.get",
            "    ├── tiercache.load",
            "    │   └── SELECT product",
            "    └── tiercache.l2.set",
        ],
        strict=False,
    ):
        assert line.startswith(name)
    assert "outcome=l2_hit" in scenes[2]
    # One who was late is served what the others have waited for.
    assert scenes[3].count("tiercache.wait linked to tiercache.load") in {1, 2}
    assert "guard=KnownIds outcome=absent" in scenes[4]
    assert "outcome=stale" in scenes[5]
    assert "tiercache.refresh ttl_s=0.5 linked to tiercache.get" in scenes[5]
    assert "tiercache.refresh ConnectionError linked to tiercache.get" in scenes[6]
    assert "tiercache.invalidate" in scenes[7] and "tiercache.bus.apply" in scenes[7]


def test_exports(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an endpoint in the environment the same spans reach a backend."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url)
    tracing.main([])
    printed = capsys.readouterr().out
    assert backend.names["tiercache.load"] == printed.count("tiercache.load ") - 2  # less the links
    assert backend.names["tiercache.get"] == printed.count("── tiercache.get")
    assert backend.names["tiercache.refresh"] == 2
