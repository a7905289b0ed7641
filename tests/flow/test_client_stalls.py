"""Clients that stop reading are cut off with all that runs for them; slow readers are not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from app.api.parts import Life
from app.server.client_limits import ClientLimits
from app.server.client_protocol import protocol_of
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.process import pair_flags, running
from tests.flow.raw_client import connected, post_of
from tests.flow.scripted import SSE, ScriptedWorker, whole

STALL_S = 0.5
PATIENT_S = 2
"""Where a busy machine must not look like a client that stalls."""
EVENT: Mapping[str, Any] = {"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]}
SMALL_BUFFER = 16 * 1024


async def endless(exchange: Exchange, body: dict[str, Any]) -> None:
    """Streams large events until nobody takes them."""
    await exchange.start(200, SSE)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(exchange.watch())
        while not watching.done():
            await exchange.event(EVENT)


@pytest.fixture
async def pair(stack: AsyncExitStack) -> tuple[ScriptedWorker, ScriptedWorker]:
    """A pair whose decode never ends."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", endless))
    return prefill, decode


async def test_stalled_reader(pair: tuple[ScriptedWorker, ScriptedWorker]) -> None:
    """Cut off, both legs ended, no lease kept, said once."""
    prefill, decode = pair
    flags = pair_flags(prefill, decode, "--client-stall-timeout-secs", str(STALL_S))
    async with (
        running(flags) as gateway,
        gateway.connected(receive_bytes=SMALL_BUFFER) as client,
    ):
        began_s = time.monotonic()
        await client.send(post_of(CHAT, body_of(CHAT, stream=True), "x-request-id: stalled"))
        await client.until(b"data: ")
        assert sum(await gateway.loads()) > 0
        await until(lambda: decode.aborted and gateway.lines("request")[-1:])
        assert time.monotonic() - began_s > STALL_S
        await until(lambda: decode.n_active == 0)
        assert await gateway.loads() == [0, 0]
        # The client learns it once it looks again.
        with pytest.raises(ConnectionResetError):
            await client.rest()
    assert decode.aborted == [decode.seen[0].rid]
    (said,) = gateway.lines("client stopped reading and was cut off")
    assert (said["request_id"], said["path"], said["level"]) == ("stalled", CHAT, "warning")
    assert STALL_S <= said["stalled_s"] < 10 * STALL_S
    (line,) = [line for line in gateway.lines("request") if line["path"] == CHAT]
    assert (line["status"], line["outcome"]) == (200, "client_stalled")
    assert not [line for line in gateway.logged if line["level"] not in ("info", "warning")]


async def fleet_of(
    stack: AsyncExitStack, pair: tuple[ScriptedWorker, ScriptedWorker], **limits: float
) -> Fleet:
    """A gateway in the test's loop, with short limits."""
    protocol = protocol_of(ClientLimits(**limits), Life())
    return await stack.enter_async_context(serving([pair[0]], [pair[1]], protocol))


async def test_slow_reader(
    stack: AsyncExitStack, pair: tuple[ScriptedWorker, ScriptedWorker]
) -> None:
    """Whoever goes on reading is served for as long as it takes, over many such pauses."""
    fleet = await fleet_of(stack, pair, write_stall_s=PATIENT_S)
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
        end_s = time.monotonic() + 3.5 * PATIENT_S
        while time.monotonic() < end_s:
            # 250 KB/s: the socket's buffer asks for more every five seconds or so.
            assert len(await client.read(PATIENT_S * 8_000)) > 0
            await asyncio.sleep(PATIENT_S / 32)
        assert pair[1].n_active == 1
        client.leave()


@pytest.mark.parametrize("is_kept", [False, True], ids=["closed", "kept"])
async def test_whole_answer_that_nobody_reads(
    stack: AsyncExitStack, pair: tuple[ScriptedWorker, ScriptedWorker], is_kept: bool
) -> None:
    """The generation is over; its bytes do not wait for ever, and idling does not end them."""
    pair[1].script = whole(200, {"choices": [], "text": "x" * 20_000_000})
    fleet = await fleet_of(stack, pair, write_stall_s=STALL_S, idle_s=STALL_S / 4)
    headers = [] if is_kept else ["connection: close"]
    async with connected(fleet) as client:
        await client.send(post_of(CHAT, body_of(CHAT), *headers))
        await client.until(b"\r\n\r\n")
        n_bytes = 0
        while n_bytes < 2_000_000:
            n_bytes += len(await client.read(64_000))
            await asyncio.sleep(STALL_S / 16)
        # It took more than the idle limit, and was served on; now it stops.
        await asyncio.sleep(4 * STALL_S)
        with suppress(ConnectionResetError):
            while data := await client.read(1_000_000):
                n_bytes += len(data)
            pytest.fail("the connection was ended as if the answer were whole")
    assert n_bytes < 19_000_000
