"""Header blocks (HPACK, RFC 7541) of a side that allows no dynamic table.

What is sent are literals without indexing and without Huffman codes, so that the part which is
the same for every call is made once. What is received depends on no earlier block, since the
table's size is announced as 0: equal bytes are equal headers, and are decoded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import hpack

from app.upstream.h2_frames import Code, H2Fault

Headers = tuple[tuple[bytes, bytes], ...]

MAX_BLOCK_BYTES = 64 * 1024
"""Longest block, and longest list of headers in one (RFC 9113, section 10.5.1)."""
_MAX_KEPT_BYTES = 256
_LITERAL, _NEVER_INDEXED = b"\x00", b"\x10"
_SECRETS = frozenset({"authorization"})


def encoded(headers: Iterable[tuple[str, str]]) -> bytes:
    """Write headers; names in lower case, names and values in ASCII (section 6.2.2).

    A header with a secret is marked as one that nobody on the way may index (section 6.2.3).

    Raises:
        ValueError: A character that no header may hold.
    """
    parts = []
    for name, value in headers:
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"The value of the header {name} is not printable ASCII.")
        parts += [_NEVER_INDEXED if name in _SECRETS else _LITERAL, _text(name), _text(value)]
    return b"".join(parts)


def decoded(block: bytes) -> Headers:
    """Read a block.

    Raises:
        H2Fault: It is no header block, is too long, or relies on a table.
    """
    return _kept(block) if len(block) <= _MAX_KEPT_BYTES else _decoded(block)


def _decoded(block: bytes) -> Headers:
    decoder = hpack.Decoder(max_header_list_size=MAX_BLOCK_BYTES)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    try:
        return tuple((_bytes(name), _bytes(value)) for name, value in decoder.decode(block, True))
    except (hpack.HPACKError, IndexError) as fault:
        raise H2Fault(Code.COMPRESSION_ERROR, f"sent unreadable headers ({fault})") from None


_kept = lru_cache(maxsize=512)(_decoded)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _text(text: str) -> bytes:
    raw = text.encode("ascii")
    return _length(len(raw)) + raw


def _length(number: int) -> bytes:
    """An integer with a prefix of 7 bits (section 5.1)."""
    if number < 0x7F:
        return bytes((number,))
    rest, made = number - 0x7F, bytearray((0x7F,))
    while rest >= 0x80:
        made.append(rest & 0x7F | 0x80)
        rest >>= 7
    made.append(rest)
    return bytes(made)
