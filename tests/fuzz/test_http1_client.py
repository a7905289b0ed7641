"""The HTTP/1.1 client of the data plane against workers that send anything, in any pieces.

It never hangs, never fails with anything but its own errors, and never takes a byte of one answer
for the beginning of the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.upstream.failures import UpstreamError
from app.upstream.http1 import Http1Pool
from tests.property.test_http1_against_h11 import BORDERS, _split, responses

MAX_HEAD_BYTES, MAX_BODY_BYTES = 2048, 20_000
SILENCE_S = 0.1
WITHIN_S = 5.0
GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood"
MANY = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))

_LONG = (
    b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 5000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"e" * 5000,
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"0" * 5000 + b"1\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"t: u\r\n" * 5000,
    b"HTTP/1.1 200 OK\r\n\r\n" + b"b" * 30_000,
)
_ODD = st.sampled_from(
    [
        b"",
        b"\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 204 No\r\ncontent-length: 4\r\n\r\nbody",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 099 No\r\n\r\n",
        b"HTTP/1.1 200\r\n a: folded\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """An answer that was right once."""
    data = draw(responses())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 4)) :]
    return data


ANSWERS = st.one_of(responses(), mutated(), st.binary(max_size=300), st.sampled_from(_LONG), _ODD)
ENDINGS = st.sampled_from(["stays", "stays", "closes", "closes", "resets"])


class Worker:
    """Answers the first request of a connection as told, and the later ones well."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ending = "stays"
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listens no more."""
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if b" /bad " in head:
                await self._misbehave(writer)
                await reader.readuntil(b"\r\n\r\n")
            while True:
                writer.write(GOOD)
                await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.transport.abort()

    async def _misbehave(self, writer: asyncio.StreamWriter) -> None:
        for piece in self.pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        if self.ending == "closes":
            writer.close()
        elif self.ending == "resets":
            writer.transport.abort()


Asking = Callable[[list[bytes], str], bytes | UpstreamError]


@pytest.fixture
def ask() -> Iterator[Asking]:
    """Asks for a bad answer, then for a good one; returns what the bad one was."""
    with asyncio.Runner() as runner:
        worker = Worker()
        runner.run(worker.start())

        def both(pieces: list[bytes], ending: str) -> bytes | UpstreamError:
            worker.pieces, worker.ending = pieces, ending
            return runner.run(_ask_both(worker.port, is_there=ending == "stays"))

        yield both
        runner.run(worker.close())


async def _ask_both(port: int, *, is_there: bool) -> bytes | UpstreamError:
    pool = Http1Pool(f"http://127.0.0.1:{port}", max_head_bytes=MAX_HEAD_BYTES)
    try:
        async with asyncio.timeout(WITHIN_S):
            told = await _ask(pool, b"/bad")
            assert pool.n_active == 0
            good = await _ask(pool, b"/good")
            if isinstance(good, UpstreamError) and not is_there:
                # The worker took its leave of a kept connection at this very moment.
                good = await _ask(pool, b"/good")
            assert good == b"good"
    finally:
        await pool.aclose()
    assert pool.n_open == pool.n_active == 0
    return told


async def _ask(pool: Http1Pool, target: bytes) -> bytes | UpstreamError:
    exchange = pool.exchange(b"POST", target, [], silence_timeout_s=SILENCE_S)
    try:
        await exchange.head()
        return await exchange.read(MAX_BODY_BYTES)
    except UpstreamError as error:
        return error
    finally:
        exchange.close()


@pytest.mark.timeout(180)
def test_any_bytes_in_any_pieces(ask: Asking) -> None:
    """An answer or one of the client's own errors, in time; the next request gets its own."""

    @MANY
    @given(data=ANSWERS, borders=BORDERS, ending=ENDINGS)
    def check(data: bytes, borders: list[int], ending: str) -> None:
        told = ask(_split(data, borders), ending)
        assert isinstance(told, bytes | UpstreamError)

    check()


@pytest.mark.timeout(180)
def test_right_answers_survive_any_pieces(ask: Asking) -> None:
    """However it is cut, a right answer that is followed by the end is read."""

    @MANY
    @given(data=responses(), borders=BORDERS)
    def check(data: bytes, borders: list[int]) -> None:
        whole, cut = ask([data], "closes"), ask(_split(data, borders), "closes")
        assert isinstance(whole, bytes), whole
        assert cut == whole

    check()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("data", _LONG, ids=range(len(_LONG)))
def test_too_long(ask: Asking, data: bytes) -> None:
    """Bytes without an end are an error before they fill the memory."""
    for pieces in ([data], [data[i : i + 100] for i in range(0, len(data), 100)]):
        assert isinstance(ask(pieces, "stays"), UpstreamError)
