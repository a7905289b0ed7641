"""The only place that sends a generation's answer to the client.

``await send`` is the back-pressure: nothing is queued between a worker and the client. After the
first byte an error can only be one SSE error event, and the stream ends without ``[DONE]``.
"""

from __future__ import annotations

import asyncio

from starlette.types import Send

from app.api.keep_alive import COMMENT, KeepAlive, Silence
from app.api.leaving import Writer
from app.dispatch.reply import RawHeaders, Reply, once
from app.errors import GatewayError
from app.observability.notes import Notes
from app.observability.token_counts import note_stream
from app.protocol.problem import error_event
from app.protocol.sse import ends_with_done

EVENT_STREAM = b"text/event-stream"
_STREAM_HEADERS = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache")]


class Relay:
    """One answer on its way to one client.

    Args:
        send: To the client.
        keep_alive: When a silent stream gets a comment.
        notes: Told when the first and the last event went out, and of the tokens.
        writer: The way past the layers, where there is one and they add nothing to an answer but
            its id.
        request_id: That id.

    Attributes:
        has_started: The response head was sent.
        n_bytes: Body bytes sent so far, comments left out.
    """

    __slots__ = (
        "_before",
        "_has_ended",
        "_is_done",
        "_is_stream",
        "_keep_alive",
        "_last",
        "_n_pieces",
        "_notes",
        "_request_id",
        "_send",
        "_silence",
        "_writer",
        "has_started",
        "n_bytes",
    )

    def __init__(
        self,
        send: Send,
        keep_alive: KeepAlive,
        notes: Notes,
        writer: Writer | None = None,
        request_id: str = "",
    ) -> None:
        self._send = send
        self._writer = writer
        self._request_id = request_id
        self._n_pieces = 0
        self._before = self._last = b""
        self._notes = notes
        self._keep_alive = keep_alive
        self._silence: Silence | None = None
        self._is_stream = False
        self._is_done = False
        self._has_ended = False
        self.has_started = False
        self.n_bytes = 0

    async def run(self, reply: Reply, request: asyncio.TaskGroup) -> None:
        """Sends a reply to its end.

        Raises:
            WorkerError: A leg failed; :meth:`fail` says so to the client.
        """
        if not reply.is_stream:
            if isinstance(reply.chunks, once) and reply.chunks.body is not None:
                await self._send_whole(reply, reply.chunks.body)
                return
            async for body in reply.chunks:
                await self._send_whole(reply, body)
            return
        headers = [pair for pair in reply.headers if pair[0] != b"content-type"]
        headers += _STREAM_HEADERS
        self._is_stream = True
        try:
            async for events in reply.chunks:
                if not self._n_pieces:
                    self._notes.first_s = self._notes.now_s()
                self._n_pieces += 1
                if self.has_started:
                    self.n_bytes += len(events)
                    await self._send_piece(events)
                else:
                    await self._begin(reply.status, headers, events)
                    self.watch(request)
                self._before, self._last = self._last, events
                if self._n_pieces == 1 and self._writer is not None and reply.push_to is not None:
                    # From the second piece on; the first one has taken the whole way.
                    reply.push_to(self._pass_on)
        finally:
            self._is_done = ends_with_done(self._last)
            note_stream(self._notes, self._n_pieces, self.n_bytes, self._before, self._last)
        self.hush()
        await self._end(b"")

    async def _send_whole(self, reply: Reply, body: bytes) -> None:
        notes = self._notes
        notes.first_s = notes.now_s()
        if self._answer(reply.status, reply.headers, body, is_whole=True):
            self._has_ended = True
        else:
            length = (b"content-length", b"%d" % len(body))
            await self._start(reply.status, [*reply.headers, length])
            await self._end(body)
        notes.last_s = notes.now_s()

    def _pass_on(self, events: bytes) -> bool:
        """Sends whole events past the request's task, which waits for the next ones.

        Without events it only says whether it would.
        """
        if self._writer is None or not self._writer.push(events):
            return False
        if not events:
            return True
        self._n_pieces += 1
        self.n_bytes += len(events)
        self._before, self._last = self._last, events
        return True

    def watch(self, request: asyncio.TaskGroup) -> None:
        """Has comments sent while the stream is silent; before its head that begins it.

        Args:
            request: The request's task group.
        """
        self._is_stream = True
        if self._silence is None and self._keep_alive.interval_s:
            self._silence = Silence(
                self._keep_alive.interval_s, lambda: self.n_bytes, self._comment, request
            )

    def hush(self) -> None:
        """Has no more comments sent."""
        if self._silence is not None:
            self._silence.end()
            self._silence = None

    async def fail(self, error: GatewayError) -> None:
        """Ends a started stream with one error event and no ``[DONE]``.

        If ``[DONE]`` is out already, the client has all of it. Of a plain answer half is out, and
        the server cuts it off: it has a length.
        """
        self.hush()
        if self._is_stream and not self._has_ended:
            await self._end(b"" if self._is_done else error_event(error, at_border=True))

    async def _comment(self) -> None:
        if not self.has_started:
            await self._start(200, _STREAM_HEADERS)
        await self._send_piece(COMMENT)

    def _answer(self, status: int, headers: RawHeaders, body: bytes, *, is_whole: bool) -> bool:
        """Begins an answer, or sends all of it, past the layers, and does what they would do."""
        if self._writer is None:
            return False
        named = [*headers, (b"x-request-id", self._request_id.encode("ascii"))]
        self._notes.status = status
        if not self._writer.answer(status, named, body, is_whole=is_whole):
            return False
        self.has_started = True
        self.n_bytes += len(body)
        return True

    async def _begin(self, status: int, headers: RawHeaders, events: bytes) -> None:
        """Begins a stream with its first events."""
        # A comment that waits to begin it must not begin it again.
        self.hush()
        if not self._answer(status, headers, events, is_whole=False):
            await self._start(status, headers)
            self.n_bytes += len(events)
            await self._send_piece(events)

    async def _send_piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _start(self, status: int, headers: RawHeaders) -> None:
        # Only then: the server may be waiting for the client, and the request end meanwhile.
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        self.has_started = True

    async def _end(self, body: bytes) -> None:
        self.n_bytes += len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        self._has_ended = True
