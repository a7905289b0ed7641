"""The response reader, fed whole and byte by byte."""

from __future__ import annotations

import pytest

from app.upstream.failures import BrokenResponse
from app.upstream.http1_response import ResponseReader


def read(data: bytes, *, is_whole: bool, is_bodiless: bool = False) -> ResponseReader:
    """A reader that was fed these bytes as the connection feeds it."""
    reader = ResponseReader(65536)
    reader.expect(is_bodiless=is_bodiless)
    for part in [data] if is_whole else [data[i : i + 1] for i in range(len(data))]:
        if reader.failure is not None or reader.is_done:
            break
        reader.feed(part)
    return reader


both_ways = pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "bytewise"])


@both_ways
@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n", b"ok"),
        (
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\no\r\n1\r\nk\r\n0\r\nX-Trailer: 1\r\n\r\n"
            ),
            b"ok",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (
            (
                b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
                b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            ),
            b"ok",
        ),
    ],
)
def test_a_complete_answer_is_read_and_leaves_the_connection_reusable(
    data: bytes, body: bytes, is_whole: bool
) -> None:
    """Valid framings give the body, however the bytes were split."""
    reader = read(data, is_whole=is_whole)
    assert reader.failure is None
    assert (True, True, body) == (reader.is_done, reader.is_reusable, b"".join(reader.chunks))
    assert [] == [name for name, _ in reader.headers if name in (b"link", b"x-trailer")]


@both_ways
def test_header_names_are_lower_case_and_repeated_headers_stay(is_whole: bool) -> None:
    """Order, repetition, empty values and bytes above 127 are kept."""
    reader = read(
        b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a:  Zwei \r\nX-B:\r\nX-C: \xe9\r\nX-D: 1\r\n\r\n",
        is_whole=is_whole,
    )
    expected = [(b"x-a", b"1"), (b"x-a", b"Zwei"), (b"x-b", b""), (b"x-c", b"\xe9")]
    assert expected == reader.headers[:4]


@both_ways
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_an_answer_that_announces_the_end_is_complete_but_not_reusable(
    data: bytes, is_whole: bool
) -> None:
    """``connection: close`` and HTTP/1.0 are respected."""
    reader = read(data, is_whole=is_whole)
    assert (True, False) == (reader.is_done, reader.is_reusable)


@pytest.mark.parametrize(
    "trailing", [b"X", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"\0", b"\r\n\r\nGET"]
)
@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    ],
)
def test_bytes_after_the_answer_spoil_the_connection_not_the_answer(
    data: bytes, trailing: bytes
) -> None:
    """The response stays the first one; the connection is not used again."""
    reader = read(data + trailing, is_whole=True)
    assert (200, b"ok") == (reader.status, b"".join(reader.chunks))
    assert (True, False, None) == (reader.is_done, reader.is_reusable, reader.failure)


@both_ways
@pytest.mark.parametrize(
    "head", [b"Content-Length: 500\r\n", b"Transfer-Encoding: chunked\r\n", b""]
)
def test_the_answer_to_head_has_no_body_whatever_it_says(head: bytes, is_whole: bool) -> None:
    """HEAD is complete with its head; its connection is given up."""
    reader = read(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", is_whole=is_whole, is_bodiless=True)
    assert (True, False, None) == (reader.is_done, reader.is_reusable, reader.failure)


@both_ways
def test_a_body_without_length_ends_with_the_connection(is_whole: bool) -> None:
    """Only the end of the connection completes it."""
    reader = read(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", is_whole=is_whole)
    assert not reader.is_done
    reader.end("closed the connection")
    assert (True, False, None) == (reader.is_done, reader.is_reusable, reader.failure)
    assert b"until the end" == b"".join(reader.chunks)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\xfc garbage\r\n\r\n",
    "request": b"GET / HTTP/1.1\r\n\r\n",
    "version": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "version9": b"HTTP/9.9 200 OK\r\n\r\n",
    "status two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
    "status words": b"HTTP/1.1 abc OK\r\n\r\n",
    "switching": b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    "space in name": b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n",
    "empty name": b"HTTP/1.1 200 OK\r\n: 1\r\n\r\n",
    "NUL in value": b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
    "NUL in name": b"HTTP/1.1 200 OK\r\nx\0: a\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n",
    "empty length": b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "length list": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "both, turned": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "gzip coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n",
    "chunk size": CHUNKED + b"\r\nzz\r\n",
    "chunk size negative": CHUNKED + b"\r\n-1\r\n",
    "chunk size huge": CHUNKED + b"\r\nfffffffffffffffff\r\n",
    "chunk too long": CHUNKED + b"\r\n2\r\nabc\r\n",
    "bad trailer": CHUNKED + b"\r\n0\r\nno colon\r\n\r\n",
}


@both_ways
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_http_breaks_the_response_with_a_sentence(data: bytes, is_whole: bool) -> None:
    """A malformed answer is a failure, not an exception and not a wait."""
    reader = read(data, is_whole=is_whole)
    assert isinstance(reader.failure, BrokenResponse)
    assert str(reader.failure).startswith("The worker")
    assert str(reader.failure).endswith(".")
    assert not reader.is_done


@both_ways
@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "head"),
        (b"HTTP/1.1 200 OK\r\nContent-", "head"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "body"),
    ],
)
def test_an_end_in_the_middle_breaks_the_response(data: bytes, part: str, is_whole: bool) -> None:
    """The sentence names the part that was cut."""
    reader = read(data, is_whole=is_whole)
    reader.end("closed the connection")
    expected = f"The worker closed the connection before its response {part} ended."
    assert expected == str(reader.failure)


@pytest.mark.parametrize("n_bytes_a_piece", [1000, 10_000_000])
@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nx: " + b"v" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: v\r\n" * 20_000 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nx: " + b"v" * 100_000,
        b"HTTP/1.1 200 " + b"v" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nx: " + b"v" * 100_000,
    ],
)
def test_a_head_without_end_is_cut_at_the_limit(start: bytes, n_bytes_a_piece: int) -> None:
    """Heads, interim heads, chunk extensions and trailers are bounded."""
    reader = ResponseReader(65536)
    reader.expect(is_bodiless=False)
    for i in range(0, len(start), n_bytes_a_piece):
        if reader.failure is None:
            reader.feed(start[i : i + n_bytes_a_piece])
    assert isinstance(reader.failure, BrokenResponse)
    assert "65536 bytes" in str(reader.failure)


def test_a_long_stream_of_small_pieces_never_meets_the_head_limit() -> None:
    """Chunk sizes that come apart from their chunks do not add up."""
    reader = ResponseReader(200)
    reader.expect(is_bodiless=False)
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        reader.feed(b"1\r\n")
        reader.feed(b"x")
        reader.feed(b"\r\n")
    assert reader.failure is None
    assert 1000 == len(reader.chunks)


def test_one_reader_reads_answer_after_answer() -> None:
    """A kept-alive connection's reader starts afresh each time."""
    reader = ResponseReader(65536)
    for status in (200, 404, 200):
        reader.expect(is_bodiless=False)
        reader.feed(b"HTTP/1.1 %d X\r\nContent-Length: 1\r\nN: %d\r\n\r\nx" % (status, status))
        assert (status, True, True) == (reader.status, reader.is_done, reader.is_reusable)
        assert [(b"content-length", b"1"), (b"n", b"%d" % status)] == reader.headers
