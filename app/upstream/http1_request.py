"""Writes the head of an HTTP/1.1 request and refuses what would change its framing."""

from __future__ import annotations

from collections.abc import Sequence

_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TARGET_BYTES = bytes(range(0x21, 0x7F))
_OWN_HEADERS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect")
)
_BODILESS_METHODS = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS"))


def encode_head(
    method: bytes,
    target: bytes,
    host_line: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    n_body_bytes: int,
) -> bytes:
    """Writes a request head, ``host`` first and ``content-length`` last.

    ``content-length: 0`` is left out for methods that usually have no body.

    Args:
        method: A token such as ``POST``.
        target: Path and query, visible ASCII only, beginning with ``/``.
        host_line: The whole host header with its line end.
        headers: Further headers; none of host, content-length, transfer-encoding,
            connection, upgrade, expect, which belong to the connection.
        n_body_bytes: Length of the body.

    Raises:
        ValueError: A part would break the framing; the text names the part, never a value.
    """
    if not method or method.translate(None, _TOKEN_BYTES):
        raise ValueError("The request method is not a token.")
    if target[:1] != b"/" or target.translate(None, _TARGET_BYTES):
        raise ValueError("The request target must begin with / and hold visible ASCII only.")
    names = [name for name, _ in headers]
    if b"" in names or b"".join(names).translate(None, _TOKEN_BYTES):
        raise ValueError("A header name is not a token.")
    if not _OWN_HEADERS.isdisjoint([name.lower() for name in names]):
        raise ValueError("The connection itself sets host, content-length and the like.")
    lines = [b"%b: %b\r\n" % header for header in headers]
    if n_body_bytes or method not in _BODILESS_METHODS:
        lines.append(b"content-length: %d\r\n" % n_body_bytes)
    head = b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, host_line, b"".join(lines))
    # Every line brings exactly one CR and one LF, so one more of either came in a value.
    n_line_ends = len(lines) + 3
    if head.count(b"\n") != n_line_ends or head.count(b"\r") != n_line_ends or b"\0" in head:
        raise ValueError("A header value holds CR, LF or NUL.")
    return head
