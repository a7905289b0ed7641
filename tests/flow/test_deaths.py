"""Workers that die, or cut or spoil their answers: the leg is named and its sibling ends."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import Cut, Fault, FaultKind, sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import BOUND_S, CHAT, GENERATE, Fleet, Got, body_of, serving, until
from tests.flow.scripted import ScriptedWorker, events

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ROUTES = pytest.mark.parametrize("route", [CHAT, GENERATE])
LONG_PROMPT: dict[str, Any] = {"text": "word " * 200}


async def slow_fleet(stack: AsyncExitStack, **sims: Any) -> Fleet:
    """A gateway before a pair that takes its time."""
    pair = await stack.enter_async_context(sim_pair(**sims))
    return await stack.enter_async_context(serving([pair[0]], [pair[1]]))


@ROUTES
@pytest.mark.parametrize("n_events", [0, 2])
@pytest.mark.parametrize("how", [Cut.RESET, Cut.EOF, Cut.CLEAN, Cut.INSIDE])
async def test_decode_cuts_its_stream(fleet: Fleet, route: str, how: Cut, n_events: int) -> None:
    """502 while nothing was relayed, else one error event after whole events; never [DONE]."""
    (decode,) = fleet.decodes
    decode.faults.add(Fault(kind=FaultKind.CUT, how=how, after_events=n_events))
    got = await fleet.ask(route, body_of(route, stream=True))
    assert got.error["leg"] == "decode"
    assert got.error["code"] == "worker_broken"
    if n_events == 0:
        assert (got.status, got.is_stream) == (502, False)
    elif got.is_stream:
        # A reset throws away what was not read, so fewer events may have come.
        assert len(got.events) <= n_events + 1
    await fleet.settle()
    assert fleet.charged == ["decode"]


@BOTH
@ROUTES
@pytest.mark.parametrize(
    ("kind", "is_sibling_aborted"),
    [(FaultKind.RESET, True), (FaultKind.GARBAGE, True), (FaultKind.ABORT_FINISH, False)],
)
async def test_decode_answers_wrong(
    fleet: Fleet, route: str, kind: FaultKind, is_sibling_aborted: bool, stream: bool
) -> None:
    """Reset before the head, a page that is neither JSON nor SSE, an aborted generation."""
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    decode.faults.add(Fault(kind=kind, after_events=1))
    got = await fleet.ask(route, body_of(route, stream=stream))
    assert got.error["leg"] == "decode"
    assert got.status == (200 if got.is_stream else 502)
    await fleet.settle()
    assert fleet.charged == ["decode"]
    assert prefill.aborted == ([prefill.seen[0].rid] if is_sibling_aborted else [])
    assert prefill.n_rooms == 0


@BOTH
@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.GARBAGE])
async def test_prefill_answers_wrong(fleet: Fleet, kind: FaultKind, stream: bool) -> None:
    """The same of prefill, which is asked for a plain answer always; decode is aborted."""
    (prefill,), (decode,) = fleet.prefills, fleet.decodes
    prefill.faults.add(Fault(kind=kind))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["leg"]) == (502, "prefill")
    await fleet.settle()
    assert fleet.charged == ["prefill"]
    assert decode.aborted == [decode.seen[0].rid]


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.HALF_BODY])
async def test_whole_answer_of_decode_is_cut(fleet: Fleet, kind: FaultKind) -> None:
    """A body that ends early is 502, with nothing of it relayed."""
    fleet.decodes[0].faults.add(Fault(kind=kind))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"], got.error["code"]) == (502, "decode", "worker_broken")
    await fleet.settle()
    assert fleet.charged == ["decode"]


async def test_decode_is_killed_in_mid_stream(stack: AsyncExitStack) -> None:
    """One error event that names decode; nothing is left of the request."""
    fleet = await slow_fleet(stack, decode_step_s=0.005)
    (decode,) = fleet.decodes
    body = body_of(CHAT, stream=True, n_tokens=2000)
    asking = fleet.http.stream("POST", CHAT, json=body)
    answer = await stack.enter_async_context(asking)
    chunks = answer.aiter_bytes()
    raw = await anext(chunks)
    await decode.kill()
    raw += b"".join([chunk async for chunk in chunks])
    got = Got(answer.status_code, answer.headers, raw)
    assert got.is_stream
    assert got.error["leg"] == "decode"
    await fleet.settle()
    assert fleet.charged == ["decode"]


@BOTH
@pytest.mark.parametrize("dying", ["prefill", "decode"])
async def test_worker_is_killed_during_prefill(
    stack: AsyncExitStack, dying: str, stream: bool
) -> None:
    """502 that names it at once, long before its peer would say so; the peer is aborted."""
    fleet = await slow_fleet(stack, prefill_tokens_per_s=50.0, peer_death_s=4 * BOUND_S)
    pair = (fleet.prefills[0], fleet.decodes[0])
    victim, peer = pair if dying == "prefill" else pair[::-1]

    async def kill() -> None:
        await until(lambda: pair[0].n_active and pair[1].n_active)
        await victim.kill()

    stack.push_async_callback(victim.restart)
    got = await fleet.during(
        fleet.ask(GENERATE, body_of(GENERATE, stream=stream, **LONG_PROMPT)), kill()
    )
    assert (got.status, got.error["leg"]) == (502, dying)
    await fleet.settle()
    assert fleet.charged == [dying]
    assert peer.aborted == [peer.seen[0].rid]


async def test_event_without_end_is_an_error(
    stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held back of one event is bounded, and decode is named."""
    monkeypatch.setattr("app.dispatch.whole_events.MAX_EVENT_BYTES", 10_000)

    async def answer(exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.json(200, {})

    prefill = await stack.enter_async_context(ScriptedWorker("prefill", answer))
    decode = ScriptedWorker("decode", events(b"data: " + b"x" * 20_000, is_done=False))
    await stack.enter_async_context(decode)
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert (got.status, got.error["leg"]) == (502, "decode")
    await fleet.settle()
    assert fleet.charged == ["decode"]
