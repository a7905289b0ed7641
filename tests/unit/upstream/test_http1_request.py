"""What the client writes, and what it refuses to write."""

from __future__ import annotations

import pytest

from app.upstream.http1 import Http1Pool
from app.upstream.http1_request import encode_head

HOST = b"host: w:1\r\n"


def test_a_head_names_the_host_first_and_the_length_last() -> None:
    """The caller's headers stand between, as they are."""
    expected = b"POST /x?a=1 HTTP/1.1\r\nhost: w:1\r\nX-A: b c\r\ncontent-length: 3\r\n\r\n"
    assert expected == encode_head(b"POST", b"/x?a=1", HOST, [(b"X-A", b"b c")], 3)


@pytest.mark.parametrize(
    ("method", "has_length"), [(b"GET", False), (b"HEAD", False), (b"POST", True), (b"PUT", True)]
)
def test_a_length_of_zero_is_sent_where_a_body_is_usual(method: bytes, has_length: bool) -> None:
    """A GET without body carries no content-length, a POST does."""
    assert has_length == (b"content-length: 0\r\n" in encode_head(method, b"/", HOST, [], 0))


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\n", b"a\r", b"\0", b"\r\n"])
def test_a_value_that_would_end_its_line_is_refused(value: bytes) -> None:
    """CR, LF and NUL never leave the gateway inside a header; the value is not repeated."""
    with pytest.raises(ValueError, match="holds CR, LF or NUL"):
        encode_head(b"POST", b"/", HOST, [(b"x", value)], 0)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\xc3\xa9", b"a\0"])
def test_a_name_that_is_no_token_is_refused(name: bytes) -> None:
    """Header names are RFC 9110 tokens."""
    with pytest.raises(ValueError, match="not a token"):
        encode_head(b"POST", b"/", HOST, [(b"fine", b"1"), (name, b"1")], 0)


@pytest.mark.parametrize("name", [b"Host", b"content-length", b"Transfer-Encoding", b"connection"])
def test_headers_of_the_connection_are_refused(name: bytes) -> None:
    """A second framing header would let two parsers disagree."""
    with pytest.raises(ValueError, match="The connection itself"):
        encode_head(b"POST", b"/", HOST, [(name, b"1")], 0)


@pytest.mark.parametrize("target", [b"", b"x", b"/a b", b"/a\r\nx: y", b"/\xff", b"http://x/"])
def test_a_target_that_is_no_path_is_refused(target: bytes) -> None:
    """Only visible ASCII that begins with a slash."""
    with pytest.raises(ValueError, match="request target"):
        encode_head(b"POST", target, HOST, [], 0)


@pytest.mark.parametrize("method", [b"", b"PO ST", b"GET\r\n"])
def test_a_method_that_is_no_token_is_refused(method: bytes) -> None:
    """The method stands first on the wire and could hold a whole request."""
    with pytest.raises(ValueError, match="method"):
        encode_head(method, b"/", HOST, [], 0)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://w", "w", 80),
        ("https://w/", "w", 443),
        ("http://w:8000", "w", 8000),
        ("http://[::1]:8000", "::1", 8000),
    ],
)
def test_a_base_url_gives_host_and_port(url: str, host: str, port: int) -> None:
    """IPv6 hosts lose their brackets for connecting."""
    pool = Http1Pool(url)
    assert (host, port) == (pool.host, pool.port)


@pytest.mark.parametrize(
    "url",
    ["ftp://w", "http://", "w:80", "http://w/x", "http://u@w", "http://w?q", "http://w:99999",
     "http://w x", "http://w\u00e9"],
)  # fmt: skip
def test_another_kind_of_base_url_is_refused(url: str) -> None:
    """Paths, users and foreign schemes are a ValueError."""
    with pytest.raises(ValueError, match=r"\w"):
        Http1Pool(url)
