"""Engines that answer 200 and then report a failure in the body, as streams have to."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.flow.fleet import CHAT, COMPLETIONS, GENERATE, Fleet, body_of, serving
from tests.flow.scripted import ScriptedWorker, events, hang, whole

WORD = {"choices": [{"index": 0, "delta": {"content": "a"}, "text": "a", "finish_reason": None}]}
TOKEN = {"text": "a", "output_ids": [1], "meta_info": {"id": "x", "finish_reason": None}}
GOOD = {CHAT: WORD, COMPLETIONS: WORD, GENERATE: TOKEN}
PEER_DEATH = (
    "Decode transfer failed for request rank=0 decode_req.req.rid='x' "
    "decode_req.req.bootstrap_room=7 with exception KVTransferError(bootstrap_room=7): "
    "Lost connection with prefill instance (bootstrap_addr: 10.20.30.40:8998)"
)


def fault(route: str, message: str, status: Any) -> dict[str, Any]:
    """The event by which SGLang 0.5.23 reports an engine failure on a route."""
    if route == GENERATE:
        reason = {"type": "abort", "message": message, "status_code": status, "err_type": None}
        return {"text": "", "meta_info": {"id": "x", "finish_reason": reason}}
    return {"error": {"object": "error", "message": message, "type": "X", "code": status}}


async def fleet_of(stack: AsyncExitStack, prefill: Any, decode: Any, **settings: Any) -> Fleet:
    """A gateway before two scripted workers."""
    pair = (ScriptedWorker("prefill", prefill), ScriptedWorker("decode", decode))
    for worker in pair:
        await stack.enter_async_context(worker)
    return await stack.enter_async_context(serving([pair[0]], [pair[1]], **settings))


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
@pytest.mark.parametrize(
    ("named", "status", "code", "charged"),
    [
        (500, 500, "worker_rejected", ["decode"]),
        (400, 400, "worker_rejected", []),
        (429, 429, "worker_rejected", []),
        (503, 503, "worker_rejected", []),
        (None, 502, "generation_aborted", ["decode"]),
        (200, 502, "generation_aborted", ["decode"]),
    ],
)
async def test_failure_as_first_event(
    stack: AsyncExitStack, route: str, named: Any, status: int, code: str, charged: list[str]
) -> None:
    """Nothing was relayed, so it is a JSON error with the status that the event names."""
    fleet = await fleet_of(stack, hang, events(fault(route, "Out of memory.", named)))
    got = await fleet.ask(route, body_of(route, stream=True))
    assert (got.status, got.is_stream) == (status, False)
    assert "Out of memory." in got.error["message"]
    assert (got.error["leg"], got.error["code"]) == ("decode", code)
    await fleet.settle()
    assert fleet.charged == charged
    assert fleet.prefills[0].aborted == [fleet.prefills[0].seen[0].rid]


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, GENERATE])
async def test_failure_in_the_middle(stack: AsyncExitStack, route: str) -> None:
    """What was relayed stands; then one error event, and no [DONE]."""
    gate = asyncio.Event()

    async def script(exchange: Any, body: Any) -> None:
        await exchange.start(200, {"content-type": "text/event-stream"})
        await exchange.event(GOOD[route])
        await gate.wait()
        await exchange.event(fault(route, "Out of memory.", 500))
        await exchange.write(b"data: [DONE]\n\n", is_last=True)

    fleet = await fleet_of(stack, whole(200, {}), script)
    asking = fleet.http.stream("POST", route, json=body_of(route, stream=True))
    answer = await stack.enter_async_context(asking)
    chunks = answer.aiter_bytes()
    first = await anext(chunks)
    gate.set()
    rest = b"".join([chunk async for chunk in chunks])
    assert (answer.status_code, first.startswith(b"data: ")) == (200, True)
    assert rest.count(b"data: ") == 1
    assert b'"Out of memory."' in rest
    assert b'"leg":"decode"' in rest
    assert b"[DONE]" not in rest
    await fleet.settle()
    assert fleet.charged == ["decode"]


@pytest.mark.parametrize("route", [CHAT, GENERATE])
@pytest.mark.parametrize("sick", [None, "prefill", "decode"])
async def test_peer_death_in_an_event(stack: AsyncExitStack, route: str, sick: str | None) -> None:
    """Both are probed; the one that fails is named and charged, nobody if both are well."""
    fleet = await fleet_of(stack, hang, events(fault(route, PEER_DEATH, 500)))
    for worker in fleet.workers:
        worker.is_healthy = worker.role != sick
    got = await fleet.ask(route, body_of(route, stream=True))
    assert (got.status, got.error.get("leg")) == (500, sick)
    assert "Lost connection with prefill instance" in got.error["message"]
    assert "10.20.30.40" not in got.raw.decode()
    await fleet.settle()
    assert fleet.charged == ([sick] if sick else [])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [None, 500])
async def test_prefill_reports_it_inside_its_answer(
    stack: AsyncExitStack, stream: bool, status: int | None
) -> None:
    """Prefill's 200 that holds an abort ends decode, and is prefill's failure."""
    fleet = await fleet_of(stack, whole(200, fault(GENERATE, "Out of memory.", status)), hang)
    got = await fleet.ask(GENERATE, body_of(GENERATE, stream=stream))
    assert (got.status, got.error["leg"]) == (status or 502, "prefill")
    await fleet.settle()
    assert fleet.charged == ["prefill"]
    assert fleet.decodes[0].aborted == [fleet.decodes[0].seen[0].rid]


async def test_failure_of_one_item_of_a_batch(stack: AsyncExitStack) -> None:
    """One aborted item fails the whole batch."""
    aborted = fault(GENERATE, "Out of memory.", None)
    fleet = await fleet_of(stack, whole(200, [TOKEN, TOKEN]), whole(200, [TOKEN, aborted]))
    got = await fleet.ask(GENERATE, body_of(GENERATE, text=["a", "b"]))
    assert (got.status, got.error["leg"]) == (502, "decode")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (whole(200, b"<html>\n\n<p>data: no</p>\n\n</html>"), "without [DONE]"),
        (whole(200, b"<html></html>"), "without [DONE]"),
        (whole(200, b""), "without [DONE]"),
        (events(b": ping\n\n", is_done=False), "without [DONE]"),
        (events(), "before its first event"),
        (events(WORD, is_done=False), "without [DONE]"),
    ],
    ids=["page with blank lines", "page", "nothing", "comment", "[DONE] alone", "no [DONE]"],
)
async def test_stream_that_is_none(stack: AsyncExitStack, script: Any, text: str) -> None:
    """A body that is no event stream, or stops short of [DONE], is an error of decode."""
    fleet = await fleet_of(stack, whole(200, {}), script)
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert got.status == (200 if got.is_stream else 502)
    assert text in got.error["message"]
    assert got.error["leg"] == "decode"
    assert not got.raw.startswith((b"<html>", b":"))
    await fleet.settle()
    assert fleet.charged == ["decode"]


async def test_comment_before_the_first_event(stack: AsyncExitStack) -> None:
    """A keep-alive comment is passed on and is not taken for decode's word."""
    fleet = await fleet_of(stack, whole(200, {}), events(b": ping\n\n", WORD))
    got = await fleet.ask(CHAT, body_of(CHAT, stream=True))
    assert got.status == 200
    assert got.raw.startswith(b": ping\n\ndata: ")
    assert got.raw.endswith(b"data: [DONE]\n\n")
