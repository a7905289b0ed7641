"""One gRPC call over our own HTTP/2 connection."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic

from google.protobuf.message import DecodeError, Message

from app.upstream.failures import CallCancelled, ConnectFailed, ConnectTimeout
from app.upstream.h2_channel import H2Channel
from app.upstream.h2_stream import PREFIX_BYTES, H2Stream, Sink
from app.upstream.vllm_channel import Answer
from app.upstream.vllm_status import unreadable

if TYPE_CHECKING:
    from app.upstream.h2_connection import H2Connection


class GrpcCall(Generic[Answer]):
    """A call with one message to the worker and any number of answers.

    An :class:`app.upstream.vllm_channel.Rpc`, for any method. :meth:`cancel` must be called in
    the end, whatever happened.

    Args:
        channel: Where.
        block: Its header block.
        answer: What its messages are.
        max_message_bytes: Longest message that is taken.
    """

    __slots__ = (
        "_answer",
        "_block",
        "_channel",
        "_connection",
        "_deadline",
        "_is_cancelled",
        "_is_unreadable",
        "_max_message_bytes",
        "_stream",
    )

    def __init__(
        self, channel: H2Channel, block: bytes, answer: type[Answer], max_message_bytes: int
    ) -> None:
        self._channel = channel
        self._block = block
        self._answer = answer
        self._max_message_bytes = max_message_bytes
        self._connection: H2Connection | None = None
        self._stream: H2Stream | None = None
        self._deadline: asyncio.Timeout | None = None
        self._is_unreadable = False
        self._is_cancelled = False

    @property
    def was_sent(self) -> bool:
        """A byte of the request may have reached the engine."""
        return self._stream is not None and not self._stream.is_refused

    async def connect(self, timeout_s: float | None) -> None:
        """Take a slot of a connection; see :class:`app.upstream.vllm_channel.Rpc`."""
        if self._is_cancelled:
            raise CallCancelled
        self._connection = self._channel.reserve_now()
        if self._connection is not None:
            return
        try:
            async with asyncio.timeout(timeout_s) as self._deadline:
                self._connection = await self._channel.reserve()
        except TimeoutError:
            if self._is_cancelled:
                raise CallCancelled from None
            raise ConnectTimeout(f"No connection to the worker within {timeout_s:g} s.") from None
        finally:
            self._deadline = None

    async def send(self, request: bytes | Message) -> None:
        """Write the message, and that no other follows."""
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        body = b"".join((b"\x00", len(raw).to_bytes(PREFIX_BYTES - 1, "big"), raw))
        if self._is_cancelled:
            raise CallCancelled
        connection = self._connection
        if connection is None:
            raise RuntimeError("The call is not connected.")
        connection.look()
        if not connection.is_usable:
            raise ConnectFailed("The connection was lost before the request was sent.")
        # From here on the slot is the stream's.
        self._connection = None
        stream = self._stream = H2Stream(connection, self._max_message_bytes)
        rest = connection.begin(stream, self._block, body)
        if rest:
            await connection.finish(stream, rest)

    async def read(self, sink: Sink | None = None) -> list[Answer]:
        """Return the messages that are there, once there is one; none at the proper end.

        Args:
            sink: As of :meth:`app.upstream.h2_stream.H2Stream.read`.
        """
        if self._is_unreadable:
            raise unreadable()
        stream = self._stream
        if stream is None:
            raise RuntimeError("The call was not sent.")
        from_bytes, messages = self._answer.FromString, []
        try:
            for raw in await stream.read(sink):
                messages.append(from_bytes(raw))  # noqa: PERF401 - kept although one fails
        except DecodeError:
            if not messages:
                raise unreadable() from None
            self._is_unreadable = True
        return messages

    def cancel(self) -> None:
        """End it; the worker is told unless it has ended. Again is harmless."""
        self._is_cancelled = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.free_slot()
        if self._stream is not None:
            self._stream.cancel()
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())
