"""Cuts what a connection brings into frames, and joins header blocks."""

from __future__ import annotations

from app.upstream.h2_frames import (
    END_HEADERS,
    HEAD,
    HEAD_BYTES,
    MAX_STREAM_ID,
    MIN_FRAME_BYTES,
    PADDED,
    PRIORITY_FLAG,
    Code,
    H2Fault,
    Kind,
    unpadded,
)
from app.upstream.h2_header_block import MAX_BLOCK_BYTES

_MAX_CONTINUATIONS = 64
"""Four full frames hold the longest block; a stream of empty ones must not go on for ever."""


class FrameReader:
    """Calls a method for each frame, in order; a subclass says what they mean.

    It keeps less than one frame and one header block of what it was fed.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._block: bytearray | None = None
        self._block_flags = self._block_stream_id = self._n_continuations = 0

    def feed(self, data: bytes) -> None:
        """Takes what came.

        Raises:
            H2Fault: The connection cannot go on.
        """
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= HEAD_BYTES:
            upper, lower, kind, flags, stream_id = HEAD.unpack_from(data, at)
            n_bytes = upper << 8 | lower
            if n_bytes > MIN_FRAME_BYTES:
                raise H2Fault(Code.FRAME_SIZE_ERROR, f"sent a frame of {n_bytes} bytes")
            stop = at + HEAD_BYTES + n_bytes
            if stop > end:
                break
            body = data[at + HEAD_BYTES : stop]
            at = stop
            stream_id &= MAX_STREAM_ID
            if self._block is not None:
                self._continue(kind, flags, stream_id, body)
            elif kind == Kind.DATA:
                text = unpadded(flags & PADDED, body) if flags & PADDED else body
                self.on_data(stream_id, flags, text, n_bytes)
            elif kind == Kind.HEADERS:
                self._begin(flags, stream_id, body)
            else:
                self.on_other(kind, flags, stream_id, body)
        self._rest = data[at:] if at else data

    def on_data(self, stream_id: int, flags: int, data: bytes, n_counted: int) -> None:
        """A DATA frame; ``n_counted`` is what it takes of the windows, padding included."""
        raise NotImplementedError

    def on_headers(self, stream_id: int, flags: int, block: bytes) -> None:
        """A whole header block, with the flags of its HEADERS frame."""
        raise NotImplementedError

    def on_other(self, kind: int, flags: int, stream_id: int, body: bytes) -> None:
        """Any other frame, also of a kind that nobody knows."""
        raise NotImplementedError

    def _begin(self, flags: int, stream_id: int, body: bytes) -> None:
        if flags & (PADDED | PRIORITY_FLAG):
            body = unpadded(flags, body)
        if flags & END_HEADERS:
            self.on_headers(stream_id, flags, body)
            return
        self._block = bytearray(body)
        self._block_flags, self._block_stream_id = flags, stream_id
        self._n_continuations = 0

    def _continue(self, kind: int, flags: int, stream_id: int, body: bytes) -> None:
        """Until its end nothing may come between the frames of a header block (section 4.3)."""
        block = self._block
        if block is None or kind != Kind.CONTINUATION or stream_id != self._block_stream_id:
            raise H2Fault(Code.PROTOCOL_ERROR, "sent another frame within a header block")
        block += body
        self._n_continuations += 1
        if len(block) > MAX_BLOCK_BYTES or self._n_continuations > _MAX_CONTINUATIONS:
            raise H2Fault(Code.ENHANCE_YOUR_CALM, "sent too long headers")
        if flags & END_HEADERS:
            self._block = None
            self.on_headers(stream_id, self._block_flags, bytes(block))
