"""The answers that an HTTP/2 connection brings, and the ends of its streams."""

from __future__ import annotations

from app.upstream import grpc_ending
from app.upstream.failures import UpstreamError
from app.upstream.h2_frames import DEFAULT_WINDOW_BYTES, END_STREAM, Code, H2Fault, window_update
from app.upstream.h2_header_block import decoded
from app.upstream.h2_reader import FrameReader
from app.upstream.h2_sender import FrameSender
from app.upstream.h2_stream import H2Stream

WINDOW_BYTES = 16 * 1024 * 1024
"""What the peer may send on all streams before it is told that it was received. What is held for
slow readers is limited by each stream's own window, so that one of them stops no other."""


class H2Answers(FrameReader, FrameSender):
    """Gives the frames of each stream to its call."""

    def __init__(self) -> None:
        FrameReader.__init__(self)
        FrameSender.__init__(self)
        self._n_uncredited_bytes = 0

    def close_if_done(self) -> None:
        """A stream or its slot is free."""
        raise NotImplementedError

    # ---- who calls

    def leave(self, stream: H2Stream) -> None:
        """The caller wants nothing more of a stream; it is reset unless it is over."""
        if stream.id and not stream.is_over:
            self.reset(stream, Code.CANCEL)
            self.forget(stream)

    def give_credit(self, stream: H2Stream) -> None:
        """Lets the peer send as much again as was held of a stream."""
        n_bytes, stream.n_held_bytes = stream.n_held_bytes, 0
        if not stream.is_over:
            self.write(window_update(stream.id, n_bytes))

    # ---- frames

    def on_data(self, stream_id: int, flags: int, data: bytes, n_counted: int) -> None:
        """A piece of an answer (section 6.1)."""
        self._n_uncredited_bytes += n_counted
        if self._n_uncredited_bytes >= WINDOW_BYTES // 2:
            self.write(window_update(0, self._n_uncredited_bytes))
            self._n_uncredited_bytes = 0
        stream = self._stream_of(stream_id)
        if stream is None:
            return
        if not stream.is_head_read:
            raise H2Fault(Code.PROTOCOL_ERROR, "sent data before headers")
        if stream.n_held_bytes + n_counted > DEFAULT_WINDOW_BYTES:
            raise H2Fault(Code.FLOW_CONTROL_ERROR, "sent more than it was allowed to")
        failure = stream.feed(data, n_counted)
        if failure is not None:
            self._fail(stream, failure)
        elif flags & END_STREAM:
            self.end(stream, grpc_ending.ending(()))

    def on_headers(self, stream_id: int, flags: int, block: bytes) -> None:
        """The head of an answer, its trailers, or both in one (section 8.1)."""
        stream = self._stream_of(stream_id)
        if stream is None:
            return
        headers = decoded(block)
        is_end = bool(flags & END_STREAM)
        if not stream.is_head_read:
            if not is_end and grpc_ending.is_informational(headers):
                return
            stream.is_head_read = True
            failure = grpc_ending.refusal(headers)
            if failure is not None and not is_end:
                self._fail(stream, failure)
            elif is_end:
                self.end(stream, failure or grpc_ending.ending(headers))
        elif is_end:
            self.end(stream, grpc_ending.ending(headers))
        else:
            raise H2Fault(Code.PROTOCOL_ERROR, "sent headers in the middle of an answer")

    # ---- ends

    def _stream_of(self, stream_id: int) -> H2Stream | None:
        """The stream of a frame; None: one that is over, whose last frames are still coming."""
        stream = self.streams.get(stream_id)
        if stream is None and (not stream_id & 1 or stream_id >= self._next_id):
            raise H2Fault(Code.PROTOCOL_ERROR, f"named stream {stream_id}, which is none")
        return stream

    def end(self, stream: H2Stream, failure: UpstreamError | None) -> None:
        """The peer ended a stream; a request that is not wholly written is not written on."""
        stream.end(failure)
        if not stream.has_sent_all:
            self.reset(stream, Code.NO_ERROR)
        self.forget(stream)

    def _fail(self, stream: H2Stream, failure: UpstreamError) -> None:
        """This side ends a stream whose answer it cannot take."""
        self.reset(stream, Code.CANCEL)
        stream.end(failure)
        self.forget(stream)

    def forget(self, stream: H2Stream) -> None:
        """A stream is over; again is harmless."""
        if self.streams.pop(stream.id, None) is not None:
            self.slots.give_back()
            self.close_if_done()
