"""Writes the requests of a connection within the peer's windows (RFC 9113, section 5.2)."""

from __future__ import annotations

import asyncio
from typing import cast

from app.upstream.h2_frames import (
    DEFAULT_WINDOW_BYTES,
    END_STREAM,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    MAX_WINDOW_BYTES,
    MIN_FRAME_BYTES,
    Code,
    H2Fault,
    Kind,
    Setting,
    frame,
    header_frames,
    reset,
)
from app.upstream.h2_slots import StreamSlots
from app.upstream.h2_stream import H2Stream

_KEPT_IDS = 2**20
"""For streams that have a slot, and take their number later."""
_ANSWERS_LIMIT = 1_000
"""So many acknowledgements a peer may ask for while it reads none of them."""


class FrameSender(asyncio.Protocol):
    """What a connection says.

    Attributes:
        transport: None before the connection is made.
        streams: Those that are open, by their numbers.
        slots: For the streams that the peer allows.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.streams: dict[int, H2Stream] = {}
        self.slots = StreamSlots()
        self._is_paused = False
        self._n_answers_unread = 0
        self._next_id = 1
        self._window = DEFAULT_WINDOW_BYTES
        self._stream_window = DEFAULT_WINDOW_BYTES
        self._max_frame_bytes = MIN_FRAME_BYTES
        self._blocked: dict[H2Stream, None] = {}

    @property
    def has_ids(self) -> bool:
        """There is a number left for another stream (section 5.1.1), and for all that are begun."""
        return self._next_id <= MAX_STREAM_ID - _KEPT_IDS

    def write(self, data: bytes) -> None:
        """Writes frames; a connection that is gone swallows them."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def begin(self, stream: H2Stream, block: bytes, body: bytes) -> bytes:
        """Opens a stream; returns the part of the request that has yet to be written.

        Most requests fit into one frame and into both windows: they go out in one piece.
        """
        stream.id, self._next_id = self._next_id, self._next_id + 2
        self.streams[stream.id] = stream
        head = header_frames(stream.id, block, self._max_frame_bytes)
        n_bytes = len(body)
        limit = min(self._window, self._stream_window, self._max_frame_bytes)
        if n_bytes > limit or self._is_paused:
            self.write(head)
            return body
        self._window -= n_bytes
        stream.n_window_bytes -= n_bytes
        stream.has_sent_all = True
        self.write(head + frame(Kind.DATA, END_STREAM, stream.id, body))
        return b""

    async def finish(self, stream: H2Stream, body: bytes) -> None:
        """Writes the rest of a request as the peer takes it; ends early with the stream."""
        at, n_bytes = 0, len(body)
        while not stream.is_over:
            window = min(self._window, self._stream_window + stream.n_window_bytes)
            n_piece = min(window, self._max_frame_bytes, n_bytes - at)
            if n_piece <= 0 or self._is_paused:
                await self._room(stream)
                continue
            piece, at = body[at : at + n_piece], at + n_piece
            self._window -= n_piece
            stream.n_window_bytes -= n_piece
            self.write(frame(Kind.DATA, END_STREAM if at == n_bytes else 0, stream.id, piece))
            if at == n_bytes:
                stream.has_sent_all = True
                return

    async def _room(self, stream: H2Stream) -> None:
        stream.room = asyncio.get_running_loop().create_future()
        self._blocked[stream] = None
        try:
            await stream.room
        finally:
            self._blocked.pop(stream, None)
            stream.room = None

    def _give_room(self) -> None:
        for stream in tuple(self._blocked):
            stream.give_room()

    # ---- what the peer says about it

    def widen(self, stream_id: int, n_bytes: int) -> None:
        """A WINDOW_UPDATE (section 6.9).

        Raises:
            H2Fault: It allows nothing, or more than there can be.
        """
        if not n_bytes:
            raise H2Fault(Code.PROTOCOL_ERROR, "sent a WINDOW_UPDATE of 0 bytes")
        if not stream_id:
            self._window += n_bytes
            if self._window > MAX_WINDOW_BYTES:
                raise H2Fault(Code.FLOW_CONTROL_ERROR, "opened its window too far")
            self._give_room()
        elif (stream := self.streams.get(stream_id)) is not None:
            stream.n_window_bytes += n_bytes
            if self._stream_window + stream.n_window_bytes > MAX_WINDOW_BYTES:
                raise H2Fault(Code.FLOW_CONTROL_ERROR, "opened a stream's window too far")
            stream.give_room()

    def apply(self, values: list[tuple[int, int]]) -> None:
        """The peer's SETTINGS (section 6.5.2); unknown ones mean nothing.

        Raises:
            H2Fault: A value is out of range.
        """
        for setting, value in values:
            if setting == Setting.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW_BYTES:
                    raise H2Fault(Code.FLOW_CONTROL_ERROR, f"set windows of {value} bytes")
                # Of all streams, those that are open too (section 6.9.2).
                self._stream_window = value
                self._give_room()
            elif setting == Setting.MAX_FRAME_SIZE:
                if not MIN_FRAME_BYTES <= value <= MAX_FRAME_BYTES:
                    raise H2Fault(Code.PROTOCOL_ERROR, f"set frames of {value} bytes")
                self._max_frame_bytes = value
            elif setting == Setting.MAX_CONCURRENT_STREAMS:
                self.slots.set_limit(value)

    def answer(self, data: bytes) -> None:
        """Writes what the peer asked for.

        Raises:
            H2Fault: It asks on and on, and reads nothing.
        """
        self._n_answers_unread = self._n_answers_unread + 1 if self._is_paused else 0
        if self._n_answers_unread > _ANSWERS_LIMIT:
            raise H2Fault(Code.ENHANCE_YOUR_CALM, "asks for answers and reads none")
        self.write(data)

    def reset(self, stream: H2Stream, code: Code) -> None:
        """Writes a RST_STREAM."""
        self.write(reset(stream.id, code))

    # ---- the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        """The peer reads more slowly than is written."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._is_paused = False
        self._give_room()
