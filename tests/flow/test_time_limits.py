"""Each wait of a request has a limit of its own, and each ends in 504 or in an error event."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import Cut, Fault, FaultKind, SglangSim, VllmFault, VllmFaultKind, sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, GENERATE, Fleet, Got, body_of, serving, until
from tests.flow.raw_client import connected, post_of
from tests.flow.scripted import SSE, ScriptedWorker, events, hang, whole
from tests.flow.test_leaving import deaf_port
from tests.flow.vllm_fleet import SHORT_LEASE_S, fleet_of

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
TRANSPORTS = pytest.mark.parametrize("transport", ["sglang", "nixl", "mooncake"])
SHORT_S = 0.25
LONG_S = 60.0
"""Far beyond the bound of any test here: a wait that this one limits does not end."""
LIMITS = ("prefill_timeout_secs", "first_token_timeout_secs", "token_gap_timeout_secs")


def only(name: str) -> dict[str, Any]:
    """One short limit among long ones."""
    return {"request_timeout_secs": LONG_S, name: SHORT_S}


async def fleet_with(
    stack: AsyncExitStack, model: Path, transport: str, settings: dict[str, Any], **sims: Any
) -> Fleet:
    """A gateway before one pair."""
    if transport != "sglang":
        both = {"lease_s": SHORT_LEASE_S, "mooncake_abort_s": SHORT_LEASE_S}
        return await fleet_of(stack, model, transport, settings=settings, **(both | sims))
    prefill, decode = await stack.enter_async_context(sim_pair(**sims))
    return await stack.enter_async_context(serving([prefill], [decode], **settings))


def stall(fleet: Fleet, leg: str, n_events: int = 0) -> None:
    """Makes a leg hang, before its answer or in its middle."""
    worker = (fleet.prefills if leg == "prefill" else fleet.decodes)[0]
    if isinstance(worker, SglangSim):
        http = FaultKind.CUT if n_events else FaultKind.HANG
        worker.faults.add(Fault(kind=http, how=Cut.HANG, after_events=n_events))
    else:
        grpc = VllmFaultKind.STALL if n_events else VllmFaultKind.HANG
        worker.faults.add(VllmFault(kind=grpc, after_messages=n_events))


@TRANSPORTS
@BOTH
async def test_prefill_hangs(
    stack: AsyncExitStack, model: Path, transport: str, stream: bool
) -> None:
    """504 by prefill's own limit; the others are not looked at before it has ended.

    Of SGLang's legs each may wait for the other: prefill is named because its probe fails.
    """
    fleet = await fleet_with(stack, model, transport, only("prefill_timeout_secs"))
    stall(fleet, "prefill")
    fleet.prefills[0].faults.health_down = transport == "sglang"
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.is_stream, got.error["leg"]) == (504, False, "prefill")
    assert got.error["code"] == "worker_timeout"
    await fleet.settle()
    assert fleet.charged == ["prefill"]


@pytest.mark.parametrize("transport", ["nixl", "mooncake"])
async def test_first_token_does_not_come(
    stack: AsyncExitStack, model: Path, transport: str
) -> None:
    """504 of decode, by the limit that runs from prefill's end."""
    fleet = await fleet_with(stack, model, transport, only("first_token_timeout_secs"))
    stall(fleet, "decode")
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert (got.status, got.is_stream, got.error["leg"]) == (504, False, "decode")
    assert got.error["code"] == "worker_timeout"
    await fleet.settle()
    assert fleet.charged == ["decode"]


async def pings(exchange: Exchange, body: dict[str, Any]) -> None:
    """A stream of comments, which ends far too late."""
    await exchange.start(200, SSE)
    for _ in range(40):
        await exchange.write(b": ping\n\n")
        await asyncio.sleep(SHORT_S / 10)


