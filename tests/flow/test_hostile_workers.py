"""Workers that answer what no engine should: the gateway stays up and says whose fault it is."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.upstream.sglang_info import MAX_RANKS
from tests.flow.fleet import CHAT, Fleet, body_of, serving, until
from tests.flow.scripted import Script, ScriptedWorker, events, hang, whole

WORD = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}


def pair_of(prefill: Script, decode: Script) -> tuple[ScriptedWorker, ScriptedWorker]:
    """Two scripted workers, not yet started."""
    return ScriptedWorker("prefill", prefill), ScriptedWorker("decode", decode)


async def fleet_of(stack: AsyncExitStack, pair: tuple[ScriptedWorker, ScriptedWorker]) -> Fleet:
    """A gateway before two scripted workers."""
    for worker in pair:
        await stack.enter_async_context(worker)
    return await stack.enter_async_context(serving([pair[0]], [pair[1]]))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("line", [b": data: [DONE]", b"id: data: [DONE]", b"xdata: [DONE]"])
async def test_ending_that_is_no_event(stack: AsyncExitStack, line: bytes) -> None:
    """A stream whose only line merely ends like an ending is decode's failure."""
    pair = pair_of(whole(200, {}), whole(200, line + b"\n\n"))
    fleet = await fleet_of(stack, pair)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert (got.status, got.error["leg"]) == (502, "decode")
    assert "ended the stream without [DONE]" in got.error["message"]
    await fleet.settle()
    assert fleet.charged == ["decode"]


@pytest.mark.parametrize(
    "more", [{"stream_options": {"include_usage": True}}, {"n": 2}], ids=["usage", "fan-out"]
)
async def test_comment_is_no_event(stack: AsyncExitStack, more: dict[str, Any]) -> None:
    """Where events are rewritten a comment gets lost; it does not become an empty event."""
    fleet = await fleet_of(stack, pair_of(whole(200, {}), events(WORD, b": ping\n\n")))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True, **more))
    assert got.status == 200
    assert got.events[-1] == "[DONE]"
    assert all(event.startswith("{") for event in got.events[:-1])


async def test_retry_after_of_thousands_of_digits(stack: AsyncExitStack) -> None:
    """The refusal is passed on, its wait cut to an hour."""
    refusal = whole(429, {"message": "Full."}, **{"retry-after": "1" * 5000})
    fleet = await fleet_of(stack, pair_of(hang, refusal))
    got = await fleet.ask(CHAT, body_of(CHAT))
    assert (got.status, got.error["message"]) == (429, "Full.")
    assert got.headers["retry-after"] == "3600"
    assert fleet.charged == []


async def test_ranks_that_nobody_has(stack: AsyncExitStack) -> None:
    """No more ledgers are kept than the most ranks a worker may have."""
    pair = pair_of(whole(200, {}), whole(200, {"choices": []}))
    pair[0].info = {"dp_size": 20_000_000}
    fleet = await fleet_of(stack, pair)
    assert len(fleet.live(pair[0]).rank_leases) == MAX_RANKS
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200


async def test_server_info_nested_too_deeply(stack: AsyncExitStack) -> None:
    """The worker is named and blamed with a 502."""
    pair = pair_of(hang, hang)
    fleet = await fleet_of(stack, pair)
    deep: dict[str, Any] = {}
    for _ in range(800):
        deep = {"a": deep}
    pair[0].info = {"deep": deep}
    answer = await fleet.http.get("/server_info")
    assert answer.status_code == 502
    assert "nested too deeply" in answer.json()["error"]["message"]


async def test_worker_removed_in_mid_request_leaves_no_client(stack: AsyncExitStack) -> None:
    """Its legs are still aborted, and afterwards nothing is kept of it."""
    pair = pair_of(hang, hang)
    fleet = await fleet_of(stack, pair)
    fleet.gateway.drain.limit_s = 0.0

    async def remove() -> None:
        await until(lambda: pair[0].n_active and pair[1].n_active)
        for worker in pair:
            answer = await fleet.http.delete(f"/workers/{fleet.live(worker).spec.id}")
            assert answer.status_code == 202

    got = await fleet.during(fleet.ask(CHAT, body_of(CHAT)), remove())
    assert (got.status, got.error["code"]) == (503, "worker_removed")
    await until(lambda: not fleet.gateway.registry.workers())
    await fleet.settle()
    assert fleet.gateway.clients._clients == {}
