"""Legs that fail on a vLLM pair: the leg is named, only its worker pays, nothing stays behind."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.dispatch import token_call
from app.sim import VllmFault, VllmFaultKind
from app.upstream.failures import ConnectFailed
from app.upstream.vllm_call import VllmCall
from app.upstream.vllm_status import HTTP_STATUS
from tests.flow.fleet import BOUND_S, CHAT, Got, body_of, until
from tests.flow.vllm_fleet import SHORT_LEASE_S, VllmFleet, fleet_of, sent_by

pytestmark = pytest.mark.usefixtures("both_grpc_clients")

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LEGS = pytest.mark.parametrize("leg", ["prefill", "decode"])
CONNECTORS = pytest.mark.parametrize("connector", ["nixl", "mooncake"])
SHORT: dict[str, Any] = {"lease_s": SHORT_LEASE_S, "mooncake_abort_s": SHORT_LEASE_S}


def fault(kind: VllmFaultKind, **more: Any) -> VllmFault:
    """A fault of the next Generate call."""
    return VllmFault(kind=kind, **more)


@CONNECTORS
@LEGS
async def test_statuses_of_a_leg(
    stack: AsyncExitStack, model: Path, connector: str, leg: str
) -> None:
    """Passed on by the table, with the engine's words; asked once; 4xx and full charge nobody."""
    fleet = await fleet_of(stack, model, connector, **SHORT)
    worker = fleet.prefill if leg == "prefill" else fleet.decode
    live = fleet.live(worker)
    for n_before, (status, http_status) in enumerate(HTTP_STATUS.items()):
        worker.faults.refuse(status, "the engine's own words")
        got = await fleet.ask(CHAT, body_of(CHAT, stream=bool(n_before % 2)))
        assert (got.status, got.error["leg"]) == (http_status, leg)
        assert got.error["message"] == "the engine's own words"
        assert len(worker.seen) == n_before + 1
        is_charged = http_status >= 500 and status != "UNAVAILABLE"
        assert fleet.charged == ([leg] if is_charged else []), status
        live.breaker.reset()
    await fleet.settle()
    if leg == "prefill":
        assert fleet.decode.seen == []


@pytest.mark.parametrize("is_marked", [False, True], ids=["refused", "marked"])
async def test_constraint_that_cannot_be_kept(
    stack: AsyncExitStack, model: Path, is_marked: bool
) -> None:
    """400 as vLLM's servicer says it; 422 where one marks it in its trailing metadata."""
    fleet = await fleet_of(stack, model)
    if is_marked:
        marked = {"smg-constraint-failed": "engine"}
        fleet.decode.faults.refuse("FAILED_PRECONDITION", "no token is left", trailing=marked)
    got = await fleet.ask(CHAT, body_of(CHAT, ignore_eos=False, regex="("))
    assert (got.status, got.error["leg"]) == (422 if is_marked else 400, "decode")
    assert (got.error["code"] == "constraint_failed") is is_marked
    assert fleet.prefill.computed_prompt_tokens > 0
    await fleet.settle()
    assert fleet.charged == []


@CONNECTORS
@LEGS
@BOTH
@pytest.mark.parametrize("kind", [VllmFaultKind.CUT, VllmFaultKind.DIE])
async def test_connection_is_reset(
    stack: AsyncExitStack, model: Path, connector: str, leg: str, stream: bool, kind: VllmFaultKind
) -> None:
    """502 that names the worker whose connection broke, or which is gone."""
    fleet = await fleet_of(stack, model, connector, **SHORT)
    worker = fleet.prefill if leg == "prefill" else fleet.decode
    worker.faults.add(fault(kind))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"]) == (502, leg)
    await fleet.settle()
    assert fleet.charged == [leg]
    await restart(fleet)


async def restart(fleet: VllmFleet) -> None:
    """Brings dead workers back, so that they can be ended like the others."""
    for worker in fleet.workers:
        if not worker.is_up:
            await worker.restart()


