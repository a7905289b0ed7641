"""Which protocol a port speaks, asked of real servers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest

from app.sim import SglangSim
from app.upstream import scheme_probe
from app.upstream.scheme_probe import find_scheme
from tests.flow.certificates import make_authority
from tests.flow.fleet import until
from tests.flow.process import free_port

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def test_http() -> None:
    async with SglangSim() as sim:
        assert await find_scheme(sim.url.removeprefix("http://")) == "http"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_grpc(host: str) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port(f"{host}:0")
    await server.start()
    assert await find_scheme(f"{host}:{port}") == "grpc"
    await server.stop(None)


async def test_nobody_there() -> None:
    assert await find_scheme(f"127.0.0.1:{free_port()}") is None


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing."""


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say what neither HTTP nor gRPC would."""
    writer.write(b"220 mail.example ready\r\n")


async def asked(answer: Answer, tls: ssl.SSLContext | None = None) -> str | None:
    """What is found of a server that waits for the end of each connection."""
    open_now: set[object] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.add(writer)
        await answer(reader, writer)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        open_now.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        found = await find_scheme(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await until(lambda: not open_now)
        await asyncio.sleep(0)
    return found


@pytest.mark.parametrize("answer", [silence, hello])
async def test_something_else(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheme_probe, "STEP_S", 0.2)
    assert await asked(answer) is None


@pytest.mark.parametrize(("protocol", "scheme"), [("h2", "grpcs"), ("http/1.1", "https")])
async def test_tls(tmp_path: Path, protocol: str, scheme: str) -> None:
    """A server that wants TLS is asked again with it."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*make_authority(tmp_path / "ca").sign("worker"))
    tls.set_alpn_protocols([protocol])
    assert await asked(silence, tls) == scheme
