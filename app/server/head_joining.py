"""A response head leaves together with the first piece of body.

uvicorn writes a head as soon as it is given, and uvloop sends each write at once: two system
calls and two wake-ups of the client for every answer. Here the head waits for the first piece of
body, which the relay gives in the same turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

_HEAD_START = b"HTTP/1.1 "
_HEAD_END = b"\r\n\r\n"


class HeadJoiningTransport(asyncio.Transport):
    """Passes everything on to a transport, a response head together with what follows it.

    A head that nothing follows in this turn of the loop goes out by itself.

    Args:
        transport: The connection.
        loop: Its loop.
        close: Ends the connection when it is to be closed; the transport's own if left out.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[], None] | None = None,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._close = close or transport.close
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.set_protocol = transport.set_protocol  # type: ignore[method-assign]
        self.abort = transport.abort  # type: ignore[method-assign]

    def write(self, data: Any) -> None:
        """Sends bytes, or keeps a head until the next ones."""
        if self._head:
            data = self._head + data
            self._head = b""
        elif data.startswith(_HEAD_START) and data.endswith(_HEAD_END):
            self._head = data
            self._loop.call_soon(self._send_head)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Sends what is kept, then closes."""
        self._send_head()
        self._close()

    def _send_head(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
