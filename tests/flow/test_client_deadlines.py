"""Clients that take their time: each kind of waiting for them has an end, and only its own.

A real gateway with short limits: 0.6 s for a head, 1.8 s of idling, 0.9 s between pieces of a body.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from app.server.client_limits import MIN_BODY_BYTES_PER_S
from tests.flow.fleet import CHAT
from tests.flow.process import GatewayProcess, running
from tests.flow.raw_client import RawClient, head_of

HEAD_S, IDLE_S, BODY_S = 0.6, 1.8, 0.9
FLAGS = [
    *("--header-read-timeout-secs", str(HEAD_S)),
    *("--idle-connection-timeout-secs", str(IDLE_S)),
    *("--stream-body-stall-timeout-secs", str(BODY_S)),
]
LIVENESS = head_of("GET", "/liveness")
SLACK_S = 3.0
"""What a busy machine may add to any limit."""


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayProcess]:
    """A gateway without workers."""
    async with running(FLAGS, ready="/liveness") as gateway:
        yield gateway


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer that ends its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"content-length: %d\r\n" % len(body) in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


async def end_of(client: RawClient, least_s: float) -> bytes:
    """What comes until the connection ends, which takes at least this long."""
    began_s = time.monotonic()
    answer = await client.rest()
    assert least_s * 0.9 < time.monotonic() - began_s < least_s + SLACK_S
    return answer


async def trickle(client: RawClient, piece: bytes, every_s: float) -> None:
    """Sends pieces until the connection is lost."""
    try:
        while True:
            await client.send(piece)
            await asyncio.sleep(every_s)
    except ConnectionError:
        pass


async def test_deadlines(gateway: GatewayProcess) -> None:
    """All of them at once, as they would meet a gateway in one second of its life."""
    async with asyncio.TaskGroup() as group:
        for case in (
            half_a_head,
            head_byte_by_byte,
            half_a_head_after_an_answer,
            no_byte_at_all,
            idle_after_an_answer,
            stalled_body,
            slow_body,
            steady_body,
            no_body_after_100_continue,
        ):
            group.create_task(case(gateway), name=case.__name__)
    statuses = sorted((line["path"], line["status"]) for line in gateway.lines("request"))
    assert statuses == [(CHAT, 408)] * 3 + [(CHAT, 503)]


async def half_a_head(gateway: GatewayProcess) -> None:
    """It is told so."""
    async with gateway.connected() as client:
        await client.send(LIVENESS[:-2])
        assert refusal(await end_of(client, HEAD_S)) == (408, "request_timeout")


async def head_byte_by_byte(gateway: GatewayProcess) -> None:
    """Slowloris: a byte now and then buys no time."""
    async with gateway.connected() as client, asyncio.TaskGroup() as group:
        await client.send(b"GET / HTTP/1.1\r\nx: ")
        sending = group.create_task(trickle(client, b"a", 0.1))
        assert refusal(await end_of(client, HEAD_S)) == (408, "request_timeout")
        sending.cancel()


async def half_a_head_after_an_answer(gateway: GatewayProcess) -> None:
    """From its first byte on, not from the answer before it."""
    async with gateway.connected() as client:
        await client.send(LIVENESS)
        assert (await client.answer())[0] == 200
        await asyncio.sleep(IDLE_S * 0.6)
        await client.send(LIVENESS[:5])
        assert refusal(await end_of(client, HEAD_S)) == (408, "request_timeout")


async def no_byte_at_all(gateway: GatewayProcess) -> None:
    """Without a word: it may be the spare connection of a load balancer."""
    async with gateway.connected() as client:
        assert await end_of(client, HEAD_S) == b""


async def idle_after_an_answer(gateway: GatewayProcess) -> None:
    """Without a word, later than a connection that was never used; each answer counts anew."""
    async with gateway.connected() as client:
        for _ in range(3):
            await client.send(LIVENESS)
            assert (await client.answer())[0] == 200
            await asyncio.sleep(IDLE_S * 0.4)
        assert await end_of(client, IDLE_S * 0.6) == b""


async def stalled_body(gateway: GatewayProcess) -> None:
    """It began well."""
    async with gateway.connected() as client:
        await client.send(head_of("POST", CHAT, "content-length: 100", "x-request-id: mine") + b"{")
        answer = await end_of(client, BODY_S)
        assert refusal(answer) == (408, "request_timeout")
        assert b"x-request-id: mine\r\n" in answer


async def slow_body(gateway: GatewayProcess) -> None:
    """There always is something, and altogether it is too little."""
    async with gateway.connected() as client, asyncio.TaskGroup() as group:
        await client.send(head_of("POST", CHAT, "content-length: 100000"))
        sending = group.create_task(trickle(client, b" ", BODY_S / 8))
        assert refusal(await end_of(client, BODY_S)) == (408, "request_timeout")
        sending.cancel()


async def steady_body(gateway: GatewayProcess) -> None:
    """More than the least speed is served, however long it takes."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 9000}]})
    n_pieces, every_s = 14, BODY_S / 6
    assert len(body) / (n_pieces * every_s) > 2 * MIN_BODY_BYTES_PER_S
    step = len(body) // n_pieces + 1
    async with gateway.connected() as client:
        await client.send(head_of("POST", CHAT, f"content-length: {len(body)}"))
        for start in range(0, len(body), step):
            await asyncio.sleep(every_s)
            await client.send(body[start : start + step].encode())
        status, head, _ = await client.answer()
    assert status == 503  # There are no workers.
    assert b"connection: close" not in head


async def no_body_after_100_continue(gateway: GatewayProcess) -> None:
    """The clock starts when the client was told to go on."""
    async with gateway.connected() as client:
        await client.send(head_of("POST", CHAT, "content-length: 9", "expect: 100-continue"))
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert refusal(await end_of(client, BODY_S * 0.7)) == (408, "request_timeout")
