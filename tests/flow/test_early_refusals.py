"""Refused before the body is here: the client sees the answer, and cannot send on for ever."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress

import pytest

from app.api.parts import Life
from app.server.client_limits import MAX_KEPT_REST_BYTES, MAX_LINGER_BYTES, ClientLimits
from app.server.client_protocol import protocol_of
from tests.flow.fleet import CHAT, body_of, serving, until
from tests.flow.process import GatewayProcess, running
from tests.flow.raw_client import RawClient, connected, head_of, post_of

MB = 1_000_000
FLAGS = ["--max-payload-size", str(MB), "--api-key", "right"]
KEY = "authorization: Bearer right"
LIVENESS = head_of("GET", "/liveness")
LINGER_S = 0.4
EARLY_S = 2.0
"""At once, on a machine that does other things as well."""


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayProcess]:
    """A gateway that takes 1 MB, without workers."""
    async with running(FLAGS, ready="/liveness") as gateway:
        yield gateway


async def refusal(client: RawClient) -> tuple[int, str, bool]:
    """Status and code of an answer, and whether the connection is to end."""
    status, head, body = await client.answer()
    return status, json.loads(body)["error"]["code"], b"connection: close\r\n" in head


async def test_early_refusals(gateway: GatewayProcess) -> None:
    """Each of the ways in which clients send a body."""
    await announced_and_sent(gateway)
    await announced_with_expect(gateway)
    await chunked_without_end(gateway)
    await unauthorized(gateway)
    await little_is_missing(gateway)
    await no_http_at_all(gateway)
    async with asyncio.timeout(20):
        await asyncio.to_thread(sends_all_before_it_reads, gateway.port)
    statuses = [line["status"] for line in gateway.lines("request")]
    assert statuses == [413, 413, 413, 401, 401, 401, 503, 401]
    assert not [line for line in gateway.logged if line["level"] in ("error", "critical")]


async def announced_and_sent(gateway: GatewayProcess) -> None:
    """100 MB after the answer: they are taken in up to the bound, then the connection is cut."""
    async with gateway.connected() as client:
        await client.send(head_of("POST", CHAT, KEY, f"content-length: {100 * MB}"))
        began_s = time.monotonic()
        assert await refusal(client) == (413, "request_body_too_large", True)
        assert time.monotonic() - began_s < EARLY_S
        n_sent = 0
        with suppress(ConnectionError):
            while n_sent < 100 * MB:
                await client.send(b"x" * MB)
                n_sent += MB
        # What lies in both sides' buffers was sent, too.
        assert MAX_LINGER_BYTES <= n_sent + MB < MAX_LINGER_BYTES + 16 * MB


async def announced_with_expect(gateway: GatewayProcess) -> None:
    """It is not asked to go on, and the connection ends with the answer."""
    async with gateway.connected() as client:
        await client.send(
            head_of("POST", CHAT, KEY, f"content-length: {100 * MB}", "expect: 100-continue")
        )
        assert await refusal(client) == (413, "request_body_too_large", True)
        assert await client.rest() == b""


async def chunked_without_end(gateway: GatewayProcess) -> None:
    """Nobody knows how long it is until it is too long."""
    async with gateway.connected() as client:
        await client.send(head_of("POST", CHAT, KEY, "transfer-encoding: chunked"))
        chunk = b"%x\r\n%b\r\n" % (MB // 4, b"x" * (MB // 4))
        for _ in range(8):
            await client.send(chunk)
        assert await refusal(client) == (413, "request_body_too_large", True)
        assert await client.rest() == b""


async def unauthorized(gateway: GatewayProcess) -> None:
    """The same for who may not come in."""
    async with gateway.connected() as client:
        await client.send(head_of("POST", CHAT, f"content-length: {MB}"))
        assert await refusal(client) == (401, "invalid_api_key", True)
        await client.send(b"x" * MB)
        assert await client.rest() == b""


async def little_is_missing(gateway: GatewayProcess) -> None:
    """Reading it costs less than another connection, so this one is kept."""
    async with gateway.connected() as client:
        for _ in range(2):
            await client.send(head_of("POST", CHAT, f"content-length: {MAX_KEPT_REST_BYTES}"))
            assert await refusal(client) == (401, "invalid_api_key", False)
            await client.send(b"x" * MAX_KEPT_REST_BYTES + LIVENESS)
            assert (await client.answer())[0] == 200
        await client.send(post_of(CHAT, body_of(CHAT), KEY))
        assert await refusal(client) == (503, "no_available_pair", False)


async def no_http_at_all(gateway: GatewayProcess) -> None:
    """The answer is not lost although more was sent than was read."""
    async with gateway.connected() as client:
        await client.send(b"\x16\x03\x01" + b"x" * (4 * MB))
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def sends_all_before_it_reads(port: int) -> None:
    """Most HTTP libraries look at the answer only when the last byte is out."""

    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            time.sleep(0.01)
            yield b"x" * MB

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        connection.request("POST", CHAT, pieces(), {"content-length": str(40 * MB)})
        answer = connection.getresponse()
        assert answer.status == 401
        assert answer.getheader("connection") == "close"
        assert json.loads(answer.read())["error"]["code"] == "invalid_api_key"
    finally:
        connection.close()


@pytest.mark.parametrize(
    "n_missing", [MAX_KEPT_REST_BYTES, 2 * MAX_KEPT_REST_BYTES], ids=["little", "much"]
)
async def test_rest_that_never_comes(stack: AsyncExitStack, n_missing: int) -> None:
    """Nobody waits for it longer than a refused body may take, nor longer for less."""
    protocol = protocol_of(ClientLimits(linger_s=LINGER_S), Life())
    fleet = await stack.enter_async_context(serving([], [], protocol, api_key="right"))
    async with connected(fleet) as client:
        await client.send(head_of("POST", CHAT, f"content-length: {n_missing}"))
        began_s = time.monotonic()
        assert (await client.answer())[0] == 401
        await until(lambda: not fleet.leftovers())
        with suppress(ConnectionError):
            while time.monotonic() < began_s + 10 * LINGER_S:
                await client.send(b"x")
                await asyncio.sleep(LINGER_S / 20)
        assert LINGER_S * 0.9 < time.monotonic() - began_s < 9 * LINGER_S