@CONNECTORS
async def test_prefill_dies_in_mid_prefill(
    stack: AsyncExitStack, model: Path, connector: str
) -> None:
    """It is named at once; decode has not heard of it."""
    fleet = await fleet_of(stack, model, connector, prefill={"prefill_tokens_per_s": 5.0})

    async def kill() -> None:
        await until(lambda: fleet.prefill.engine.jobs)
        await fleet.prefill.kill()

    got = await fleet.during(fleet.ask(CHAT, body_of(CHAT)), kill())
    assert (got.status, got.error["leg"]) == (502, "prefill")
    assert fleet.decode.seen == []
    await fleet.settle()
    assert fleet.charged == ["prefill"]
    await restart(fleet)


@pytest.mark.parametrize("status", ["INTERNAL", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"])
async def test_mooncake_prefill_fails(stack: AsyncExitStack, model: Path, status: str) -> None:
    """Decode has not heard of it: it would hold room for the blocks, which nothing gives back."""
    fleet = await fleet_of(stack, model, "mooncake")
    fleet.prefill.faults.refuse(status, "out of order")
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (HTTP_STATUS[status], "prefill")
    assert got.error["message"] == "out of order"
    assert fleet.decode.seen == []


def slow_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill is looked after more often than every five seconds."""
    monkeypatch.setattr(token_call, "LOOK_S", 0.05)


@pytest.mark.parametrize("comes_back", [False, True], ids=["is gone", "comes back"])
async def test_mooncake_prefill_dies_while_decode_waits(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    """Nobody tells decode, which would wait 540 s: the gateway sees it, and names prefill."""
    slow_looks(monkeypatch)
    short: dict[str, Any] = {"mooncake_abort_s": 2.0, "mooncake_grace_s": 0.0}
    slow = {"transfer_s_per_token": 0.01}
    fleet = await fleet_of(stack, model, "mooncake", decode=slow, **short)
    # Decode knows this prefill worker, and does not ask its bootstrap server again.
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200

    async def kill() -> None:
        await until(lambda: fleet.decode.engine.ranks[0].receiving)
        await fleet.prefill.kill()
        if comes_back:
            await fleet.prefill.restart()

    got = await fleet.during(fleet.ask(CHAT, body_of(CHAT, stream=True)), kill())
    assert (got.status, got.error["leg"], got.error["code"]) == (502, "prefill", "worker_broken")
    assert "gone" in got.error["message"]
    await fleet.settle()
    assert fleet.decode.aborted == [fleet.decode.seen[1].request_id]
    assert fleet.decode.counters.n_orphaned_loads == 1
    assert fleet.charged == ["prefill"]
    await restart(fleet)


async def test_mooncake_decode_is_slow(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefill is there, as often as it is looked after: nothing happens."""
    slow_looks(monkeypatch)
    fleet = await fleet_of(stack, model, "mooncake", decode={"lead_s": 0.5})
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200
    assert fleet.decode.aborted == []


async def test_mooncake_decode_is_too_slow(stack: AsyncExitStack, model: Path) -> None:
    """504 of decode, whose request is aborted and not cancelled."""
    settings = {"request_timeout_secs": 0.3}
    fleet = await fleet_of(stack, model, "mooncake", decode={"lead_s": 60.0}, settings=settings)
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"], got.error["code"]) == (504, "decode", "worker_timeout")
    await fleet.settle()
    assert fleet.decode.aborted == [fleet.decode.seen[0].request_id]
    assert fleet.prefill.counters.n_releases == 1
    assert fleet.charged == ["decode"]


@LEGS
@BOTH
@CONNECTORS
async def test_hung_leg(
    stack: AsyncExitStack, model: Path, leg: str, stream: bool, connector: str
) -> None:
    """504 that names it: gRPC tells each leg's own fate, and decode cannot speak before prefill."""
    settings = {"request_timeout_secs": 0.25}
    fleet = await fleet_of(stack, model, connector, settings=settings, **SHORT)
    worker = fleet.prefill if leg == "prefill" else fleet.decode
    worker.faults.add(fault(VllmFaultKind.HANG))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"]) == (504, leg)
    assert got.error["code"] == "worker_timeout"
    await fleet.settle()
    assert fleet.charged == [leg]
    assert worker.cancelled == [worker.seen[0].request_id]


async def test_first_token_is_not_held_back(stack: AsyncExitStack, model: Path) -> None:
    """Decode stalls after one message: the client has its event long before the error."""
    fleet = await fleet_of(stack, model, settings={"request_timeout_secs": 1.0})
    fleet.decode.faults.add(fault(VllmFaultKind.STALL, after_messages=1))
    body = body_of(CHAT, stream=True)
    async with fleet.http.stream("POST", CHAT, json=body) as answer:
        chunks = answer.aiter_bytes()
        async with asyncio.timeout(0.7):
            raw = await anext(chunks)
        assert json.loads(raw.decode().split("\n\n")[0][6:])["choices"]
        raw += b"".join([chunk async for chunk in chunks])
    got = Got(answer.status_code, answer.headers, raw)
    assert (got.error["leg"], got.error["code"]) == ("decode", "worker_timeout")
    await fleet.settle()
    assert fleet.charged == ["decode"]


@BOTH
@pytest.mark.parametrize("n_messages", [0, 2])
@pytest.mark.parametrize(
    "kind", [VllmFaultKind.BREAK, VllmFaultKind.CUT, VllmFaultKind.DIE, VllmFaultKind.STALL]
)
async def test_decode_fails_midway(
    stack: AsyncExitStack, model: Path, kind: VllmFaultKind, n_messages: int, stream: bool
) -> None:
    """A status and no event, or one error event after whole events; never [DONE]."""
    settings = {"request_timeout_secs": 0.3}
    fleet = await fleet_of(stack, model, settings=settings, **SHORT)
    fleet.decode.faults.add(fault(kind, after_messages=n_messages if stream else 0))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream, n_tokens=50))
    assert got.error["leg"] == "decode"
    assert got.is_stream == (stream and n_messages > 0)
    if not got.is_stream:
        assert got.status == {"break": 500, "stall": 504}.get(kind, 502)
    await fleet.settle()
    assert fleet.charged == ["decode"]
    await restart(fleet)


