"""httpx over the pool: bodies, reuse, timeouts, httpx's own exceptions, TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.upstream.failures import ConnectFailed
from app.upstream.http1 import Http1Pool
from app.upstream.http1_transport import Http1Transport

OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'


def client_on(pool: Http1Pool, **options: Any) -> httpx.AsyncClient:
    """A client as a worker has it."""
    transport = Http1Transport(pool, silence_timeout_s=5)
    return httpx.AsyncClient(transport=transport, base_url=pool.base_url, **options)


async def test_calls_share_the_connection_of_the_pool(
    serve: Any, pool_for: Any, answer: Any
) -> None:
    """GET and POST with JSON, one accept, the framing headers written once."""
    async with serve(answer(OK)) as worker, pool_for(worker) as pool:
        async with client_on(pool, headers={"authorization": "Bearer k"}, timeout=None) as client:
            assert {"a": 1} == (await client.get("/get", params={"q": "ä b"})).json()
            assert {"a": 1} == (await client.post("/post", json={"x": 1})).json()
        assert (1, 1) == (worker.n_accepted, pool.n_idle)
        get, post = (call.head.lower() for call in worker.calls)
        assert get.startswith(b"get /get?q=%c3%a4+b http/1.1\r\nhost: 127.0.0.1")
        assert b"authorization: bearer k\r\n" in get
        assert [1, 1] == [post.count(b"content-length:"), post.count(b"host:")]


async def test_a_streamed_body_that_is_left_aborts_its_connection(
    serve: Any, pool_for: Any, answer: Any
) -> None:
    """Closing in the middle does not pool a connection with bytes to come."""
    script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    async with serve(script) as worker, pool_for(worker) as pool, client_on(pool) as client:
        async with client.stream("GET", "/") as response:
            async for piece in response.aiter_raw():
                assert b"abc" == piece
                break
        assert (0, 0) == (pool.n_idle, pool.n_active)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n4\r\n6789\r\n",
    ],
)
async def test_answers_have_a_longest_length(serve: Any, pool_for: Any, data: bytes) -> None:
    """What goes on for ever is not kept in memory."""

    async def script(call: Any) -> None:
        await call.write(data)
        await call.until_gone()

    async with serve(script) as worker, pool_for(worker) as pool:
        async with httpx.AsyncClient(transport=Http1Transport(pool, 5, 8)) as client:
            with pytest.raises(httpx.RemoteProtocolError, match="is over 8 bytes"):
                await client.get(pool.base_url)
        assert pool.n_active == 0
    async with serve(script) as worker, pool_for(worker) as pool:
        transport = Http1Transport(pool, 5, 9)
        request = httpx.Request("GET", pool.base_url)
        response = await transport.handle_async_request(request)
        n_bytes = 0
        async for piece in response.aiter_raw():
            n_bytes += len(piece)
            if n_bytes == 9:
                break
        await response.aclose()


async def test_compressed_answers_are_refused(serve: Any, pool_for: Any, answer: Any) -> None:
    """A few bytes could become gigabytes; no engine does it unasked."""
    script = answer(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
    async with serve(script) as worker, pool_for(worker) as pool, client_on(pool) as client:
        with pytest.raises(httpx.RemoteProtocolError, match="is compressed"):
            await client.get("/")
        assert pool.n_active == 0


@pytest.mark.parametrize(
    ("data", "exception"),
    [
        (b"rubbish\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", httpx.RemoteProtocolError),
        (b"", httpx.ReadTimeout),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", httpx.ReadTimeout),
    ],
)
async def test_failures_are_httpx_exceptions(
    serve: Any, pool_for: Any, data: bytes, exception: type[Exception]
) -> None:
    """The read timeout of the call is the silence timeout."""

    async def script(call: Any) -> None:
        await call.write(data)
        await call.until_gone()

    async with serve(script) as worker, pool_for(worker) as pool:
        async with client_on(pool, timeout=0.1) as client:
            with pytest.raises(exception, match="The worker"):
                await client.get("/")
        assert 0 == pool.n_active


async def test_a_refused_connection_is_a_connect_error() -> None:
    """Callers tell it from a failure after sending."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool = Http1Pool(f"http://127.0.0.1:{unused.getsockname()[1]}")
        async with client_on(pool) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/")
        await pool.aclose()


async def test_the_connect_timeout_of_a_call_is_respected(serve: Any, answer: Any) -> None:
    """A worker that never shakes hands, and a call in a hurry."""
    async with serve(answer()) as worker:
        pool = Http1Pool(worker.url.replace("http:", "https:"))
        async with client_on(pool, timeout=httpx.Timeout(None, connect=0.1)) as client:
            with pytest.raises(httpx.ConnectTimeout):
                await client.get("/")
        await pool.aclose()


async def test_another_worker_cannot_be_reached() -> None:
    """A redirect or a slip must not send one worker's key to another host."""
    pool = Http1Pool("http://one:1")
    async with client_on(pool) as client:
        with pytest.raises(httpx.UnsupportedProtocol, match="http://one:1 only"):
            await client.get("http://two:1/")


async def test_a_header_that_would_end_its_line_is_refused() -> None:
    """The pool stops a value that httpx lets through."""
    pool = Http1Pool("http://one:1")
    async with client_on(pool) as client:
        with pytest.raises(httpx.LocalProtocolError, match="CR, LF or NUL"):
            await client.get("/", headers=[(b"x", b"a\r\nb: c")])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, made for this run."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command")
    path = tmp_path_factory.mktemp("tls") / "worker.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=worker", "-keyout", str(path)]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(path) + ".crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(str(path) + ".crt").read_bytes())
    return path


async def test_tls_is_verified_and_its_connections_are_reused(
    serve: Any, pool_for: Any, answer: Any, certificate: Path
) -> None:
    """A trusted worker is served over one connection."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate)
    context = ssl.create_default_context(cafile=str(certificate) + ".crt")
    async with (
        serve(answer(OK), ssl_context=server_context) as worker,
        pool_for(worker, ssl_context=context) as pool,
        client_on(pool) as client,
    ):
        for _ in range(4):
            assert {"a": 1} == (await client.get("/")).json()
        assert (1, 1) == (worker.n_accepted, pool.n_idle)


async def test_an_untrusted_tls_worker_gets_nothing(
    serve: Any, pool_for: Any, answer: Any, certificate: Path
) -> None:
    """A certificate nobody vouches for is a failed connection, before a byte of the request."""
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate)
    async with (
        serve(answer(OK), ssl_context=server_context) as worker,
        pool_for(worker) as pool,
    ):
        exchange = pool.exchange(b"GET", b"/", [], silence_timeout_s=5)
        with pytest.raises(ConnectFailed, match="certificate"):
            await exchange.head()
        exchange.close()
        assert ([], False) == (worker.calls, exchange.sent)
