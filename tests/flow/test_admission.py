"""A full gateway: what it refuses and how fast, what goes on, and that every place comes free."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.sim import sim_pair
from app.sim.wire import Exchange
from tests.flow.fleet import (
    BOUND_S,
    CHAT,
    COMPLETIONS,
    GENERATE,
    Fleet,
    body_of,
    serving,
    until,
)
from tests.flow.raw_client import RawClient, connected, head_of, post_of
from tests.flow.scripted import ScriptedWorker, events, hang, whole
from tests.flow.vllm_fleet import fleet_of

UNGATED = ("/health", "/liveness", "/readiness", "/v1/models", "/workers", "/get_loads")
MANY = 1000


async def held(stack: AsyncExitStack, n: int, **settings: Any) -> tuple[Fleet, Callable[[], None]]:
    """A gateway in which ``n`` requests run until the function is called."""
    release = asyncio.Event()
    good = whole(200, {"choices": []})

    async def wait(exchange: Exchange, body: dict[str, Any]) -> None:
        await release.wait()
        await good(exchange, body)

    prefill = await stack.enter_async_context(ScriptedWorker("prefill", good))
    decode = await stack.enter_async_context(ScriptedWorker("decode", wait))
    fleet = await stack.enter_async_context(serving([prefill], [decode], **settings))
    group = await stack.enter_async_context(asyncio.TaskGroup())
    for _ in range(n):
        group.create_task(answered(fleet))
    await until(lambda: decode.n_active == n)
    stack.callback(release.set)
    return fleet, release.set


async def answered(fleet: Fleet) -> None:
    """A request that must end well."""
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200


async def refused(client: RawClient) -> tuple[int, dict[str, Any], bytes]:
    """Status, error and head of a refusal."""
    status, head, body = await client.answer()
    return status, json.loads(body)["error"], head


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, GENERATE, "/v1/tokenize"])
async def test_refused_before_the_body_comes(stack: AsyncExitStack, path: str) -> None:
    """The answer is there though not a byte of the announced body was sent."""
    fleet, _ = await held(stack, 2, max_concurrent_requests=2)
    async with connected(fleet) as client:
        await client.send(head_of("POST", path, "content-length: 100000"))
        status, error, head = await refused(client)
    assert (status, error["code"], error["type"]) == (503, "gateway_full", "server_error")
    assert b"\r\nretry-after: " in head
    assert len(fleet.decodes[0].seen) == 2


async def test_probes_and_administration_go_on(stack: AsyncExitStack) -> None:
    """Whatever is full, these answer; and a place that comes free is taken."""
    fleet, release = await held(stack, 1, max_concurrent_requests=1, key_rate_limit=0.001)
    for path in UNGATED:
        assert (await fleet.http.get(path)).status_code == 200, path
    assert (await fleet.http.post("/workers")).status_code == 400
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 429
    release()


async def test_many_at_once_are_refused(stack: AsyncExitStack) -> None:
    """None of them waits for the one that is inside, and health answers meanwhile.

    How quickly is measured by ``make bench-overload``: here all of them share one loop.
    """
    fleet, _ = await held(stack, 1, max_concurrent_requests=1)
    url = fleet.http.base_url
    request = post_of(CHAT, body_of(CHAT))

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(request)
            return (await reader.readuntil(b"\r\n")).split()[1]
        finally:
            writer.transport.abort()

    async with asyncio.timeout(4 * BOUND_S), asyncio.TaskGroup() as group:
        asking = [group.create_task(ask()) for _ in range(MANY)]
        assert (await fleet.http.get("/health")).status_code == 200
    assert {task.result() for task in asking} == {b"503"}
    assert fleet.gateway.entrance.door.n_refused == MANY


@pytest.mark.parametrize("stage", ["in the body", "before the answer", "in mid-stream"])
async def test_a_place_comes_free_when_the_client_leaves(stack: AsyncExitStack, stage: str) -> None:
    """At every stage, and the next request gets it."""
    good = whole(200, {"choices": []})

    async def endless(exchange: Exchange, body: dict[str, Any]) -> None:
        await exchange.start(200, {"content-type": "text/event-stream"})
        await exchange.event({"choices": [{"delta": {"content": "x"}}]})
        await exchange.watch()

    script = {"in the body": good, "before the answer": hang, "in mid-stream": endless}[stage]
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", good))
    decode = await stack.enter_async_context(ScriptedWorker("decode", script))
    fleet = await stack.enter_async_context(serving([prefill], [decode], max_concurrent_requests=1))
    door = fleet.gateway.entrance.door
    async with connected(fleet) as client:
        if stage == "in the body":
            await client.send(head_of("POST", CHAT, "content-length: 100") + b"{")
            await until(lambda: door.n_in_flight)
        else:
            await client.send(post_of(CHAT, body_of(CHAT, stream=True)))
            await until(lambda: decode.n_active)
        if stage == "in mid-stream":
            await client.until(b"data: ")
        assert (await fleet.ask(CHAT, body_of(CHAT))).status == 503
    await fleet.settle()
    decode.script = good
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"{}", 400),
        (b" " * 2000, 413),
        (json.dumps(body_of(CHAT, n=9)).encode(), 400),
        (json.dumps(body_of(CHAT, n=2)).encode(), 200),
    ],
)
async def test_a_place_comes_free_after_every_answer(
    stack: AsyncExitStack, body: bytes, status: int
) -> None:
    """Refusals of the body included; several times the limit, one after the other."""
    pair = await stack.enter_async_context(sim_pair())
    fleet = await stack.enter_async_context(
        serving([pair[0]], [pair[1]], max_concurrent_requests=2, max_payload_size=1000)
    )
    for _ in range(5):
        assert (await fleet.ask(CHAT, body)).status == status
    await fleet.settle()


async def test_a_place_comes_free_after_worker_failures(stack: AsyncExitStack) -> None:
    """A refusal, a broken stream and a dead worker each leave nothing behind."""
    prefill = await stack.enter_async_context(ScriptedWorker("prefill", whole(200, {})))
    decode = await stack.enter_async_context(ScriptedWorker("decode", whole(422, {})))
    fleet = await stack.enter_async_context(serving([prefill], [decode], max_concurrent_requests=1))
    assert (await fleet.ask(CHAT, body_of(CHAT))).status == 422
    decode.script = events({"choices": []}, is_done=False)
    assert (await fleet.ask(CHAT, body_of(CHAT, stream=True))).error["leg"] == "decode"
    await fleet.settle()
    assert fleet.gateway.entrance.door.n_refused == 0


async def test_choices_take_places(stack: AsyncExitStack) -> None:
    """Three choices are three pairs of legs; a fourth place is free, a fifth is not."""
    fleet, release = await held(stack, 2, max_concurrent_requests=4)
    got = await fleet.ask(CHAT, body_of(CHAT, n=3))
    assert (got.status, got.error["code"]) == (503, "gateway_full")
    release()
    await until(lambda: fleet.gateway.entrance.door.n_in_flight == 0)
    assert (await fleet.ask(CHAT, body_of(CHAT, n=5))).error["param"] == "n"


async def test_bodies_together_are_bounded(stack: AsyncExitStack) -> None:
    """While one large body is held the next is refused unread; a small one still fits."""
    limits = {"max_payload_size": 100_000, "max_bodies_size": 100_000}
    fleet, release = await held(stack, 0, **limits)
    decode = fleet.decodes[0]
    large = body_of(CHAT, messages=[{"role": "user", "content": "x" * 70_000}])
    async with asyncio.TaskGroup() as group:
        first = group.create_task(fleet.ask(CHAT, large))
        await until(lambda: decode.n_active == 1)
        async with connected(fleet) as client:
            await client.send(head_of("POST", CHAT, "content-length: 70000"))
            status, error, _ = await refused(client)
        assert (status, error["code"]) == (503, "gateway_full")
        async with connected(fleet) as client:
            await client.send(head_of("POST", CHAT, "transfer-encoding: chunked"))
            await client.send(b"%x\r\n%b\r\n" % (60_000, b"x" * 60_000))
            assert (await refused(client))[0] == 503
        second = group.create_task(fleet.ask(CHAT, body_of(CHAT)))
        await until(lambda: decode.n_active == 2)
        release()
        assert {(await first).status, (await second).status} == {200}


@pytest.mark.parametrize("engine", ["sglang", "vllm"])
async def test_a_stream_holds_no_body(stack: AsyncExitStack, model: Path, engine: str) -> None:
    """Once it runs nobody sends the body again; for vLLM its tokens are kept and counted."""
    fleet: Fleet
    if engine == "vllm":
        fleet = await fleet_of(stack, model, decode_step_s=0.01)
    else:
        pair = await stack.enter_async_context(sim_pair(decode_step_s=0.01))
        fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]]))
    door = fleet.gateway.entrance.door
    body = body_of(CHAT, stream=True, n_tokens=200)
    async with fleet.http.stream("POST", CHAT, json=body) as answer:
        assert (await anext(answer.aiter_bytes())).startswith(b"data: ")
        assert (door.n_in_flight, door.n_body_bytes > 0) == (1, engine == "vllm")
    await fleet.settle()


async def test_a_keys_rate_counts_choices_and_prompts(stack: AsyncExitStack) -> None:
    """Six answers at two a second: the key waits, the other key does not."""
    pair = await stack.enter_async_context(sim_pair())
    limits: dict[str, Any] = {"key_rate_limit": 2.0, "tenant_api_key": "a:sk-a b:sk-b"}
    fleet = await stack.enter_async_context(serving([pair[0]], [pair[1]], **limits))
    body = body_of(COMPLETIONS, prompt=["a", "b", "c"], n=2)
    first, second = {"authorization": "Bearer sk-a"}, {"authorization": "Bearer sk-b"}
    assert (await fleet.ask(COMPLETIONS, body, **first)).status == 200
    got = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS), **first)
    assert (got.status, got.error["code"]) == (429, "rate_limit_exceeded")
    assert int(got.headers["retry-after"]) in (2, 3)
    assert (await fleet.ask(COMPLETIONS, body_of(COMPLETIONS), **second)).status == 200
    got = await fleet.ask(COMPLETIONS, body_of(COMPLETIONS), authorization="Bearer sk-c")
    assert got.status == 401
