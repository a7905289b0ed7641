"""The metrics' own port, served by threads of its own: it answers while the loop is busy.

Everybody who reaches it may read it, as in SMG 1.13; it names workers. So it is to be reached by
Prometheus only: bind it to an address inside (``--prometheus-host``), or keep others away.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Protocol, Self, cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from app.observability.log import get_logger
from app.observability.process_watch import ProcessWatch

SILENCE_S = 5.0
"""A client that says or takes nothing for so long is cut off."""
MAX_CLIENTS = 16
"""At a time; more are cut off at once."""
_TEXT = "text/plain; charset=utf-8"


class Shown(Protocol):
    """What it shows."""

    @property
    def registry(self) -> CollectorRegistry:
        """All families."""

    @property
    def watch(self) -> ProcessWatch:
        """Tells whether the process is stuck."""


class MetricsListener:
    """Serves ``/metrics``, ``/health`` and ``/liveness`` on a socket that is bound already.

    Args:
        listener: The socket; closed at the end.
        metrics: What to show.
    """

    def __init__(self, listener: socket.socket, metrics: Shown) -> None:
        self._server = _Server(listener, metrics)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.5,), name="metrics", daemon=True
        )

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.socket.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, metrics: Shown) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.metrics = metrics
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        get_logger("metrics").warning("a client of the metrics port failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout: ClassVar[float | None] = SILENCE_S

    def do_GET(self) -> None:
        """Answers one request."""
        path = self.path.partition("?")[0]
        metrics = cast("_Server", self.server).metrics
        if path == "/metrics":
            encode, content_type = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, encode(metrics.registry), content_type)
        elif path == "/health":
            self._answer(200, b"OK", _TEXT)
        elif path == "/liveness":
            is_stuck = metrics.watch.is_stuck()
            self._answer(503 if is_stuck else 200, b"stuck" if is_stuck else b"OK", _TEXT)
        else:
            self._answer(404, b"Here are /metrics, /health and /liveness.\n", _TEXT)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: a line for each scrape would drown the rest."""