@pytest.mark.parametrize("decode_does", [hang, pings], ids=["silent", "pinging"])
async def test_first_event_does_not_come(stack: AsyncExitStack, decode_does: Any) -> None:
    """The same for SGLang; a worker that only sends comments does not prolong it."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", decode_does))
    settings = only("first_token_timeout_secs")
    fleet = await stack.enter_async_context(serving([prefill], [decode], **settings))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert (got.status, got.error["leg"], got.error["code"]) == (504, "decode", "worker_timeout")
    await fleet.settle()
    assert fleet.charged == ["decode"]


@TRANSPORTS
async def test_first_token_waits_for_a_slow_prefill(
    stack: AsyncExitStack, model: Path, transport: str
) -> None:
    """Its clock starts with prefill's end, so a slow prefill is no fault of decode's."""
    slow = {"prefill": {"lead_s": 2 * SHORT_S}}
    settings = only("first_token_timeout_secs")
    fleet = await fleet_with(stack, model, transport, settings, **slow)
    began_s = time.monotonic()
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert (got.status, got.events[-1]) == (200, "[DONE]")
    assert time.monotonic() - began_s >= 2 * SHORT_S


@TRANSPORTS
async def test_stream_falls_silent(stack: AsyncExitStack, model: Path, transport: str) -> None:
    """One error event of decode, no [DONE], by the limit between tokens."""
    fleet = await fleet_with(stack, model, transport, only("token_gap_timeout_secs"))
    stall(fleet, "decode", n_events=2)
    got = await fleet.ask(GENERATE, body_of(GENERATE, stream=True, n_tokens=20))
    assert (got.status, got.is_stream, len(got.events)) == (200, True, 3)
    assert (got.error["leg"], got.error["code"]) == ("decode", "worker_timeout")
    await fleet.settle()
    assert fleet.charged == ["decode"]


@TRANSPORTS
async def test_gaps_are_looked_at_after_the_first_token_only(
    stack: AsyncExitStack, model: Path, transport: str
) -> None:
    """Neither a long prefill nor an answer in one piece is a gap."""
    slow = {"prefill": {"lead_s": 2 * SHORT_S}, "decode": {"decode_step_s": SHORT_S / 5}}
    fleet = await fleet_with(stack, model, transport, only("token_gap_timeout_secs"), **slow)
    for stream in (True, False):
        got = await fleet.ask(CHAT, body_of(CHAT, stream=stream, n_tokens=8))
        assert got.status == 200


@TRANSPORTS
async def test_an_answer_in_one_piece(stack: AsyncExitStack, model: Path, transport: str) -> None:
    """It may take as long as --request-timeout-secs says, whatever a stream's limits are."""
    settings: dict[str, Any] = dict.fromkeys(LIMITS, SHORT_S)
    settings |= {"request_timeout_secs": LONG_S, "prefill_timeout_secs": LONG_S}
    slow = {"decode": {"decode_step_s": SHORT_S / 4}}
    fleet = await fleet_with(stack, model, transport, settings, **slow)
    got = await fleet.ask(CHAT, body_of(CHAT, n_tokens=12))
    assert got.status == 200
    settings |= {"request_timeout_secs": SHORT_S}
    fleet = await fleet_with(stack, model, transport, settings, **slow)
    got = await fleet.ask(CHAT, body_of(CHAT, n_tokens=60))
    assert (got.status, got.error["leg"], got.error["code"]) == (504, "decode", "worker_timeout")


@TRANSPORTS
@BOTH
async def test_total_before_the_first_byte(
    stack: AsyncExitStack, model: Path, transport: str, stream: bool
) -> None:
    """504 that names the leg which was awaited; nobody is charged, for nobody has failed."""
    slow = {"prefill": {"prefill_tokens_per_s": 1.0}}
    if transport == "mooncake":
        # A prefill that decode waits for runs to its end.
        slow = {"prefill": {"lead_s": 4 * SHORT_S}}
    fleet = await fleet_with(stack, model, transport, {"total_timeout_secs": SHORT_S}, **slow)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.is_stream, got.error["leg"]) == (504, False, "prefill")
    assert (got.error["code"], got.headers["x-tandem-attempts"]) == ("request_timeout", "1")
    await fleet.settle()
    assert fleet.charged == []


