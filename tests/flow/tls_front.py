"""TLS in front of a simulated worker: certificates of a test's own CA, and a relay of bytes."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


class Authority:
    """A certificate authority in a folder.

    Attributes:
        ca: Path of its own certificate.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("needs the openssl command")
        self._openssl = openssl
        self._folder = folder
        self._name = name
        self.ca = folder / f"{name}.pem"
        self._run("req", "-x509", *_CURVE, "-subj", f"/CN={name}", *self._out(name))

    def _run(self, *words: str) -> None:
        subprocess.run([self._openssl, *words], cwd=self._folder, check=True, capture_output=True)

    def _out(self, name: str) -> tuple[str, ...]:
        return ("-keyout", f"{name}.key", "-out", f"{name}.pem")

    def issue(self, name: str, alt_name: str) -> tuple[Path, Path]:
        """Returns certificate and key of somebody.

        Args:
            name: Of the files and in the subject.
            alt_name: Such as ``IP:127.0.0.1``.
        """
        ca = ("-CA", f"{self._name}.pem", "-CAkey", f"{self._name}.key")
        extension = ("-addext", f"subjectAltName={alt_name}")
        self._run(
            "req", "-x509", *_CURVE, "-subj", f"/CN={name}", *ca, *extension, *self._out(name)
        )
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"


class TlsFront:
    """What a gateway sees of a worker behind TLS; everything else is the worker's own.

    Attributes:
        url: Its base URL.
        n_handshakes: Connections on which TLS came about.
    """

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.url = ""
        self.n_handshakes = 0
        self._relays: set[asyncio.Task[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.worker, name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.n_handshakes += 1
        own = asyncio.current_task()
        assert own is not None
        self._relays.add(own)
        try:
            inner_reader, inner = await asyncio.open_connection("127.0.0.1", self.worker.port)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(reader, inner))
                    both.create_task(_copy(inner_reader, writer))
            finally:
                inner.transport.abort()
        except* (OSError, _Over):
            # Either side has ended: so does the other.
            pass
        finally:
            self._relays.discard(own)
            writer.transport.abort()

    def cut(self) -> None:
        """Ends every connection."""
        for relay in self._relays:
            relay.cancel()


class _Over(Exception):
    """One direction has ended."""


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise _Over


@asynccontextmanager
async def tls_front(
    worker: Any, certificate: tuple[Path, Path], client_ca: Path | None = None
) -> AsyncIterator[TlsFront]:
    """Puts TLS in front of a started worker.

    Args:
        worker: The worker.
        certificate: Its certificate and key.
        client_ca: It wants to see a certificate of this authority.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    front = TlsFront(worker)
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0, ssl=context)
    front.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield front
    finally:
        server.close()
        front.cut()
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await server.wait_closed()
