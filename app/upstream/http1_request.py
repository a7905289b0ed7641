"""Writes the head of an HTTP/1.1 request and refuses what would change its framing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TARGET_BYTES = bytes(range(0x21, 0x7F))
_OWN_HEADERS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect")
)
_MAX_NAMES = 1024
_sound_names: set[bytes] = set()
"""Names that were found sound: those of two allow-lists, and what httpx adds."""
_BODILESS_METHODS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))


class HeaderLines(bytes):
    """Encoded header lines that :func:`encode_lines` has checked; written once, sent often."""

    __slots__ = ()


def encode_lines(headers: Sequence[tuple[bytes, bytes]]) -> HeaderLines:
    """Writes headers as lines.

    Args:
        headers: None of host, content-length, transfer-encoding, connection, upgrade, expect,
            which belong to the connection.

    Raises:
        ValueError: A part would break the framing; the text names the part, never a value.
    """
    for name, _ in headers:
        if name not in _sound_names:
            _judge(name)
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    # Every line brings exactly one CR and one LF, so one more of either came in a value.
    n = len(headers)
    if lines.count(b"\n") != n or lines.count(b"\r") != n or b"\0" in lines:
        raise ValueError("A header value holds CR, LF or NUL.")
    return HeaderLines(lines)


def _judge(name: bytes) -> None:
    """Looks at a name for the first time, and remembers it if it may be sent."""
    if not name or name.translate(None, _TOKEN_BYTES):
        raise ValueError("A header name is not a token.")
    if name.lower() in _OWN_HEADERS:
        raise ValueError("The connection itself sets host, content-length and the like.")
    if len(_sound_names) < _MAX_NAMES:
        _sound_names.add(name)


@lru_cache(maxsize=1024)
def bearer_line(key: str) -> HeaderLines:
    """Writes a worker's credential; kept, since every leg has it."""
    return encode_lines([(b"authorization", b"Bearer " + key.encode())])


def encode_head(
    method: bytes,
    target: bytes,
    host_line: bytes,
    headers: Sequence[tuple[bytes, bytes]] | HeaderLines,
    n_body_bytes: int,
) -> bytes:
    """Writes a request head, ``host`` first and ``content-length`` last.

    ``content-length: 0`` is left out for methods that usually have no body.

    Args:
        method: A token such as ``POST``.
        target: Path and query, visible ASCII only, beginning with ``/``.
        host_line: The whole host header with its line end.
        headers: Further headers, as :func:`encode_lines` takes or gives them.
        n_body_bytes: Length of the body.

    Raises:
        ValueError: A part would break the framing; the text names the part, never a value.
    """
    lines = headers if isinstance(headers, HeaderLines) else encode_lines(headers)
    start = _start_line(method, target)
    if n_body_bytes or method not in _BODILESS_METHODS:
        return b"%b%b%bcontent-length: %d\r\n\r\n" % (start, host_line, lines, n_body_bytes)
    return b"%b%b%b\r\n" % (start, host_line, lines)


@lru_cache(maxsize=256)
def _start_line(method: bytes, target: bytes) -> bytes:
    if not method or method.translate(None, _TOKEN_BYTES):
        raise ValueError("The request method is not a token.")
    if target[:1] != b"/" or target.translate(None, _TARGET_BYTES):
        raise ValueError("The request target must begin with / and hold visible ASCII only.")
    return b"%b %b HTTP/1.1\r\n" % (method, target)
