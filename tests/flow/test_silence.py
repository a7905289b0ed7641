"""Workers that hang: the silence ends within its limit, and probes tell whose it was."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.sim import Cut, Fault, FaultKind, sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import CHAT, GENERATE, Fleet, body_of, serving
from tests.flow.scripted import ScriptedWorker, events, hang, whole

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ROUTES = pytest.mark.parametrize("route", [CHAT, GENERATE])
SILENCE_S = 0.25


@pytest.fixture
async def impatient(stack: AsyncExitStack) -> Fleet:
    """A gateway that waits a quarter of a second only."""
    pair = await stack.enter_async_context(sim_pair())
    settings: dict[str, Any] = {
        "request_timeout_secs": SILENCE_S,
        "health_check_timeout_secs": 1.0,
    }
    return await stack.enter_async_context(serving([pair[0]], [pair[1]], **settings))


@BOTH
@pytest.mark.parametrize("hung", ["prefill", "decode"])
@pytest.mark.parametrize("is_sick", [True, False], ids=["sick", "well"])
async def test_hung_leg(impatient: Fleet, hung: str, is_sick: bool, stream: bool) -> None:
    """504; the leg whose probe fails is named and charged, nobody if both answer their probes.

    With one leg hung the other one is silent too, as it waits for it.
    """
    pair = (impatient.prefills[0], impatient.decodes[0])
    worker, other = pair if hung == "prefill" else pair[::-1]
    worker.faults.add(Fault(kind=FaultKind.HANG))
    worker.faults.health_down = is_sick
    got = await impatient.ask(CHAT, body_of(CHAT, stream=stream))
    assert (got.status, got.error["code"]) == (504, "worker_timeout")
    assert got.error.get("leg") == (hung if is_sick else None)
    await impatient.settle()
    assert impatient.charged == ([hung] if is_sick else [])
    assert other.aborted == [other.seen[0].rid]
    assert worker.counters.abort_calls == [{"rid": worker.seen[0].rid}]


@ROUTES
@pytest.mark.parametrize("n_events", [0, 2])
async def test_decode_falls_silent_once_it_has_the_cache(
    impatient: Fleet, route: str, n_events: int
) -> None:
    """Prefill has done its part, so decode is named though both answer their probes."""
    (decode,) = impatient.decodes
    decode.faults.add(Fault(kind=FaultKind.CUT, how=Cut.HANG, after_events=n_events))
    got = await impatient.ask(route, body_of(route, stream=True))
    assert (got.error["leg"], got.error["code"]) == ("decode", "worker_timeout")
    assert (got.status, got.is_stream) == ((200, True) if n_events else (504, False))
    await impatient.settle()
    assert impatient.charged == ["decode"]


async def test_whole_answer_that_never_comes(stack: AsyncExitStack) -> None:
    """The same for an answer that is not streamed."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", hang))
    settings: dict[str, Any] = {"request_timeout_secs": SILENCE_S}
    fleet = await stack.enter_async_context(serving([prefill], [decode], **settings))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["leg"]) == (504, "decode")
    await fleet.settle()
    assert fleet.charged == ["decode"]


@BOTH
async def test_prompt_logprobs_that_never_come(stack: AsyncExitStack, stream: bool) -> None:
    """Decode has done its part, so prefill is named though both answer their probes."""
    token = {"text": "a", "meta_info": {"id": "x", "finish_reason": None}}
    decode_script = events(token) if stream else whole(200, token)
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", hang))
    decode = await stack.enter_async_context(ScriptedWorker("decode", decode_script))
    settings: dict[str, Any] = {"request_timeout_secs": SILENCE_S}
    fleet = await stack.enter_async_context(serving([prefill], [decode], **settings))
    body = body_of(GENERATE, stream=stream, return_logprob=True, logprob_start_len=0)
    got = await fleet.ask(GENERATE, body)
    assert (got.status, got.is_stream, got.error["leg"]) == (504, False, "prefill")
    await fleet.settle()
    assert fleet.charged == ["prefill"]


async def test_a_slow_stream_is_not_cut(stack: AsyncExitStack) -> None:
    """The limit is on silence, not on length: a stream may last longer than it."""
    pair = await stack.enter_async_context(sim_pair(decode_step_s=SILENCE_S / 5))
    settings: dict[str, Any] = {"request_timeout_secs": SILENCE_S}
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]], **settings))
    got = await fleet.ask(GENERATE, body_of(GENERATE, stream=True, n_tokens=10))
    assert got.status == 200
    assert got.events[-1] == "[DONE]"
    assert len(got.events) == 11


@BOTH
@pytest.mark.parametrize("is_sick", [True, False], ids=["sick", "well"])
async def test_survivor_reports_the_death(
    stack: AsyncExitStack, is_sick: bool, stream: bool
) -> None:
    """The survivor's 500 names the peer: only a failed probe makes it true, and only that charges.

    Prefill's process is gone from decode's view, while its HTTP connection is silent.
    """
    prefill, decode = await stack.enter_async_context(sim_pair(peer_death_s=0.05))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    prefill.faults.add(Fault(kind=FaultKind.HANG))
    prefill.faults.health_down = is_sick

    async def die() -> None:
        while not prefill.n_rooms:  # noqa: ASYNC110 - bounded by ``during``
            await asyncio.sleep(0.005)
        prefill._rendezvous.kill()

    got = await fleet.during(fleet.ask(CHAT, body_of(CHAT, stream=stream)), die())
    if not got.is_stream:
        assert got.status == 500
    assert got.error.get("leg") == ("prefill" if is_sick else None)
    assert "Lost connection with prefill instance" in got.error["message"]
    assert "127.0.0.1" not in got.error["message"]
    await fleet.settle()
    assert fleet.charged == (["prefill"] if is_sick else [])
    assert prefill.counters.abort_calls == [{"rid": prefill.seen[0].rid}]


async def test_sibling_ends_before_the_probes_do(stack: AsyncExitStack) -> None:
    """Finding out whose failure it was takes up to a second; the other leg is not kept for it."""
    report = whole(500, {"message": "Decode transfer failed for request: KVTransferError"})
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", hang))
    decode = await stack.enter_async_context(ScriptedWorker("decode", report))
    fleet = await stack.enter_async_context(serving([prefill], [decode]))
    probes = asyncio.Event()
    prefill.health = hang_until(probes)

    async def see_abort() -> None:
        while not prefill.aborted:  # noqa: ASYNC110 - bounded by ``during``
            await asyncio.sleep(0.005)
        assert not fleet.charged
        probes.set()

    got = await fleet.during(fleet.ask(CHAT, body_of(CHAT)), see_abort())
    assert (got.status, got.error.get("leg")) == (500, None)
    assert probes.is_set()


def hang_until(event: asyncio.Event) -> Any:
    """A health route that answers once the event is set."""

    async def health(exchange: Exchange) -> None:
        await event.wait()
        await exchange.bytes(200, b"")

    return health
