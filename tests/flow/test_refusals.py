"""A worker that refuses: its status and text reach the client, and the other leg ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, GENERATE, Fleet, body_of, serving, until
from tests.flow.scripted import ScriptedWorker, events, whole

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
LEGS = pytest.mark.parametrize("leg", ["prefill", "decode"])
WORD = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}


def members(fleet: Fleet, leg: str) -> tuple[Any, Any]:
    """The worker of a leg, and that of the other one."""
    pair = (fleet.prefills[0], fleet.decodes[0])
    return pair if leg == "prefill" else pair[::-1]


@BOTH
@LEGS
@pytest.mark.parametrize("route", [CHAT, GENERATE])
@pytest.mark.parametrize("status", [400, 422, 429, 503])
async def test_refusal_is_passed_on(
    fleet: Fleet, status: int, route: str, leg: str, stream: bool
) -> None:
    """Status, text and Retry-After of the worker; the other leg is aborted; no breaker opens."""
    refusing, other = members(fleet, leg)
    refusing.faults.refuse(status, headers={"retry-after": "7"})
    got = await fleet.ask(route, body_of(route, stream=stream))
    assert (got.status, got.is_stream) == (status, False)
    assert got.error | {"param": None} == {
        "message": "Refused on command.",
        "type": "server_error",
        "param": None,
        "code": "worker_rejected",
        "leg": leg,
    }
    assert got.headers["retry-after"] == "7"
    await fleet.settle()
    assert other.aborted == [other.seen[0].rid]
    assert refusing.counters.abort_calls == []
    assert fleet.charged == []
    assert fleet.live(refusing).is_full(asyncio.get_running_loop().time()) is (status >= 429)


@BOTH
@LEGS
@pytest.mark.parametrize("status", [500, 502])
async def test_failure_is_charged_and_looked_into(
    fleet: Fleet, status: int, leg: str, stream: bool
) -> None:
    """A 5xx opens the breaker of the worker that sent it, and has it probed at once."""
    failing, other = members(fleet, leg)
    probed_s = fleet.live(failing).last_probe
    failing.faults.refuse(status)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"]) == (status, leg)
    await until(lambda: fleet.live(failing).last_probe != probed_s)
    await fleet.settle()
    assert fleet.charged == [leg]
    assert other.aborted == [other.seen[0].rid]


@pytest.mark.parametrize("status", [302, 201])
async def test_status_that_is_no_answer_is_502(stack: AsyncExitStack, status: int) -> None:
    """Neither a redirect nor another 2xx is passed on."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", whole(status, {})))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (502, "decode")


@LEGS
async def test_long_refusal_keeps_its_status(stack: AsyncExitStack, leg: str) -> None:
    """Engines quote the request they refuse: a page of any size is still a 400."""
    long_page = whole(400, {"message": "x" * 3_000_000})
    short = whole(400, {"message": "You asked for: " + "x" * 200_000})
    for script, is_quoted in ((short, True), (long_page, False)):
        prefill = ScriptedWorker("prefill", script if leg == "prefill" else hang_on)
        decode = ScriptedWorker("decode", script if leg == "decode" else hang_on)
        for worker in (prefill, decode):
            await stack.enter_async_context(worker)
        fleet = await stack.enter_async_context(serving([prefill], [decode]))
        got = await fleet.ask(CHAT, body_of(CHAT))
        assert (got.status, got.error["leg"]) == (400, leg)
        assert got.error["message"].startswith("You asked for: xxx") is is_quoted
        assert len(got.error["message"]) <= 4096
        assert fleet.charged == []


async def hang_on(exchange: Exchange, body: dict[str, Any]) -> None:
    """Never answers."""
    await exchange.watch()


@BOTH
async def test_no_byte_of_a_decode_whose_prefill_was_refused(
    stack: AsyncExitStack, stream: bool
) -> None:
    """Decode's garbage is there first, prefill's refusal comes within the hold: only that is seen.

    Real decode workers do answer without a KV cache, for instance to SGLang's fake host.
    """
    has_spoken = asyncio.Event()
    good = events(WORD) if stream else whole(200, {"choices": []})

    async def speak(exchange: Exchange, body: dict[str, Any]) -> None:
        await good(exchange, body)
        has_spoken.set()

    async def refuse_late(exchange: Exchange, body: dict[str, Any]) -> None:
        await has_spoken.wait()
        await asyncio.sleep(0.05)
        await exchange.json(422, {"message": "No."})

    prefill = await stack.enter_async_context(ScriptedWorker("prefill", refuse_late))
    decode = await stack.enter_async_context(ScriptedWorker("decode", speak))
    fleet = await stack.enter_async_context(serving([prefill], [decode], hold_decode_ms=5000))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["message"], got.error["leg"]) == (422, "No.", "prefill")
    assert fleet.charged == []
