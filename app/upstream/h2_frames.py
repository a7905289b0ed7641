"""HTTP/2 frames as bytes (RFC 9113, sections 4 to 7); knows nothing of connections."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (section 3.4)."""

DEFAULT_WINDOW_BYTES = 65_535
MAX_WINDOW_BYTES = 2**31 - 1
MIN_FRAME_BYTES = 16_384
"""The longest frame that every peer takes, and that one takes who asks for no longer ones."""
MAX_FRAME_BYTES = 2**24 - 1
MAX_STREAM_ID = 2**31 - 1
HEAD_BYTES = 9

HEAD = Struct(">HBBBI")
"""Length (upper two bytes, lower one), kind, flags, stream (its top bit is reserved)."""
_UINT = Struct(">I")
_SETTING = Struct(">HI")


class Kind(IntEnum):
    """Kinds of frames (section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Error codes (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """Settings (section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20


class H2Fault(Exception):
    """The peer broke the rules in a way that ends the connection (section 5.4.1).

    Args:
        code: What the peer is told.
        message: What it did, as the end of a sentence.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    """Write one frame; the caller keeps to the peer's longest frame."""
    n_bytes = len(body)
    return HEAD.pack(n_bytes >> 8, n_bytes & 0xFF, kind, flags, stream_id) + body


def settings(values: dict[Setting, int]) -> bytes:
    """Write a SETTINGS frame."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(_SETTING.pack(k, v) for k, v in values.items()))


def window_update(stream_id: int, n_bytes: int) -> bytes:
    """Write a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(Kind.WINDOW_UPDATE, 0, stream_id, _UINT.pack(n_bytes))


def reset(stream_id: int, code: Code) -> bytes:
    """Write a RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream_id, _UINT.pack(code))


def goaway(code: Code) -> bytes:
    """Write a GOAWAY frame of a client that took no stream of the server's."""
    return frame(Kind.GOAWAY, 0, 0, _UINT.pack(0) + _UINT.pack(code))


def header_frames(stream_id: int, block: bytes, max_frame_bytes: int) -> bytes:
    """Write a header block as HEADERS and as many CONTINUATIONs as it takes (section 6.10)."""
    if len(block) <= max_frame_bytes:
        return frame(Kind.HEADERS, END_HEADERS, stream_id, block)
    pieces = [block[at : at + max_frame_bytes] for at in range(0, len(block), max_frame_bytes)]
    last = len(pieces) - 1
    return b"".join(
        frame(
            Kind.CONTINUATION if at else Kind.HEADERS,
            END_HEADERS if at == last else 0,
            stream_id,
            piece,
        )
        for at, piece in enumerate(pieces)
    )


def uint(body: bytes, at: int = 0) -> int:
    """Read 32 bits."""
    return int.from_bytes(body[at : at + 4], "big")


def settings_of(body: bytes) -> list[tuple[int, int]]:
    """Read the body of a SETTINGS frame.

    Raises:
        H2Fault: Its length is wrong.
    """
    if len(body) % _SETTING.size:
        raise H2Fault(Code.FRAME_SIZE_ERROR, f"sent SETTINGS of {len(body)} bytes")
    return list(_SETTING.iter_unpack(body))


def unpadded(flags: int, body: bytes) -> bytes:
    """Take off the padding of a DATA or HEADERS frame, and the priority of the latter.

    Raises:
        H2Fault: It is longer than the frame.
    """
    begin, n_padding = 0, 0
    if flags & PADDED:
        begin, n_padding = 1, body[0] if body else 0
    if flags & PRIORITY_FLAG:
        begin += 5
    if begin + n_padding > len(body):
        raise H2Fault(Code.PROTOCOL_ERROR, "sent a frame with more padding than bytes")
    return body[begin : len(body) - n_padding]
