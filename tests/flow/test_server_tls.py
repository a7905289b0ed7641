"""TLS and mutual TLS between clients and a real gateway."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from app.__main__ import main
from app.server.gateway_server import TLS_GOODBYE_S
from app.sim import sim_pair
from tests.flow.certificates import Authority, make_authority
from tests.flow.fleet import BOUND_S, CHAT, body_of, until
from tests.flow.process import GatewayProcess, free_port, pair_flags, running
from tests.flow.raw_client import head_of, post_of
from tests.flow.scripted import ScriptedWorker, whole
from tests.flow.test_client_stalls import SMALL_BUFFER, endless

HANDSHAKE_S = 1.0
STALL_S = 1.2
LIVENESS = head_of("GET", "/liveness")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs what the gateway and its clients show."""
    return make_authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Somebody whom the gateway does not know."""
    return make_authority(tmp_path_factory.mktemp("tls") / "stranger")


def tls_flags(authority: Authority, *flags: str) -> list[str]:
    """A gateway with a certificate."""
    certificate, key = authority.sign("gateway")
    return ["--tls-cert-path", certificate, "--tls-key-path", key, *flags]


async def handshake_fails(gateway: GatewayProcess, tls: ssl.SSLContext) -> bool:
    """Whether a client does not get an answer (TLS 1.3 tells it only when it reads)."""
    try:
        async with gateway.connected(tls=tls) as client:
            await client.send(LIVENESS)
            await client.answer()
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return True
    return False


async def test_tls(stack: AsyncExitStack, authority: Authority) -> None:
    """Answers, streams, refusals and deadlines as without; who does not shake hands is dropped."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    flags = pair_flags(prefill, decode, *tls_flags(authority))
    limits = ["--header-read-timeout-secs", str(HANDSHAKE_S), "--max-payload-size", "1000000"]
    tls = authority.client()
    async with running([*flags, *limits], ready="") as gateway:
        await until(lambda: len(gateway.lines("worker_ready")) == 2)
        assert gateway.lines("listening")[0]["url"].startswith("https://127.0.0.1:")
        async with httpx.AsyncClient(
            base_url=f"https://localhost:{gateway.port}", verify=tls, trust_env=False
        ) as http:
            whole_answer = await http.post(CHAT, json=body_of(CHAT))
            assert whole_answer.json()["choices"][0]["message"]["content"]
            stream = await http.post(CHAT, json=body_of(CHAT, stream=True))
            assert stream.text.endswith("data: [DONE]\n\n")
        async with gateway.connected(tls=tls) as client:
            await client.send(head_of("POST", CHAT, "content-length: 2000000"))
            assert (await client.answer())[0] == 413
        async with gateway.connected(tls=tls) as client:
            await client.send(LIVENESS[:-2])
            assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        async with gateway.connected() as client:
            began_s = time.monotonic()
            # TLS has an alert for it; plain HTTP gets no answer either way.
            assert not (await client.rest()).startswith(b"HTTP")
            assert HANDSHAKE_S * 0.9 < time.monotonic() - began_s < HANDSHAKE_S + BOUND_S
        async with gateway.connected() as client:
            await client.send(LIVENESS)
            assert not (await client.rest()).startswith(b"HTTP")
    assert not [line for line in gateway.logged if line["level"] in ("error", "critical")]


async def test_mutual_tls(authority: Authority, stranger: Authority) -> None:
    """Without a certificate of the authority nobody gets an answer."""
    flags = tls_flags(authority, "--tls-client-ca-path", authority.pem)
    own, foreign = authority.sign("client"), stranger.sign("client")
    async with running(flags, ready="") as gateway:
        assert await handshake_fails(gateway, authority.client())
        assert await handshake_fails(gateway, authority.client(foreign))
        async with gateway.connected(tls=authority.client(own)) as client:
            await client.send(LIVENESS)
            assert (await client.answer())[0] == 200


