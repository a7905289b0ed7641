"""Which protocol a port speaks: HTTP (SGLang) or gRPC (vLLM), with or without TLS.

One connection is enough: a gRPC server sends an HTTP/2 SETTINGS frame whatever it is sent, an
HTTP/1.1 server answers the request, and one that wants TLS answers neither (or with an alert).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

STEP_S = 3.0
"""For each attempt."""
_REQUEST = b"GET /health HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n"
_SETTINGS, _FRAME_HEAD_BYTES = 4, 9


async def find_scheme(place: str) -> str | None:
    """Ask a place for its scheme.

    Args:
        place: Host and port as in a URL, IPv6 in brackets.

    Returns:
        ``http``, ``https``, ``grpc`` or ``grpcs``; None: nobody there, or neither of these.
    """
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    try:
        start = await _first_bytes(host, int(port))
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        start = b""
    if start.startswith(b"HTTP/1"):
        return "http"
    if len(start) == _FRAME_HEAD_BYTES and start[3] == _SETTINGS and start[5:] == bytes(4):
        return "grpc"
    try:
        return await _tls_scheme(host, int(port))
    except (OSError, TimeoutError):
        return None


async def _first_bytes(host: str, port: int) -> bytes:
    async with _connected(host, port) as (reader, writer):
        writer.write(_REQUEST)
        return await reader.readexactly(_FRAME_HEAD_BYTES)


async def _tls_scheme(host: str, port: int) -> str:
    # Only asked which protocol it speaks; real connections check the certificate.
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE
    asking.set_alpn_protocols(["h2", "http/1.1"])
    async with _connected(host, port, asking) as (_, writer):
        found = writer.get_extra_info("ssl_object")
        return "grpcs" if found is not None and found.selected_alpn_protocol() == "h2" else "https"


@asynccontextmanager
async def _connected(
    host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(STEP_S):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
