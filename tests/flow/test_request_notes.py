"""What is noted of requests, asserted where log, metrics and recorder read it: at their end."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.observability.log import request_fields
from app.observability.notes import Notes
from app.observability.phases import phases
from app.sim import SglangSim, SimConfig, sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, Fleet, body_of, serving, until
from tests.flow.process import pair_flags, running
from tests.flow.raw_client import post_of
from tests.flow.scripted import ScriptedWorker
from tests.flow.vllm_fleet import fleet_of

ROUTES = pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def noted(fleet: Fleet) -> list[Notes]:
    """From now on the notes of every generation that is over."""
    found: list[Notes] = []
    meters = fleet.gateway.metrics.meters
    meters.listeners.append(found.append)
    return found


@BOTH
@ROUTES
async def test_an_sglang_pair(fleet: Fleet, route: str, stream: bool) -> None:
    """All times are there and in order, and the tokens are the engines'."""
    found = noted(fleet)
    await fleet.ask(route, body_of(route, stream=stream, n_tokens=6))
    await until(lambda: found)
    (notes,) = found
    assert (notes.outcome, notes.status, notes.route) == (None, 200, route)
    assert notes.prefill is fleet.live(fleet.prefills[0])
    assert notes.decode is fleet.live(fleet.decodes[0])
    assert notes.n_prompt == fleet.prefills[0].computed_prompt_tokens
    if stream and route != GENERATE:
        # SGLang tells usage only if asked; the role, the end and [DONE] are events too.
        assert abs(notes.n_answer_tokens - 6) <= 3
    else:
        assert notes.n_answer_tokens == 6
    assert {"queue", "connect", "prefill", "first_token"} <= dict(phases(notes)).keys()
    assert notes.arrived_s <= notes.read_s <= notes.asked_s <= notes.granted_s
    assert notes.granted_s <= notes.prefill_sent_s == notes.decode_sent_s
    assert notes.decode_sent_s <= notes.prefill_ended_s <= notes.first_s <= notes.last_s


@BOTH
@ROUTES
async def test_a_vllm_pair(stack: AsyncExitStack, model: Path, route: str, stream: bool) -> None:
    """Prefill ends before decode is sent; counts are exact in streams without usage too."""
    fleet = await fleet_of(stack, model)
    found = noted(fleet)
    await fleet.ask(route, body_of(route, stream=stream, n_tokens=6))
    await until(lambda: found)
    (notes,) = found
    assert (notes.outcome, notes.n_answer_tokens) == (None, 6)
    assert notes.n_prompt == notes.n_estimated > 0
    assert notes.granted_s <= notes.prefill_sent_s <= notes.prefill_ended_s
    assert notes.prefill_ended_s <= notes.decode_sent_s <= notes.first_s <= notes.last_s


async def test_the_phases_add_up_to_what_the_client_measured() -> None:
    """A request that waited: within 5 ms by the budget, and the bound here is a few times that."""
    async with AsyncExitStack() as stack:
        slow = SimConfig(role="prefill", prefill_tokens_per_s=50.0)
        prefill = await stack.enter_async_context(SglangSim(slow))
        decode = await stack.enter_async_context(SglangSim(SimConfig(role="decode")))
        fleet = await stack.enter_async_context(serving([prefill], [decode]))
        found = noted(fleet)
        began_s = time.monotonic()
        await fleet.ask(CHAT, body_of(CHAT, stream=True))
        took_s = time.monotonic() - began_s
        await until(lambda: found)
        spent = dict(phases(found[0]))
    assert sum(spent.values()) == pytest.approx(took_s, abs=0.05)
    assert spent["prefill"] > 0.5 * took_s


async def test_failures_name_leg_and_cause(stack: AsyncExitStack) -> None:
    """Of a leg, of the request itself, and of a client that left."""

    async def refuse(exchange: Exchange, _body: dict[str, Any]) -> None:
        await exchange.json(500, {"error": {"message": "out of order"}})

    _, decode = await stack.enter_async_context(sim_pair())
    bad = await stack.enter_async_context(ScriptedWorker("prefill", refuse))
    fleet = await stack.enter_async_context(serving([bad], [decode], disable_circuit_breaker=True))
    found = noted(fleet)
    await fleet.ask(CHAT, body_of(CHAT))
    await fleet.ask(CHAT, b"{nonsense")
    await until(lambda: len(found) == 2)
    failed, refused = found
    assert (failed.outcome, failed.leg, failed.n_attempts) == ("worker_rejected", "prefill", 1)
    assert failed.cause
    assert (refused.outcome, refused.leg, refused.prefill) == ("invalid_json", None, None)
    fields = request_fields(failed)
    assert fields["cause"] == failed.cause
    assert fields["status"] == 500


async def test_the_line_of_a_request(stack: AsyncExitStack) -> None:
    """One JSON line with pair, tokens, outcome and phases that add up; no text of the prompt."""
    prefill, decode = await stack.enter_async_context(sim_pair())
    body = body_of(CHAT, stream=True)
    async with running(pair_flags(prefill, decode)) as gateway:
        async with gateway.connected() as client:
            await client.send(post_of(CHAT, body))
            await client.until(b"[DONE]")
        await until(lambda: gateway.outcomes(CHAT))
    (line,) = [line for line in gateway.lines("request") if line["path"] == CHAT]
    assert (line["outcome"], line["status"], line["attempts"]) == ("ok", 200, 1)
    assert (line["prefill"], line["decode"]) == (prefill.url, decode.url)
    assert line["prompt_tokens"] == prefill.computed_prompt_tokens
    spent = sum(
        value for key, value in line.items() if key.endswith("_ms") and key != "duration_ms"
    )
    assert spent == pytest.approx(line["duration_ms"], abs=0.01)
    assert "two three" not in json.dumps(gateway.logged)