async def test_stalled_reader_behind_tls(stack: AsyncExitStack, authority: Authority) -> None:
    """Encrypted bytes wait in more places, and are watched all the same."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", endless))
    flags = pair_flags(prefill, decode, *tls_flags(authority))
    flags += ["--client-stall-timeout-secs", str(STALL_S)]
    async with running(flags, ready="") as gateway:
        await until(lambda: len(gateway.lines("worker_ready")) == 2)
        async with gateway.connected(tls=authority.client(), receive_bytes=SMALL_BUFFER) as client:
            await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
            await client.until(b"data: ")
            # As long as it reads, however slowly, it is served.
            end_s = time.monotonic() + 3 * STALL_S
            while time.monotonic() < end_s:
                assert await client.read(int(STALL_S * 8_000))
                await asyncio.sleep(STALL_S / 32)
            assert not decode.aborted
            await until(lambda: decode.aborted)
        await until(lambda: gateway.lines("request")[-1:])
    assert gateway.lines("request")[-1]["outcome"] == "client_stalled"


async def test_idle_client_does_not_hold_the_end(authority: Authority) -> None:
    """A client of a connection pool does not look at it, and so never says goodbye."""
    flags = tls_flags(authority, "--shutdown-settle-secs", "0")
    async with running(flags, ready="") as gateway:

        def connect() -> ssl.SSLSocket:
            plain = socket.create_connection(("127.0.0.1", gateway.port))
            made = authority.client().wrap_socket(plain, server_hostname="localhost")
            made.sendall(LIVENESS)
            assert made.recv(100).startswith(b"HTTP/1.1 200 ")
            return made

        with await asyncio.to_thread(connect):
            gateway.signal(signal.SIGTERM)
            assert await gateway.exit_code(TLS_GOODBYE_S + BOUND_S) == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tls-cert-path", "{cert}"], "--tls-cert-path {cert}: needs --tls-key-path too."),
        (["--tls-key-path", "{key}"], "--tls-key-path {key}: needs --tls-cert-path too."),
        (["--tls-client-ca-path", "{cert}"], "--tls-client-ca-path {cert}: needs --tls-cert-path"),
        (
            ["--tls-cert-path", "{cert}x", "--tls-key-path", "{key}"],
            "--tls-cert-path {cert}x: No such file",
        ),
        (
            ["--tls-cert-path", "{cert}", "--tls-key-path", "{folder}"],
            "--tls-key-path {folder}: Is a directory.",
        ),
        (
            ["--tls-cert-path", "{cert}", "--tls-key-path", "{other}"],
            "--tls-cert-path {cert}: the certificate and the key {other} are not in PEM form",
        ),
        (
            ["--tls-cert-path", "{key}", "--tls-key-path", "{key}"],
            "--tls-cert-path {key}: the certificate and the key {key} are not in PEM form",
        ),
        (
            [
                *("--tls-cert-path", "{cert}", "--tls-key-path", "{key}"),
                "--tls-client-ca-path",
                "{key}",
            ],
            "--tls-client-ca-path {key}: no certificates in PEM form.",
        ),
    ],
)
def test_refusals(
    flags: Sequence[str], sentence: str, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be used is one sentence at start, and exit code 2."""
    cert, key = authority.sign("gateway")
    _, other = authority.sign("other")
    names = {"cert": cert, "key": key, "other": other, "folder": str(Path(cert).parent)}
    words = [flag.format(**names) for flag in flags]
    assert main(["--host", "127.0.0.1", "--port", str(free_port()), *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"tandem: {sentence.format(**names)}")


async def shown_by(gateway: GatewayProcess, tls: ssl.SSLContext) -> bytes:
    """The certificate that a new connection gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=tls)
    try:
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown
    finally:
        writer.transport.abort()


async def test_renewed_certificate(stack: AsyncExitStack, authority: Authority) -> None:
    """New connections get it without a restart, and half of a new pair changes nothing."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    flags = pair_flags(prefill, decode, *tls_flags(authority))
    certificate, key = (Path(path) for path in authority.sign("gateway"))
    tls = authority.client()
    async with running(flags, ready="") as gateway, gateway.connected(tls=tls) as kept:
        await until(lambda: gateway.lines("listening"))
        old = await shown_by(gateway, tls)
        renewed_certificate, renewed_key = (Path(path) for path in authority.sign("renewed"))
        certificate.write_bytes(renewed_certificate.read_bytes())
        gateway.signal(signal.SIGHUP)
        await until(lambda: gateway.lines("certificates not taken, those before them stay"))
        assert await shown_by(gateway, tls) == old
        key.write_bytes(renewed_key.read_bytes())
        gateway.signal(signal.SIGHUP)
        await until(lambda: gateway.lines("certificates taken"))
        assert await shown_by(gateway, tls) == ssl.PEM_cert_to_DER_cert(certificate.read_text())
        assert await shown_by(gateway, tls) != old
        await kept.send(LIVENESS)
        assert (await kept.answer())[0] == 200
