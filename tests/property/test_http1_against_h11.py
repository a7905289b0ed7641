"""The response reader against h11, a client-side parser written independently."""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import pairwise

import h11
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.http1_response import ResponseReader

N_MAX_HEAD_BYTES = 65536
TOKEN = st.text(string.ascii_letters + string.digits + "-_.~!#$%&'*+^`|", min_size=1, max_size=12)
VALUE = st.text(
    "".join(chr(i) for i in (*range(0x20, 0x7F), *range(0xA0, 0x100), 9)), max_size=20
).map(lambda text: text.encode("latin-1"))
FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"keep-alive"}
HEADER = st.tuples(TOKEN.map(str.encode), VALUE).filter(
    # Either framing must be the only one; other spellings are the mutations' business.
    lambda header: header[0].lower() not in FRAMING | {b"proxy-connection"}
)


@dataclass
class Read:
    """What a parser made of a response; no body and status 0 until the head is complete."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    is_done: bool
    is_broken: bool


def by_us(parts: list[bytes], *, at_end: bool) -> Read:
    """Feeds our reader as the connection does."""
    reader = ResponseReader(N_MAX_HEAD_BYTES)
    reader.expect(is_bodiless=False)
    for part in parts:
        if reader.failure is None and not reader.is_done:
            reader.feed(part)
    if at_end:
        reader.end("closed the connection")
    return Read(
        reader.status if reader.is_head_complete else 0,
        # h11 writes the one coding that both know in lower case.
        [(name, value.lower() if name in FRAMING else value) for name, value in reader.headers],
        b"".join(reader.chunks),
        reader.is_done,
        reader.failure is not None,
    )


def by_h11(parts: list[bytes], *, at_end: bool) -> Read:
    """Feeds h11's client side the same way."""
    read = Read(0, [], b"", is_done=False, is_broken=False)
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=N_MAX_HEAD_BYTES)
    connection.send(h11.Request(method="POST", target="/", headers=[("host", "w")]))
    connection.send(h11.EndOfMessage())
    try:
        for part in parts + ([b""] if at_end else []):
            connection.receive_data(part)
            while not read.is_done:
                event = connection.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    break
                if isinstance(event, h11.Response):
                    read.status = event.status_code
                    read.headers = [
                        (name, value.lower() if name in FRAMING else value)
                        for name, value in event.headers
                    ]
                elif isinstance(event, h11.Data):
                    read.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    read.is_done = True
            if read.is_done:
                break
    except h11.RemoteProtocolError:
        read.is_broken = True
    return read


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """A valid response: interim heads, any headers, any framing."""
    wire = b""
    for _ in range(draw(st.integers(0, 2))):
        wire += b"HTTP/1.1 %d Wait\r\n" % draw(st.sampled_from([100, 102, 103]))
        wire += _lines(draw(st.lists(HEADER, max_size=2))) + b"\r\n"
    status = draw(st.integers(200, 599))
    reason = draw(st.sampled_from([b" OK", b" Not Quite", b" ", b""]))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    wire += b"HTTP/%b %d%b\r\n" % (version, status, reason)
    headers = draw(st.lists(HEADER, max_size=6))
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    framing = draw(st.sampled_from(["length", "chunked", "eof"]))
    has_body = status not in (204, 304)
    if framing == "chunked" and has_body:
        headers.append(
            (b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"Chunked", b"chunked "])))
        )
        extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        body += b"0\r\n" + _lines(draw(st.lists(HEADER, max_size=2))) + b"\r\n"
    else:
        body = b"".join(chunks) if has_body else b""
        if framing == "length" or not has_body:
            headers.append((b"Content-Length", b"%d" % len(body)))
    order = draw(st.permutations(range(len(headers))))
    return wire + _lines([headers[i] for i in order]) + b"\r\n" + body


def _lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


def _split(data: bytes, borders: list[int]) -> list[bytes]:
    at = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    # An empty piece means the end of the connection to h11.
    return [data[a:b] for a, b in pairwise(at) if a < b]


BORDERS = st.lists(st.integers(0, 10_000), max_size=12)


@given(data=responses(), borders=BORDERS)
def test_valid_answers_are_read_as_h11_reads_them(data: bytes, borders: list[int]) -> None:
    """Status, headers and body are the same in any split, and the same as whole."""
    expected = by_h11([data], at_end=True)
    assert not expected.is_broken
    assert expected == by_us([data], at_end=True)
    assert expected == by_us(_split(data, borders), at_end=True)


@given(
    data=responses(),
    borders=BORDERS,
    changes=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.binary(max_size=3)), max_size=4
    ),
)
def test_mutated_answers_end_and_agree_where_both_parsers_accept(
    data: bytes, borders: list[int], changes: list[tuple[int, int, bytes]]
) -> None:
    """No mutation leaves the reader waiting after the end, or reads another message than h11."""
    for at, n_cut, new in changes:
        i = at % (len(data) + 1)
        data = data[:i] + new + data[i + n_cut :]
    ours = by_us(_split(data, borders), at_end=True)
    assert ours.is_done != ours.is_broken
    theirs = by_h11([data] if data else [], at_end=True)
    if ours.is_done and theirs.is_done and not theirs.is_broken:
        assert theirs == ours


@given(data=responses(), cut=st.integers(0, 10_000))
def test_a_cut_answer_is_complete_only_where_h11_says_so(data: bytes, cut: int) -> None:
    """A response cut anywhere is broken, or ended with its connection."""
    part = data[: cut % (len(data) + 1)]
    parts = [part] if part else []
    theirs = by_h11(parts, at_end=True)
    ours = by_us(parts, at_end=True)
    assert (theirs.is_done, theirs.is_broken) == (ours.is_done, ours.is_broken)


@given(data=st.binary(max_size=300), borders=BORDERS)
def test_any_bytes_end_in_an_answer_or_a_failure(data: bytes, borders: list[int]) -> None:
    """Random bytes neither crash the reader nor leave it waiting."""
    ours = by_us(_split(data, borders), at_end=True)
    assert ours.is_done != ours.is_broken
