"""Parses one HTTP/1.1 response at a time; no I/O.

The parser is llhttp through httptools. What it does not judge is judged here: the size of the
head, statuses outside 100..599, versions other than 1.0 and 1.1, transfer codings other than
``chunked``, HEAD, bodies that end with the connection, and bytes nobody asked for.

Framing follows RFC 9112 section 6; interim responses (RFC 9110 section 15.2) are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import httptools

from app.upstream.failures import BrokenResponse, UpstreamError


class _EndOfParsing(Exception):
    """Stops the parser: the response is complete, whatever follows is not ours."""


@dataclass(slots=True)
class Head:
    """The head of a final response; header names are in lower case."""

    status: int
    headers: list[tuple[bytes, bytes]]


class ResponseReader:
    """Reads responses one after the other from the same peer.

    Args:
        max_head_bytes: Longest head, and longest run of bytes between two pieces of body.

    Attributes:
        status: Of the final response, once ``is_head_complete``.
        headers: Names in lower case, in the order of arrival; trailers are dropped.
        chunks: Body bytes that arrived and were not taken.
        n_buffered_bytes: Their length.
        is_done: The response arrived completely.
        is_reusable: Another response may follow (meaningful when ``is_done``).
        failure: Why no more bytes will come; the chunks stay valid.
    """

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._ends_with_eof = False
        self._is_bodiless = False
        self._n_overhead_bytes = 0
        self._may_be_too_long = False
        self.failure: UpstreamError | None = None
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        # The parser itself keeps body bytes until they are taken; it asks for this when it is made.
        self.on_body = self.chunks.append
        self._parser = httptools.HttpResponseParser(self)
        self.n_buffered_bytes = 0
        self.is_head_complete = False
        self.is_done = False
        self.is_reusable = False

    def expect(self, *, is_bodiless: bool) -> None:
        """Gets ready for the next response.

        Args:
            is_bodiless: The response to HEAD has no body whatever its head says.
        """
        self.is_done = self.is_head_complete = self.is_reusable = self._ends_with_eof = False
        self._is_bodiless = is_bodiless
        self._n_overhead_bytes = 0
        self.headers = []

    def feed(self, data: bytes) -> None:
        """Takes bytes of the response; what is wrong with them becomes ``failure``."""
        chunks = self.chunks
        n_before = len(chunks)
        failure: Exception | None = None
        # A head is no longer than all that came so far.
        self._may_be_too_long = self._n_overhead_bytes + len(data) > self._max_head_bytes
        try:
            self._parser.feed_data(data)
        except Exception as exc:  # noqa: BLE001 - nothing may escape into the event loop
            failure = exc
        n_new = len(chunks) - n_before
        if n_new:
            self._n_overhead_bytes = 0
            n_bytes = len(chunks[-1]) if n_new == 1 else sum(map(len, chunks[n_before:]))
            self.n_buffered_bytes += n_bytes
        if failure is not None:
            # A complete response followed by rubbish is a complete response.
            self.is_reusable = False
            if not self.is_done:
                self.failure = BrokenResponse(_sentence(failure))
        if n_new or failure is not None or self.is_done:
            return
        # Heads, chunk extensions and trailers: bytes that bring the reader nothing.
        self._n_overhead_bytes += len(data)
        if self._n_overhead_bytes > self._max_head_bytes:
            self.failure = self._too_long()

    def end(self, what: str) -> None:
        """No byte will come any more: completes a body that the connection delimits.

        Args:
            what: What the worker did, for the sentence of the failure.
        """
        if self.is_done or self.failure is not None:
            self.is_reusable = False
        elif self.is_head_complete and self._ends_with_eof:
            self.is_done = True
            self.is_reusable = False
        else:
            part = "body" if self.is_head_complete else "head"
            self.failure = BrokenResponse(f"The worker {what} before its response {part} ended.")

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Stops at a response that nobody asked for."""
        if self.is_done:
            raise _EndOfParsing

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header; a trailer is dropped."""
        if not self.is_head_complete:
            # llhttp leaves the white space at the end, which RFC 9110 5.5 does not count in.
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Judges the head and finds out how the body ends."""
        parser = self._parser
        status = parser.get_status_code()
        if parser.get_http_version() not in ("1.1", "1.0"):
            raise BrokenResponse("The worker's answer is not HTTP/1.0 or HTTP/1.1.")
        if not 200 <= status < 600:
            self._skip_interim(status)
            return
        coding: bytes | None = None
        has_length = False
        for name, value in self.headers:
            if name == b"transfer-encoding":
                if coding is not None or value.lower() != b"chunked":
                    raise BrokenResponse("The worker's answer has a transfer coding not asked for.")
                coding = value
            elif name == b"content-length":
                has_length = True
        if self._may_be_too_long and self._n_head_bytes() > self._max_head_bytes:
            raise self._too_long()
        self.status = status
        self.is_head_complete = True
        self._n_overhead_bytes = 0
        self.is_reusable = parser.should_keep_alive()
        self._ends_with_eof = coding is None and not has_length
        if self._is_bodiless:
            # The parser would take what comes next for the body, so the connection ends here.
            self.is_done = True
            raise _EndOfParsing

    def on_message_complete(self) -> None:
        """Marks the final response complete; an interim one does not count."""
        if self.is_head_complete:
            self.is_done = True

    def _skip_interim(self, status: int) -> None:
        if status == 101:
            raise BrokenResponse("The worker switched protocols without having been asked to.")
        if not 100 <= status < 200:
            raise BrokenResponse(f"The worker answered with the invalid status {status}.")
        self.headers = []

    def _n_head_bytes(self) -> int:
        return sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_long(self) -> BrokenResponse:
        return BrokenResponse(
            f"The worker sent more than {self._max_head_bytes} bytes of head or chunk overhead."
        )


def _sentence(exc: Exception) -> str:
    """Words what a parser run ended with."""
    cause = exc.__context__ if isinstance(exc, httptools.HttpParserCallbackError) else None
    if isinstance(cause, BrokenResponse):
        return str(cause)
    return f"The worker's answer is not valid HTTP/1.1: {exc}."
