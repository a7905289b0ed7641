"""Raw ASGI answers, and the connection under them for faults that cut it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TRANSPORT_KEY = "app.sim.transport"
"""Where the server puts the connection's transport in the ASGI scope."""

_LINGER_NOT = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Ends a connection with RST, as the kernel does for a killed process."""
    raw: socket.socket | None = transport.get_extra_info("socket")
    if raw is not None and not transport.is_closing():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        self.query: bytes = scope["query_string"]
        self.gone = asyncio.Event()
        """The client closed its connection."""
        self._transport: asyncio.Transport | None = scope.get(TRANSPORT_KEY)
        self._receive = receive
        self._send = send

    async def body(self) -> bytes:
        """The whole request body."""
        parts = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone.set()
                return b""
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)

    async def watch(self) -> None:
        """Returns when the client has left (or the answer is complete)."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends the head."""
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Sends body bytes."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def bytes(
        self,
        status: int,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        n_sent: int | None = None,
        is_closed: bool = True,
    ) -> None:
        """A whole answer; with ``n_sent`` only that much of its body, and the end or silence."""
        await self.start(status, {"content-length": str(len(data)), **(headers or {})})
        if n_sent is None:
            await self.write(data, is_last=True)
            return
        await self._send({"type": "http.response.body", "body": data[:n_sent], "more_body": True})
        if is_closed:
            await self.close()
        else:
            await self.gone.wait()

    async def json(self, status: int, value: Any) -> None:
        """A JSON answer."""
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        await self.bytes(status, data, {"content-type": "application/json"})

    async def event(self, value: Any) -> None:
        """One SSE event."""
        await self.write(encode_event(value))

    async def reset(self) -> None:
        """RST, whatever was announced."""
        if self._transport is not None:
            reset(self._transport)
        await self._until_gone()

    async def close(self) -> None:
        """FIN after what was written, whatever was announced."""
        if self._transport is not None:
            self._transport.close()
        await self._until_gone()

    async def _until_gone(self) -> None:
        # uvicorn complains of an unfinished answer until it knows that the peer left.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.watch()


def encode_event(value: Any) -> bytes:
    """The bytes of one SSE event."""
    return (
        b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