@TRANSPORTS
async def test_total_of_a_healthy_stream(
    stack: AsyncExitStack, model: Path, transport: str
) -> None:
    """Good events, then one error event of decode and no [DONE]; the engine was told to stop."""
    slow = {"decode": {"decode_step_s": 0.01}}
    fleet = await fleet_with(stack, model, transport, {"total_timeout_secs": 2 * SHORT_S}, **slow)
    began_s = time.monotonic()
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True, n_tokens=2000))
    assert 2 * SHORT_S <= time.monotonic() - began_s < 8 * SHORT_S
    assert (got.status, got.error["leg"], got.error["code"]) == (200, "decode", "request_timeout")
    assert len(got.events) > 5
    await fleet.settle()
    assert fleet.charged == []
    (decode,) = fleet.decodes
    assert decode.generated_tokens < 1000


async def test_total_while_the_client_does_not_read(stack: AsyncExitStack) -> None:
    """Legs and leases are free when the time is up, though nobody takes the bytes."""
    token = {"text": "x" * 100_000}
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", events(*[token] * 1000)))
    settings: dict[str, Any] = {"total_timeout_secs": 2 * SHORT_S}
    fleet = await stack.enter_async_context(serving([prefill], [decode], **settings))
    async with connected(fleet) as client:
        await client.send(post_of(GENERATE, body_of(GENERATE, stream=True)))
        await until(lambda: fleet.live(decode).n_leases)
        await until(lambda: not fleet.live(decode).n_leases)
        pool = fleet.gateway.clients.get(fleet.live(decode)).pool
        await until(lambda: not pool.n_active)
    assert fleet.charged == []


async def test_total_counts_all_attempts(stack: AsyncExitStack) -> None:
    """The pause before a retry is part of the request; the header counts what was begun."""
    prefills = [ScriptedWorker("prefill", whole(500, {"message": "No."})) for _ in range(2)]
    decodes = [ScriptedWorker("decode", hang) for _ in range(2)]
    for worker in (*prefills, *decodes):
        await stack.enter_async_context(worker)
    settings: dict[str, Any] = {
        "total_timeout_secs": SHORT_S,
        "retry_on_5xx": True,
        "retry_initial_backoff_ms": 20_000,
    }
    fleet = await stack.enter_async_context(serving(prefills, decodes, **settings))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["code"]) == (504, "request_timeout")
    assert got.headers["x-tandem-attempts"] == "1"
    assert sum(len(worker.seen) for worker in prefills) == 1


@pytest.mark.parametrize("transport", ["sglang", "nixl"])
@pytest.mark.parametrize("leg", ["prefill", "decode"])
async def test_connection_that_does_not_come_about(
    stack: AsyncExitStack, model: Path, transport: str, leg: str
) -> None:
    """504 connect_timeout of the leg; nothing was sent, so another pair would have been tried."""
    settings = {"connect_timeout_secs": SHORT_S, "disable_health_check": True}
    fleet = await fleet_with(stack, model, transport, settings)
    worker = (fleet.prefills if leg == "prefill" else fleet.decodes)[0]
    await worker.kill()
    with deaf_port(worker.port):
        got = await fleet.ask(CHAT, body_of(CHAT))
        await fleet.settle()
    assert (got.status, got.error["leg"], got.error["code"]) == (504, leg, "connect_timeout")
    assert fleet.charged == [leg]
    if transport == "nixl":
        await worker.restart()


async def test_prefill_that_dribbles(stack: AsyncExitStack) -> None:
    """A byte now and then is no answer: prefill's limit is for all of it."""

    async def dribble(exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, {"content-type": "application/json"})
        for _ in range(40):
            await exchange.write(b" ")
            await asyncio.sleep(SHORT_S / 10)

    prefill = await stack.enter_async_context(ScriptedWorker("prefill", dribble))
    decode = await stack.enter_async_context(ScriptedWorker("decode", hang))
    settings = only("prefill_timeout_secs")
    fleet = await stack.enter_async_context(serving([prefill], [decode], **settings))
    got: Got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, json.loads(got.raw)["error"]["code"]) == (504, "worker_timeout")
