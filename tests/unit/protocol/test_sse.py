"""Cutting and ending event streams."""

from __future__ import annotations

import pytest

from app.protocol.sse import EventSplitter, data_of, encode


def test_splitter_keeps_what_is_cut() -> None:
    """Complete events come out, the rest waits."""
    splitter = EventSplitter()
    assert [b"data: a"] == splitter.feed(b"data: a\n\ndata: b")
    assert b"data: b" == splitter.pending
    assert [] == splitter.feed(b"\r\n\r")
    assert [b"data: b", b"data: c"] == splitter.feed(b"\n\n\ndata: c\n\n")
    assert b"" == splitter.pending


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a", b"a"),
        (b"data:a", b"a"),
        (b"event: x\r\ndata: a\r\ndata: b", b"a\nb"),
        (b": ping", b""),
        (b"data: [DONE]", b"[DONE]"),
    ],
)
def test_data_of(event: bytes, data: bytes) -> None:
    """Data is what stands behind ``data:``, several lines joined."""
    assert data == data_of(event)


def test_encode_and_split() -> None:
    """What is encoded is read back."""
    assert [b'{"a":1}'] == [data_of(event) for event in EventSplitter().feed(encode(b'{"a":1}'))]
