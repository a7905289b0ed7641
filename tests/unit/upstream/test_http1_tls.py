"""TLS as other processes speak it: what comes after the handshake comes whenever it likes."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from app.upstream.failures import BrokenResponse

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
N_CONNECTIONS = 20


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=worker", "-keyout", "worker.key"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", "worker.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "worker.pem", folder / "worker.key"


class ThreadedWorker:
    """Answers in a thread of its own, so that its bytes come at any time."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"

    def run(self) -> None:
        """Serves one connection after the other."""
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                return
            with self._context.wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            ) as connection:
                try:
                    connection.do_handshake()
                    while connection.recv(65536):
                        connection.sendall(ANSWER)
                except ssl.SSLError:
                    # Turned away: what is still unread must not swallow the reason.
                    connection.shutdown(socket.SHUT_WR)
                    _read_to_end(connection)
                except OSError:
                    # The client has gone.
                    continue

    def close(self) -> None:
        """Ends the thread."""
        # Closing alone does not wake a thread that waits for a connection.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def _read_to_end(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(65536):
            pass


@contextmanager
def threaded_worker(context: ssl.SSLContext) -> Iterator[ThreadedWorker]:
    """A worker that runs."""
    worker = ThreadedWorker(context)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.close()
        thread.join(5)
        assert not thread.is_alive()


async def test_tickets_are_no_end(pool_for: Any, certificate: tuple[Path, Path]) -> None:
    """A worker sends session tickets right after the handshake: the connection is good."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(*certificate)
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with threaded_worker(server_context) as worker:
        async with pool_for(worker, ssl_context=context) as pool:
            for _ in range(N_CONNECTIONS):
                exchange = pool.exchange(b"GET", b"/", [], silence_timeout_s=5)
                await exchange.connect()
                assert (await exchange.head()).status == 200
                exchange.fail(BrokenResponse("not needed again"))
                exchange.close()


async def test_worker_that_wants_a_certificate(
    pool_for: Any, certificate: tuple[Path, Path]
) -> None:
    """It says so after the handshake; the failure repeats its words."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(*certificate)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificate[0])
    context = ssl.create_default_context(cafile=str(certificate[0]))
    with threaded_worker(server_context) as worker:
        async with pool_for(worker, ssl_context=context) as pool:
            exchange = pool.exchange(b"GET", b"/", [], silence_timeout_s=5)
            async with asyncio.timeout(5):
                with pytest.raises(BrokenResponse, match="CERTIFICATE_REQUIRED"):
                    await exchange.head()
            exchange.close()