@BOTH
@LEGS
async def test_stream_ends_without_its_last_message(
    stack: AsyncExitStack, model: Path, leg: str, stream: bool
) -> None:
    """Status OK is not enough; of prefill it is no missing handoff either."""
    fleet = await fleet_of(stack, model, **SHORT)
    worker = fleet.prefill if leg == "prefill" else fleet.decode
    worker.faults.add(fault(VllmFaultKind.NO_COMPLETE))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.error["leg"], got.error["code"]) == (leg, "worker_broken")
    assert got.status == (200 if got.is_stream else 502)
    await fleet.settle()
    assert fleet.charged == [leg]
    assert "missing" not in fleet.counts


async def test_one_failed_choice_fails_all(stack: AsyncExitStack, model: Path) -> None:
    """The other choice ends at once, and an engine was reached: no other pair is tried."""
    fleet = await fleet_of(stack, model, n_prefills=2, n_decodes=2, **SHORT)
    for worker in fleet.decodes:
        worker.faults.add(fault(VllmFaultKind.HANG))
        worker.faults.refuse("INTERNAL", "broken")
    async with asyncio.timeout(BOUND_S):
        got = await fleet.ask(CHAT, body_of(CHAT, n=2))
    assert (got.status, got.error["leg"]) == (500, "decode")
    await fleet.settle()
    assert sum(len(worker.seen) for worker in fleet.prefills) == 2
    assert fleet.charged == ["decode"]


async def test_second_choice_finds_prefill_gone(
    stack: AsyncExitStack, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one has reached an engine, so the request is not tried on another pair."""
    fleet = await fleet_of(stack, model, n_prefills=2, **SHORT)
    connect, n_prefill_legs = VllmCall.connect, 0

    async def connect_once(call: VllmCall) -> None:
        nonlocal n_prefill_legs
        n_prefill_legs += sent_by(call).sampling_params.ignore_eos
        if n_prefill_legs == 2:
            raise ConnectFailed("nobody there")
        await connect(call)

    monkeypatch.setattr(VllmCall, "connect", connect_once)
    got = await fleet.ask(CHAT, body_of(CHAT, n=2, ignore_eos=False))
    assert (got.status, got.error["leg"]) == (502, "prefill")
    assert got.error["code"] == "worker_unreachable"
    assert sum(len(worker.seen) for worker in fleet.prefills) == 1
