"""The only place that sends a generation's answer to the client.

``await send`` is the back-pressure: nothing is queued between a worker and the client. After the
first byte an error can only be one SSE error event, and the stream ends without ``[DONE]``.
"""

from __future__ import annotations

from starlette.types import Send

from app.dispatch.reply import Reply
from app.errors import GatewayError
from app.protocol.problem import error_event

EVENT_STREAM = b"text/event-stream"


class Relay:
    """One answer on its way to one client.

    Attributes:
        has_started: The response head was sent.
        n_bytes: Body bytes sent so far.
    """

    __slots__ = ("_send", "has_started", "n_bytes", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False
        self.status = 0
        self.n_bytes = 0

    async def run(self, reply: Reply) -> None:
        """Sends a reply to its end.

        Raises:
            WorkerError: A leg failed; :meth:`fail` says so to the client.
        """
        if not reply.is_stream:
            async for body in reply.chunks:
                length = (b"content-length", b"%d" % len(body))
                await self._start(reply.status, [*reply.headers, length])
                await self._body(body, more=False)
            return
        headers = [pair for pair in reply.headers if pair[0] != b"content-type"]
        headers.append((b"content-type", EVENT_STREAM))
        headers.append((b"cache-control", b"no-cache"))
        async for events in reply.chunks:
            if not self.has_started:
                await self._start(reply.status, headers)
            await self._body(events, more=True)
        await self._body(b"", more=False)

    async def fail(self, error: GatewayError) -> None:
        """Ends a started stream with one error event and no ``[DONE]``."""
        await self._body(error_event(error, at_border=True), more=False)

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _body(self, body: bytes, *, more: bool) -> None:
        self.n_bytes += len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
